"""What `train` of the config asks for: the unit cell, the patches trained on and held out, and the folder written."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from oddlattice.crystal import Crystal, crystal_from_dict, load_crystal
from oddlattice.model.bulk_images import image_patches, propose_crystal
from oddlattice.model.card import calibration, card_text, draw_card
from oddlattice.model.folder import recipe_sha256, save_model
from oddlattice.model.patches import Batch, image_batches
from oddlattice.model.simulated_bulk import simulated_batches
from oddlattice.model.training import Progress
from oddlattice.model.vae import VAE
from oddlattice.numerics.arrays import Float
from oddlattice.run.stage_settings import TrainSettings
from oddlattice.run.yaml_files import read_mapping
from oddlattice.simulate.compose import check_cell
from oddlattice.simulate.library import Library
from oddlattice.storage.atomic import whole_file

HELD_OUT_BATCHES = 3
RECIPE_KEYS = ("source", "bulk", "steps", "batch", "latent", "channels", "basis")


def cell_of(
    settings: TrainSettings, crystal_yaml: Path | None, images: Sequence[tuple[Float, Any]], say: Callable[[str], None]
) -> tuple[Crystal, dict[str, Any]]:
    """The crystal and its crystal.yaml: as it is written, or proposed from the first image (None)."""
    if crystal_yaml is not None:
        return load_crystal(crystal_yaml), read_mapping(crystal_yaml)
    given = settings.crystal if settings.crystal is not None and not isinstance(settings.crystal, str) else {}
    cell = propose_crystal(settings.name, given, *images[0])
    crystal = crystal_from_dict(cell, Path("train.crystal"))
    size = f"{crystal.a_nm:.4f} x {crystal.b_nm:.4f} nm"
    if crystal.nominal:
        size = f"size not known, sides 1 to {crystal.b_nm / crystal.a_nm:.3f}"
    say(f"cell: {size}, {crystal.gamma_deg:.2f} deg, {len(crystal.columns)} columns")
    return crystal, cell


@dataclass(frozen=True)
class TrainingData:
    """Endless batches to train on, and batches that are never trained on."""

    batches: Iterator[Batch]
    held_out: list[Batch]


def data_from_images(
    settings: TrainSettings, seed: int, crystal: Crystal, images: list[tuple[Float, Any]], say: Callable[[str], None]
) -> TrainingData:
    """Patches of bulk cut from images."""
    train, held, counts = image_patches(crystal, images)
    say(f"bulk: {' + '.join(f'{n:.0f}' for n in counts)} cells, of them {len(held.patches)} patches held out")
    size = settings.batch
    held_out = [next(image_batches(held, 4 * size, seed + 1 + k)) for k in range(HELD_OUT_BATCHES)]
    return TrainingData(image_batches(train, size, seed), held_out)


def data_from_simulation(settings: TrainSettings, seed: int, crystal: Crystal, library: Library | None) -> TrainingData:
    """Patches of simulated bulk, half of them from a multislice library where there is one.

    Raises
    ------
    ValueError
        If the library is of another crystal.
    """
    if library is not None:
        check_cell(library, crystal)
    size = settings.batch
    held_out = [next(simulated_batches(crystal, 4 * size, seed + 1 + k, library)) for k in range(HELD_OUT_BATCHES)]
    return TrainingData(simulated_batches(crystal, size, seed, library), held_out)


def recipe_of(settings: TrainSettings, seed: int, cell: dict[str, Any], library: Library | None) -> dict[str, Any]:
    """What a model is made from, as model.yaml keeps it."""
    section = settings.as_dict()
    about = {"seed": seed, "crystal": cell, "library_sha256": library.sha256 if library else None}
    return {key: section[key] for key in RECIPE_KEYS} | about


def write_model(
    folder: Path,
    vae: VAE,
    recipe: dict[str, Any],
    held_out: list[Batch],
    history: list[Progress],
    trial_defects: list[dict[str, Any]],
    writes_crystal: bool,
) -> None:
    """Write a model folder: model.yaml, weights, card with its picture, history, and a proposed crystal.yaml.

    Parameters
    ----------
    trial_defects : list of dict
        Known defects that are put into the images the model analyses; empty: plain ones.
    """
    calibrated = calibration(vae, held_out)
    meta: dict[str, Any] = {
        "name": folder.name,
        "recipe": recipe,
        "recipe_sha256": recipe_sha256(recipe),
        "calibration": calibrated,
    }
    if trial_defects:
        meta["trial_defects"] = trial_defects
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        save_model(work, vae, meta)
        draw_card(vae, held_out[0], history, work / "card.png")
        (work / "card.md").write_text(card_text(folder.name, recipe, history, calibrated), encoding="utf-8")
        if writes_crystal:
            (work / "crystal.yaml").write_text(yaml.safe_dump(recipe["crystal"], sort_keys=False), encoding="utf-8")
        lines = [",".join(str(value) for value in asdict(look).values()) for look in history]
        history_csv = "\n".join(["step,misfit_nats,divergence_nats,held_out_nats", *lines, ""])
        (work / "history.csv").write_text(history_csv, encoding="utf-8")
        for file in sorted(work.iterdir()):
            with whole_file(folder / file.name) as part:
                shutil.copyfile(file, part)
