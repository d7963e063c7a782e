"""Resampling into the lattice frame: where the cells lie, and the image cut into them."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.crystal import CELL_PX
from oddlattice.frame import Frame
from oddlattice.smooth import finite

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]

SPLINE_PX = 48  # image kept along rows: a cubic spline has forgotten its end there to the last digit
HALO_PX = 12  # image kept around a window, so that the spline does not feel the cut


def nodes_of(frame: Frame, first: tuple[int, int], count: tuple[int, int]) -> Array:
    """Places of the cells' corners [px]; shape (2, U + 1, V + 1)."""
    grid = np.stack(np.meshgrid(np.arange(count[0] + 1), np.arange(count[1] + 1), indexing="ij"), -1) + np.array(first)
    places = frame.places_at(grid.reshape(-1, 2).astype(float))
    return np.moveaxis(places.reshape(count[0] + 1, count[1] + 1, 2), -1, 0)


def inside_cells(nodes_px: Array, shape: tuple[int, int], margin_px: float) -> npt.NDArray[np.bool_]:
    """Cells that lie in the image with half a cell around them and `margin_px` along the fast axis; shape (U, V)."""
    centre = (nodes_px[:, :-1, :-1] + nodes_px[:, 1:, :-1] + nodes_px[:, :-1, 1:] + nodes_px[:, 1:, 1:]) / 4
    along_u, along_v = np.diff(nodes_px, axis=1)[:, :, :-1], np.diff(nodes_px, axis=2)[:, :-1]
    reach = np.abs(along_u) + np.abs(along_v)
    reach[1] += margin_px
    limit = np.array(shape)[:, None, None] - 1
    return np.asarray(((centre - reach >= 0) & (centre + reach <= limit)).all(0))


def _upsampled(nodes: Array, cells: tuple[slice, slice]) -> Image:
    """Nodes (k, U + 1, V + 1) interpolated to the pixel centres of the cells' tiles; (k, 20 u, 20 v)."""
    part = ((np.arange(CELL_PX) + 0.5) / CELL_PX).astype(np.float32)
    u, v = cells
    corner = nodes[:, u.start : u.stop + 1, v.start : v.stop + 1].astype(np.float32)
    k, n_u, n_v = corner.shape[0], u.stop - u.start, v.stop - v.start
    tall = corner[:, :-1, None] + (corner[:, 1:, None] - corner[:, :-1, None]) * part[None, None, :, None]
    tall = tall.reshape(k, n_u * CELL_PX, n_v + 1)[..., None]
    wide = tall[:, :, :-1] + (tall[:, :, 1:] - tall[:, :, :-1]) * part
    return np.asarray(wide.reshape(k, n_u * CELL_PX, n_v * CELL_PX))


def straightened(strip: Image, row_shift_px: Array) -> Image:
    """Rows shifted back, by cubic splines: a feature seen at col c - shift comes to col c; borders mirror."""
    coefficients = np.asarray(ndimage.spline_filter1d(strip, order=3, axis=1, mode="mirror", output=np.float32))
    whole = np.floor(-row_shift_px)
    t = (-row_shift_px - whole)[:, None]
    weights = ((1 - t) ** 3 / 6, 2 / 3 - t * t + t**3 / 2, 2 / 3 - (1 - t) ** 2 + (1 - t) ** 3 / 2, t**3 / 6)
    reach = int(np.abs(whole).max()) + 2
    wide = np.pad(coefficients, ((0, 0), (reach, reach)), mode="reflect")
    result = np.zeros_like(strip)
    cols = strip.shape[1]
    for shift in np.unique(whole).astype(int):
        here = whole == shift
        for k, weight in enumerate(weights):
            start = reach + shift - 1 + k
            result[here] += weight[here].astype(np.float32) * wide[here, start : start + cols]
    return result


def area_averaged(window: Image, width_px: float) -> Image:
    """Mean of an image over a square of `width_px` around each pixel; unchanged when that is at most one pixel."""
    if width_px <= 1:
        return window
    whole = int(np.ceil((width_px - 1) / 2 - 1e-9))
    kernel = np.ones(2 * whole + 1)
    kernel[[0, -1]] = (width_px - (2 * whole - 1)) / 2
    kernel /= kernel.sum()
    window = ndimage.correlate1d(window, kernel, axis=1, mode="mirror")
    return np.asarray(ndimage.correlate1d(window, kernel, axis=0, mode="mirror"))


def _period_px(nodes_px: Array) -> float:
    """Square root of the mean area of the cells [px]."""
    a = (nodes_px[:, -1].mean(1) - nodes_px[:, 0].mean(1)) / (nodes_px.shape[1] - 1)
    b = (nodes_px[:, :, -1].mean(1) - nodes_px[:, :, 0].mean(1)) / (nodes_px.shape[2] - 1)
    return float(np.sqrt(abs(a[0] * b[1] - a[1] * b[0])))


def cut_cells(
    image: Image,
    nodes_px: Array,
    row_shift_px: Array,
    local_mean: Array,
    cells: tuple[slice, slice],
    pedestal: float = 0.0,
) -> Image:
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

    Returns
    -------
    ndarray of shape (20 u, 20 v), float32
        0 where there is no data.
    """
    places = _upsampled(nodes_px, cells)
    rows, cols = image.shape
    limits = np.array([rows - 0.5, cols - 0.5], dtype=np.float32)[:, None, None]
    known = ((places >= -0.5) & (places <= limits)).all(0)
    tile = np.zeros(known.shape, dtype=np.float32)
    if not known.any():
        return tile
    at = places[:, known]
    low = np.maximum(np.floor(at.min(1)).astype(int) - HALO_PX, 0)
    high = np.minimum(np.ceil(at.max(1)).astype(int) + HALO_PX + 1, [rows, cols])
    shifts = row_shift_px[low[0] : high[0]]
    reach = SPLINE_PX + int(np.ceil(np.abs(shifts).max()))
    left, right = max(low[1] - reach, 0), min(high[1] + reach, cols)
    window = finite(image[int(low[0]) : int(high[0]), int(left) : int(right)])
    straight = straightened(window, shifts)[:, low[1] - left : high[1] - left]
    straight = area_averaged(straight, _period_px(nodes_px) / CELL_PX)
    at -= low[:, None].astype(np.float32)
    values = ndimage.map_coordinates(straight, at, order=3, mode="mirror", output=np.float32)
    tile[known] = (values + np.float32(pedestal)) / _mean_at(local_mean, cells)[known]
    return tile


def _mean_at(local_mean: Array, cells: tuple[slice, slice]) -> Image:
    """Local mean (one value in the middle of each cell) at the pixels of a tile."""
    wide = np.pad(local_mean, 1, mode="edge")
    corners = (wide[:-1, :-1] + wide[1:, :-1] + wide[:-1, 1:] + wide[1:, 1:]) / 4
    return np.asarray(_upsampled(corners[None], cells)[0])
