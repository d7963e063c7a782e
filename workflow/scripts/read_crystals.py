"""Read the user's CIF files: each crystal, seen along the zone axes that its name or the file beside it states."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oddlattice.process.logs import log_to
from oddlattice.simulate.structures import entries_of_cifs
from oddlattice.storage.atomic import write_text
from oddlattice.storage.json_text import json_lines


def main(files: Sequence[str | Path], library: str | Path) -> None:
    """Write the library of CIF files; others among `files`, the lists of axes, are read beside them.

    Raises
    ------
    ValueError
        If a file is no crystal or states no axis; the message names it.
    """
    cifs = [Path(file) for file in files if Path(file).suffix.lower() == ".cif"]
    write_text(Path(library), json_lines({"sources": {}, "entries": list(entries_of_cifs(cifs))}))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(list(snakemake.input.cifs), snakemake.output.library)
