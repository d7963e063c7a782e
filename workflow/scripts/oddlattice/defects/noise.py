"""What an image's own noise is: per pixel of the cell, per place in the image, correlated; and its contrast."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import binary_dilation

from oddlattice.crystal import PxPerCell
from oddlattice.lattice.columns import (
    SIDE_PX,
    as_cells,
    mean_cell,
    px_of,
)
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.filters import gaussian_blur
from oddlattice.numerics.local_plane import local_plane
from oddlattice.numerics.medians import median

NOISE_CELLS = 6.0  # width over which the noise level may change [cells]
CONTRAST_CELLS = 3.0  # width over which the contrast of the crystal may change [cells]
CONTRAST = 0.5, 2.0  # of a place over the image's: the range in which it is believed
QUIET_SMOOTH_PX, QUIET_SIGMA = 2.3, 4.8  # what stands out is no noise: width of a column, and how far it stands out


@dataclass(frozen=True)
class Noise:
    """The image's own noise about its prediction.

    Attributes
    ----------
    sigma : ndarray of shape (n_u, n_v)
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
        return window_covariance(self.correlation)


def local_contrast(prediction: Float, difference: Float, mask: Mask, of_image: float) -> Array:
    """Contrast of the crystal about each cell over that of the image's mean cell, shape (U, V); 1 where masked.

    Contamination, or a thin place, raises the ground between the columns. Prediction and difference are parts of the
    local mean, in which columns on a higher ground stand less high: so does what is missing of them. It is the slope of
    the cells on the mean cell, in a plane through the neighbourhood.

    Parameters
    ----------
    prediction, difference : ndarray of shape (U n_u, V n_v), float32
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
    """The difference (U n_u, V n_v) in units of the image's mean cell: over the local `contrast` (U, V)."""
    out = np.empty_like(difference)
    n_u, n_v = px_of(difference, contrast)
    for u, line in enumerate((1 / contrast).astype(np.float32)):
        strip = np.s_[u * n_u : (u + 1) * n_u]
        np.multiply(difference[strip], np.repeat(line, n_v), out=out[strip])
    return out


@compiled("void(float32[:, ::1], float32[:, ::1], uint8[:, ::1], float64[:, ::1], float64[:, ::1])")
def _sums(prediction: Float, difference: Float, mask: Mask, weights: Array, out: Array) -> None:
    """Weighted sum of prediction and difference over each analysed cell."""
    n_u, n_v = weights.shape
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            total = 0.0
            for i in range(n_u if mask[u, v] else 0):
                for j in range(n_v):
                    at = u * n_u + i, v * n_v + j
                    total += (prediction[at] + difference[at]) * weights[i, j]
            out[u, v] = total


def estimate_noise(difference: Float, mask: Mask) -> Noise:
    """Noise of the difference map: per pixel of the cell, per place in the image, and its correlation.

    Parameters
    ----------
    difference : ndarray of shape (U n_u, V n_v), float32
    mask : ndarray of shape (U, V), uint8; at least one cell is 1
    """
    cells, good = as_cells(difference, px_of(difference, mask)), mask.astype(bool)
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
    n_u, n_v = weights.shape
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            total = 0.0
            for i in range(n_u if mask[u, v] else 0):
                for j in range(n_v):
                    value = difference[u * n_u + i, v * n_v + j] * weights[i, j]
                    total += min(value * value, 9.0)
            out[u, v] = total / (n_u * n_v)


@compiled("void(float32[:, ::1], uint8[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1])")
def _whitened(difference: Float, mask: Mask, weights: Float, level: Float, out: Float) -> None:
    """The difference times the weight of its pixel of the cell, over the cell's level; 0 where masked."""
    n_u, n_v = weights.shape
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            over = np.float32(1) / level[u, v] if mask[u, v] else np.float32(0)
            for i in range(n_u):
                for j in range(n_v):
                    at = u * n_u + i, v * n_v + j
                    out[at] = difference[at] * (weights[i, j] * over)


