"""Rule write_crate: where the whole result comes from, as an RO-Crate."""

from pathlib import Path
from typing import Any

from oddlattice.process.logs import log_to
from oddlattice.run.crate import crate
from oddlattice.run.settings import load_yaml
from oddlattice.storage.atomic import write_text
from oddlattice.storage.json_text import json_lines


def main(models: list[str], out_json: str | Path, archive: str, versions: dict[str, str]) -> None:
    """Write ro-crate-metadata.json into the folder of results.

    Parameters
    ----------
    models : list of path
        model.yaml of every configured model.
    out_json : path
        Beside the folders of the stages.
    archive : str
    versions : dict
        Of this program and its packages.
    """
    found = [
        {"name": Path(path).parent.name, "weights_sha256": load_yaml(Path(path)).get("weights_sha256", "")}
        for path in models
    ]
    write_text(out_json, json_lines(crate(Path(out_json).parent, found, archive, versions)))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        list(snakemake.input.models),
        snakemake.output.json,
        snakemake.params.archive,
        dict(snakemake.params.versions),
    )
