"""Rule cut_tiles: every image of a shard laid on its own lattice, in a child process; it loads next to nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from oddlattice.crystal import load_crystal
from oddlattice.lattice.tile_shard import crystals_of_stacks, stacks_in, tile_all, with_other_detectors
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.run.stage_settings import TileSettings
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import listed_in, new_store


def main(
    images_zarr: str | Path,
    crystal_files: Sequence[str | Path],
    out_zarr: str | Path,
    settings: TileSettings,
    threads: int = 1,
    misfit_limit: float | None = None,
    libraries: Sequence[str | Path] = (),
) -> None:
    """Tile all images of a shard.

    Parameters
    ----------
    images_zarr, out_zarr : path
        Product of the read stage; what is written, whole or not at all.
    crystal_files, libraries : sequence of path
        `crystal.yaml` of every model in use; crystal libraries in which an image's own crystal is looked up.
    settings : TileSettings
    threads : int
        Images tiled at once, each in its own process.
    misfit_limit : float, optional
        Where given, an image further off every model is laid on the crystal that it shows itself.
    """
    for path in crystal_files:
        load_crystal(Path(path))
    images = zarr.open_group(str(images_zarr), mode="r")
    names = [str(row["image_id"]) for row in listed_in(images) if row["state"] == "read"]
    with whole_directory(out_zarr) as part:
        root = new_store(part)
        shared = {
            "images_zarr": str(images_zarr),
            "crystal_files": [str(path) for path in crystal_files],
            "settings": settings.as_dict(),
            "misfit_limit": misfit_limit,
            "libraries": [str(path) for path in libraries],
        }
        of_stacks = (
            crystals_of_stacks(stacks_in(listed_in(images)), shared, threads) if misfit_limit is not None else {}
        )
        jobs = {name: shared | {"out": str(part), "image_id": name, "stack": of_stacks.get(name)} for name in names}
        rows = tile_all(jobs, part, threads)
        rows = with_other_detectors(jobs, rows, images, part, threads) if misfit_limit is not None else rows
        root.attrs["images"] = [rows[name] for name in names]


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.images_zarr,
        list(snakemake.input.crystals),
        snakemake.output.tiles_zarr,
        TileSettings.of(snakemake.params.settings),
        snakemake.threads,
        snakemake.params.misfit_limit,
        list(snakemake.input.libraries),
    )
