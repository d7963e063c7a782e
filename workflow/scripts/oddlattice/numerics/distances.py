"""Distances on a grid, several times faster than by way of the nearest place: that is not asked for."""

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.numerics.compiled import compiled


def distance_px(inside: Bools) -> Array:
    """Distance of each pixel of a mask (rows, cols) from the nearest beyond it; 0 beyond, infinite where none is.

    As `scipy.ndimage.distance_transform_edt` has it, to the last bit.
    """
    square = _squares(np.ascontiguousarray(inside))
    return np.where(square < _none(inside.shape), np.sqrt(square), np.inf)


def _none(shape: tuple[int, ...]) -> int:
    """A squared distance beyond all that there are on a grid."""
    return (shape[0] + shape[1]) ** 2


@compiled("int64[:, ::1](boolean[:, ::1])")
def _squares(inside: Bools) -> Index:
    """Squared distances, down the columns first, then along the rows as the lowest of the parabolas about each column.

    Source: Felzenszwalb and Huttenlocher, Theory of Computing 8 (2012) 415, doi:10.4086/toc.2012.v008a019.
    """
    rows, cols = inside.shape
    square = np.empty((rows, cols), np.int64)
    away = np.full(cols, rows + cols, np.int64)
    for row in range(rows):
        for col in range(cols):
            away[col] = min(away[col] + 1, rows + cols) if inside[row, col] else 0
            square[row, col] = away[col]
    away[:] = rows + cols
    lowest, starts, heights = np.empty(cols, np.int64), np.empty(cols + 1), np.empty(cols, np.int64)
    for row in range(rows - 1, -1, -1):
        for col in range(cols):
            away[col] = min(away[col] + 1, rows + cols) if inside[row, col] else 0
            heights[col] = min(square[row, col], away[col]) ** 2
        if inside[row].any():
            _lowest_parabolas(heights, lowest, starts, square[row])
        else:
            square[row] = 0
    return square


@compiled("void(int64[::1], int64[::1], float64[::1], int64[::1])")
def _lowest_parabolas(heights: Index, lowest: Index, starts: Array, out: Index) -> None:
    """Least of heights[k] + (col - k)^2 at each col; `lowest` and `starts` are room to work in."""
    last, lowest[0], starts[0], starts[1] = 0, 0, -np.inf, np.inf
    for k in range(1, len(heights)):
        while True:
            j = lowest[last]
            start = (heights[k] + k * k - heights[j] - j * j) / (2 * (k - j))
            if start > starts[last]:
                break
            last -= 1
        last += 1
        lowest[last], starts[last], starts[last + 1] = k, start, np.inf
    at = 0
    for col in range(len(heights)):
        while starts[at + 1] < col:
            at += 1
        out[col] = heights[lowest[at]] + (col - lowest[at]) ** 2
