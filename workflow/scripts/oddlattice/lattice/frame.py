"""The lattice frame: lattice coordinates (u, v) of every pixel of an image.

(u, v) = (place - origin) @ inverse(vectors) + a smooth field on a coarse grid.
"""

from dataclasses import dataclass, replace
from dataclasses import field as filled_by
from functools import cached_property

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.dislocations import FINER, Slips, from_line_px
from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.grid import Grid, Lifted
from oddlattice.lattice.spoilt import Seen
from oddlattice.numerics.arrays import Array, Bools, Float, Index


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
    cuts_px : ndarray of shape (k, 2, 2)
        Ends (row, col) of the lines along which (u, v) jump, from dislocations.
    faults_px : ndarray of shape (f, 2, 2)
        The same of faults.
    cores_px : ndarray of shape (c, 3)
        Middle (row, col) and radius of the cores of dislocations.
    """

    vectors_px: Array
    origin_px: Array
    field: Array
    grid: Grid
    quality: Array
    shape: tuple[int, int]
    roughness: float = 0.0
    cuts_px: Array = filled_by(default_factory=lambda: np.empty((0, 2, 2)))
    faults_px: Array = filled_by(default_factory=lambda: np.empty((0, 2, 2)))
    cores_px: Array = filled_by(default_factory=lambda: np.empty((0, 3)))

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
            cuts_px=self.cuts_px[..., ::-1],
            faults_px=self.faults_px[..., ::-1],
            cores_px=self.cores_px[:, [1, 0, 2]],
        )

    def cut_open(self, slips: Slips) -> "Frame":
        """The frame with what dislocations do to it, on a grid as fine as the jump along their cuts needs."""
        if not slips.cuts:
            return self
        grid = self.grid.finer(FINER)
        places = grid.places_px
        layers = self.grid.at(np.concatenate([self.field, self.quality[None]]), places.reshape(-1, 2))
        bent, quality = np.split(layers.reshape(3, *places.shape[:2]), [2])
        cuts, faults = (
            np.array([cut.ends_px for cut in slips.cuts if cut.is_fault == kind]).reshape(-1, 2, 2)
            for kind in (False, True)
        )
        bent = bent + slips.part(places)
        frame = replace(self, field=bent, grid=grid, cuts_px=cuts, faults_px=faults, cores_px=slips.cores_px)
        return replace(frame, quality=np.where(frame.from_cuts_px(places) > 0, quality[0], 0.0))

    def from_cuts_px(self, places_px: Array) -> Array:
        """Distance of places (..., 2) from what jumps along cuts and faults reach; infinite without; shape (...)."""
        return np.minimum(self._from(self.cuts_px, places_px), self._from(self.faults_px, places_px))

    def _from(self, lines_px: Array, places_px: Array) -> Array:
        away = [np.full(places_px.shape[:-1], np.inf), *(from_line_px(places_px, ends) for ends in lines_px)]
        return np.asarray(np.maximum(np.min(away, axis=0) - max(self.grid.step_px), 0.0))

    def cut_cells(self, nodes_px: Array) -> Bools:
        """Cells (U, V) with corners (2, U + 1, V + 1) [px] that a cut goes through, where the lattice is not broken."""
        return self._cells(self.cuts_px, nodes_px) & ~self.broken_cells(nodes_px)

    def broken_cells(self, nodes_px: Array) -> Bools:
        """Cells (U, V) with corners (2, U + 1, V + 1) [px] in cores of dislocations, and along faults."""
        middle = _middles(nodes_px)
        in_each = (np.hypot(*np.moveaxis(middle - core[:2], -1, 0)) < core[2] for core in self.cores_px)
        return sum(in_each, self._cells(self.faults_px, nodes_px))

    def _cells(self, lines_px: Array, nodes_px: Array) -> Bools:
        """Cells (U, V) that lines go through."""
        diagonals = self.vectors_px[0] + self.vectors_px[1], self.vectors_px[0] - self.vectors_px[1]
        half = max(float(np.hypot(*across)) for across in diagonals) / 2
        return np.asarray(self._from(lines_px, _middles(nodes_px)) <= half)


def _middles(nodes_px: Array) -> Array:
    """Middles (U, V, 2) of cells with corners (2, U + 1, V + 1)."""
    return np.asarray(np.moveaxis(nodes_px[:, :-1, :-1] + nodes_px[:, 1:, 1:], 0, -1) / 2)


class Quality(Lifted):
    """The quality of the lattice at the pixels of strips of rows; 0 where the image is blank."""

    def __init__(self, frame: Frame, seen: Seen) -> None:
        super().__init__(frame.quality[None], frame.grid, frame.shape)
        self._seen = seen

    def strip(self, rows: slice, cols: Index | None = None) -> Float:
        """Quality at the pixels of `rows`, of all columns or some; shape (1, rows, cols)."""
        quality = super().strip(rows, cols)
        self._seen.keep(quality[0], rows, cols)
        return quality


def lifted(flattener: Flattener, frame: Frame) -> tuple[Lifted, Lifted]:
    """(u, v) and quality of the lattice, ready to be interpolated to the pixels of strips."""
    return frame.lifted(), Quality(frame, flattener.seen)
