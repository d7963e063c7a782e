"""Which columns are odd: matched kernels at every column, the image's own null, a stated false-discovery rate."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import binary_dilation, map_coordinates, uniform_filter

from oddlattice.crystal import CELL_PX
from oddlattice.lattice.columns import (
    REACH_PX,
    ColumnShape,
    as_cells,
    cells_at,
    column_cells,
    cut_windows,
    mean_cell,
    median_cell,
    sample_of,
    signatures,
    window_of_cell,
    window_start_px,
)
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.filters import gaussian_blur
from oddlattice.numerics.local_plane import local_plane
from oddlattice.numerics.medians import median

SIDE_PX = 2 * REACH_PX + 2
MIN_COLUMNS = 30  # fewer columns of a kind give no null to judge by
NOISE_CELLS = 6.0  # width over which the noise level may change [cells]
CONTRAST_CELLS = 3.0  # width over which the contrast of the crystal may change [cells]
CONTRAST = 0.5, 2.0  # of a place over the image's: the range in which it is believed
SHAPE_ERROR = 0.04  # of a change or a displacement: what 68 % intervals need in composed fields not of the benchmark
LEAN = 0.08, 0.1  # typical skewness of a column's intensity, and how far from it
QUIET_SMOOTH_PX, QUIET_SIGMA = 2.3, 4.8  # what stands out is no noise: width of a column, and how far it stands out


@dataclass(frozen=True)
class Noise:
    """The image's own noise about its prediction.

    Attributes
    ----------
    sigma : ndarray of shape (20, 20)
        Standard deviation at each pixel of the cell.
    level : ndarray of shape (U, V)
        Slowly varying factor on the standard deviation, 1 on average.
    correlation : ndarray of shape (31, 31)
        Autocorrelation of the whitened difference, lag 0 in the middle.
    """

    sigma: Array
    level: Array
    correlation: Array

    @cached_property
    def covariance(self) -> Array:
        """Covariance (256, 256) of a window in whitened noise."""
        return _covariance_of(self.correlation)


@dataclass(frozen=True)
class Kernel:
    """Least-squares kernels of a column in whitened noise.

    Attributes
    ----------
    weights : ndarray of shape (3, 256)
        Applied to a window of difference / sigma: relative intensity, displacement along row and col [pm].
    covariance : ndarray of shape (3, 3)
        Of the estimates where the noise level is 1, if the noise were all there is.
    """

    weights: Array
    covariance: Array


@dataclass(frozen=True)
class Null:
    """How bulk columns of one kind scatter in one image, where the noise level is 1.

    Attributes
    ----------
    middle, spread : float
        Centre and standard deviation of the relative intensity.
    centre, covariance : ndarray of shape (2,) and (2, 2)
        Of the displacement (row, col) [pm, pm^2].
    columns : int
        Columns it was estimated from.
    lean : float
        Skewness of the relative intensity, not negative: few electrons scatter further up than down.
    shift_share : float
        Part of the false alarms that may come from displacements; the rest from intensity.
    """

    middle: float
    spread: float
    centre: Array
    covariance: Array
    columns: int
    lean: float = 0.0
    shift_share: float = 0.5

    def judge(self, found: Array, level: Array) -> "Verdict":
        """Judge estimates (n, 3) at places with noise `level` (n,); see `Verdict`."""
        change, change_sigma = found[:, 0] - self.middle * level, self.spread * level
        shift = found[:, 1:] - self.centre * level[:, None]
        distance = np.einsum("ni,ij,nj->n", shift, np.linalg.inv(self.covariance), shift) / level**2
        # the scale itself comes from `columns` columns: Student's and Hotelling's tails instead of the normal's
        freedom = self.columns - 1
        tail = distributions.student_sf(np.abs(change / change_sigma), freedom)
        if self.lean > 0:  # upwards as far as a distribution with this skewness reaches (Pearson III)
            leaning = distributions.pearson3_sf(change / change_sigma, self.lean)
            tail = np.where(change > 0, np.maximum(tail, leaning), tail)
        p_change = 2 * tail
        p_shift = distributions.fisher_sf(distance / 2 * (freedom - 1) / freedom, 2, freedom - 1)
        p_value, by_shift = either(p_change, p_shift, self.shift_share)
        sign = np.where(by_shift, 1.0, np.sign(change))
        return Verdict(
            change=change,
            change_sigma=change_sigma,
            shift_pm=shift,
            shift_covariance_pm2=level[:, None, None] ** 2 * self.covariance,
            z_intensity=change / change_sigma,
            z_shift=distributions.normal_isf(np.maximum(p_shift, 1e-300) / 2),
            p_value=p_value,
            z=sign * distributions.normal_isf(p_value / 2),
        )


@dataclass(frozen=True)
class Verdict:
    """What the test says of n columns of one kind.

    Attributes
    ----------
    change, change_sigma : ndarray of shape (n,)
        Relative intensity change against the image's bulk, and its standard error.
    shift_pm : ndarray of shape (n, 2)
        Displacement (row, col) [pm].
    shift_covariance_pm2 : ndarray of shape (n, 2, 2)
    z_intensity : ndarray of shape (n,)
        `change` over its standard error.
    z_shift : ndarray of shape (n,)
        The displacement's p-value as a normal deviate, never negative.
    p_value : ndarray of shape (n,)
        Of the more striking of the two, both having been looked at (`either`).
    z : ndarray of shape (n,)
        `p_value` as a normal deviate; negative where intensity is missing.
    """

    change: Array
    change_sigma: Array
    shift_pm: Array
    shift_covariance_pm2: Array
    z_intensity: Array
    z_shift: Array
    p_value: Array
    z: Array


def change_error(sigma: npt.ArrayLike, change: npt.ArrayLike) -> Array:
    """Standard error of an intensity change: the scatter of bulk, and the error of the column's shape."""
    return np.asarray(np.hypot(sigma, SHAPE_ERROR * np.asarray(change)))


