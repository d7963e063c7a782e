"""Rule measure_images: where the columns of each image stand, its statistics, and what happens in each stack."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import zarr

from oddlattice.crystal import load_crystal
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.series.tables import about_stack, dose_of_stack, follow_stack, stack_alone, stacks_of
from oddlattice.statistics.counting import seed_for
from oddlattice.statistics.per_image import measure
from oddlattice.storage.image_json import write_by_image
from oddlattice.storage.products import OF_SERIES, PLACES, table, write_parquet
from oddlattice.storage.rounding import rounded
from oddlattice.storage.rows import Row


def follow_stacks(
    tables: dict[str, pl.DataFrame], raw: zarr.Group, out: dict[str, str], seed: int, watch: Watch
) -> None:
    """Write the tables of stacks, by images, columns, defects and the store `raw`; a failure costs its stack alone."""
    found: dict[str, list[Row]] = {name: [] for name in OF_SERIES}
    for stack in stacks_of(tables["images"]):
        name = str(about_stack(stack)["series_id"])
        given = (stack, tables["columns"], tables["defects"], dose_of_stack(stack, raw), seed_for(name, seed))
        rows, fault = watch.result_or_fault(name, follow_stack, *given)
        if rows is None:
            assert fault is not None
            print(f"{name}: {fault.trace}")
            rows = stack_alone(stack, fault.words)
        for key, some in rows.items():
            found[key] += some
        print(f"{name}: {rows['series'][0]['state']}, {len(rows.get('events', []))} events")
    for key, (schema, _) in OF_SERIES.items():
        write_parquet(table(found[key], schema), out[key])


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
    out_series: dict[str, str],
    seed: int,
    frames: str,
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
    out_series : dict of str to path
        Tables named in `products.OF_SERIES`.
    seed, frames : int, str
        Of all draws; ``series``: stacks are followed through their frames.
    watch : Watch, optional
        Of a process that is watched.
    """
    paths = {"images": images_zarr, "tiles": tiles_zarr, "differences": differences_zarr}
    stores = {key: zarr.open_group(str(path), mode="r") for key, path in paths.items()}
    tables = {"defects": pl.read_parquet(defects), "columns": pl.read_parquet(columns)}
    known = {Path(path).parent.name: load_crystal(Path(path)) for path in crystals}
    watch, listed, places = watch or Watch(), pl.read_parquet(images), [table([], PLACES)]

    def each() -> Iterator[tuple[str, Row]]:
        for row in listed.iter_rows(named=True):
            if row["state"] != "analysed":
                continue
            name = str(row["image_id"])
            measured, fault = watch.result_or_fault(name, measure, row, stores, known, tables, seed)
            if measured is None:
                assert fault is not None
                print(f"{name}: {fault.trace}")
                yield name, {"failed": fault.words}
                continue
            places.extend(map(rounded, measured[1]))
            print(f"{name}: g(r) p {measured[0]['clustering'].get('p_value')}")
            yield name, measured[0]

    write_by_image(each(), out_statistics)
    write_parquet(pl.concat(places), out_places)
    tables["images"] = listed.filter(pl.lit(frames == "series"))
    follow_stacks(tables, stores["images"], out_series, seed, watch)


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
        {name: snakemake.output[name] for name in OF_SERIES},
        snakemake.params.seed,
        snakemake.params.frames,
        go_on_watched(),
    )
