"""Smoothing that does not bend at edges: Gaussian-weighted local fits of a plane on a grid."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.numerics.arrays import Array, Float, Index
from oddlattice.numerics.compiled import compiled

Ranks = npt.NDArray[np.int32]

POLYNOMIAL_POINTS = 300_000
BAND = 32  # rows of a matrix of Gaussians that are multiplied together

#: Rows, columns in which they are not 0, and these parts of two matrices.
_Band = tuple[slice, slice, npt.NDArray[np.floating], npt.NDArray[np.floating]]


def finite(pixels: npt.ArrayLike) -> Float:
    """Pixels as finite float32; a pixel without a number counts as 0."""
    values = np.asarray(pixels, dtype=np.float32)
    if not np.isfinite(values.sum()):
        values = np.where(np.isfinite(values), values, np.float32(0))
    return values if values.flags.writeable else values.copy()  # compiled loops take no array that is read-only


def block_mean(strip: Float, n: int) -> Float:
    """Mean of n x n blocks; blocks cut by the border average what there is. Shape (ceil(rows/n), ceil(cols/n))."""
    return _block_mean(np.asarray(strip, dtype=np.float32), n)


@compiled("float32[:, ::1](float32[:, :], int64)")
def _block_mean(strip: Float, n: int) -> Float:
    rows, cols = strip.shape
    mean = np.empty((-(-rows // n), -(-cols // n)), np.float32)
    line = np.empty(cols, np.float32)
    for i in range(mean.shape[0]):
        line[:] = 0
        height = min(n, rows - i * n)
        for r in range(i * n, i * n + height):
            for c in range(cols):
                line[c] += strip[r, c]
        for j in range(mean.shape[1]):
            width = min(n, cols - j * n)
            mean[i, j] = line[j * n : j * n + width].sum() / (height * width)
    return mean


def lerp_at(length: int, first: float, step: float, count: int) -> tuple[Index, Float]:
    """Lower neighbours and parts for linear interpolation (and extrapolation) of a grid at pixels 0 .. length - 1."""
    index = (np.arange(length) - first) / step
    low = np.clip(np.floor(index).astype(np.int64), 0, max(count - 2, 0))
    return low, (index - low).astype(np.float32)


def running_median(values: Float, height: int, width: int) -> Float:
    """Median over `height` x `width` pixels (odd) around each of an image without negative values; edges continue."""
    wide = np.pad(values, ((height // 2, height // 2), (width // 2, width // 2)), mode="edge")
    # Numbers from 0 on are in the order of their bits: whole numbers, that the processor compares many at a time.
    ranks = np.abs(np.ascontiguousarray(wide, dtype=np.float32)).view(np.int32)
    return np.asarray(_running_median(ranks, height, width).view(np.float32))


@compiled("int32[:, ::1](int32[:, ::1], int64, int64)")
def _running_median(values: Ranks, height: int, width: int) -> Ranks:
    """Median of the window that begins at each place: from the one before, value by value."""
    rows, cols = values.shape[0] - height + 1, values.shape[1] - width + 1
    found = np.empty((rows, cols), np.int32)
    window = np.empty(height * width, np.int32)
    half = height * width // 2
    median = values[0, 0]
    for r in range(rows):
        for c in range(cols):
            for k in range(width if c == 0 else 1):
                col = c + width - 1 - k
                for i in range(height):
                    window[(col % width) * height + i] = values[r + i, col]
            while True:
                below, upto, lower, upper = 0, 0, np.int32(-1), np.int32(2147483647)
                for value in window:
                    below += value < median
                    upto += value <= median
                    lower = max(lower, value if value < median else np.int32(-1))
                    upper = min(upper, value if value > median else np.int32(2147483647))
                if below > half:
                    median = lower
                elif upto <= half:
                    median = upper
                else:
                    break
            found[r, c] = median
    return found


@compiled("float32[:, :, ::1](float64[:, :, :], int64[::1], float32[::1], int64[::1], float32[::1])")
def lerp(layers: Array, low: Index, down: Float, left: Index, across: Float) -> Float:
    """Layers (k, n, m) at pixels, between grid rows `low` and the next, cols `left` and the next; (k, rows, cols).

    See `lerp_at`.
    """
    found = np.empty((layers.shape[0], len(low), len(left)), np.float32)
    first, last = (low[0], low[-1] + 2) if len(low) else (0, 0)
    wide = np.empty((last - first, len(left)), np.float32)  # of the grid's rows around these alone: memory stays small
    for k in range(layers.shape[0]):
        for n in range(first, last):
            for c in range(len(left)):
                here, ahead = layers[k, n, left[c]], layers[k, n, left[c] + 1]
                wide[n - first, c] = here * (np.float32(1) - across[c]) + ahead * across[c]
        for r in range(len(low)):
            above, below = wide[low[r] - first], wide[low[r] - first + 1]
            for c in range(len(left)):
                found[k, r, c] = above[c] + (below[c] - above[c]) * down[r]
    return found


def slow_mean(image: Float, sigma_px: float) -> Float:
    """Gaussian mean of an image over `sigma_px`, by way of a smaller image; same shape, float32."""
    n = max(int(sigma_px / 3), 1)
    small = ndimage.gaussian_filter(block_mean(image, n), sigma_px / n, mode="nearest", truncate=3.0)
    if min(small.shape) < 2:
        return np.full(image.shape, small.mean(), dtype=np.float32)
    rows, cols = (lerp_at(pixels, (n - 1) / 2, n, m) for pixels, m in zip(image.shape, small.shape, strict=True))
    return np.asarray(lerp(small[None].astype(np.float64), *rows, *cols)[0])


def local_plane(values: Array, weights: Array, sigma: float) -> tuple[Array, Array]:
    """Value at each grid point of a plane fitted with Gaussian weights around it.

    Unlike a weighted mean it has no bias where weights stop (image border, edge of the crystal) and the values slope.

    Parameters
    ----------
    values : ndarray of shape (k, n, m)
        Layers to be smoothed; ignored where the weight is 0.
    weights : ndarray of shape (n, m)
        Non-negative weights.
    sigma : float
        rms width of the Gaussian [grid points].

    Returns
    -------
    smooth : ndarray of shape (k, n, m)
        0 where no weight is within reach.
    support : ndarray of shape (n, m)
        Gaussian mean of the weights.
    """
    smooth, support = planes_over(weights, sigma)
    return smooth(values), support


def planes_over(weights: Array, sigma: float) -> tuple[Callable[[Array], Array], Array]:
    """`local_plane` for values that share their weights: what smooths them, and the support."""

    def blur(layers: Array) -> Array:
        return _blurred_last(layers, sigma)

    n, m = weights.shape
    x = np.broadcast_to(((np.arange(n) - n / 2) / sigma)[:, None], (n, m))
    y = np.broadcast_to(((np.arange(m) - m / 2) / sigma)[None, :], (n, m))
    w = blur(weights)
    safe = np.maximum(w, 1e-12 * max(float(w.max()), 1e-300))
    mx, my = blur(weights * x) / safe, blur(weights * y) / safe
    ridge = 0.05  # slopes are believed only where the weights spread over a good part of the Gaussian
    sxx = blur(weights * x * x) / safe - mx * mx + ridge
    syy = blur(weights * y * y) / safe - my * my + ridge
    sxy = blur(weights * x * y) / safe - mx * my
    determinant = np.maximum(sxx * syy - sxy * sxy, ridge * ridge)

    def smooth(values: Array) -> Array:
        kept = weights * np.where(weights > 0, values, 0.0)
        mean = blur(kept) / safe
        sxv = blur(kept * x) / safe - mx * mean
        syv = blur(kept * y) / safe - my * mean
        slope_x = (syy * sxv - sxy * syv) / determinant
        slope_y = (sxx * syv - sxy * sxv) / determinant
        plane = mean + slope_x * (x - mx) + slope_y * (y - my)
        return np.where(w > 1e-9 * max(float(w.max()), 1e-300), plane, 0.0)

    return smooth, np.maximum(w, 0.0)


def _blurred_last(layers: Array, sigma: float) -> Array:
    """Layers (..., n, m) under a Gaussian along n and m, zeros beyond; along one of length 1 by its middle alone."""
    lengths = layers.shape[-2:]
    along = (0.0,) * (layers.ndim - 2) + tuple(sigma if n > 1 else 0.0 for n in lengths)
    blurred = ndimage.gaussian_filter(layers, along, mode="constant", truncate=4.0)
    if 1 in lengths:
        line = np.exp(-0.5 / sigma**2 * np.arange(-int(4.0 * sigma + 0.5), int(4.0 * sigma + 0.5) + 1) ** 2)
        blurred *= (line[len(line) // 2] / line.sum()) ** lengths.count(1)
    return np.asarray(blurred)


def global_polynomial(values: Array, weights: Array, order: int) -> Array:
    """Weighted least-squares polynomial through each layer, evaluated on the whole grid; shapes as `local_plane`.

    On a large grid every k-th point along both axes is used, about POLYNOMIAL_POINTS in all.
    """
    n, m = weights.shape
    x, y = np.linspace(-1, 1, n)[:, None], np.linspace(-1, 1, m)[None, :]
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    k = max(1, int(np.ceil(np.sqrt(n * m / POLYNOMIAL_POINTS))))
    some, layers = weights[::k, ::k], values[:, ::k, ::k]
    terms = np.stack([x[::k] ** i * y[:, ::k] ** j for i, j in powers], -1).reshape(some.size, -1)
    root = np.sqrt(some).reshape(-1, 1)
    flat = np.where(some > 0, layers, 0.0).reshape(len(layers), -1).T
    coefficients = np.linalg.lstsq(terms * root, flat * root, rcond=1e-8)[0]
    found = np.zeros(values.shape)
    for layer, along in zip(found, coefficients.T, strict=True):
        for (i, j), c in zip(powers, along, strict=True):
            layer += c * x**i * y**j
    return found


class Planes:
    """`local_plane` for many layers over the same weights, by matrix products: for grids up to some hundred a side.

    Parameters
    ----------
    weights : ndarray of shape (n, m)
        Non-negative weights.
    sigma : float
        rms width of the Gaussian [grid points].
    """

    def __init__(self, weights: Array, sigma: float) -> None:
        n, m = weights.shape
        self.weights, self._terms = weights, dict[np.dtype[Any], tuple[npt.NDArray[np.floating], ...]]()
        self._bands = dict[np.dtype[Any], tuple[list[_Band], ...]]()
        self._down, self._across = _gaussian_matrix(n, sigma), _gaussian_matrix(m, sigma).T
        x, y = (np.arange(n) - n / 2) / sigma, (np.arange(m) - m / 2) / sigma
        self._x, self._y = x[:, None], y[None, :]
        self._down_x, self._across_y = self._down * x, self._across * y[:, None]
        w = self._blur(weights)
        self._seen = w > 1e-9 * max(float(w.max()), 1e-300)
        self._safe = np.maximum(w, 1e-12 * max(float(w.max()), 1e-300))
        self._mx, self._my = self._blur(weights * self._x) / self._safe, self._blur(weights * self._y) / self._safe
        ridge = 0.05  # slopes are believed only where the weights spread over a good part of the Gaussian
        self._sxx = self._blur(weights * self._x**2) / self._safe - self._mx**2 + ridge
        self._syy = self._blur(weights * self._y**2) / self._safe - self._my**2 + ridge
        self._sxy = self._blur(weights * self._x * self._y) / self._safe - self._mx * self._my
        self._determinant = np.maximum(self._sxx * self._syy - self._sxy**2, ridge * ridge)

    def _blur(self, layer: Array) -> Array:
        return np.asarray(self._down @ layer @ self._across)

    def smooth(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Value of the plane around each grid point; (k, n, m) to (k, n, m), 0 where no weight is within reach.

        In the precision of `values`.
        """
        if values.dtype not in self._terms:
            self._terms[values.dtype] = self.terms(values.dtype)
        terms, known = self._terms[values.dtype], self.weights > 0
        if min(self.weights.shape) < 4 * BAND:
            return np.asarray(planes_through(np.where(known, values, 0), *terms))
        if values.dtype not in self._bands:
            _, down, down_x, across, across_y, *_ = terms
            lines = (np.hstack([across, across_y]).T, np.vstack([down, down_x]))
            self._bands[values.dtype] = tuple(_bands_of(both) for both in lines)
        out = np.empty(values.shape, values.dtype)
        for layer, smooth in zip(values, out, strict=True):  # a layer at a time stays in the cache
            _plane_in_bands(np.where(known, layer, 0), terms, self._bands[values.dtype], smooth)
        return out

    def terms(self, dtype: npt.DTypeLike) -> tuple[npt.NDArray[np.floating], ...]:
        """What `planes_through` needs beside the values: weights, matrices, and factors at each grid point."""
        off_x, off_y = self._x - self._mx, self._y - self._my
        by_x = np.where(self._seen, (self._syy * off_x - self._sxy * off_y) / self._determinant, 0.0)
        by_y = np.where(self._seen, (self._sxx * off_y - self._sxy * off_x) / self._determinant, 0.0)
        whole = self._seen - self._mx * by_x - self._my * by_y
        at_points = (factor / self._safe for factor in (whole, by_x, by_y))
        lines = (self._down, self._down_x, self._across, self._across_y)
        return tuple(x.astype(dtype) for x in (self.weights, *lines, *at_points))


