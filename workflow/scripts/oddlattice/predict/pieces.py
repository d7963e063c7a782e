"""The tiles of a shard, read part by part."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from oddlattice.crystal import LEAST_CELLS
from oddlattice.lattice.columns import px_of
from oddlattice.lattice.subareas import Part, in_px, parts_of
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.process.prefetch import ahead
from oddlattice.storage import blocks
from oddlattice.storage.groups import array_of, attributes_of, grain_of, grains_in, values_of

AROUND_CELLS = 16  # neighbourhood in which a part of a huge image is predicted: beyond it nothing weighs anything


@dataclass(frozen=True)
class Piece:
    """A part of an image as it was read: its tiles and mask, neighbourhood included."""

    image_id: str
    grain: int
    part: Part
    tiles: Float
    mask: Mask


def pieces_of(image_id: str, grain: int, source: zarr.Group, mask: Mask) -> Iterator[Piece]:
    """Read a grain's tiles part by part; parts without analysed cells are left out."""
    tiles = array_of(source, "tiles")
    for part in parts_of(mask.shape, AROUND_CELLS):
        here = mask[part.wide]
        if mask[part.core].any():
            seen = blocks.read(tiles, in_px(part.wide, px_of(tiles, mask))).astype(np.float32, copy=False)
            yield Piece(image_id, grain, part, seen, here)


def mask_of(source: zarr.Group) -> Mask:
    """Which cells (U, V) of a tiled image are analysed."""
    return np.asarray(values_of(source, "mask"), dtype=np.uint8)


def _pieces(tiles: zarr.Group, listed: list[dict[str, Any]]) -> Iterator[Piece]:
    for row in listed:
        if row["state"] != "tiled":
            continue
        for grain in grains_in(tiles, row["image_id"]):
            source = grain_of(tiles, row["image_id"], grain)
            if attributes_of(source)["state"] != "tiled":
                continue
            mask = mask_of(source)
            if int(mask.sum()) >= LEAST_CELLS:
                yield from pieces_of(row["image_id"], grain, source, mask)


class PiecesInOrder:
    """The pieces of all images in one stream, handed out grain by grain."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._next = next(pieces, None)
        self._asked: set[tuple[str, int]] = set()

    @classmethod
    def of_all(cls, tiles: zarr.Group, listed: list[dict[str, Any]]) -> "PiecesInOrder":
        """The pieces of all tiled images of a shard, read ahead."""
        return cls(ahead(_pieces(tiles, listed)))

    def of(self, image_id: str, grain: int) -> Iterator[Piece]:
        """Pieces of a grain of an image, in the order in which they come; what was not taken of others is left out."""
        while self._next is not None and (self._next.image_id, self._next.grain) in self._asked:
            self._next = next(self._pieces, None)
        self._asked.add((image_id, grain))
        return self._handed_out(image_id, grain)

    def _handed_out(self, image_id: str, grain: int) -> Iterator[Piece]:
        while self._next is not None and (self._next.image_id, self._next.grain) == (image_id, grain):
            piece, self._next = self._next, None
            yield piece
            del piece
            self._next = next(self._pieces, None)
