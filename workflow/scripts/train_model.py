"""Rule train_model: a VAE of a crystal's bulk, from a simulation or from images of the bulk, with its model card."""

import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
import zarr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oddlattice.archive.names import unescape
from oddlattice.benchmark.fields import trial_defects
from oddlattice.crystal import CELL_PX, Crystal, crystal_from_dict, load_crystal
from oddlattice.lattice.columns import as_cells, mean_cell
from oddlattice.lattice.origin import peaks_of_mean_cell
from oddlattice.lattice.register import register
from oddlattice.lattice.shapes import fit_shape
from oddlattice.model.folder import recipe_sha256, save_model
from oddlattice.model.misfit import misfit
from oddlattice.model.patches import Batch, ImagePatches, image_batches, simulated_batches, standardised
from oddlattice.model.training import Progress, train_vae
from oddlattice.model.vae import VAE, VAEConfig
from oddlattice.numerics.arrays import Float
from oddlattice.predict.network import Careful, Engine, padded, patches_of
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.run.stage_settings import ReadSettings
from oddlattice.run.yaml_files import read_mapping
from oddlattice.simulate.compose import check_cell
from oddlattice.simulate.library import load_library
from oddlattice.storage.atomic import whole_file
from oddlattice.storage.groups import group_of, listed_in, said_of, values_of
from oddlattice.storage.products import SHARD, table, write_tsv
from read_images import main as read_images

HELD_OUT_BATCHES = 3
HELD_OUT_PART = 0.15  # of an image's columns of cells, on its right-hand side
LEAST_CELLS = 200


def ahead(batches: Iterator[Batch], depth: int = 8) -> Iterator[Batch]:
    """The same batches in the same order, made by a thread while the network trains."""
    ready: queue.Queue[Batch] = queue.Queue(depth)

    def make() -> None:
        for batch in batches:
            ready.put(batch)

    threading.Thread(target=make, daemon=True).start()
    while True:
        yield ready.get()


# ---------------------------------------------------------------- bulk images


def read_bulk(bulk: list[dict[str, Any]], archive: str, read: dict[str, Any]) -> list[tuple[Float, Any]]:
    """Images named by the config: each cut to its region, with its pixel size (row, col) [nm] or None.

    Raises
    ------
    ValueError
        If a file cannot be read or holds no such signal or frame; the message names it.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, entry in enumerate(bulk):
            path = os.path.join(os.fsencode(archive), unescape(entry["path"]))
            try:
                status = os.stat(path)
            except OSError as error:
                raise ValueError(f"train.bulk: {entry['path']}: {error.strerror}; needed an image of bulk") from None
            row = {
                "file_id": f"bulk-{number}",
                "path": entry["path"],
                "size_bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
            }
            shard, store = Path(folder, f"{number}.tsv"), Path(folder, f"{number}.zarr")
            write_tsv(table([row], SHARD), shard)
            read_images(shard, archive, store, ReadSettings.of(read))
            found.append(_pick(zarr.open_group(store, mode="r"), entry))
    return found


def _pick(store: zarr.Group, entry: dict[str, Any]) -> tuple[Float, Any]:
    rows = listed_in(store)
    fits = [
        row
        for row in rows
        if row["state"] == "read"
        and entry.get("signal") in (None, row["signal"])
        and entry.get("frame") in (None, row["frame"])
    ]
    if not fits:
        reasons = "; ".join(row["reason"] for row in rows if row["reason"]) or "no such signal or frame"
        raise ValueError(f"train.bulk: {entry['path']}: {reasons}; needed an image of bulk")
    group = group_of(store, fits[0]["image_id"])
    image = np.asarray(values_of(group, "0"), dtype=np.float32)
    top, bottom, left, right = entry.get("region_px") or (0, image.shape[0], 0, image.shape[1])
    header = said_of(group)["pixel_nm_header"]
    return image[top:bottom, left:right], header


def propose_crystal(name: str, given: dict[str, Any], image: Float, header: Any) -> dict[str, Any]:
    """The unit cell of an unknown crystal, from an image of its bulk: lattice, and a column at every peak.

    Lengths in `given` (a_nm, b_nm, gamma_deg) win over the header's; columns in `given` win over the peaks found.

    Raises
    ------
    ValueError
        If the image has no pixel size and no lengths are given.
    """
    found = register(image, None, header)
    vectors = found.registration.frame.vectors_px * np.array(header or (1.0, 1.0))
    a, b = np.hypot(*vectors.T)
    gamma = float(np.rad2deg(np.arccos(np.clip(vectors[0] @ vectors[1] / (a * b), -1, 1))))
    if header is None and not {"a_nm", "b_nm"} <= set(given):
        raise ValueError(
            f"train.crystal: the file states no pixel size; needed a_nm and b_nm (the cell is {a:.2f} x {b:.2f} px)"
        )
    peaks = peaks_of_mean_cell(mean_cell(found.tiles, found.mask))
    origin = np.array(peaks[0][:2])
    columns = [
        {
            "site": chr(ord("A") + k) if k < 26 else f"A{k}",
            "u": round(float((u - origin[0]) % 1.0), 3) % 1.0,
            "v": round(float((v - origin[1]) % 1.0), 3) % 1.0,
            "brightness": round(bright, 3),
            "tested": True,
        }
        for k, (u, v, bright) in enumerate(peaks)
    ]
    cell = {"a_nm": round(float(a), 5), "b_nm": round(float(b), 5), "gamma_deg": round(gamma, 3), "columns": columns}
    return {"name": name} | cell | given


def robust_cells(tiles: Float, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Analysed cells that look like the others: those whose whitened misfit stands out by five sigma are left out."""
    good = mask.astype(bool)
    cells = as_cells(tiles)
    centre = mean_cell(tiles, mask)
    off = cells[good] - centre
    spread = 1.4826 * np.median(np.abs(off), axis=0) + 1e-6
    energy = np.log(np.mean((off / spread) ** 2, axis=(1, 2)) + 1e-9)
    middle = np.median(energy)
    kept = energy < middle + 5 * 1.4826 * np.median(np.abs(energy - middle))
    good[good] = kept
    return good


