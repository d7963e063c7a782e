"""A coarse grid over an image, and what is known on it interpolated to the pixels of strips of rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Float, Index
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.local_plane import lerp, lerp_at

STRIP_PX = 1 << 19  # pixels of one strip of rows


@dataclass(frozen=True)
class Grid:
    """A coarse grid over an image: places along rows and cols [px], evenly spaced, first and last pixel included."""

    rows_px: Array
    cols_px: Array

    @property
    def step_px(self) -> tuple[float, float]:
        """Steps along (row, col) [px]."""
        return float(self.rows_px[1] - self.rows_px[0]), float(self.cols_px[1] - self.cols_px[0])

    @property
    def places_px(self) -> Array:
        """Places (n, m, 2) of the grid."""
        return np.stack(np.meshgrid(self.rows_px, self.cols_px, indexing="ij"), -1)

    @property
    def transposed(self) -> "Grid":
        """The grid with rows and columns exchanged."""
        return Grid(self.cols_px, self.rows_px)

    def holds(self, place_px: Array) -> bool:
        """Whether a place (2,) [px] lies in the image."""
        (row, col), (rows, cols) = place_px, (self.rows_px, self.cols_px)
        return bool(rows[0] <= row <= rows[-1] and cols[0] <= col <= cols[-1])

    def finer(self, times: int) -> "Grid":
        """The grid with steps so many times smaller."""
        rows, cols = (np.linspace(at[0], at[-1], times * (len(at) - 1) + 1) for at in (self.rows_px, self.cols_px))
        return Grid(rows, cols)

    def at(self, layers: Array, places_px: Array) -> Array:
        """Layers (k, n, m) interpolated at places (p, 2) [px], edge values outside; shape (k, p)."""
        index = (places_px - [self.rows_px[0], self.cols_px[0]]) / np.array(self.step_px)
        return _at(np.ascontiguousarray(layers, np.float64), index)


@compiled("float64[:, ::1](float64[:, :, ::1], float64[:, :])")
def _at(layers: Array, index: Array) -> Array:
    """Layers (k, n, m) between four grid places, at fractional indices (p, 2); edge values outside; shape (k, p)."""
    found = np.empty((layers.shape[0], len(index)))
    for p in range(len(index)):
        row = min(max(index[p, 0], 0.0), layers.shape[1] - 1.0)
        col = min(max(index[p, 1], 0.0), layers.shape[2] - 1.0)
        i, j = int(np.floor(row)), int(np.floor(col))
        below, after = min(i + 1, layers.shape[1] - 1), min(j + 1, layers.shape[2] - 1)
        down, across = row - i, col - j
        for k in range(layers.shape[0]):
            layer = layers[k]
            total = layer[i, j] * (1 - down) * (1 - across) + layer[i, after] * (1 - down) * across
            found[k, p] = total + layer[below, j] * down * (1 - across) + layer[below, after] * down * across
    return found


def grid_over(shape: tuple[int, int], step_px: float) -> Grid:
    """Grid with steps of at most about `step_px`."""
    return Grid(*(np.linspace(0, n - 1, max(int(np.ceil((n - 1) / step_px)) + 1, 4)) for n in shape))


def strips(shape: tuple[int, int]) -> Iterator[slice]:
    """Strips of whole rows of about STRIP_PX pixels."""
    height = max(STRIP_PX // shape[1], 16)
    for start in range(0, shape[0], height):
        yield slice(start, min(start + height, shape[0]))


class Lifted:
    """Layers on a coarse grid, interpolated linearly to the pixels of strips of rows."""

    def __init__(self, layers: Array, grid: Grid, shape: tuple[int, int]) -> None:
        self._layers = layers
        self._cols = lerp_at(shape[1], grid.cols_px[0], grid.step_px[1], len(grid.cols_px))
        self._rows = lerp_at(shape[0], grid.rows_px[0], grid.step_px[0], len(grid.rows_px))

    def strip(self, rows: slice, cols: Index | None = None) -> Float:
        """Layers at the pixels of `rows`, of all columns or some; shape (k, rows, cols)."""
        low, down = self._rows
        left, across = self._cols
        if cols is not None:
            left, across = left[cols], across[cols]
        return lerp(self._layers, low[rows], down[rows], left, across)
