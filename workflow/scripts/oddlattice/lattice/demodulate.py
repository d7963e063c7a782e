"""The local amplitude and phase of a lattice's waves in an image, on a coarse grid."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.grid import Grid, strips
from oddlattice.lattice.spoilt import POOL_PX, Seen
from oddlattice.numerics.arrays import Array, Complex, Float

GRID_CELLS = 0.8  # step of the coarse grid, in units of sqrt(cell area)
WINDOW_CELLS = 1.5  # rms width of the window, same units


def _window(grid_px: Array, at: npt.NDArray[Any], sigma_px: float) -> Array:
    """Gaussian windows (n, p) around grid places at the places `at` [px]."""
    away = (at - grid_px[:, None]) / sigma_px
    return np.where(np.abs(away) < 4, np.exp(-0.5 * np.minimum(away**2, 16)), 0.0)


def _covered(grid_px: Array, length: int, sigma_px: float) -> npt.NDArray[np.int64]:
    """Pixels of a line that the windows around neighbouring grid places cover."""
    first, last = np.floor(grid_px[0] - 4 * sigma_px) + 1, np.ceil(grid_px[-1] + 4 * sigma_px)
    return np.arange(max(int(first), 0), min(int(last), length))


def _bands(grid_px: Array, length: int, sigma_px: float) -> Iterator[tuple[slice, slice, Array]]:
    """Sixteen grid places at a time: their indices, the pixels that their windows cover, and the windows."""
    for i in range(0, len(grid_px), 16):
        points = slice(i, min(i + 16, len(grid_px)))
        at = _covered(grid_px[points], length, sigma_px)
        yield points, slice(int(at[0]), int(at[-1]) + 1), _window(grid_px[points], at, sigma_px)


def _window_sums(grid_px: Array, length: int, sigma_px: float) -> tuple[Array, Array]:
    """Sums of the windows around grid places, and how far their centroids are from the places [px]; (n,) each."""
    total, centre = np.empty(len(grid_px)), np.empty(len(grid_px))
    for points, pixels, window in _bands(grid_px, length, sigma_px):
        total[points] = window.sum(1)
        centre[points] = window @ np.arange(pixels.start, pixels.stop) / total[points]
    return total, centre - grid_px


def demodulate(
    image: Float, flattener: Flattener, frequencies: Array, grid: Grid, sigma_px: float
) -> tuple[Complex, float]:
    """Local complex amplitude of waves in an image.

    Parameters
    ----------
    frequencies : ndarray of shape (k, 2)
        (row, col) [cycles/px].

    Returns
    -------
    amplitudes : ndarray of shape (k, n, m), complex
        Gaussian mean of deviation times exp(-2 pi i g.place) around each grid place.
    noise : float
        rms of an amplitude that white noise of the image's variance would give.
    """
    shape = image.shape
    row_sum, _ = _window_sums(grid.rows_px, shape[0], sigma_px)
    col_sum, _ = _window_sums(grid.cols_px, shape[1], sigma_px)
    n, m = len(grid.rows_px), len(grid.cols_px)
    total = np.zeros((len(frequencies), n, m), dtype=complex)
    square = 0.0
    turns = np.exp(-2j * np.pi * frequencies[:, 1:] * np.arange(shape[1]))
    bands = []
    for points, cols, window in _bands(grid.cols_px, shape[1], sigma_px):
        waves = (turns[:, None, cols] * (window / col_sum[points, None])).astype(np.complex64)
        flat = waves.reshape(-1, waves.shape[2]).T
        bands.append((points, cols, np.concatenate([flat.real, flat.imag], axis=1)))
    for rows in strips(shape):
        strip = flattener.flat(image, rows)
        if flattener.seen.blank is not None and not strip.any():
            continue
        square += float(np.einsum("rc,rc->", strip, strip))
        part = np.zeros((len(frequencies), len(strip), m), dtype=np.complex64)
        for points, cols, columns in bands:
            if flattener.seen.blank is not None and not strip[:, cols].any():
                continue
            product = strip[:, cols] @ columns
            middle = product.shape[1] // 2
            both = (product[:, :middle] + 1j * product[:, middle:]).reshape(len(strip), len(frequencies), -1)
            part[:, :, points] = np.moveaxis(both, 1, 0)
        at = np.arange(rows.start, rows.stop)
        near = np.flatnonzero(
            (grid.rows_px > rows.start - 4 * sigma_px) & (grid.rows_px < rows.stop - 1 + 4 * sigma_px)
        )
        row_window = _window(grid.rows_px[near], at, sigma_px) / row_sum[near, None]
        for k, g in enumerate(frequencies):
            wave = row_window * np.exp(-2j * np.pi * g[0] * at)
            total[k, near] += wave.astype(np.complex64) @ part[k]
    noise = float(np.sqrt(square / (shape[0] * shape[1]) / (4 * np.pi * sigma_px**2)))
    return total, noise


def coverage(seen: Seen, grid: Grid, sigma_px: float) -> tuple[Array, Array]:
    """Part of the window around each grid place that is seen, and how far its centroid is from the place.

    Returns
    -------
    part : ndarray of shape (n, m)
    off : ndarray of shape (2, n, m)
        (row, col) [px].
    """
    places = grid.rows_px, grid.cols_px
    lines = [_window_sums(at, n, sigma_px)[1] for n, at in zip(seen.shape, places, strict=True)]
    off = np.stack(np.broadcast_arrays(lines[0][:, None], lines[1][None, :]))
    if seen.blank is None:
        return np.ones(off.shape[1:]), off
    squares = [np.asarray((np.arange(n) + 0.5) * POOL_PX - 0.5) for n in seen.blank.shape]
    down, across = (_window(at, line, sigma_px) for at, line in zip(places, squares, strict=True))
    known = (~seen.blank).astype(np.float64)
    total = np.maximum(down @ known @ across.T, 1e-12)
    centroids = (down * squares[0]) @ known @ across.T / total, down @ known @ (across * squares[1]).T / total
    off = np.stack([centroids[0] - places[0][:, None], centroids[1] - places[1][None, :]])
    return total / np.outer(down.sum(1), across.sum(1)), off
