"""Rule cut_tiles: every image of a shard laid on its own lattice, in a child process; it loads next to nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from oddlattice.crystal import load_crystal
from oddlattice.process.logs import log_to
from oddlattice.process.sandbox import Ending, Limits, run_limited
from oddlattice.process.single_thread import one_thread
from oddlattice.run.stage_settings import TileSettings
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import listed_in, new_store
from oddlattice.storage.rows import Row

CALL = "oddlattice.model.choice:tile_or_tell"
LONGEST_S = 3600.0  # an image that takes longer is given up
LIMITS = Limits(1 << 20, LONGEST_S, LONGEST_S)  # memory is limited by the job's own


def trouble(ending: Ending) -> str:
    """Why a child gave no row, in words.

    Raises
    ------
    RuntimeError
        If it could not read or write a product: no fault of the image.
    """
    match ending.how:
        case "returned":
            print(ending.value[1][1])
            return str(ending.value[1][0])
        case "time":
            return f"not done within {LONGEST_S / 60:.0f} minutes"
        case "signal" | "silent" | "memory":
            return f"its process died ({ending.detail or 'no memory'})"
    raise RuntimeError(f"{ending.key}: {ending.detail}")


def tile_all(jobs: dict[str, dict[str, Any]], part: Path, threads: int) -> dict[str, Row]:
    """Tile images in children, at most `threads` at a time; one that takes its process with it costs itself alone."""
    rows: dict[str, Row] = {}
    killed: dict[str, dict[str, Any]] = {}
    for is_last, some in ((False, jobs), (True, killed)):
        at_once = 1 if is_last else max(1, threads)
        for ending in run_limited(CALL, some, LIMITS, at_once=at_once) if some else ():
            if ending.how == "returned" and ending.value[0] is not None:
                rows[ending.key] = ending.value[0]
                continue
            shutil.rmtree(part / ending.key, ignore_errors=True)
            if ending.detail == "SIGKILL" and not is_last:
                killed[ending.key] = jobs[ending.key]  # not by us: perhaps the machine was short of memory, once more
                continue
            reason = f"the lattice could not be fitted, by a fault of the program: {trouble(ending)}"
            said = {"state": "rejected", "reason": reason}
            group = zarr.open_group(part, mode="r+").create_group(ending.key)
            group.attrs["oddlattice"] = {**said, "crystal": None, "warnings": []}
            rows[ending.key] = {"image_id": ending.key, **said}
    return rows


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
            "out": str(part),
            "settings": settings.as_dict(),
            "misfit_limit": misfit_limit,
            "libraries": [str(path) for path in libraries],
        }
        rows = tile_all({name: shared | {"image_id": name} for name in names}, part, threads)
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
