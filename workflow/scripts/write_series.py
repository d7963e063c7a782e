"""Rule write_series: the page of every stack of a shard, its pictures and numbers beside it."""

from pathlib import Path
from typing import Any

import polars as pl
import zarr

from oddlattice.process.logs import log_to
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.report.series_page import write_series_failure, write_series_page
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.products import OF_SERIES


def main(images_zarr: str | Path, tables: dict[str, str], out_dir: str | Path, watch: Watch | None = None) -> None:
    """Write the pages of the series of one shard into `out_dir`.

    Parameters
    ----------
    images_zarr : path
        The shard's images.
    tables : dict of str to path
        The shard's tables, named as in `products.OF_SERIES`.
    out_dir : path
        Written whole: <name>.html, .json, .tracks.csv, .events.csv, .geojson and folder <name> of each series; empty
        without a stack.
    watch : Watch, optional
        Of a process that is watched.
    """
    watch = watch or Watch()
    images = zarr.open_group(str(images_zarr), mode="r")
    found = {name: pl.read_parquet(path) for name, path in tables.items()}
    with whole_directory(out_dir) as part:
        for row in found["series"].iter_rows(named=True):
            own = {name: frame.filter(pl.col("series_id") == row["series_id"]) for name, frame in found.items()}
            _, fault = watch.result_or_fault(row["series_id"], write_series_page, row, own, images, part)
            if fault is not None:
                print(fault.trace)
                write_series_failure(row, own["series_frames"], fault.words, part)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.images_zarr,
        {name: snakemake.input[name] for name in OF_SERIES},
        snakemake.output.pages,
        go_on_watched(),
    )
