"""Rule gather_defects: the tables of all shards as one of defects and one of images, with what people said of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from oddlattice.process.logs import log_to
from oddlattice.statistics.copies import with_copies
from oddlattice.statistics.counting import with_counted
from oddlattice.statistics.crystals_of_run import with_names
from oddlattice.statistics.guises import maps_of
from oddlattice.statistics.over_run import listed_over_run
from oddlattice.statistics.reviews import lay_on, precision
from oddlattice.statistics.stack_lists import with_tracks
from oddlattice.storage.products import (
    BOUNDARIES,
    COLUMNS,
    COMPLETENESS,
    DEFECTS,
    GRAINS,
    IMAGES,
    OF_SERIES,
    PRECISION,
    VERSION,
    gathered,
    read_table,
    table,
    write_both,
    write_csv,
)

OF_IMAGES = ("defects", "images", "completeness", "columns", "grains", "boundaries")
OF_STACKS = ("series", "series_frames", "tracks")
TABLES = (*OF_IMAGES, *OF_STACKS)


def places_of(paths: list[str], image_id: str) -> npt.NDArray[np.float64]:
    """Places (n, 2) [px] of the tested columns of an image."""
    found = pl.scan_parquet(paths).filter(pl.col("image_id") == image_id).select("row_px", "col_px").collect()
    return found.to_numpy().astype(np.float64)


def main(
    tables: dict[str, list[str]],
    middles: list[str],
    reviews_json: str,
    out: dict[str, str],
    fdr: float | None = None,
) -> None:
    """Write the tables and statements of all shards, each as Parquet and as CSV, and the precision reviews show.

    Parameters
    ----------
    tables : dict of str to list of path
        Those of the shards that TABLES names.
    middles : list of path
        Stores of the middles of maps, or of the maps, of the shards, in the order of their tables.
    reviews_json : path
        What people said, see `oddlattice.archive.review_files`.
    out : dict of str to path
        ``{defects,images,reviews,completeness,grains,boundaries}_{parquet,csv}`` and ``precision_csv``.
    fdr : float, optional
        One false-discovery rate over all images; without it each image has its own.
    """
    said = json.loads(Path(reviews_json).read_text(encoding="ascii"))["statements"]
    listed = gathered(tables["defects"], DEFECTS, ["image_id", "p_value", "row_px", "col_px"])
    listed = listed.with_columns(page_row=pl.col("image_id").cum_count().over("image_id").cast(pl.Int64) - 1)
    about = gathered(tables["images"], IMAGES, ["path", "image_id"])
    if fdr is not None:
        tested = [read_table(path, COLUMNS).filter(pl.col("p_value") <= fdr) for path in tables["columns"]]
        listed, about = listed_over_run(listed, about, pl.concat([table([], COLUMNS | VERSION), *tested]), fdr)
    grains = gathered(tables["grains"], GRAINS, ["image_id", "grain"])
    listed, about, grains = with_names(listed, about, grains)
    found = lay_on(
        listed,
        with_copies(about, maps_of(tables["images"], middles)),
        lambda image_id: places_of(tables["columns"], image_id),
        said,
    )
    print(f"{len(found.images)} images, {len(found.defects)} defects, {len(found.statements)} statements in reviews")
    trials = gathered(tables["completeness"], COMPLETENESS, ["image_id", "site", "kind", "change", "shift_pm", "name"])
    images, defects = with_counted(found.images, found.defects)
    defects = with_tracks(defects, images, *(gathered(tables.get(name, []), *OF_SERIES[name]) for name in OF_STACKS))
    whole = {"defects": defects, "images": images, "reviews": found.statements, "completeness": trials}
    whole["grains"] = grains
    whole["boundaries"] = gathered(tables["boundaries"], BOUNDARIES, ["image_id", "boundary"])
    for name, frame in whole.items():
        write_both(frame, out, name)
    rows = precision(found.defects)
    for row in rows:
        if row["precision"] is not None:
            print("precision of {group}: {real} of {reviewed} real, {precision:.3f}".format(**row))
    write_csv(table(rows, PRECISION), out["precision_csv"])


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        {name: [str(p) for p in paths] for name, paths in snakemake.input.items() if name in TABLES},
        [str(path) for path in snakemake.input.middles],
        snakemake.input.reviews_json,
        {name: str(path) for name, path in snakemake.output.items()},
        snakemake.params.fdr if snakemake.params.fdr_over == "run" else None,
    )