def _bands_of(both: npt.NDArray[np.floating]) -> list[_Band]:
    """Two matrices (n, n) below one another, (2 n, n), by bands of rows: of the columns, those that are not 0."""
    n, found = both.shape[1], list[_Band]()
    pair = both.reshape(2, n, n)
    for start in range(0, n, BAND):
        own = slice(start, min(start + BAND, n))
        there = np.flatnonzero(pair[:, own].any(axis=(0, 1)))
        seen = slice(int(there[0]), int(there[-1]) + 1)
        plain, sloped = (np.ascontiguousarray(part[own, seen]) for part in pair)
        found.append((own, seen, plain, sloped))
    return found


def _plane_in_bands(
    values: npt.NDArray[np.floating],
    terms: tuple[npt.NDArray[np.floating], ...],
    bands: tuple[list[_Band], ...],
    out: npt.NDArray[np.floating],
) -> None:
    """`planes_through` of one layer (n, m) into `out`, without what Gaussians that are cut off do not reach."""
    weights, *_, of_mean, of_x, of_y = terms
    kept, wide, wide_y = values * weights, np.empty_like(out), np.empty_like(out)
    for own, seen, plain, sloped in bands[0]:
        np.matmul(kept[:, seen], plain.T, out=wide[:, own])
        np.matmul(kept[:, seen], sloped.T, out=wide_y[:, own])
    for own, seen, plain, sloped in bands[1]:
        out[own] = (plain @ wide[seen]) * of_mean[own]
        out[own] += (sloped @ wide[seen]) * of_x[own]
        out[own] += (plain @ wide_y[seen]) * of_y[own]


def planes_through(
    values: Any, weights: Any, down: Any, down_x: Any, across: Any, across_y: Any, of_mean: Any, of_x: Any, of_y: Any
) -> Any:
    """The work of `Planes.smooth` on finite values (k, n, m): numpy arrays, or PyTorch tensors wherever they are."""
    kept = values * weights
    lines = kept.reshape(-1, kept.shape[2])
    wide, wide_y = ((lines @ matrix).reshape(kept.shape) for matrix in (across, across_y))
    # the plane is linear in these three sums
    smooth = down @ wide
    smooth *= of_mean
    for part, factor in ((down_x @ wide, of_x), (down @ wide_y, of_y)):
        part *= factor
        smooth += part
    return smooth


def _gaussian_matrix(n: int, sigma: float) -> Array:
    """Matrix (n, n) that blurs a line of n values with a Gaussian cut off at four `sigma`, zeros beyond the ends."""
    away = np.abs(np.arange(n)[:, None] - np.arange(n))
    reach = int(4.0 * sigma + 0.5)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(np.where(away <= reach, np.exp(-0.5 * (away / sigma) ** 2), 0.0) / line.sum())
