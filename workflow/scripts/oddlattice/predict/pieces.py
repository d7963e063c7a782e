"""The tiles of an image, read part by part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import zarr

from oddlattice.lattice.columns import px_of
from oddlattice.lattice.subareas import Part, in_px, parts_of
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.storage import blocks
from oddlattice.storage.groups import array_of, values_of

AROUND_CELLS = 16  # neighbourhood in which a part of a huge image is predicted: beyond it nothing weighs anything


@dataclass(frozen=True)
class Piece:
    """A part of an image as it was read: its tiles and mask, neighbourhood included."""

    part: Part
    tiles: Float
    mask: Mask


def pieces_of(source: zarr.Group, mask: Mask) -> Iterator[Piece]:
    """Read a grain's tiles part by part; parts without analysed cells are left out."""
    tiles = array_of(source, "tiles")
    for part in parts_of(mask.shape, AROUND_CELLS):
        here = mask[part.wide]
        if mask[part.core].any():
            seen = blocks.read(tiles, in_px(part.wide, px_of(tiles, mask))).astype(np.float32, copy=False)
            yield Piece(part, seen, here)


def mask_of(source: zarr.Group) -> Mask:
    """Which cells (U, V) of a tiled image are analysed."""
    return np.asarray(values_of(source, "mask"), dtype=np.uint8)
