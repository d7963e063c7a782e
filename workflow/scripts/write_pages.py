"""Rule write_pages: one page per image of a shard, its pictures beside it, and every number on it as JSON and CSV."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import zarr

from oddlattice.process.logs import log_to
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.report.gallery import in_page_order
from oddlattice.report.image_page import write_failure, write_page_of
from oddlattice.report.images import load_image, places_of
from oddlattice.report.series_page import write_series_pages
from oddlattice.statistics.copies import with_words
from oddlattice.statistics.guises import maps_of
from oddlattice.statistics.reviews import lay_on
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.image_json import ByImage
from oddlattice.storage.products import OF_SERIES


def main(
    images_zarr: str | Path,
    tiles_zarr: str | Path,
    differences_zarr: str | Path,
    maps_zarr: str | Path,
    defects: str | Path,
    images: str | Path,
    columns: str | Path,
    statistics: str | Path,
    reviews_json: str | Path,
    out_dir: str | Path,
    config: Mapping[str, Any],
    watch: Watch | None = None,
    series: Mapping[str, str] | None = None,
) -> None:
    """Write the pages of one shard into `out_dir`.

    Parameters
    ----------
    images_zarr, tiles_zarr, differences_zarr, maps_zarr : path
        The shard's zarr stores.
    defects, images, columns : path
        The shard's Parquet tables.
    statistics : path
        The shard's statistics, by image.
    reviews_json : path
        What people said of images of the shard, see `oddlattice.archive.review_files`.
    out_dir : path
        Written whole: <image_id>.html, .json, .defects.csv, .geojson and folder <image_id> of each image that was read.
    config : mapping
        The sections of the merged configuration that shape results; shown as they are.
    watch : Watch, optional
        Of a process that is watched.
    series : mapping of str to path, optional
        The shard's tables named in `products.OF_SERIES`: every stack has a page beside those of its frames.
    """
    watch = watch or Watch()
    paths = {"images": images_zarr, "tiles": tiles_zarr, "differences": differences_zarr, "maps": maps_zarr}
    stores = {key: zarr.open_group(str(path), mode="r") for key, path in paths.items()}
    tested = pl.read_parquet(columns)
    said = json.loads(Path(reviews_json).read_text(encoding="ascii"))["statements"]
    told = with_words(pl.read_parquet(images), maps_of([str(images)], [str(maps_zarr)]))
    found = lay_on(in_page_order(pl.read_parquet(defects)), told, partial(places_of, tested), said)
    rows = [row for row in found.images.iter_rows(named=True) if row["state"] != "rejected"]
    measured = ByImage(statistics)
    with whole_directory(out_dir) as part:
        for row in rows:
            name, image = row["image_id"], partial(load_image, row, stores, found, tested)
            given = (image, measured.get(name), Path(out_dir).name, part, config)
            _, fault = watch.result_or_fault(name, write_page_of, *given)
            if fault is not None:
                print(fault.trace)
                write_failure(row, fault.words, part)
        if series is not None:
            write_series_pages(series, stores["images"], part, watch)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.images_zarr,
        snakemake.input.tiles_zarr,
        snakemake.input.differences_zarr,
        snakemake.input.maps_zarr,
        snakemake.input.defects,
        snakemake.input.images,
        snakemake.input.columns,
        snakemake.input.statistics,
        snakemake.input.reviews_json,
        snakemake.output.pages,
        dict(snakemake.params.config),
        go_on_watched(),
        {name: snakemake.input[name] for name in OF_SERIES},
    )
