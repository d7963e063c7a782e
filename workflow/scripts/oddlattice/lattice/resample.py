"""Resampling into the lattice frame: where the cells lie, and the image cut into them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import PX_PER_CELL, PxPerCell
from oddlattice.lattice.frame import Frame
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.filters import weighted
from oddlattice.numerics.local_plane import finite

Number = np.floating[Any]

SPLINE_PX = 48  # image kept along rows: a cubic spline has forgotten its end there to the last digit
POLE = float(np.sqrt(3.0)) - 2  # of the recursive filter that makes coefficients of cubic splines
SIDE = 16  # lines that are filtered side by side
AT_EDGE, NOWHERE = -1, -2  # in the place of an index
HALO_PX = 12  # image kept around a window, so that the spline does not feel the cut


def nodes_of(frame: Frame, first: tuple[int, int], count: tuple[int, int]) -> Array:
    """Places of the cells' corners [px]; shape (2, U + 1, V + 1)."""
    grid = np.stack(np.meshgrid(np.arange(count[0] + 1), np.arange(count[1] + 1), indexing="ij"), -1) + np.array(first)
    places = frame.places_at(grid.reshape(-1, 2).astype(float))
    return np.moveaxis(places.reshape(count[0] + 1, count[1] + 1, 2), -1, 0)


def inside_cells(nodes_px: Array, shape: tuple[int, int], margin_px: float) -> npt.NDArray[np.bool_]:
    """Cells that lie in the image, with `margin_px` beside them along the fast axis; shape (U, V)."""
    centre = (nodes_px[:, :-1, :-1] + nodes_px[:, 1:, :-1] + nodes_px[:, :-1, 1:] + nodes_px[:, 1:, 1:]) / 4
    along_u, along_v = np.diff(nodes_px, axis=1)[:, :, :-1], np.diff(nodes_px, axis=2)[:, :-1]
    reach = (np.abs(along_u) + np.abs(along_v)) / 2
    reach[1] += margin_px
    limit = np.array(shape)[:, None, None] - 1
    return np.asarray(((centre - reach >= 0) & (centre + reach <= limit)).all(0))


@compiled("int64(int64, int64)")
def _mirrored(place: int, length: int) -> int:
    """Place on a line that is mirrored at its first and last pixel."""
    if length == 1:
        return 0
    place = abs(place) % (2 * length - 2)
    return min(place, 2 * length - 2 - place)


@compiled("void(float64[:, ::1])")
def _to_spline(lines: Array) -> None:
    """Values along the first axis become coefficients of cubic splines, side by side along the second; mirrored ends.

    Source: Unser, IEEE Signal Processing Magazine 16(6) (1999) 22, doi:10.1109/79.799930, box 2.
    """
    length, side = lines.shape
    if length == 1:
        return
    first = np.zeros(side)
    for k in range(SPLINE_PX):
        for j in range(side):
            first[j] += POLE**k * lines[_mirrored(k, length), j]
    for j in range(side):
        lines[0, j] = 6 * first[j]
    for i in range(1, length):
        for j in range(side):
            lines[i, j] = 6 * lines[i, j] + POLE * lines[i - 1, j]
    for j in range(side):
        lines[-1, j] = POLE / (POLE * POLE - 1) * (lines[-1, j] + POLE * lines[-2, j])
    for i in range(length - 2, -1, -1):
        for j in range(side):
            lines[i, j] = POLE * (lines[i + 1, j] - lines[i, j])


@compiled("void(float32[:, ::1])")
def _rows_to_spline(image: Float) -> None:
    """Each row becomes the coefficients of its spline, in place; some rows at a time, for the processor's vectors."""
    lines = np.empty((image.shape[1], SIDE))
    for top in range(0, image.shape[0], SIDE):
        height = min(SIDE, image.shape[0] - top)
        for j in range(height):
            lines[:, j] = image[top + j]
        _to_spline(lines)
        for j in range(height):
            image[top + j] = lines[:, j]


