"""The published score: the average near the largest difference."""

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.columns import (
    SIDE_PX,
    ColumnShape,
    px_of,
    window_start_px,
)
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.filters import gaussian_blur

BLUR_PX = 2.0 * 20 / 23.8  # the published 2 px at 23.8 px a cell of SrTiO3, which has 20 here
BOX_PX = 11  # the published 13 px


def published_map(difference: Float, prediction: Float, mask: Mask, threshold: float) -> Float:
    """Difference in the published method's units: blurred, over the cell's maximum, small values set to 0.

    Blur and box are as large beside a column as in the method.
    """
    good = mask.astype(bool)
    n_u, n_v = px_of(prediction, mask)
    top = prediction.reshape(-1, n_u, prediction.shape[1]).max(axis=1).reshape(*mask.shape, n_v).max(axis=2)
    scale = float(np.median(top[good])) if good.any() else 1.0
    smooth = gaussian_blur(difference, BLUR_PX)
    smooth /= np.float32(max(scale, 1e-9))
    smooth[np.abs(smooth) < threshold] = 0.0
    return smooth


def average_near_maximum(kept: Float, box_px: int, border_px: int = 0) -> Array:
    """Average near maximum: the signed mean of a box at the largest difference of each window; shape (n,).

    Parameters
    ----------
    kept : ndarray of shape (n, rows, cols)
        Differences, small ones set to 0. A box is cut off at the border of its window.
    box_px : int
        Side of the box, odd.
    border_px : int
        The largest is looked for at least so far from the border.
    """
    n, rows, cols = kept.shape
    inner = np.abs(kept[:, border_px : rows - border_px, border_px : cols - border_px])
    best = inner.reshape(n, -1).argmax(axis=1)
    hit = np.flatnonzero(inner.reshape(n, -1)[np.arange(n), best] > 0)
    box = np.arange(box_px) - box_px // 2
    row = (border_px + best[hit] // inner.shape[2])[:, None, None] + box[:, None]
    col = (border_px + best[hit] % inner.shape[2])[:, None, None] + box
    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    values = kept[hit[:, None, None], np.clip(row, 0, rows - 1), np.clip(col, 0, cols - 1)]
    score = np.zeros(n)
    count = inside.sum(axis=(1, 2)).astype(kept.dtype)
    score[hit] = np.where(inside, values, 0).sum(axis=(1, 2)) / count
    return score


def column_scores(anm_map: Float, shape: ColumnShape, cells: npt.NDArray[np.intp]) -> Array:
    """Published score of the columns in `cells` (n, 2), of `published_map`; shape (n,)."""
    border = BOX_PX // 2
    start = np.array(window_start_px(shape)) + cells * shape.px_per_cell
    view = np.lib.stride_tricks.sliding_window_view(np.pad(anm_map, border), (SIDE_PX + 2 * border,) * 2)
    score = np.empty(len(cells))
    for first in range(0, len(cells), 4096):  # windows of 4,096 columns at once: memory stays small
        row, col = start[first : first + 4096].T
        score[first : first + 4096] = average_near_maximum(view[row, col], BOX_PX, border)
    return score
