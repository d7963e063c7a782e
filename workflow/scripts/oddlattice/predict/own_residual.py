"""What a prediction misses everywhere in an image: its own mean residual, slowly varying."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from oddlattice.crystal import CELL_PX
from oddlattice.lattice.columns import as_cells, px_of
from oddlattice.numerics.arrays import Float
from oddlattice.numerics.local_plane import Planes
from oddlattice.numerics.medians import median
from oddlattice.predict.gpu import OnDevice, median_of

ROWS_AT_ONCE = 5  # of the pixels of a cell on a GPU: few calls, and memory stays small


def own_residual_on_gpu(residual: torch.Tensor, there: OnDevice) -> torch.Tensor:
    """`own_residual` where the residual is; shape (U 20, V 20)."""
    (rows, cols), out = there.shape, torch.zeros_like(residual)
    cells, means = (x.view(rows, CELL_PX, cols, CELL_PX).permute(1, 3, 0, 2) for x in (residual, out))
    for start in range(0, CELL_PX, ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        here = there.of_cells(cells[some].reshape(-1, rows, cols))
        middle = median_of(here)
        spread = 3 * (1.4826 * median_of((here - middle).abs()) + 1e-9)
        field = there.laid_out(torch.minimum(torch.maximum(here - middle, -spread), spread))
        taken = there.laid_out(middle + there.of_cells(there.smooth(field)))
        means[some] = taken.view(-1, CELL_PX, rows, cols)
    return out


def own_residual(residual: Float, mask: npt.NDArray[np.uint8], local_cells: float, threads: int = 1) -> Float:
    """What the prediction misses everywhere in this image: the robust mean residual of a cell, slowly varying.

    The residual of each pixel of the cell is clipped at three robust standard deviations about its median over the
    image, then follows a local line over `local_cells`; a single odd column changes it by less than 1 %.

    Parameters
    ----------
    residual : ndarray of shape (U n_u, V n_v), float32
    mask : ndarray of shape (U, V), uint8
    local_cells : float
        Width of the Gaussian [cells].

    Returns
    -------
    ndarray of shape (U n_u, V n_v), float32; 0 on masked cells
    """
    out = np.zeros_like(residual)
    n_u, n_v = px_per_cell = px_of(residual, mask)
    cells, mean_cells = as_cells(residual, px_per_cell), as_cells(out, px_per_cell)
    good = mask.astype(bool)
    if not good.any():
        return out
    planes = Planes(good.astype(np.float64), local_cells)

    def take_up(row: int) -> None:  # a row of the cell at a time: memory stays small
        here = np.ascontiguousarray(cells[:, :, row][good].T)  # (n_v, n)
        middle = median(here, keepdims=True)
        here -= middle
        spread = np.float32(1.4826) * median(np.abs(here), keepdims=True) + np.float32(1e-9)
        field = np.zeros((n_v, *mask.shape), dtype=np.float32)
        field[:, good] = np.clip(here, -3 * spread, 3 * spread)
        mean_cells[:, :, row][good] = (middle + planes.smooth(field)[:, good]).T

    if threads == 1:
        for row in range(n_u):
            take_up(row)
        return out
    with ThreadPoolExecutor(max(1, min(threads, os.cpu_count() or 1))) as pool:
        list(pool.map(take_up, range(n_u)))
    return out
