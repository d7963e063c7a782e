"""Training of the network of every crystal, and its folder: `train.source: any`."""

import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oddlattice.model.any_crystal import ConditionalBatch, conditional_batches
from oddlattice.model.conditional import ConditionalConfig, ConditionalVAE, conditional_loss
from oddlattice.model.folder import recipe_sha256, save_conditional
from oddlattice.run.stage_settings import TrainSettings
from oddlattice.storage.atomic import whole_file

PATCHES_A_FIELD = 64
LOOK_EVERY = 250  # steps
FASTEST, WARM_UP = 3e-3, 0.05  # learning rate, reached after this part of the steps; a cosine from there to nothing
HARDEST = 1e5  # [nats]; a patch that is worse counts as that


@dataclass(frozen=True)
class Look:
    """One look during training: step, loss of the step, and held-out misfit (median, mean) and divergence [nats]."""

    step: int
    loss: float
    misfit_median: float
    misfit: float
    divergence: float


def rate_at(part: float) -> float:
    """Learning rate after a part of the steps."""
    if part < WARM_UP:
        return FASTEST * part / WARM_UP
    return FASTEST * (0.5 * (1 + math.cos(math.pi * (part - WARM_UP) / (1 - WARM_UP))) + 1e-3)


def _losses(
    network: ConditionalVAE, batch: ConditionalBatch, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    return conditional_loss(network, batch.patch, batch.mean, batch.target, batch.variance, generator)


def _look(network: ConditionalVAE, held_out: list[ConditionalBatch], step: int, loss: float, device: str) -> Look:
    with torch.no_grad():
        found = [_losses(network, batch, torch.Generator(device).manual_seed(5)) for batch in held_out]
    median, mean = (torch.stack([how(misfit) for misfit, _ in found]).mean() for how in (torch.median, torch.mean))
    return Look(step, loss, float(median), float(mean), float(torch.stack([d.mean() for _, d in found]).mean()))


def train_conditional(
    config: ConditionalConfig, fields: int, steps: int, seed: int, say: Callable[[Look], None], device: str = "auto"
) -> tuple[ConditionalVAE, list[Look]]:
    """Train on `fields` fields a step; the network, in evaluation mode on the CPU, and what was seen of it."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    torch.manual_seed(seed)
    network = ConditionalVAE(config).to(device)
    generator = torch.Generator(device).manual_seed(seed + 1)
    batches = conditional_batches(fields, seed, device)
    held_out = [next(conditional_batches(fields, seed + 100 + k, device)) for k in range(4)]
    optimiser = torch.optim.AdamW(network.parameters(), FASTEST, weight_decay=1e-4)
    history: list[Look] = []
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate_at((step - 1) / steps)
        misfit, divergence = _losses(network, next(batches), generator)
        loss = (misfit.clamp(max=HARDEST) + divergence).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % LOOK_EVERY == 0 or step == steps:
            history.append(_look(network, held_out, step, float(loss.detach()), device))
            say(history[-1])
    return network.cpu().eval(), history


def card_of(recipe: dict[str, Any], history: list[Look]) -> str:
    """The model card in Markdown."""
    data, last = yaml.safe_dump(recipe, sort_keys=False), history[-1]
    return f"""# Model card: any crystal

A convolutional variational autoencoder for images of any crystal. Its inputs are a patch of 40 x 40 px of the lattice
frame and the image's own mean cell laid under it; it does not draw the crystal but bends the mean cell, as thickness,
defocus, bend and ground vary from place to place. It has seen no crystal: its training data are random motifs in
random cells (10 to 32 px a side, 1 to 4 columns) under random conditions, odd columns in the input, bulk as the target.

## Training data

```yaml
{data}```

SHA-256 of this recipe: `{recipe_sha256(recipe)}`

## Training

{last.step} steps; on held-out fields misfit {last.misfit_median:.1f} (median) and {last.misfit:.1f} (mean), divergence
{last.divergence:.1f} nats per patch of 400 predicted pixels.

![Loss during training](card.png)

## Use and limits

`infer.method: any_crystal`. The image decides whether the network is used at all, and how freely its latents may vary:
of eight predictions the one of least risk by Stein's estimate is taken. Where conditions are constant that is the mean
cell alone. The table of hard bulk (docs/benchmark.md) says where it is ahead of the mean cell and by how much. On sites
of which more than a tenth are odd, what is gained comes from the choice, not from the network.
"""


def draw_history(history: list[Look], path: Path) -> None:
    """Loss during training."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.add_subplot()
    steps = [look.step for look in history]
    axis.semilogy(steps, [look.misfit for look in history], label="held out, mean")
    axis.semilogy(steps, [look.misfit_median for look in history], label="held out, median")
    axis.semilogy(steps, [look.divergence for look in history], label="divergence", ls=":")
    axis.set(xlabel="step", ylabel="nats per patch")
    axis.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})  # type: ignore[no-untyped-call]


def write_any(folder: Path, network: ConditionalVAE, recipe: dict[str, Any], history: list[Look]) -> None:
    """Write the folder: model.yaml, weights, card with its picture, history."""
    meta = {"name": folder.name, "recipe": recipe, "recipe_sha256": recipe_sha256(recipe)}
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        save_conditional(work, network, meta)
        draw_history(history, work / "card.png")
        (work / "card.md").write_text(card_of(recipe, history), encoding="utf-8")
        lines = [",".join(str(value) for value in vars(look).values()) for look in history]
        head = "step,loss_nats,misfit_median_nats,misfit_nats,divergence_nats"
        (work / "history.csv").write_text("\n".join([head, *lines, ""]), encoding="utf-8")
        for file in sorted(work.iterdir()):
            with whole_file(folder / file.name) as part:
                shutil.copyfile(file, part)


def train_any(settings: TrainSettings, seed: int, folder: Path, say: Callable[[str], None]) -> None:
    """Train as the config says; `batch` is in patches, `basis` the width of the decoder."""
    config = ConditionalConfig(settings.latent, settings.channels, settings.basis)
    fields = max(1, settings.batch // PATCHES_A_FIELD)
    network, history = train_conditional(
        config,
        fields,
        settings.steps,
        seed,
        lambda look: say(f"step {look.step}: held out {look.misfit:.1f} + {look.divergence:.1f} nats"),
    )
    recipe = {"source": "any", "steps": settings.steps, "fields": fields, "seed": seed} | config.as_dict()
    write_any(folder, network, recipe, history)
    say(f"model: {folder}")
