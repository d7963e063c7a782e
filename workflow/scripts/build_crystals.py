"""Build the crystal library that ships: every crystal of the recipe, seen along each of its axes.

Needs the optional dependencies `library` (ASE builds the cells).
"""

from pathlib import Path
from typing import Any

import yaml

from oddlattice.process.logs import log_to
from oddlattice.run import yaml_files
from oddlattice.simulate.structures import entries_of_recipe
from oddlattice.storage.atomic import write_text


def built(recipe_path: Path) -> str:
    """The library of a recipe, as YAML text: a line per key of an entry."""
    recipe = yaml_files.parse(recipe_path.read_text(encoding="utf-8"))
    library = {"sources": recipe["sources"], "entries": list(entries_of_recipe(recipe))}
    head = f"# Made of {recipe_path.name} by rule build_crystals. Lengths in nm; u, v are fractions of a and b.\n"
    return head + yaml.safe_dump(library, sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)


def main(recipe: str | Path, library: str | Path) -> None:
    """Build the library of a recipe and store it."""
    write_text(Path(library), built(Path(recipe)))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(snakemake.input.recipe, snakemake.output.library)
