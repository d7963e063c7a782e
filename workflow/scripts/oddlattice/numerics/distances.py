"""Distances on a grid, several times faster than by way of the nearest place: that is not asked for."""

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.numerics.compiled import compiled


def distance_px(inside: Bools) -> Array:
    """Distance of each pixel of a mask (rows, cols) from the nearest beyond it; 0 beyond, infinite where none is.

    As `scipy.ndimage.distance_transform_edt` has it, to the last bit.
    """
    return _distances(np.ascontiguousarray(inside))


@compiled("float64[:, ::1](boolean[:, ::1])")
def _distances(inside: Bools) -> Array:
    """Distances, down the columns first, then along the rows by the lowest of the parabolas about each column.

    Source: Felzenszwalb and Huttenlocher, Theory of Computing 8 (2012) 415, doi:10.4086/toc.2012.v008a019.
    """
    rows, cols = inside.shape
    found, square = np.empty((rows, cols)), np.empty(cols, np.int64)
    away = np.full(cols, rows + cols, np.int64)
    for row in range(rows):
        for col in range(cols):
            away[col] = min(away[col] + 1, rows + cols) if inside[row, col] else 0
            found[row, col] = away[col]
    away[:] = rows + cols
    lowest, starts, heights = np.empty(cols, np.int64), np.empty(cols + 1), np.empty(cols, np.int64)
    for row in range(rows - 1, -1, -1):
        for col in range(cols):
            away[col] = min(away[col] + 1, rows + cols) if inside[row, col] else 0
            heights[col] = min(np.int64(found[row, col]), away[col]) ** 2
        if inside[row].any():
            _lowest_parabolas(heights, lowest, starts, square)
            for col in range(cols):
                found[row, col] = np.sqrt(square[col]) if square[col] < (rows + cols) ** 2 else np.inf
        else:
            found[row] = 0
    return found


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
