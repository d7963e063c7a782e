"""The lattice frame: lattice coordinates (u, v) of every pixel of an image.

(u, v) = (place - origin) @ inverse(vectors) + a smooth field on a coarse grid.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.grid import Grid, Lifted
from oddlattice.lattice.spoilt import Seen
from oddlattice.numerics.arrays import Array, Float


@dataclass(frozen=True)
class Frame:
    """Lattice coordinates over an image: uv = (place - origin_px) @ inverse(vectors_px) + field.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors as rows [px].
    origin_px : ndarray of shape (2,)
        Place of u = v = 0 when the field is 0 [px].
    field : ndarray of shape (2, n, m)
        Deviation of (u, v) on the grid [cells].
    grid : Grid
    quality : ndarray of shape (n, m)
        Lattice amplitude on the grid, 1 in good crystal.
    shape : tuple of int
        (rows, cols) of the image.
    roughness : float
        rms by which the measured field departs from its smooth version [cells of the primitive lattice].
    """

    vectors_px: Array
    origin_px: Array
    field: Array
    grid: Grid
    quality: Array
    shape: tuple[int, int]
    roughness: float = 0.0

    @property
    def period_px(self) -> float:
        """Square root of the cell's area [px]."""
        return float(np.sqrt(abs(np.linalg.det(self.vectors_px))))

    def uv_at(self, places_px: Array) -> Array:
        """Lattice coordinates of places (p, 2) [px]; shape (p, 2)."""
        affine = (places_px - self.origin_px) @ np.linalg.inv(self.vectors_px)
        return np.asarray(affine + self.grid.at(self.field, places_px).T)

    def places_at(self, uv: Array) -> Array:
        """Places [px] of lattice coordinates (p, 2): the inverse of `uv_at`, by fixed-point steps; shape (p, 2)."""
        places = uv @ self.vectors_px + self.origin_px
        for _ in range(6):
            places = (uv - self.grid.at(self.field, places).T) @ self.vectors_px + self.origin_px
        return np.asarray(places)

    @cached_property
    def first_and_count(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Lattice coordinates of the first cell that touches the image, and the numbers of cells along u and v."""
        rows, cols = np.meshgrid(self.grid.rows_px, self.grid.cols_px, indexing="ij")
        uv = self.uv_at(np.stack([rows.ravel(), cols.ravel()], -1))
        first, last = np.floor(uv.min(0) - 0.01).astype(int), np.ceil(uv.max(0) + 0.01).astype(int)
        return (int(first[0]), int(first[1])), (int(last[0] - first[0]), int(last[1] - first[1]))

    def lifted(self) -> Lifted:
        """(u, v) ready to be interpolated to pixels."""
        rows, cols = np.meshgrid(self.grid.rows_px, self.grid.cols_px, indexing="ij")
        places = np.stack([rows, cols], -1) - self.origin_px
        uv = np.moveaxis(places @ np.linalg.inv(self.vectors_px), -1, 0) + self.field
        return Lifted(uv, self.grid, self.shape)

    def in_cell(self, cell: npt.NDArray[np.int64]) -> "Frame":
        """The same frame counted in another cell of the lattice, its vectors as rows in steps of this one's."""
        field = np.moveaxis(np.moveaxis(self.field, 0, -1) @ np.linalg.inv(cell), -1, 0)
        return replace(self, vectors_px=cell @ self.vectors_px, field=field)

    def moved(self, shift: Array) -> "Frame":
        """The same frame with its origin at lattice coordinates `shift`."""
        return replace(self, origin_px=self.origin_px + np.asarray(shift) @ self.vectors_px)

    @property
    def transposed(self) -> "Frame":
        """That of the image with rows and columns exchanged: the same (u, v) for the same point of the specimen."""
        return replace(
            self,
            vectors_px=np.ascontiguousarray(self.vectors_px[:, ::-1]),
            origin_px=self.origin_px[::-1].copy(),
            field=np.ascontiguousarray(self.field.transpose(0, 2, 1)),
            grid=self.grid.transposed,
            quality=np.ascontiguousarray(self.quality.T),
            shape=(self.shape[1], self.shape[0]),
        )


class Quality(Lifted):
    """The quality of the lattice at the pixels of strips of rows; 0 where the image is blank."""

    def __init__(self, frame: Frame, seen: Seen) -> None:
        super().__init__(frame.quality[None], frame.grid, frame.shape)
        self._seen = seen

    def strip(self, rows: slice) -> Float:
        """Quality at the pixels of `rows`; shape (1, rows, cols)."""
        quality = super().strip(rows)
        self._seen.keep(quality[0], rows)
        return quality


def lifted(flattener: Flattener, frame: Frame) -> tuple[Lifted, Lifted, Lifted]:
    """Slowly varying mean, (u, v) and quality of the lattice, ready to be interpolated to the pixels of strips."""
    return flattener.lifted(frame.shape), frame.lifted(), Quality(frame, flattener.seen)
