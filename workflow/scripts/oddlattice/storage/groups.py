"""What the stages leave in zarr stores, taken by name: groups, arrays, and what is said of an image."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import zarr

from oddlattice import __version__
from oddlattice.storage import blocks
from oddlattice.storage.rows import Row

FIRST_GRAIN = 1  # grains of an image are counted from here

GRAIN_MAP = "grain_map"  # array of an image of several grains: the grain of every pixel, 0 where there is no crystal


def new_store(folder: Path) -> zarr.Group:
    """An empty store in a folder, with the version of the program that makes it."""
    return zarr.open_group(folder, mode="w", zarr_format=3, attributes={"version": __version__})


def group_of(parent: zarr.Group, name: str) -> zarr.Group:
    """A group below another.

    Raises
    ------
    KeyError
        If there is nothing of that name.
    TypeError
        If it is an array.
    """
    found = parent[name]
    if not isinstance(found, zarr.Group):
        raise TypeError(f"{parent.name}/{name}: found an array; needed a group")
    return found


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group, not yet read.

    Raises
    ------
    KeyError
        If there is nothing of that name.
    TypeError
        If it is a group.
    """
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise TypeError(f"{group.name}/{name}: found a group; needed an array")
    return found


def values_of(group: zarr.Group, name: str, window: tuple[slice, ...] = ()) -> npt.NDArray[Any]:
    """An array of a group, or a window of it, as it is read; errors as of `array_of`."""
    return blocks.read(array_of(group, name), window)


def attributes_of(group: zarr.Group) -> Row:
    """What a stage says of an image, beside its arrays; KeyError if it says nothing."""
    return dict(group.attrs["oddlattice"])  # type: ignore[arg-type]


def listed_in(root: zarr.Group) -> list[Row]:
    """The rows of the images of a shard, in their order."""
    return list(root.attrs["images"])  # type: ignore[arg-type]


def group_if_any(parent: zarr.Group | None, name: str) -> zarr.Group | None:
    """As `group_of`; None where there is none."""
    return group_of(parent, name) if parent is not None and name in parent else None


def array_if_any(group: zarr.Group | None, name: str) -> zarr.Array[Any] | None:
    """As `array_of`; None where there is none."""
    return array_of(group, name) if group is not None and name in group else None


def said_if_any(group: zarr.Group | None) -> Row:
    """As `attributes_of`; empty where nothing is said."""
    return attributes_of(group) if group is not None and "oddlattice" in group.attrs else {}


def grain_of(root: zarr.Group, image_id: str, grain: int = FIRST_GRAIN) -> zarr.Group:
    """The group of a grain of an image; of an image without grains its own, which says why there are none."""
    image = group_of(root, image_id)
    return group_of(image, str(grain)) if str(grain) in image else image


def grains_in(root: zarr.Group, image_id: str) -> list[int]:
    """Numbers of the grains of an image, those that could be analysed first; that of the first where there is none."""
    said = said_if_any(group_of(root, image_id))
    return list(range(FIRST_GRAIN, FIRST_GRAIN + int(said.get("grains", 1))))


def grain_if_any(root: zarr.Group | None, image_id: str, grain: int = FIRST_GRAIN) -> zarr.Group | None:
    """As `grain_of`; None where there is no such image."""
    return grain_of(root, image_id, grain) if root is not None and image_id in root else None
