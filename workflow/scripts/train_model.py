"""Rule train_model: a VAE of a crystal's bulk, from a simulation or from images of the bulk, with its model card."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from oddlattice.benchmark.kinds import trial_defects
from oddlattice.crystal import crystal_from_dict, load_crystal
from oddlattice.model.bulk_images import image_patches, propose_crystal, read_bulk
from oddlattice.model.card import calibration, card_text, draw_card
from oddlattice.model.folder import recipe_sha256, save_model
from oddlattice.model.patches import image_batches
from oddlattice.model.simulated_bulk import simulated_batches
from oddlattice.model.training import ahead, train_vae
from oddlattice.model.vae import VAEConfig
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.run.yaml_files import read_mapping
from oddlattice.simulate.compose import check_cell
from oddlattice.simulate.library import load_library
from oddlattice.storage.atomic import whole_file

HELD_OUT_BATCHES = 3


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
