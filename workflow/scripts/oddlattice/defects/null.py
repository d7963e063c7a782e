"""How bulk columns of an image scatter, and what that says of each column: p-values of each kind of column."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlattice.defects.kernels import Kernel, estimates, make_kernel
from oddlattice.defects.noise import Noise
from oddlattice.defects.published_score import column_scores
from oddlattice.lattice.columns import (
    ColumnShape,
    column_cells,
)
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Float, Mask

MIN_COLUMNS = 30  # fewer columns of a kind give no null to judge by
SHAPE_ERROR = 0.04  # of a change or a displacement: what 68 % intervals need in composed fields not of the benchmark
TYPICAL_SKEWNESS = 0.08, 0.1  # typical skewness of a column's intensity, and how far from it


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
    skewness : float
        Skewness of the relative intensity, not negative: few electrons scatter further up than down.
    shift_share : float
        Part of the false alarms that may come from displacements; the rest from intensity.
    """

    middle: float
    spread: float
    centre: Array
    covariance: Array
    columns: int
    skewness: float = 0.0
    shift_share: float = 0.5

    def judge(self, found: Array, level: Array) -> "Verdict":
        """Judge estimates (n, 3) at places with noise `level` (n,); see `Verdict`."""
        change, change_sigma = found[:, 0] - self.middle * level, self.spread * level
        shift = found[:, 1:] - self.centre * level[:, None]
        distance = np.einsum("ni,ij,nj->n", shift, np.linalg.inv(self.covariance), shift) / level**2
        # the scale itself comes from `columns` columns: Student's and Hotelling's tails instead of the normal's
        freedom = self.columns - 1
        tail = distributions.student_sf(np.abs(change / change_sigma), freedom)
        if self.skewness > 0:  # upwards as far as a distribution with this skewness reaches (Pearson III)
            leaning = distributions.pearson3_sf(change / change_sigma, self.skewness)
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
class SiteColumns:
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


def skewness_of(values: Array) -> float:
    """Skewness of the bulk of standardised `values`, not negative; drawn towards the typical one where they are few."""
    kept = values[np.abs(values) < 3.5]
    typical, spread = TYPICAL_SKEWNESS
    known = len(kept) / 6  # inverse variance of a sample's skewness
    drawn = (distributions.skewness(kept) * known + typical / spread**2) / (known + spread**-2)
    return float(np.clip(drawn, 0.0, 0.8))


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
) -> SiteColumns | None:
    """Test every column of one kind against the scatter of its own kind in this image.

    Parameters
    ----------
    response : tuple of float
        Part of an intensity change, and of a displacement, that the prediction leaves in the difference (1: all).
    anm_map : ndarray of shape (U n_u, V n_v)
        From `published_map`.
    shift_share : float
        Part of the false alarms that may come from displacements.

    Returns
    -------
    SiteColumns, or None where there are fewer than MIN_COLUMNS columns.
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
    skewness = skewness_of((found[:, 0] / level - middle) / spread)
    null = Null(middle, spread, centre, covariance, len(cells), skewness, shift_share)
    anm = column_scores(anm_map, shape, cells)
    return SiteColumns(shape, cells, found, level, kernel, null, null.judge(found, level), anm, response)
