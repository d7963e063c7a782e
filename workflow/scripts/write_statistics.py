"""Rule write_statistics: the page of what all images show together, and the methods paragraph beside it."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl

from oddlattice.process.logs import log_to
from oddlattice.report import methods
from oddlattice.report.pages import find_pages, render
from oddlattice.report.statistics import many_view
from oddlattice.statistics.counting import as_reviewed
from oddlattice.storage.atomic import whole_file, write_text


def main(
    statistics_json: str | Path,
    images_parquet: str | Path,
    page_dirs: list[str],
    out_html: str | Path,
    out_methods: str | Path,
    provenance: dict[str, Any],
) -> None:
    """Write the page of statistics and methods.md.

    Parameters
    ----------
    statistics_json : path
        Of all images.
    images_parquet : path
        The gathered table.
    page_dirs : list of path
        Folders of the pages of images and stacks.
    provenance : dict
        ``config``: the merged configuration; ``versions``: of this program and its packages.
    """
    found = json.loads(Path(statistics_json).read_text(encoding="utf-8"))
    rows = as_reviewed(pl.read_parquet(images_parquet).to_dicts())
    text = methods.paragraphs(rows, found, provenance["config"], provenance["versions"])
    home = Path(out_html).parent
    tables = ("densities", "sites", "groups", "comparisons", "trends", "populations", "folder_populations")
    beside = os.path.relpath(Path(statistics_json).parent, home).replace(os.sep, "/")
    page = render(
        "statistics.html.j2",
        ("dom.js", "statistics.js"),
        {},
        found=many_view(found, find_pages(page_dirs, home)),
        methods=text,
        versions=provenance["versions"],
        files=[
            ("every number on this page, JSON", f"{beside}/statistics.json"),
            *((f"{name}, CSV", f"{beside}/{name}.csv") for name in tables),
            *((f"{name}, {kind}", f"{beside}/{name}.{kind.lower()}")
              for name in ("images", "defects") for kind in ("CSV", "Parquet")),
            ("methods, Markdown", Path(out_methods).name),
        ],
    )  # fmt: skip
    write_text(out_methods, methods.markdown(text))
    with whole_file(out_html) as part:
        part.write_bytes(page)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.statistics,
        snakemake.input.images_parquet,
        list(snakemake.input.page_dirs),
        snakemake.output.html,
        snakemake.output.methods,
        dict(snakemake.params.provenance),
    )