def image_patches(crystal: Crystal, images: list[tuple[Float, Any]]) -> tuple[ImagePatches, ImagePatches, list[float]]:
    """Patches for training and, from another part of each image, held-out ones; and each image's number of cells.

    Raises
    ------
    ValueError
        If fewer than LEAST_CELLS cells of bulk are left.
    """
    train, held, counts = [], [], []
    shapes = variance = None
    for image, header in images:
        found = register(image, crystal, header)
        good = robust_cells(found.tiles, found.mask)
        cells = np.argwhere(good)
        border = int(np.quantile(cells[:, 1], 1 - HELD_OUT_PART))
        centre = mean_cell(found.tiles, found.mask)
        contrast = float(centre.std())
        rimmed = standardised(padded(found.tiles), contrast)
        train.append(patches_of(rimmed, cells[cells[:, 1] < border - 1]))
        held.append(patches_of(rimmed, cells[cells[:, 1] > border]))
        counts.append(float(len(cells)))
        shapes = shapes or [fit_shape(centre / contrast, column) for column in crystal.tested]
        spread = 1.4826 * np.median(np.abs(as_cells(found.tiles)[good] - centre), axis=0) / contrast
        variance = spread**2 + 1e-4 if variance is None else np.minimum(variance, spread**2 + 1e-4)
    if sum(counts) < LEAST_CELLS or shapes is None or variance is None:
        raise ValueError(f"train.bulk: {sum(counts):.0f} cells of bulk; at least {LEAST_CELLS} are needed")
    half = CELL_PX // 2
    tiled = np.roll(np.tile(variance, (2, 2)), (half, half), axis=(0, 1)).astype(np.float32)
    both = [ImagePatches(np.concatenate(part), tiled, shapes) for part in (train, held)]
    return both[0], both[1], counts


# ---------------------------------------------------------------- calibration and card


def calibration(vae: VAE, batches: list[Batch]) -> dict[str, float]:
    """Misfit of held-out bulk patches: what the model can never explain, in the unit of infer.misfit_limit."""
    engine = Careful(Engine.start(vae, "cpu", "float32"))
    half = CELL_PX // 2
    centre = np.s_[:, half : half + CELL_PX, half : half + CELL_PX]
    values = []
    for batch in batches:
        predicted = engine.run("decode", engine.run("encode", batch.target))
        values += [misfit(t, p) for t, p in zip(batch.target[centre].astype(np.float64), predicted, strict=True)]
    return {f"misfit_{q}_percentile": round(float(np.percentile(values, q)), 4) for q in (50, 95, 99)} | {
        "n": len(values)
    }