@compiled("void(float32[:, ::1])")
def _cols_to_spline(image: Float) -> None:
    """Each column becomes the coefficients of its spline, in place; some columns at a time, that fit into the cache."""
    lines = np.empty((image.shape[0], 4 * SIDE))
    for left in range(0, image.shape[1], 4 * SIDE):
        width = min(4 * SIDE, image.shape[1] - left)
        lines[:, :width] = image[:, left : left + width]
        _to_spline(lines)
        image[:, left : left + width] = lines[:, :width]


@compiled("float32[:, ::1](float32[:, ::1], float64[::1])")
def _shifted(coefficients: Float, row_shift_px: Array) -> Float:
    """Splines along rows, each evaluated at c - shift for every pixel c."""
    rows, cols = coefficients.shape
    found = np.empty((rows, cols), np.float32)
    for r in range(rows):
        whole = int(np.floor(-row_shift_px[r]))
        t = -row_shift_px[r] - whole
        w0, w1 = np.float32((1 - t) ** 3 / 6), np.float32(2 / 3 - t * t + t**3 / 2)
        w2, w3 = np.float32(2 / 3 - (1 - t) ** 2 + (1 - t) ** 3 / 2), np.float32(t**3 / 6)
        reach = abs(whole) + 3
        wide = np.empty(cols + 2 * reach, np.float32)
        wide[reach : reach + cols] = coefficients[r]
        for k in range(1, reach + 1):
            wide[reach - k] = coefficients[r, _mirrored(k, cols)]
            wide[reach + cols - 1 + k] = coefficients[r, _mirrored(cols - 1 + k, cols)]
        near = wide[reach + whole - 1 :]
        for c in range(cols):
            found[r, c] = w0 * near[c] + w1 * near[c + 1] + w2 * near[c + 2] + w3 * near[c + 3]
    return found


def straightened(strip: Float, row_shift_px: Array) -> Float:
    """Rows shifted back, by cubic splines: a feature seen at col c - shift comes to col c; borders mirror."""
    coefficients = np.array(strip, dtype=np.float32, order="C")
    _rows_to_spline(coefficients)
    return _shifted(coefficients, np.ascontiguousarray(row_shift_px, dtype=np.float64))


def area_averaged(window: Float, width_px: float) -> Float:
    """Mean of an image over a square of `width_px` around each pixel; unchanged when that is at most one pixel."""
    if width_px <= 1:
        return window
    whole = int(np.ceil((width_px - 1) / 2 - 1e-9))
    half = np.ones(whole + 1)
    half[-1] = (width_px - (2 * whole - 1)) / 2
    return weighted(window, half, "reflect")


def _period_px(nodes_px: Array) -> float:
    """Square root of the mean area of the cells [px]."""
    a = (nodes_px[:, -1].mean(1) - nodes_px[:, 0].mean(1)) / (nodes_px.shape[1] - 1)
    b = (nodes_px[:, :, -1].mean(1) - nodes_px[:, :, 0].mean(1)) / (nodes_px.shape[2] - 1)
    return float(np.sqrt(abs(a[0] * b[1] - a[1] * b[0])))


