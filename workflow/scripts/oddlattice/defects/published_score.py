"""The published score: the average near the largest difference."""

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import CELL_PX
from oddlattice.lattice.columns import (
    SIDE_PX,
    ColumnShape,
    cut_windows,
    window_start_px,
)
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.filters import gaussian_blur


def published_map(difference: Float, prediction: Float, mask: Mask, threshold: float) -> Float:
    """Difference in the published method's units: blurred, over the cell's maximum, small values set to 0.

    Blur and box scale with the pixels per cell (20 here, 23.8 in the method).
    """
    good = mask.astype(bool)
    top = prediction.reshape(-1, CELL_PX, prediction.shape[1]).max(axis=1).reshape(*mask.shape, CELL_PX).max(axis=2)
    scale = float(np.median(top[good])) if good.any() else 1.0
    smooth = gaussian_blur(difference, 2.0 * CELL_PX / 23.8)
    smooth /= np.float32(max(scale, 1e-9))
    smooth[np.abs(smooth) < threshold] = 0.0
    return smooth


def published_score(anm_map: Float, shape: ColumnShape, cells: npt.NDArray[np.intp]) -> Array:
    """Average near maximum: signed mean of the 11x11-px box at the largest difference in the column's window."""
    score = np.zeros(len(cells))
    windows = cut_windows(anm_map, shape, cells).reshape(len(cells), -1)
    best = np.abs(windows).argmax(axis=1)
    start_u, start_v = window_start_px(shape)
    hit = np.flatnonzero(np.abs(windows[np.arange(len(cells)), best]) > 0)
    box = np.arange(-5, 6)
    row = (cells[hit, 0] * CELL_PX + start_u + best[hit] // SIDE_PX)[:, None, None] + box[:, None]
    col = (cells[hit, 1] * CELL_PX + start_v + best[hit] % SIDE_PX)[:, None, None] + box
    rows, cols = anm_map.shape
    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    score[hit] = np.where(inside, anm_map[np.clip(row, 0, rows - 1), np.clip(col, 0, cols - 1)], 0).mean(axis=(1, 2))
    return score
