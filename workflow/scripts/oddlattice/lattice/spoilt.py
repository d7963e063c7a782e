"""Where a scan is spoilt: blank borders and lines, and saturated patches. Such cells are masked."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.numerics.arrays import Array, Bools

RUN_PX = 24  # so many equal pixels in a line are no image
POOL_PX = 4  # pixels a side of a square of the map
MARGIN_PERIODS = 3.5  # about a wide blank area: the frame's displacements are smoothed over so far
BAND_ROWS = 256  # a multiple of POOL_PX


def blank_pixels(band: npt.NDArray[Any]) -> Bools:
    """Pixels that are not finite or lie in a run of equal ones along a row or a column; shape as `band`."""
    blank = ~np.isfinite(band)
    for axis in (0, 1):
        if band.shape[axis] < RUN_PX:
            continue
        same = (np.diff(band, axis=axis) == 0).view(np.uint8)
        first = ndimage.minimum_filter1d(same, RUN_PX - 1, axis=axis, mode="constant")
        whole = ndimage.maximum_filter1d(first, RUN_PX - 1, axis=axis, mode="constant", origin=-1) > 0
        pad = [(0, 0), (0, 0)]
        pad[axis] = (0, 1)
        blank |= np.pad(whole, pad) | np.pad(whole, [(b, a) for a, b in pad])
    return np.asarray(blank, dtype=bool)


def _with_margin(pooled: Bools, period_px: float) -> Bools:
    """The map of blank squares, wide areas with the cells whose displacements are smoothed together with them."""
    wide = ndimage.binary_opening(pooled, np.ones((2, 2), dtype=bool))  # a single line is none
    reach = 2 * int(np.ceil(MARGIN_PERIODS * period_px / POOL_PX)) + 1
    return np.asarray(pooled | (ndimage.maximum_filter(wide.view(np.uint8), reach) > 0))


def spoilt_cells(image: Any, nodes_px: Array, period_px: float) -> Bools:
    """Cells that a blank pixel lies in, and those about wide blank areas.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Anything that slices to an ndarray.
    nodes_px : ndarray of shape (2, U + 1, V + 1)
        (row, col) of the cells' corners.
    period_px : float

    Returns
    -------
    ndarray of shape (U, V), bool
    """
    rows, cols = image.shape
    pooled = np.zeros((-(-rows // POOL_PX), -(-cols // POOL_PX)), dtype=bool)
    for start in range(0, rows, BAND_ROWS):
        blank = blank_pixels(np.asarray(image[start : start + BAND_ROWS]))
        wide = np.pad(blank, [(0, -blank.shape[0] % POOL_PX), (0, -cols % POOL_PX)])
        squares = np.logical_or.reduce(wide.reshape(wide.shape[0] // POOL_PX, POOL_PX, -1, POOL_PX), axis=(1, 3))
        pooled[start // POOL_PX : start // POOL_PX + squares.shape[0]] = squares
    pooled = _with_margin(pooled, period_px)
    if not pooled.any():
        return np.zeros((nodes_px.shape[1] - 1, nodes_px.shape[2] - 1), dtype=bool)
    ends = (slice(None, -1), slice(1, None))
    corners = np.stack([nodes_px[:, along_u, along_v] for along_u in ends for along_v in ends])
    low = np.floor(corners.min(0) / POOL_PX).astype(int)
    high = np.floor(corners.max(0) / POOL_PX).astype(int) + 1
    total = np.pad(pooled.cumsum(0, dtype=np.int64).cumsum(1), [(1, 0), (1, 0)])
    (r0, c0), (r1, c1) = ([np.clip(edge[axis], 0, pooled.shape[axis]) for axis in (0, 1)] for edge in (low, high))
    return np.asarray(total[r1, c1] - total[r0, c1] - total[r1, c0] + total[r0, c0] > 0)