def cut_cells(
    image: Float,
    nodes_px: Array,
    row_shift_px: Array,
    local_mean: Array,
    cells: tuple[slice, slice],
    pedestal: float = 0.0,
    px_per_cell: PxPerCell = PX_PER_CELL,
) -> Float:
    """Cut cells from an image: row shifts taken out, resampled, divided by the local mean.

    Where the image is finer than a tile it is averaged over the size of a tile pixel, so that nothing aliases.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts.
    nodes_px : ndarray of shape (2, U + 1, V + 1)
        (row, col) of the cells' corners [px].
    row_shift_px : ndarray of shape (rows,)
        A feature at true col c is seen at col c - shift.
    local_mean : ndarray of shape (U, V)
        [counts]
    cells : tuple of slice
        Ranges of cells along u and v.
    pedestal : float
        Added before dividing [counts].
    px_per_cell : tuple of int
        (n_u, n_v).

    Returns
    -------
    ndarray of shape (u n_u, v n_v), float32
        0 where there is no data.
    """
    (u, v), (n_u, n_v) = cells, px_per_cell
    corners = np.concatenate([nodes_px, _at_corners(local_mean)])[:, u.start : u.stop + 1, v.start : v.stop + 1]
    tile = np.zeros(((u.stop - u.start) * n_u, (v.stop - v.start) * n_v), dtype=np.float32)
    rows, cols = image.shape
    places = corners[:2].reshape(2, -1)
    low = np.maximum(np.floor(places.min(1)).astype(int) - HALO_PX, 0)
    high = np.minimum(np.ceil(places.max(1)).astype(int) + HALO_PX + 1, [rows, cols])
    if (low >= high).any():
        return tile
    shifts = row_shift_px[low[0] : high[0]]
    reach = SPLINE_PX + int(np.ceil(np.abs(shifts).max()))
    left, right = max(low[1] - reach, 0), min(high[1] + reach, cols)
    window = finite(image[int(low[0]) : int(high[0]), int(left) : int(right)])
    straight = straightened(window, shifts)[:, low[1] - left : high[1] - left]
    straight = np.ascontiguousarray(area_averaged(straight, _period_px(nodes_px) / float(np.sqrt(n_u * n_v))))
    _rows_to_spline(straight)
    _cols_to_spline(straight)
    origin = (int(low[0]), int(low[1]))
    _sample(tile, straight, origin, (rows, cols), np.ascontiguousarray(corners, dtype=np.float32), pedestal)
    return tile


@compiled("void(float32[:, ::1], float32[:, ::1], UniTuple(int64, 2), UniTuple(int64, 2), float32[:, :, ::1], float32)")
def _sample(
    tile: Float,
    coefficients: Float,
    origin: tuple[int, int],
    shape: tuple[int, int],
    corners: Float,
    pedestal: float,
) -> None:
    """Evaluate a spline at the pixels of a tile, over the local mean; what lies outside the image stays as it is.

    Parameters
    ----------
    tile : ndarray of shape (u n_u, v n_v)
    coefficients : ndarray of shape (rows', cols')
        Of the spline in a window of the image.
    origin : tuple of int
        (row, col) of the window [px].
    shape : tuple of int
        (rows, cols) of the image.
    corners : ndarray of shape (3, u + 1, v + 1)
        Row and col [px] and local mean [counts] at the cells' corners, between which they run straight.
    pedestal : float
        [counts]
    """
    rows, cols = coefficients.shape
    n_u, n_v = tile.shape[0] // (corners.shape[1] - 1), tile.shape[1] // (corners.shape[2] - 1)
    down_cell = ((np.arange(n_u) + 0.5) / n_u).astype(np.float32)
    across_cell = ((np.arange(n_v) + 0.5) / n_v).astype(np.float32)
    at, weights = np.empty((3, tile.shape[1]), np.float32), np.empty((8, tile.shape[1]), np.float32)
    start, flat, down = np.empty(tile.shape[1], np.int32), coefficients.reshape(-1), np.uint64(cols)
    for y in range(tile.shape[0]):
        above, line = y // n_u, tile[y]
        _between(at, corners[:, above], corners[:, above + 1], down_cell[y % n_u], across_cell)
        _reach(start, weights, at, origin, shape, (rows, cols))
        for x in range(tile.shape[1]):
            if start[x] >= 0:
                total, i = np.float32(0), np.uint64(start[x])
                for k in range(np.uint64(4)):
                    lines = weights[0, x] * flat[i + k] + weights[1, x] * flat[i + down + k]
                    lines += weights[2, x] * flat[i + 2 * down + k] + weights[3, x] * flat[i + 3 * down + k]
                    total += weights[4 + k, x] * lines
                line[x] = total
            elif start[x] == AT_EDGE:
                line[x] = _spline_at(coefficients, at[0, x] - np.float32(origin[0]), at[1, x] - np.float32(origin[1]))
        for x in range(tile.shape[1]):
            line[x] = line[x] if start[x] == NOWHERE else (line[x] + pedestal) / at[2, x]


