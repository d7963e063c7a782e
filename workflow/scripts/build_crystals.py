"""Build the crystal library that ships: every crystal of the recipe, seen along each of its axes."""

from pathlib import Path
from typing import Any

from oddlattice.process.logs import log_to
from oddlattice.run import yaml_files
from oddlattice.simulate.structures import entries_of_recipe
from oddlattice.storage.atomic import write_text
from oddlattice.storage.json_text import json_lines


def built(recipe_path: Path) -> str:
    """The library of a recipe, as JSON text, a line for each entry."""
    recipe = yaml_files.parse(recipe_path.read_text(encoding="utf-8"))
    return json_lines({"sources": recipe["sources"], "entries": list(entries_of_recipe(recipe))})


def main(recipe: str | Path, library: str | Path) -> None:
    """Build the library of a recipe and store it."""
    write_text(Path(library), built(Path(recipe)))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(snakemake.input.recipe, snakemake.output.library)