def in_its_noise(difference: Float, mask: Mask, sigma: npt.NDArray[np.floating], level: Array) -> Float:
    """The difference over its standard deviation, pixel by pixel; 0 where masked."""
    out = np.empty(difference.shape, np.float32)
    weights = (1 / sigma).astype(np.float32)
    _whitened(np.ascontiguousarray(difference), np.ascontiguousarray(mask), weights, level.astype(np.float32), out)
    return out


def _quiet(white: Float, good: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Cells in and around which nothing stands out of the whitened difference (U n_u, V n_v); shape (U, V).

    Strong defects would pass for noise that is correlated over a whole column.
    """
    cells = np.abs(as_cells(gaussian_blur(white, QUIET_SMOOTH_PX), px_of(white, good)))
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
    n_u, n_v = px_of(difference, good)
    here = difference[low[0] * n_u : (low[0] + 64) * n_u, low[1] * n_v : (low[1] + 64) * n_v]
    plane = np.clip(in_its_noise(here, good[part].astype(np.uint8), sigma, level[part]), -4, 4)
    quiet = _quiet(plane, good[part])
    as_cells(plane, (n_u, n_v))[~quiet] = 0
    raw = _products_at_lags(plane) / np.maximum(_pairs_at_lags(quiet, (n_u, n_v)), 1.0)
    return np.asarray(raw / raw[SIDE_PX - 1, SIDE_PX - 1])


def _products_at_lags(plane: Float) -> Array:
    """Sums of products of pixels so far apart along (u, v), lags up to 15 px, lag 0 in the middle; shape (31, 31)."""
    size = [fft.next_fast_len(n + SIDE_PX, real=True) for n in plane.shape]
    power = np.abs(fft.rfft2(plane, size)) ** 2
    lag = np.arange(-SIDE_PX + 1, SIDE_PX)
    # of the back transform few rows are needed
    down = fft.ifft(power, axis=0)[lag]
    return np.asarray(fft.irfft(down, size[1], axis=1)[:, lag], dtype=np.float64)


def _pairs_at_lags(cells: npt.NDArray[np.bool_], px_per_cell: PxPerCell) -> Array:
    """Pairs of pixels of `cells` (U, V) so far apart, as `_products_at_lags` counts them; shape (31, 31)."""
    lag = np.arange(-SIDE_PX + 1, SIDE_PX)
    far = -(-(SIDE_PX - 1) // min(px_per_cell))  # a pixel's partner is in its own cell, or so many cells away
    steps = np.arange(-far, far + 1)
    down, right = (np.maximum(n - np.abs(lag - n * steps[:, None]), 0) for n in px_per_cell)
    wide = np.pad(cells, far).astype(np.float64)
    here, (rows, cols) = wide[far : far + cells.shape[0], far : far + cells.shape[1]], cells.shape
    both = [[(here * wide[far + i : far + i + rows, far + j : far + j + cols]).sum() for j in steps] for i in steps]
    return np.asarray(down.T @ np.array(both) @ right)


def window_covariance(correlation: Array, least: float = 0.02, reach_px: int | None = None) -> Array:
    """Covariance (n^2, n^2) of a window of n x n px of whitened noise, from its autocorrelation (2 n - 1, 2 n - 1).

    Long lags fade out, to nothing at `reach_px` (the window's side), and no eigenvalue is below `least`, so that it is
    positive definite.
    """
    side = (len(correlation) + 1) // 2
    index = np.arange(side)
    lag = index[:, None] - index[None, :]
    fade = np.clip(1 - np.abs(lag) / (reach_px or side), 0, 1)
    rows, cols = lag[:, None, :, None] + side - 1, lag[None, :, None, :] + side - 1
    full = correlation[rows, cols] * fade[:, None, :, None] * fade[None, :, None, :]
    matrix = full.reshape(side**2, side**2)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, least)) @ vectors.T)
