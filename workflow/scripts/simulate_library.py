"""Simulate a multislice library of a crystal: bulk cell and defects, from a recipe.

Needs the optional dependencies `library` (abTEM for the potentials, ASE for structures).
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from oddlattice.process.logs import log_to
from oddlattice.simulate.configurations import simulate_library
from oddlattice.simulate.library import load_recipe, save_library


def main(recipe_path: str, images: str, card: str, threads: int) -> None:
    """Simulate the library of a recipe and store it."""
    torch.set_num_threads(threads)
    recipe = load_recipe(Path(recipe_path))
    library = simulate_library(recipe, Path(recipe_path).parent)
    versions = {package: version(package) for package in ("abtem", "ase", "numpy", "torch")}
    save_library(library, Path(images), Path(card), versions)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(snakemake.input.recipe, snakemake.output.images, snakemake.output.card, snakemake.threads)
