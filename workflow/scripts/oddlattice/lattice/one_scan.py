"""Which images of a shard are of one scan, seen by several detectors, and which of them another one can help."""

import re
from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np
import zarr

from oddlattice.crystal import OWN
from oddlattice.storage.groups import FIRST_GRAIN, attributes_of, group_of
from oddlattice.storage.rows import Row

SAME_AREA = 0.1  # of cells, in its logarithm
TO_THE_SECOND = re.compile(r"T\d\d:\d\d:\d\d")


def of_one_scan(images: zarr.Group, rows: Sequence[Row]) -> list[list[str]]:
    """Ids of images that were read and are of one scan: of one file, or one folder and second, and of one shape."""
    found: dict[tuple[object, ...], list[str]] = {}
    for row in rows:
        if row["state"] != "read" or row["frame"] > 0:
            continue
        said = attributes_of(group_of(images, row["image_id"]))
        at = str(said.get("acquired") or "")
        key = (str(row["path"]).rpartition("/")[0], at) if TO_THE_SECOND.search(at) else (row["file_id"],)
        found.setdefault((*key, said["rows"], said["cols"]), []).append(row["image_id"])
    return [names for names in found.values() if len(names) > 1]


class _Shown(NamedTuple):
    """What an image shows of the crystal: the area of its cell [px^2], whether dark on bright, error of the lattice."""

    area_px2: float
    is_dark: bool
    error_px: float


def to_do_again(tiles: zarr.Group, scans: Sequence[Sequence[str]]) -> dict[str, str]:
    """Images that show no lattice or another cell than the best of the same scan does: the id of that, by theirs.

    The best is the one with bright columns whose lattice is known best. Images on a model's crystal stay on that.
    """
    again = {}
    for names in scans:
        shown = {name: one for name in names if (one := _shown(tiles, name)) is not None}
        if not shown:
            continue
        best = min(shown, key=lambda name: shown[name][1:])
        for name in names:
            own = shown.get(name)
            other_cell = own is None or abs(log(own.area_px2 / shown[best].area_px2)) > SAME_AREA
            if other_cell and _may_be_helped(tiles, name):
                again[name] = best
    return again


def _shown(tiles: zarr.Group, name: str) -> _Shown | None:
    """Of an image of one crystal; None of any other."""
    said = attributes_of(group_of(tiles, name))
    if said["state"] != "tiled" or said.get("grains") != 1:
        return None
    grain = attributes_of(group_of(group_of(tiles, name), str(FIRST_GRAIN)))
    area = abs(float(np.linalg.det(np.array([grain["a_px"], grain["b_px"]]))))
    return _Shown(area, grain.get("contrast_sign", 1) < 0, grain["a_sigma_px"] + grain["b_sigma_px"])


def _may_be_helped(tiles: zarr.Group, name: str) -> bool:
    said = attributes_of(group_of(tiles, name))
    if said["state"] == "no_lattice":
        return True
    if said["state"] != "tiled" or said.get("grains") != 1:
        return False
    return bool(attributes_of(group_of(group_of(tiles, name), str(FIRST_GRAIN)))["model"] == OWN)
