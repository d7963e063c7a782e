"""The images of a shard laid on their lattices, each in a child process; stacks first, to know what they show."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from oddlattice.lattice.one_scan import of_one_scan, to_do_again
from oddlattice.process.sandbox import Ending, Limits, run_limited
from oddlattice.storage.groups import listed_in
from oddlattice.storage.rows import Row

TILE, KNOW = "oddlattice.model.choice:tile_or_tell", "oddlattice.model.choice:know_or_tell"
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
        for ending in run_limited(TILE, some.items(), LIMITS, at_once=at_once) if some else ():
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


def stacks_in(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Ids of the frames of each stack that were read, by the id of its first; rows as the read stage has them."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["state"] == "read" and row["frame"] >= 0:
            found.setdefault((row["file_id"], row["signal"]), []).append(row["image_id"])
    return {names[0]: names for names in found.values() if len(names) > 1}


def crystals_of_stacks(
    stacks: Mapping[str, list[str]], shared: Mapping[str, Any], threads: int
) -> dict[str, dict[str, Any]]:
    """The crystal that a stack shows itself, for each of its frames; none for stacks of a model, or where it failed."""
    jobs = {first: {**shared, "frames": names} for first, names in stacks.items()}
    found: dict[str, dict[str, Any]] = {}
    for ending in run_limited(KNOW, jobs.items(), LIMITS, at_once=max(1, threads)) if jobs else ():
        if ending.how == "returned" and ending.value[0] is not None:
            found |= dict.fromkeys(stacks[ending.key], ending.value[0])
        elif ending.how != "returned" or ending.value[1] is not None:
            print(f"{ending.key}: the crystal of its stack was not found: {trouble(ending)}")
    return found


def with_other_detectors(
    jobs: dict[str, dict[str, Any]], rows: dict[str, Row], images: zarr.Group, part: Path, threads: int
) -> dict[str, Row]:
    """Rows of the tiled images, some of them done again: to which another detector of the same scan says more."""
    alone = [row for row in listed_in(images) if jobs.get(row["image_id"], {}).get("stack") is None]
    again = to_do_again(zarr.open_group(part, mode="r"), of_one_scan(images, alone))
    for name in again:
        shutil.rmtree(part / name)
    return rows | tile_all({name: jobs[name] | {"beside": other} for name, other in again.items()}, part, threads)
