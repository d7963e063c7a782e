"""The model card: calibration, pictures, text."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oddlattice.crystal import CELL_PX
from oddlattice.model.folder import recipe_sha256
from oddlattice.model.misfit import misfit
from oddlattice.model.patches import (
    Batch,
)
from oddlattice.model.training import Progress
from oddlattice.model.vae import VAE
from oddlattice.numerics.arrays import Float


@torch.inference_mode()
def predicted_centres(vae: VAE, patches: Float) -> Float:
    """Central cells (n, 20, 20) as the network has them, of patches (n, 40, 40)."""
    mean, _ = vae.encode(torch.from_numpy(np.ascontiguousarray(patches))[:, None])
    return np.asarray(vae.decode_centre(mean)[:, 0].numpy(), dtype=np.float32)


def calibration(vae: VAE, batches: list[Batch]) -> dict[str, float]:
    """Misfit of held-out bulk patches: what the model can never explain, in the unit of infer.misfit_limit."""
    half = CELL_PX // 2
    centre = np.s_[:, half : half + CELL_PX, half : half + CELL_PX]
    values = []
    for batch in batches:
        predicted = predicted_centres(vae, batch.target)
        values += [misfit(t, p) for t, p in zip(batch.target[centre].astype(np.float64), predicted, strict=True)]
    return {f"misfit_{q}_percentile": round(float(np.percentile(values, q)), 4) for q in (50, 95, 99)} | {
        "n": len(values)
    }


def draw_card(vae: VAE, batch: Batch, history: list[Progress], path: Path) -> None:
    """Loss curves, and eight held-out patches with their predictions and differences."""
    order = np.argsort(batch.variance.mean(axis=(1, 2)))[:: max(1, len(batch.patch) // 8)][:8]
    half = CELL_PX // 2
    seen = batch.patch[order][:, half : half + CELL_PX, half : half + CELL_PX]
    predicted = predicted_centres(vae, batch.patch[order])
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    grid = figure.add_gridspec(4, 8, height_ratios=[2.2, 1, 1, 1])
    axis = figure.add_subplot(grid[0, :])
    steps = [p.step for p in history]
    axis.semilogy(steps, [p.misfit + p.divergence for p in history], label="training")
    axis.semilogy(steps, [p.held_out for p in history], label="held out")
    axis.semilogy(steps, [p.divergence for p in history], label="of it divergence", ls=":")
    axis.set(xlabel="step", ylabel="loss [nats per patch]")
    axis.legend(frameon=False)
    for k in range(len(order)):
        low, top = float(predicted[k].min()) - 0.5, float(predicted[k].max()) + 0.5
        pictures = ((seen[k], low, top), (predicted[k], low, top), (seen[k] - predicted[k], -top / 2, top / 2))
        for line, (picture, dark, bright) in enumerate(pictures):
            cell = figure.add_subplot(grid[1 + line, k])
            cell.imshow(picture, vmin=dark, vmax=bright, cmap="gray" if line < 2 else "RdBu_r")
            cell.set(xticks=[], yticks=[])
            if k == 0:
                cell.set_ylabel(("input", "prediction", "difference")[line])
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})  # type: ignore[no-untyped-call]


def card_text(name: str, recipe: dict[str, Any], history: list[Progress], calibrated: dict[str, float]) -> str:
    """The model card in Markdown."""
    data = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    figures = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in calibrated.items())
    return f"""# Model card: {name}

A convolutional variational autoencoder of the bulk crystal in `crystal.yaml`, for images of atomic columns divided by
their local mean in the lattice frame (20 px per cell, patches of 2x2 cells), less 1 and over their contrast. It is
meant to be used by the rule `infer_differences` and to know nothing of defects: changed columns were pasted into a
part of its inputs and bulk was asked for.

## Training data

```yaml
{data}```

SHA-256 of this recipe: `{recipe_sha256(recipe)}`

## Training

{history[-1].step} steps; held-out negative evidence bound {min(p.held_out for p in history):.1f} nats per patch
(last look: misfit {history[-1].misfit:.1f}, divergence {history[-1].divergence:.1f}). Held-out data were never
trained on.

![Loss curves, and held-out patches with predictions and differences](card.png)

## Calibration

The misfit (rms difference over rms contrast of a cell) of held-out bulk. An image whose mean cell is further off than
`infer.misfit_limit` is refused with "no model for this crystal".

| quantity | value |
| --- | --- |
{figures}

## Limits

It predicts what the training data spanned. Another crystal, another zone axis, a bright-field detector or a strong
tilt are outside of it; the misfit is the guard. What varies from image to image beyond it is taken up by the image's
own mean residual, over the neighbourhood given by `infer.smooth_cells`: an extended defect wider than that is seen at
its rim.
"""
