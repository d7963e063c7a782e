"""Rule measure_images: where the columns of each image stand, and its statistics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import zarr

from oddlattice.crystal import load_crystal
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.statistics.per_image import measure
from oddlattice.storage.image_json import write_by_image
from oddlattice.storage.products import PLACES, table, write_parquet
from oddlattice.storage.rows import Row


def main(
    images_zarr: str | Path,
    tiles_zarr: str | Path,
    differences_zarr: str | Path,
    crystals: list[str],
    defects: str | Path,
    images: str | Path,
    columns: str | Path,
    out_statistics: str | Path,
    out_places: str | Path,
    seed: int,
    watch: Watch | None = None,
) -> None:
    """Write statistics and measured columns of the analysed images of a shard; a failure costs its image alone.

    Parameters
    ----------
    images_zarr, tiles_zarr, differences_zarr : path
        The shard's stores.
    crystals : list of path
        crystal.yaml of every configured model.
    defects, images, columns : path
        The shard's tables.
    seed : int
        Of the draws that clustering is tested against.
    watch : Watch, optional
        Of a process that is watched.
    """
    paths = {"images": images_zarr, "tiles": tiles_zarr, "differences": differences_zarr}
    stores = {key: zarr.open_group(str(path), mode="r") for key, path in paths.items()}
    tables = {"defects": pl.read_parquet(defects), "columns": pl.read_parquet(columns)}
    known = {Path(path).parent.name: load_crystal(Path(path)) for path in crystals}
    watch = watch or Watch()
    places = [table([], PLACES)]

    def each() -> Iterator[tuple[str, Row]]:
        for row in pl.read_parquet(images).iter_rows(named=True):
            if row["state"] != "analysed":
                continue
            name = str(row["image_id"])
            measured, fault = watch.spared(name, measure, row, stores, known, tables, seed)
            if measured is None:
                assert fault is not None
                print(f"{name}: {fault.trace}")
                yield name, {"failed": fault.words}
                continue
            places.extend(measured[1])
            clustering, moved = (measured[0][key] for key in ("clustering", "polar"))
            print(f"{name}: g(r) p {clustering.get('p_value')}, noise of polar map {moved.get('sigma_pm')} pm")
            yield name, measured[0]

    write_by_image(each(), out_statistics)
    write_parquet(pl.concat(places), out_places)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.images_zarr,
        snakemake.input.tiles_zarr,
        snakemake.input.differences_zarr,
        list(snakemake.input.crystals),
        snakemake.input.defects,
        snakemake.input.images,
        snakemake.input.columns,
        snakemake.output.statistics,
        snakemake.output.places,
        snakemake.params.seed,
        go_on_watched(),
    )
