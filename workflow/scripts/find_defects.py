"""Rule find_defects: every column tested, the odd ones listed, and maps laid back onto the raw image."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import zarr

from oddlattice.defects.analyse import Analysis, Stores, analyse, refused
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.statistics.guises import write_middles
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import listed_in, new_store
from oddlattice.storage.omezarr import make_collection
from oddlattice.storage.products import BOUNDARIES, COLUMNS, COMPLETENESS, DEFECTS, GRAINS, IMAGES, table, write_parquet
from oddlattice.storage.rounding import rounded


def main(
    images_zarr: str,
    tiles_zarr: str,
    differences_zarr: str,
    out: dict[str, str],
    out_maps: str,
    settings: DefectSettings,
    watch: Watch | None = None,
    out_middles: str | None = None,
) -> None:
    """List the defects of every image of a shard; refused images keep their row and their reason.

    `out` has paths of the tables ``defects``, ``images``, ``columns``, ``completeness``, ``grains``, ``boundaries``;
    `out_middles` takes the middles of the maps.
    """
    images = zarr.open_group(images_zarr, mode="r")
    watch, found = watch or Watch(), list[Analysis]()
    with whole_directory(out_maps) as part:
        maps = new_store(part)
        stores = Stores(
            images, zarr.open_group(tiles_zarr, mode="r"), zarr.open_group(differences_zarr, mode="r"), maps, part
        )
        for row in listed_in(images):
            if row["state"] == "rejected":
                found.append(Analysis(row))
                continue
            one, fault = watch.result_or_fault(row["image_id"], analyse, row, stores, settings)
            if fault is not None:
                shutil.rmtree(part / row["image_id"], ignore_errors=True)
                print(fault.trace)
            found.append(one or refused(row, fault))
            print(
                f"{row['image_id']}: {found[-1].image['state']}, "
                f"{len(found[-1].defects)} defects of {len(found[-1].columns)} columns"
            )
        make_collection(part, depth=2)
        if out_middles is not None:
            write_middles(maps, Path(out_middles))
    write_parquet(table([one.image for one in found], IMAGES), out["images"])
    write_parquet(rounded(pl.concat([table([], COLUMNS), *(one.columns for one in found)])), out["columns"])
    write_parquet(table([row for one in found for row in one.trials], COMPLETENESS), out["completeness"])
    write_parquet(table([row for one in found for row in one.defects], DEFECTS), out["defects"])
    write_parquet(table([row for one in found for row in one.grains], GRAINS), out["grains"])
    write_parquet(table([row for one in found for row in one.boundaries], BOUNDARIES), out["boundaries"])


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.images_zarr,
        snakemake.input.tiles_zarr,
        snakemake.input.differences_zarr,
        {name: str(path) for name, path in snakemake.output.items() if name not in ("maps_zarr", "middles")},
        snakemake.output.maps_zarr,
        DefectSettings.of(snakemake.params.settings),
        go_on_watched(),
        snakemake.output.middles,
    )