def shift_error_pm(sigma_pm: npt.ArrayLike, shift_pm: npt.ArrayLike) -> Array:
    """Standard error of a displacement (..., 2) along a direction [pm]: as `change_error`."""
    return np.asarray(np.hypot(sigma_pm, SHAPE_ERROR * np.hypot(*np.moveaxis(np.asarray(shift_pm), -1, 0))))


@dataclass(frozen=True)
class Scored:
    """Every tested column of one kind in an image.

    Attributes
    ----------
    shape : ColumnShape
    cells : ndarray of shape (n, 2)
    found : ndarray of shape (n, 3)
        Estimates: relative intensity, displacement (row, col) [pm].
    level : ndarray of shape (n,)
        Noise level.
    kernel : Kernel
        Corrected for what the prediction takes up.
    null : Null
    verdict : Verdict
    anm : ndarray of shape (n,)
        Published score.
    response : tuple of float
        Part of an intensity change, and of a displacement, that the prediction leaves in the difference.
    """

    shape: ColumnShape
    cells: npt.NDArray[np.intp]
    found: Array
    level: Array
    kernel: Kernel
    null: Null
    verdict: Verdict
    anm: Array
    response: tuple[float, float]


def local_contrast(prediction: Float, difference: Float, mask: Mask, of_image: float) -> Array:
    """Contrast of the crystal about each cell over that of the image's mean cell, shape (U, V); 1 where masked.

    Contamination, or a thin place, raises the ground between the columns. Prediction and difference are parts of the
    local mean, in which columns on a higher ground stand less high: so does what is missing of them. It is the slope of
    the cells on the mean cell, in a plane through the neighbourhood.

    Parameters
    ----------
    prediction, difference : ndarray of shape (U * 20, V * 20), float32
        Their sum is the image.
    mask : ndarray of shape (U, V), uint8; at least one cell is 1
    of_image : float
        Standard deviation of the mean cell of the image that this is, or is a part of.
    """
    good = mask.astype(bool)
    cell = mean_cell(prediction, mask)
    weights = cell - cell.mean()
    weights /= max(float((weights**2).sum()), 1e-12)
    slopes = np.zeros(mask.shape)
    image = np.ascontiguousarray(prediction), np.ascontiguousarray(difference), np.ascontiguousarray(mask)
    _sums(*image, weights, slopes)
    smooth = np.ones(mask.shape)
    for _ in range(2):  # a single odd cell must not change its own contrast
        kept = np.clip(slopes, 0.6 * smooth, 1.4 * smooth)
        smooth = np.clip(local_plane(kept[None], good.astype(float), CONTRAST_CELLS)[0][0], *CONTRAST)
    here = float(cell.std()) / max(of_image * float(smooth[good].mean()), 1e-12)
    return np.where(good, here * smooth, 1.0)


