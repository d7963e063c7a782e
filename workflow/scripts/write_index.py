"""Rule write_index: the archive at a glance, a line per image and per file without one; what needs a person first."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from oddlattice.process.logs import log_to
from oddlattice.report.gallery import gallery_data, gallery_page
from oddlattice.report.index import index_numbers, index_page, review_summary, sessions
from oddlattice.report.index_lines import (
    line,
    lines_of_files,
    remarkable_densities,
    with_later_frames,
    with_same_scans,
)
from oddlattice.report.pages import find_pages
from oddlattice.run.stage_settings import ReportSettings
from oddlattice.storage.atomic import whole_file
from oddlattice.storage.json_text import json_lines
from oddlattice.storage.products import INVENTORY, PRECISION, VERSION, read_tsv


def main(
    images_parquet: str | Path,
    defects_parquet: str | Path,
    reviews_parquet: str | Path,
    precision_csv: str | Path,
    reviews_json: str | Path,
    discovered_tsv: str | Path,
    statistics_json: str | Path,
    page_dirs: list[str],
    out_html: str | Path,
    settings: ReportSettings,
    provenance: dict[str, Any],
) -> None:
    """Write the index of all images and files, its numbers beside it as JSON, and the gallery of all defects.

    Parameters
    ----------
    images_parquet, defects_parquet, reviews_parquet, precision_csv : path
        The gathered tables.
    reviews_json : path
        The review files that were found, see `oddlattice.archive.review_files`.
    discovered_tsv : path
        Every file found under the archive.
    statistics_json : path
        Of all images: totals and densities of folders are taken from here.
    page_dirs : list of path
        Folders written by write_pages; the index links to the pages in them.
    out_html : path
        The index; the folders of pages lie beside it. The JSON takes its name.
    provenance : dict
        ``config``: the merged configuration; ``versions``: of this program and its packages. Shown as they are.
    """
    images = pl.read_parquet(images_parquet)
    rows = images.to_dicts()
    discovered = read_tsv(discovered_tsv, INVENTORY)
    pages = find_pages(page_dirs, Path(out_html).parent)
    remarkable = remarkable_densities(rows, settings.density_stands_out)
    unread = lines_of_files(discovered, {str(row["file_id"]) for row in rows})
    read = {str(row["file_id"]) for row in rows if row["state"] != "rejected"}
    lines = [line(row, pages, remarkable, read) for row in [*rows, *unread]]
    lines = with_same_scans(with_later_frames(lines), rows)
    lines.sort(key=lambda x: (x["urgent"], x["folder"], x["name"], x["id"]))
    files = json.loads(Path(reviews_json).read_text(encoding="ascii"))["files"]
    said, precise = pl.read_parquet(reviews_parquet), pl.read_csv(precision_csv, schema=PRECISION | VERSION)
    statistics = json.loads(Path(statistics_json).read_text(encoding="utf-8"))
    totals = statistics["totals"]
    reviewed, folders = review_summary(said, precise, files, images, totals), sessions(lines, statistics["folders"])
    numbers = index_numbers(lines, rows, discovered, totals, remarkable, folders, reviewed)
    twin = Path(out_html).with_suffix(".json")
    with whole_file(twin) as part:
        part.write_text(json_lines(numbers | {"provenance": provenance}), encoding="ascii")
    with whole_file(out_html) as part:
        part.write_bytes(index_page(numbers, provenance, twin.name))
    with whole_file(Path(out_html).with_name("gallery.html")) as part:
        cards = gallery_data(pl.read_parquet(defects_parquet), images, pages)
        part.write_bytes(gallery_page(cards, provenance["versions"]))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.images_parquet,
        snakemake.input.defects_parquet,
        snakemake.input.reviews_parquet,
        snakemake.input.precision_csv,
        snakemake.input.reviews_json,
        snakemake.input.discovered_tsv,
        snakemake.input.statistics,
        list(snakemake.input.page_dirs),
        snakemake.output.index_html,
        ReportSettings.of(snakemake.params.settings),
        dict(snakemake.params.provenance),
    )