def draw_card(vae: VAE, batch: Batch, history: list[Progress], path: Path) -> None:
    """Loss curves, and eight held-out patches with their predictions and differences."""
    engine = Engine.start(vae, "cpu", "float32")
    order = np.argsort(batch.variance.mean(axis=(1, 2)))[:: max(1, len(batch.patch) // 8)][:8]
    half = CELL_PX // 2
    seen = batch.patch[order][:, half : half + CELL_PX, half : half + CELL_PX]
    predicted = engine.decode(engine.encode(np.ascontiguousarray(batch.patch[order])))
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


# ---------------------------------------------------------------- the rule


def main(
    crystal_yaml: str | None,
    library_yaml: str | None,
    out_crystal: str | None,
    out_model: str,
    archive: str,
    settings: dict[str, Any],
    read: dict[str, Any],
    say: Callable[[str], None] = print,
) -> None:
    """Train a model and write its folder: model.yaml, weights.safetensors, card.md, card.png, and a proposed crystal.

    Parameters
    ----------
    crystal_yaml : path or None
        The unit cell; None: it is proposed from the first bulk image and written to `out_crystal`.
    library_yaml : path or None
        A multislice library that half of the simulated patches come from.
    settings : dict
        Section `train` of the config, with the seed.
    """
    name, seed = str(settings["name"]), int(settings["seed"])
    folder = Path(out_model).parent
    images = read_bulk(settings["bulk"], archive, read) if settings["source"] == "images" else []
    if crystal_yaml is None:
        given = settings["crystal"] if isinstance(settings["crystal"], dict) else {}
        cell = propose_crystal(name, given, *images[0])
        crystal = crystal_from_dict(cell, Path("train.crystal"))
        size_nm = f"{crystal.a_nm:.4f} x {crystal.b_nm:.4f} nm"
        say(f"cell: {size_nm}, {crystal.gamma_deg:.2f} deg, {len(crystal.columns)} columns")
    else:
        crystal = load_crystal(Path(crystal_yaml))
        cell = read_mapping(Path(crystal_yaml))
    size = int(settings["batch"])
    library = None
    if images:
        train, held, counts = image_patches(crystal, images)
        say(f"bulk: {' + '.join(f'{n:.0f}' for n in counts)} cells, of them {len(held.patches)} patches held out")
        batches = image_batches(train, size, seed)
        held_out = [next(image_batches(held, 4 * size, seed + 1 + k)) for k in range(HELD_OUT_BATCHES)]
    else:
        library = load_library(Path(library_yaml)) if library_yaml else None
        if library is not None:
            check_cell(library, crystal)
        batches = simulated_batches(crystal, size, seed, library)
        held_out = [next(simulated_batches(crystal, 4 * size, seed + 1 + k, library)) for k in range(HELD_OUT_BATCHES)]
    recipe = {key: settings[key] for key in ("source", "bulk", "steps", "batch", "latent", "channels", "basis", "seed")}
    recipe["crystal"] = cell
    recipe["library_sha256"] = library.sha256 if library else None
    config = VAEConfig(
        latent=int(settings["latent"]), channels=tuple(settings["channels"]), basis=int(settings["basis"])
    )
    vae, history = train_vae(
        config,
        ahead(batches),
        held_out,
        steps=int(settings["steps"]),
        seed=seed,
        say=lambda p: say(f"step {p.step}: {p.misfit:.1f} + {p.divergence:.1f}, held out {p.held_out:.1f} nats"),
    )
    calibrated = calibration(vae, held_out)
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        meta: dict[str, Any] = {
            "name": name,
            "recipe": recipe,
            "recipe_sha256": recipe_sha256(recipe),
            "calibration": calibrated,
        }
        if library is not None:
            meta["trial_defects"] = trial_defects(library, crystal)
        save_model(work, vae, meta)
        draw_card(vae, held_out[0], history, work / "card.png")
        (work / "card.md").write_text(card_text(name, recipe, history, calibrated), encoding="utf-8")
        if out_crystal is not None:
            (work / "crystal.yaml").write_text(yaml.safe_dump(cell, sort_keys=False), encoding="utf-8")
        history_csv = "step,misfit_nats,divergence_nats,held_out_nats\n" + "".join(
            ",".join(str(value) for value in asdict(p).values()) + "\n" for p in history
        )
        (work / "history.csv").write_text(history_csv, encoding="utf-8")
        for file in sorted(work.iterdir()):
            with whole_file(folder / file.name) as part:
                shutil.copyfile(file, part)
    say(f"model: {folder}")


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.get("crystal"),
        snakemake.params.library,
        snakemake.output.get("crystal"),
        snakemake.output.model,
        snakemake.params.archive,
        dict(snakemake.params.settings),
        dict(snakemake.params.read),
        lambda line: print(line, flush=True),
    )
