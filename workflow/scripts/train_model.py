"""Rule train_model: a VAE of a crystal's bulk, from a simulation or from images of the bulk, with its model card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from oddlattice.benchmark.kinds import trial_defects
from oddlattice.model.bulk_images import read_bulk
from oddlattice.model.train import cell_of, data_from_images, data_from_simulation, recipe_of, write_model
from oddlattice.model.train_any import train_any
from oddlattice.model.training import ahead, train_vae
from oddlattice.model.vae import VAEConfig
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.run.stage_settings import ReadSettings, TrainSettings
from oddlattice.simulate.library import load_library


def main(
    crystal_yaml: str | None,
    library_yaml: str | None,
    out_model: str,
    archive: str,
    settings: TrainSettings,
    seed: int,
    read: ReadSettings,
    say: Callable[[str], None] = print,
) -> None:
    """Train a model and write its folder, see `write_model`.

    Parameters
    ----------
    crystal_yaml : path or None
        The unit cell; None: it is proposed from the first bulk image and written beside the model.
    library_yaml : path or None
        A multislice library that half of the simulated patches come from.
    """
    if settings.source == "any":
        train_any(settings, seed, Path(out_model).parent, say)
        return
    images = read_bulk(settings.bulk, archive, read) if settings.source == "images" else []
    crystal, cell = cell_of(settings, Path(crystal_yaml) if crystal_yaml else None, images, say)
    library = load_library(Path(library_yaml)) if library_yaml and not images else None
    if images:
        data = data_from_images(settings, seed, crystal, images, say)
    else:
        data = data_from_simulation(settings, seed, crystal, library)
    vae, history = train_vae(
        VAEConfig(settings.latent, settings.channels, settings.basis),
        ahead(data.batches),
        data.held_out,
        steps=settings.steps,
        seed=seed,
        say=lambda p: say(f"step {p.step}: {p.misfit:.1f} + {p.divergence:.1f}, held out {p.held_out:.1f} nats"),
    )
    folder, recipe = Path(out_model).parent, recipe_of(settings, seed, cell, library)
    known = trial_defects(library, crystal) if library else []
    write_model(folder, vae, recipe, data.held_out, history, known, writes_crystal=crystal_yaml is None)
    say(f"model: {folder}")


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.get("crystal"),
        snakemake.params.library,
        snakemake.output.model,
        snakemake.params.archive,
        TrainSettings.of(snakemake.params.settings),
        snakemake.params.seed,
        ReadSettings.of(snakemake.params.read),
        lambda line: print(line, flush=True),
    )
