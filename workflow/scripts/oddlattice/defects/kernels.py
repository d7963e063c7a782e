"""Matched kernels: how a column's intensity and place are estimated from a difference map, in its own noise."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

from oddlattice.defects.kind_probabilities import EMPTY_BELOW
from oddlattice.defects.noise import Noise, in_its_noise
from oddlattice.lattice.columns import (
    SIDE_PX,
    ColumnShape,
    bends,
    cells_at,
    cut_windows,
    median_cell,
    peak_at,
    sample_of,
    signatures,
    window_of_cell,
    window_offsets,
)
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.filters import gaussian_blur

#: Largest change: atoms upon a faint column add ten times its brightness, and what a bound holds back would be listed
#: as if measured.
MOST_CHANGE = 100.0
MOST_SHIFT_PM = 150.0


@dataclass(frozen=True)
class Kernel:
    """Least-squares kernels of a column in whitened noise.

    Attributes
    ----------
    weights : ndarray of shape (6, 256)
        Applied to a window of difference / sigma: relative intensity, displacement along row and col [pm]; then what
        the window holds of the second derivatives of the column (`columns.bends`), independent of the displacement.
    covariance : ndarray of shape (3, 3)
        Of the first three estimates where the noise level is 1, if the noise were all there is.
    bend : ndarray of shape (3, 3)
        The same of the last three.
    """

    weights: Array
    covariance: Array
    bend: Array


def make_kernel(
    shape: ColumnShape,
    noise: Noise,
    vectors_pm: Array,
    response: tuple[float, float] = (1.0, 1.0),
    valid: npt.NDArray[np.bool_] | None = None,
) -> Kernel:
    """Generalised least-squares kernels: (H' C^-1 H)^-1 H' C^-1 with H the whitened signatures.

    Source: Aitken 1935, doi:10.1017/S0370164600014346.

    Parameters
    ----------
    response : tuple of float
        Part of an intensity change, and of a displacement, that the prediction leaves in the difference (1: all).
    valid : ndarray of shape (16, 16), bool
        The pixels of the window that are analysed; None: all.
    """
    used = np.ones(SIDE_PX**2, dtype=bool) if valid is None else valid.ravel()
    sigma = window_of_cell(noise.sigma, shape).ravel()[used]
    left = np.array([response[0], response[1], response[1]])
    design = (signatures(shape, vectors_pm).reshape(3, -1)[:, used] * left[:, None] / sigma).T
    bent = (bends(shape, vectors_pm).reshape(3, -1)[:, used] / sigma).T
    both = np.linalg.solve(noise.covariance[np.ix_(used, used)], np.hstack([design, bent]))
    solved, asked = both[:, :3], both[:, 3:]
    covariance = np.linalg.inv(design.T @ solved)
    weights = np.zeros((6, SIDE_PX**2))
    weights[:3, used] = covariance @ solved.T / sigma
    of_shift = (covariance @ (solved.T @ bent))[1:]  # what of the bends a displacement holds
    bent, asked = bent - design[:, 1:] @ of_shift, asked - solved[:, 1:] @ of_shift
    weights[3:, used] = asked.T / sigma
    return Kernel(weights, covariance, bent.T @ asked)


def estimates(difference: Float, shape: ColumnShape, kernel: Kernel, cells: npt.NDArray[np.intp]) -> Array:
    """What the kernel reads of each column: intensity change, displacement (row, col) [pm], bends; shape (n, 6)."""
    out = np.empty((len(cells), len(kernel.weights)))
    for start in range(0, len(cells), 4096):  # windows of 4,096 columns at once: memory stays small
        part = slice(start, start + 4096)
        out[part] = cut_windows(difference, shape, cells[part]).reshape(-1, SIDE_PX**2) @ kernel.weights.T
    return out


def kernel_width_px(shape: ColumnShape) -> float:
    """Width of the kernel of `z_map` [px]: the column's own, averaged over the directions."""
    p_uu, p_uv, p_vv = shape.precision
    n_u, n_v = shape.px_per_cell
    return float(np.sqrt(n_u * n_v) / (p_uu * p_vv - p_uv**2) ** 0.25)


def z_map(difference: Float, mask: Mask, noise: Noise, shape: ColumnShape) -> Float:
    """The whitened difference under a column-sized kernel, in its own standard deviations; 0 where masked.

    Parameters
    ----------
    shape : ColumnShape
        Of the narrowest tested column: its width is the kernel's.
    """
    white = in_its_noise(difference, mask, noise.sigma, noise.level)
    smooth = gaussian_blur(white, kernel_width_px(shape), mirrored=False)
    typical = 1.4826 * median_cell(np.abs(cells_at(smooth, sample_of(mask), shape.px_per_cell)))
    # pooled over neighbouring pixels of the cell: the largest z must not be the one with the luckiest spread
    spread = np.sqrt(uniform_filter(typical**2, 7, mode="wrap")) + 1e-9
    return in_its_noise(smooth, np.ones_like(mask), spread, np.ones(mask.shape))


def moved_peak(
    shape: ColumnShape,
    change: float | Array,
    shift_pm: Array,
    vectors_pm: Array,
    reach_px: int = 0,
    response: tuple[float, float] = (1.0, 1.0),
) -> Array:
    """What a changed column adds to the image, exactly: change g(r - shift) + (g(r - shift) - g(r)), in its window.

    Of the first, the change of intensity, and of the second, the displacement, a prediction leaves the parts `response`
    in the difference. For displacements (..., 2) windows (..., 16, 16).
    """
    du, dv = window_offsets(shape, reach_px)
    su, sv = np.moveaxis(np.asarray(shift_pm) @ np.linalg.inv(vectors_pm), -1, 0)[..., None, None]
    moved = peak_at(shape, du - su, dv - sv)
    of_change = np.asarray(response[0] * np.asarray(change))[..., None, None]
    return np.asarray(of_change * moved + response[1] * (moved - peak_at(shape, du, dv)))


def refine(
    window: Array,
    valid: npt.NDArray[np.bool_],
    shape: ColumnShape,
    start: Array,
    noise: Noise,
    vectors_pm: Array,
    response: tuple[float, float],
) -> Array:
    """Change and displacement of a strongly changed column, where the linear kernels no longer hold.

    Gauss-Newton on `moved_peak` in the `valid` pixels (16, 16), weighted by the noise of each.

    Returns
    -------
    ndarray of shape (3,)
        Change, displacement (row, col) [pm]. An emptied column has no place: its displacement stays 0.
    """
    sigma = np.where(valid, window_of_cell(noise.sigma, shape), np.inf)
    found = np.array([np.clip(start[0], -1.0, MOST_CHANGE), *np.clip(start[1:], -MOST_SHIFT_PM, MOST_SHIFT_PM)])
    if start[0] < EMPTY_BELOW:
        found[1:] = 0.0
    most = np.array([max(0.5, abs(found[0]) / 2), 40.0, 40.0])
    free = slice(0, 1) if start[0] < EMPTY_BELOW else slice(0, 3)
    for _ in range(6):
        here, slopes = _linear(found, shape, vectors_pm, response)
        seen = slopes[:, free] / sigma.ravel()[:, None]
        move = np.linalg.lstsq(seen, (window.ravel() - here) / sigma.ravel(), rcond=1e-6)[0]
        found[free] += np.clip(move, -most[free], most[free])
        found = np.clip(found, [-1.0, -MOST_SHIFT_PM, -MOST_SHIFT_PM], [MOST_CHANGE, MOST_SHIFT_PM, MOST_SHIFT_PM])
    return found


def _linear(at: Array, shape: ColumnShape, vectors_pm: Array, response: tuple[float, float]) -> tuple[Array, Array]:
    """`moved_peak` (256,) of a change and displacement `at` (3,), and its slopes (256, 3)."""
    step = np.array([0.02, 1.0, 1.0])
    tried = at + np.vstack([np.zeros(3), np.diag(step)])
    here, *others = moved_peak(shape, tried[:, 0], tried[:, 1:], vectors_pm, 0, response).reshape(len(tried), -1)
    return here, (np.stack(others, axis=-1) - here[:, None]) / step


def errors_over_bulks(
    found: Array,
    valid: npt.NDArray[np.bool_],
    shape: ColumnShape,
    noise: Noise,
    vectors_pm: Array,
    response: tuple[float, float],
) -> tuple[float, Array]:
    """How much less well than bulk's a changed column's intensity is known, and its place, that of a weak one little.

    Returns
    -------
    float
        Factor on the standard error of the intensity.
    ndarray of shape (2, 2)
        What the errors of bulk's displacement are multiplied by.
    """
    sigma = np.where(valid, window_of_cell(noise.sigma, shape), np.inf).ravel()[:, None]
    bulk, changed = (
        np.linalg.inv(slopes.T @ slopes)
        for slopes in (_linear(at, shape, vectors_pm, response)[1] / sigma for at in (np.zeros(3), found))
    )
    of_bulk, of_changed = (np.linalg.cholesky(covariance[1:, 1:]) for covariance in (bulk, changed))
    return float(np.sqrt(changed[0, 0] / bulk[0, 0])), np.asarray(of_changed @ np.linalg.inv(of_bulk))