@compiled("void(float32[:, ::1], float32[:, :], float32[:, :], float32, float32[::1])")
def _between(line: Float, above: Float, below: Float, down: Number, across: Float) -> None:
    """Layers (k, pixels) on a line of pixels, straight between corners (k, cells + 1) above and below it."""
    for k in range(line.shape[0]):
        for v in range(above.shape[1] - 1):
            left = above[k, v] + (below[k, v] - above[k, v]) * down
            right = above[k, v + 1] + (below[k, v + 1] - above[k, v + 1]) * down
            for j in range(len(across)):
                line[k, v * len(across) + j] = left + (right - left) * across[j]


@compiled(
    "void(int32[::1], float32[:, ::1], float32[:, ::1], UniTuple(int64, 2), UniTuple(int64, 2), UniTuple(int64, 2))"
)
def _reach(
    start: npt.NDArray[np.int32],
    weights: Float,
    at: Float,
    origin: tuple[int, int],
    shape: tuple[int, int],
    window: tuple[int, int],
) -> None:
    """Where in the window the 4 x 4 coefficients of each pixel of a line begin, and their weights down and across.

    A pixel outside the image gets NOWHERE, one that has not all sixteen within the window AT_EDGE.
    """
    bottom, right, least = np.float32(shape[0] - 0.5), np.float32(shape[1] - 0.5), np.float32(-0.5)
    top, left, one = np.float32(origin[0]), np.float32(origin[1]), np.int32(1)
    width, last_row, last_col = np.int32(window[1]), np.int32(window[0] - 3), np.int32(window[1] - 3)
    for axis in range(2):  # apart from each other, for the processor's vectors
        first, line = (top, left)[axis], at[axis]
        w0, w1, w2, w3 = weights[4 * axis], weights[4 * axis + 1], weights[4 * axis + 2], weights[4 * axis + 3]
        for x in range(len(start)):
            place = line[x] - first
            w0[x], w1[x], w2[x], w3[x] = _weights(place - np.floor(place))
    rows, cols = at[0], at[1]
    for x in range(len(start)):
        r, c = np.int32(np.floor(rows[x] - top)), np.int32(np.floor(cols[x] - left))
        known = (least <= rows[x]) & (rows[x] <= bottom) & (least <= cols[x]) & (cols[x] <= right)
        whole = (one <= r) & (r <= last_row) & (one <= c) & (c <= last_col)
        place = np.int32((r - one) * width + c - one) if whole else np.int32(AT_EDGE)
        start[x] = place if known else np.int32(NOWHERE)


@compiled("float32(float32[:, ::1], float32, float32)")
def _spline_at(coefficients: Float, row: Number, col: Number) -> Number:
    """Value of a two-dimensional cubic spline, mirrored at its borders."""
    rows, cols = coefficients.shape
    r, c = int(np.floor(row)), int(np.floor(col))
    down, across = _weights(row - np.float32(r)), _weights(col - np.float32(c))
    total = np.float32(0)
    if 1 <= r < rows - 2 and 1 <= c < cols - 2:
        for i in range(4):
            line = coefficients[r - 1 + i]
            total += down[i] * (
                across[0] * line[c - 1] + across[1] * line[c] + across[2] * line[c + 1] + across[3] * line[c + 2]
            )
        return total
    for i in range(4):
        line = coefficients[_mirrored(r - 1 + i, rows)]
        for j in range(4):
            total += down[i] * across[j] * line[_mirrored(c - 1 + j, cols)]
    return total


@compiled("UniTuple(float32, 4)(float32)")
def _weights(t: Number) -> tuple[Number, Number, Number, Number]:
    """Weights of the four coefficients around a place, `t` beyond the second."""
    one, third, sixth, half = np.float32(1), np.float32(2 / 3), np.float32(1 / 6), np.float32(0.5)
    s = one - t
    return s * s * s * sixth, third - t * t * (one - t * half), third - s * s * (one - s * half), t * t * t * sixth


def _at_corners(local_mean: Array) -> Array:
    """Local mean (one value in the middle of each cell) at the cells' corners; shape (1, U + 1, V + 1)."""
    wide = np.pad(local_mean, 1, mode="edge")
    return np.asarray((wide[:-1, :-1] + wide[1:, :-1] + wide[:-1, 1:] + wide[1:, 1:])[None] / 4)
