"""What the pixels of each cell tell: its contrast, its displacement, whether it is crystal, and the local mean."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.lattice.mean_cell import MeanCell
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.local_plane import planes_over


@dataclass(frozen=True)
class CellStatistics:
    """Sums over the pixels of each cell; every array has shape (U, V). Cell (0, 0) starts at `first`."""

    first: tuple[int, int]
    pixels: Array
    counts: Array
    template: Array
    overlap: Array
    template_energy: Array
    residual: Array
    slope_u: Array
    slope_v: Array


LOCAL_MEAN_CELLS = 3.0  # rms width over which the local mean is taken


def cell_amplitude(statistics: CellStatistics, sigma_cells: float) -> Array:
    """Contrast of the cells, smoothed over `sigma_cells`: 1 where they look like the mean cell, 0 without lattice."""
    overlap, energy = statistics.overlap, statistics.template_energy
    if sigma_cells > 0:
        overlap, energy = (ndimage.gaussian_filter(x, sigma_cells, mode="constant") for x in (overlap, energy))
    return np.asarray(overlap / np.maximum(energy, 1e-9 * max(float(energy.max()), 1e-300)))


def within(statistics: CellStatistics, cells: npt.NDArray[np.bool_]) -> CellStatistics:
    """The statistics of `cells` (U, V) alone: of the others it is as if they had no pixels."""
    sums = {key: values * cells for key, values in vars(statistics).items() if key != "first"}
    return replace(statistics, **sums)


def cell_shifts(statistics: CellStatistics, mean_cell: MeanCell) -> Array:
    """Displacement of each cell from the frame, from the regression of its residual on the mean cell's slopes.

    Returns
    -------
    ndarray of shape (2, U, V)
        (u, v) [cells]; noisy, one value for all columns of the cell.
    """
    by_u, by_v = mean_cell.table((64, 64), (1, 0)), mean_cell.table((64, 64), (0, 1))
    normal = np.array([[np.mean(by_u * by_u), np.mean(by_u * by_v)], [np.mean(by_u * by_v), np.mean(by_v * by_v)]])
    slopes = np.stack([statistics.slope_u, statistics.slope_v]) / np.maximum(statistics.pixels, 1.0)
    return np.asarray(np.tensordot(np.linalg.inv(normal), slopes, 1))


def crystalline(statistics: CellStatistics, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Cells that are crystal: bad regions of 3 x 3 cells and more are left out, a few empty columns are not.

    A cell is bad when the contrast around it (a mean over about 2 x 2 cells, so that one empty cell does not count)
    falls below half of what is usual, or when its residual, as a median over 3 x 3 cells, is several times the usual
    and more than half the lattice's own variance.
    """
    smooth = cell_amplitude(statistics, 0.8)
    usual = float(np.percentile(smooth[inside], 75)) if inside.any() else 1.0
    bad = smooth < 0.5 * usual
    ratio = ndimage.median_filter(statistics.residual / np.maximum(statistics.template_energy, 1e-12), size=3)
    typical = float(np.median(ratio[inside & ~bad])) if (inside & ~bad).any() else 1.0
    bad |= (ratio > 4 * typical) & (ratio > typical + 0.5)
    bad &= inside
    edge = np.pad(bad, 2, mode="edge")
    core = ndimage.binary_opening(edge, np.ones((3, 3), dtype=bool))
    region = ndimage.binary_propagation(core, mask=ndimage.binary_dilation(core, iterations=2) & edge)
    region = ndimage.binary_dilation(region)[2:-2, 2:-2]
    good = inside & ~region
    labels, count = ndimage.label(good)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return np.asarray(good & (sizes[labels] >= 9))


def local_mean_of(statistics: CellStatistics, good: npt.NDArray[np.bool_]) -> Array:
    """Slowly varying mean of the cells [counts]: local planes over good cells, odd cells left out; shape (U, V).

    The planes are fitted a second time to what the first left, so that a curved background is followed.
    """
    mean = statistics.counts / np.maximum(statistics.template, 1e-9)
    filled = ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True)
    mean = mean[filled[0], filled[1]]
    away = mean / ndimage.median_filter(mean, size=5, mode="mirror") - 1
    spread = 1.4826 * float(np.median(np.abs(away[good])))
    weights = np.where(good & (np.abs(away) < 4 * spread + 1e-6), statistics.pixels, 0.0)
    plane, _ = planes_over(weights, LOCAL_MEAN_CELLS)
    smooth = plane(mean)
    smooth = smooth + plane(mean - smooth)
    floor = 0.05 * float(np.median(smooth[good]))
    near = ndimage.binary_dilation(good, iterations=2)
    smooth = np.where(near, smooth, smooth[filled[0], filled[1]])
    return np.asarray(np.maximum(smooth, max(floor, 1e-12)))