def in_mean_cells(difference: Float, contrast: Array) -> Float:
    """The difference (U * 20, V * 20) in units of the image's mean cell: over the local `contrast` (U, V)."""
    out = np.empty_like(difference)
    for u, line in enumerate((1 / contrast).astype(np.float32)):
        strip = np.s_[u * CELL_PX : (u + 1) * CELL_PX]
        np.multiply(difference[strip], np.repeat(line, CELL_PX), out=out[strip])
    return out


@compiled("void(float32[:, ::1], float32[:, ::1], uint8[:, ::1], float64[:, ::1], float64[:, ::1])")
def _sums(prediction: Float, difference: Float, mask: Mask, weights: Array, out: Array) -> None:
    """Weighted sum of prediction and difference over each analysed cell."""
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            total = 0.0
            for i in range(CELL_PX if mask[u, v] else 0):
                for j in range(CELL_PX):
                    at = u * CELL_PX + i, v * CELL_PX + j
                    total += (prediction[at] + difference[at]) * weights[i, j]
            out[u, v] = total


def estimate_noise(difference: Float, mask: Mask) -> Noise:
    """Noise of the difference map: per pixel of the cell, per place in the image, and its correlation.

    Parameters
    ----------
    difference : ndarray of shape (U * 20, V * 20), float32
    mask : ndarray of shape (U, V), uint8; at least one cell is 1
    """
    cells, good = as_cells(difference), mask.astype(bool)
    inside = np.argwhere(good)
    some = inside[:: max(1, len(inside) // 4096)]
    sample = cells[some[:, 0], some[:, 1]]
    spread = 1.4826 * median(np.abs(sample), axis=0) + 1e-9
    # 0.973: variance of a normal clipped at three standard deviations
    sigma = np.sqrt(np.mean(np.clip(sample, -3 * spread, 3 * spread) ** 2, axis=0) / 0.973)
    energy = np.zeros(mask.shape)
    weights = (1 / sigma).astype(np.float64)
    _energies(np.ascontiguousarray(difference), np.ascontiguousarray(mask), weights, energy)
    # a line through the neighbourhood, twice: a single odd cell must not raise its own noise level
    typical = float(np.median(energy[good]))
    level2 = np.clip(energy, 0.2 * typical, 4 * typical)
    for _ in range(2):
        smooth = local_plane(level2[None], good.astype(float), NOISE_CELLS)[0][0]
        smooth = np.clip(smooth, 0.1 * typical, 5 * typical)
        level2 = np.clip(energy, 0.6 * smooth, 1.4 * smooth)
    level = np.where(good, np.sqrt(smooth / max(float(smooth[good].mean()), 1e-12)), 1.0)
    return Noise(np.asarray(sigma, dtype=np.float64), level, _autocorrelation(difference, sigma, level, good))


@compiled("void(float32[:, ::1], uint8[:, ::1], float64[:, ::1], float64[:, ::1])")
def _energies(difference: Float, mask: Mask, weights: Array, out: Array) -> None:
    """Mean square of the weighted difference in each analysed cell, clipped at three standard deviations."""
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            total = 0.0
            for i in range(CELL_PX if mask[u, v] else 0):
                for j in range(CELL_PX):
                    value = difference[u * CELL_PX + i, v * CELL_PX + j] * weights[i, j]
                    total += min(value * value, 9.0)
            out[u, v] = total / CELL_PX**2


@compiled("void(float32[:, ::1], uint8[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1])")
def _whitened(difference: Float, mask: Mask, weights: Float, level: Float, out: Float) -> None:
    """The difference times the weight of its pixel of the cell, over the cell's level; 0 where masked."""
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            over = np.float32(1) / level[u, v] if mask[u, v] else np.float32(0)
            for i in range(CELL_PX):
                for j in range(CELL_PX):
                    at = u * CELL_PX + i, v * CELL_PX + j
                    out[at] = difference[at] * (weights[i, j] * over)


def _in_its_noise(difference: Float, mask: Mask, sigma: npt.NDArray[np.floating], level: Array) -> Float:
    """The difference over its standard deviation, pixel by pixel; 0 where masked."""
    out = np.empty(difference.shape, np.float32)
    weights = (1 / sigma).astype(np.float32)
    _whitened(np.ascontiguousarray(difference), np.ascontiguousarray(mask), weights, level.astype(np.float32), out)
    return out


def _quiet(white: Float, good: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Cells in and around which nothing stands out of the whitened difference (U * 20, V * 20); shape (U, V).

    Strong defects would pass for noise that is correlated over a whole column.
    """
    cells = np.abs(as_cells(gaussian_blur(white, QUIET_SMOOTH_PX)))
    spread = 1.4826 * float(median(cells[good].ravel()))
    odd = good & (cells.max(axis=(2, 3)) > QUIET_SIGMA * spread)
    quiet = good & ~binary_dilation(odd, np.ones((3, 3), dtype=bool))
    return np.asarray(quiet if quiet.sum() > 0.3 * good.sum() else good)


def _autocorrelation(
    difference: Float, sigma: npt.NDArray[np.floating], level: Array, good: npt.NDArray[np.bool_]
) -> Array:
    """Autocorrelation of the whitened difference over the best 64x64 cells without odd ones, lags up to 15 px."""
    where = np.argwhere(good)
    low = np.clip(np.median(where, axis=0).astype(int) - 32, 0, None)
    part = np.s_[low[0] : low[0] + 64, low[1] : low[1] + 64]
    here = difference[low[0] * CELL_PX : (low[0] + 64) * CELL_PX, low[1] * CELL_PX : (low[1] + 64) * CELL_PX]
    plane = np.clip(_in_its_noise(here, good[part].astype(np.uint8), sigma, level[part]), -4, 4)
    quiet = _quiet(plane, good[part])
    as_cells(plane)[~quiet] = 0
    raw = _products_at_lags(plane) / np.maximum(_pairs_at_lags(quiet), 1.0)
    return np.asarray(raw / raw[SIDE_PX - 1, SIDE_PX - 1])


def _products_at_lags(plane: Float) -> Array:
    """Sums of products of pixels so far apart along (u, v), lags up to 15 px, lag 0 in the middle; shape (31, 31)."""
    size = [fft.next_fast_len(n + SIDE_PX, real=True) for n in plane.shape]
    power = np.abs(fft.rfft2(plane, size)) ** 2
    lag = np.arange(-SIDE_PX + 1, SIDE_PX)
    # of the back transform few rows are needed
    down = fft.ifft(power, axis=0)[lag]
    return np.asarray(fft.irfft(down, size[1], axis=1)[:, lag], dtype=np.float64)


def _pairs_at_lags(cells: npt.NDArray[np.bool_]) -> Array:
    """Pairs of pixels of `cells` (U, V) so far apart, as `_products_at_lags` counts them; shape (31, 31)."""
    lag = np.arange(-SIDE_PX + 1, SIDE_PX)
    near, far = CELL_PX - np.abs(lag), np.abs(lag)  # a pixel's partner is in its own cell, or in the next one
    wide = np.pad(cells, 1).astype(np.float64)
    rows, cols = cells.shape
    both = [[(wide[1:-1, 1:-1] * wide[i : i + rows, j : j + cols]).sum() for j in range(3)] for i in range(3)]
    parts = np.stack([np.where(lag < 0, far, 0), near, np.where(lag > 0, far, 0)])
    return np.asarray(parts.T @ np.array(both) @ parts)


def _covariance_of(correlation: Array) -> Array:
    """See `Noise.covariance`; long lags fade out so that it is positive definite."""
    index = np.arange(SIDE_PX)
    lag = index[:, None] - index[None, :]
    fade = np.clip(1 - np.abs(lag) / SIDE_PX, 0, 1)
    rows, cols = lag[:, None, :, None] + SIDE_PX - 1, lag[None, :, None, :] + SIDE_PX - 1
    full = correlation[rows, cols] * fade[:, None, :, None] * fade[None, :, None, :]
    matrix = full.reshape(SIDE_PX**2, SIDE_PX**2)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0.02)) @ vectors.T)


def make_kernel(shape: ColumnShape, noise: Noise, vectors_pm: Array) -> Kernel:
    """Generalised least-squares kernels: (H' C^-1 H)^-1 H' C^-1 with H the whitened signatures.

    Source: Aitken 1935, doi:10.1017/S0370164600014346.
    """
    sigma = window_of_cell(noise.sigma, shape)
    design = (signatures(shape, vectors_pm) / sigma).reshape(3, -1).T
    solved = np.linalg.solve(noise.covariance, design)
    covariance = np.linalg.inv(design.T @ solved)
    return Kernel(weights=covariance @ solved.T / sigma.ravel(), covariance=covariance)


def estimates(difference: Float, shape: ColumnShape, kernel: Kernel, cells: npt.NDArray[np.intp]) -> Array:
    """Relative intensity change and displacement (row, col) [pm] of each column; shape (n, 3)."""
    out = np.empty((len(cells), 3))
    for start in range(0, len(cells), 4096):  # windows of 4,096 columns at once: memory stays small
        part = slice(start, start + 4096)
        out[part] = cut_windows(difference, shape, cells[part]).reshape(-1, SIDE_PX**2) @ kernel.weights.T
    return out


def robust_normal(values: Array) -> tuple[float, float]:
    """Centre and standard deviation of the bulk of `values`, whatever the outliers.

    Median and MAD to start with, then the standard deviation of what lies within 2.5 of it, corrected for the cut.
    """
    centre = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - centre))) + 1e-12
    kept_part = distributions.clipped_std(2.5)
    for _ in range(10):
        kept = values[np.abs(values - centre) < 2.5 * spread]
        centre, new = float(kept.mean()), float(kept.std(ddof=1)) / kept_part
        if abs(new - spread) < 1e-4 * spread:
            break
        spread = new
    return centre, spread


def lean_of(values: Array) -> float:
    """Skewness of the bulk of standardised `values`, not negative, drawn towards LEAN where they are few."""
    kept = values[np.abs(values) < 3.5]
    known = len(kept) / 6  # inverse variance of a sample's skewness
    return float(
        np.clip((distributions.skewness(kept) * known + LEAN[0] / LEAN[1] ** 2) / (known + LEAN[1] ** -2), 0.0, 0.8)
    )


def robust_plane(values: Array) -> tuple[Array, Array]:
    """Centre (2,) and covariance (2, 2) of the bulk of two-dimensional `values` (n, 2)."""
    centre = np.median(values, axis=0)
    covariance = np.diag(np.maximum(1.4826 * np.median(np.abs(values - centre), axis=0), 1e-9) ** 2)
    cut = -2 * np.log(1 - 0.95)  # 95 % of chi-square with two degrees of freedom
    # variance left after cutting a normal at `cut`: source: Rousseeuw and Leroy 1987, sec. 7.1
    shrink = distributions.chi2_cdf(cut, 4) / distributions.chi2_cdf(cut, 2)
    for _ in range(20):
        off = values - centre
        distance = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off)
        kept = values[distance < cut]
        new = np.cov(kept.T) / shrink
        done = np.abs(new - covariance).max() < 1e-4 * np.abs(covariance).max()
        centre, covariance = kept.mean(axis=0), new
        if done:
            break
    return centre, covariance


def either(p_change: Array, p_shift: Array, shift_share: float) -> tuple[Array, npt.NDArray[np.bool_]]:
    """p-values (n,) of the more striking of two independent tests, and whether it is the displacement's.

    At any threshold `shift_share` of the false alarms are the displacement's. Source: Sidak's correction with weights,
    Holland and Copenhaver 1987, doi:10.2307/2531989; Genovese et al. 2006, doi:10.1093/biomet/93.3.509.
    """
    weights = 2 * (1 - shift_share), 2 * shift_share
    by_change, by_shift = p_change / weights[0], p_shift / weights[1]
    smaller = np.minimum(by_change, by_shift)
    # 1 - (1 - w0 p)(1 - w1 p), in a form that loses no digits of the smallest
    return np.maximum(2 * smaller - weights[0] * weights[1] * smaller**2, 1e-300), by_shift < by_change


def judge_columns(
    difference: Float,
    mask: Mask,
    noise: Noise,
    shape: ColumnShape,
    vectors_pm: Array,
    response: tuple[float, float],
    anm_map: Float,
    shift_share: float = 0.5,
) -> Scored | None:
    """Test every column of one kind against the scatter of its own kind in this image.

    Parameters
    ----------
    response : tuple of float
        Part of an intensity change, and of a displacement, that the prediction leaves in the difference (1: all).
    anm_map : ndarray of shape (U * 20, V * 20)
        From `published_map`.
    shift_share : float
        Part of the false alarms that may come from displacements.

    Returns
    -------
    Scored, or None where there are fewer than MIN_COLUMNS columns.
    """
    cells = column_cells(mask, shape)
    if len(cells) < MIN_COLUMNS:
        return None
    plain = make_kernel(shape, noise, vectors_pm)
    scale = 1 / np.array([response[0], response[1], response[1]])
    kernel = Kernel(plain.weights * scale[:, None], plain.covariance * np.outer(scale, scale))
    found = estimates(difference, shape, kernel, cells)
    level = noise.level[cells[:, 0], cells[:, 1]]
    middle, spread = robust_normal(found[:, 0] / level)
    centre, covariance = robust_plane(found[:, 1:] / level[:, None])
    lean = lean_of((found[:, 0] / level - middle) / spread)
    null = Null(middle, spread, centre, covariance, len(cells), lean, shift_share)
    anm = published_score(anm_map, shape, cells)
    return Scored(shape, cells, found, level, kernel, null, null.judge(found, level), anm, response)


def q_values(p_values: Array) -> Array:
    """Benjamini-Hochberg adjusted p-values. Source: doi:10.1111/j.2517-6161.1995.tb02031.x."""
    order, n = np.argsort(p_values, kind="stable"), len(p_values)
    raised = p_values[order] * n / np.arange(1, n + 1)
    q = np.empty(n)
    q[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return np.minimum(q, 1.0)


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


def kernel_width_px(shape: ColumnShape) -> float:
    """Width of the kernel of `z_map` [px]: the column's own, averaged over the directions."""
    p_uu, p_uv, p_vv = shape.precision
    return float(CELL_PX / (p_uu * p_vv - p_uv**2) ** 0.25)


def z_map(difference: Float, mask: Mask, noise: Noise, shape: ColumnShape) -> Float:
    """The whitened difference under a column-sized kernel, in its own standard deviations; 0 where masked.

    Parameters
    ----------
    shape : ColumnShape
        Of the narrowest tested column: its width is the kernel's.
    """
    white = _in_its_noise(difference, mask, noise.sigma, noise.level)
    smooth = gaussian_blur(white, kernel_width_px(shape), mirrored=False)
    typical = 1.4826 * median_cell(np.abs(cells_at(smooth, sample_of(mask))))
    # pooled over neighbouring pixels of the cell: the largest z must not be the one with the luckiest spread
    spread = np.sqrt(uniform_filter(typical**2, 7, mode="wrap")) + 1e-9
    return _in_its_noise(smooth, np.ones_like(mask), spread, np.ones(mask.shape))


def raw_places(nodes_px: Float, uv: Array) -> Array:
    """Raw-image (row, col) [px] of lattice coordinates (u, v) [cells]; both of shape (n, 2)."""
    at = np.clip(uv.T, 0, np.array(nodes_px.shape[1:])[:, None] - 1)
    return np.stack([map_coordinates(nodes_px[axis], at, order=1) for axis in (0, 1)], axis=-1)
