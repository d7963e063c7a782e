"""What an image repeats, told by its Fourier transform in the coordinates of its own lattice.

A map of the image in a frame whose lines are straightened shows the crystal's reflections as sharp points: at whole
orders of a lattice that is already known, and at rational ones where the true cell is larger. What the lines of the
scan make (hum, jitter, uneven gain) stands beside strong reflections too, but along the slow direction of the scan.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy import ndimage

from oddlattice.lattice.registration import Registration, render
from oddlattice.lattice.trial_part import densest_window
from oddlattice.numerics.arrays import Array, Complex, Float
from oddlattice.numerics.local_plane import running_median

LARGEST_PX = 1 << 21  # of a map: more would tell no more
DETAIL = 0.6  # pixels of the map for one of the image
CLIPPED = 6.0  # standard deviations
SUPER_POWER = 18.0  # ASSUME: a reflection so far above the noise at a place where one may be is one; noise: exp(-18)
SMALLEST_PART = (
    0.012  # of the strongest reflection's amplitude, times the factor in size of the cell; weaker ones change
)
# no column by much, and incommensurate modulations and distortions of the scan make such
COMPANY = 0.2  # of its amplitude; another reflection of the same larger cell must be so strong
HIGHEST_FREQUENCY = 0.3  # [cycles/px]
LARGEST_DENOMINATOR = 6
LARGEST_CELLS = 16  # primitive cells in a true one
AT_FRACTION = 0.45  # [steps of the transform]; a reflection is so near its rational order


@dataclass(frozen=True)
class LatticeMap:
    """An image in the coordinates of a lattice.

    Attributes
    ----------
    values : ndarray of shape (n, m), float32
        Deviation from the local mean, 0 where nothing is known.
    weight : ndarray of shape (n, m), float32
        1 where the image is known, else 0.
    px : tuple of int
        Pixels of a cell along u and v.
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors in the image, rows (row, col) [px].
    transposed : bool
        Whether the lines of the scan are the image's columns.
    """

    values: Float
    weight: Float
    px: tuple[int, int]
    vectors_px: Array
    transposed: bool

    @cached_property
    def beyond_cell(self) -> "Transform":
        """What the map holds beyond its mean cell."""
        return whitened(self, self.values - mean_repeat(self, self.values))

    @cached_property
    def smallest_cell(self) -> npt.NDArray[np.int64]:
        """See `true_cell`."""
        return true_cell(self)


@dataclass(frozen=True)
class Reflections:
    """Fourier coefficients of a map: value(u, v) = 1 + Re sum_h c_h exp(2 pi i h.(u, v)), one of each pair h, -h.

    Attributes
    ----------
    orders : ndarray of shape (n, 2)
        In the map's lattice; whole ones of another lattice may be rational here.
    amplitudes : ndarray of shape (n,), complex
    noise : ndarray of shape (n,)
        Standard error of a coefficient (real and imaginary part each), from what lies about it in the transform.
    """

    orders: Array
    amplitudes: Complex
    noise: Array


def lattice_map(image: Any, found: Registration) -> LatticeMap:
    """Lay an image on the lattice it is registered on; what stands out far is clipped."""
    px = tuple(max(20, 2 * round(DETAIL * float(np.hypot(*vector)) / 2)) for vector in found.frame.vectors_px)
    window = _window(found.mask, LARGEST_PX // (px[0] * px[1]))
    values = render(image, replace(found, px_per_cell=(px[0], px[1])), window)
    good = np.repeat(np.repeat(found.mask[window], px[0], 0), px[1], 1)
    known = values[good]
    limit = CLIPPED * float(known.std())
    values = np.where(good, np.clip(values - known.mean(), -limit, limit), 0).astype(np.float32)
    return LatticeMap(values, good.astype(np.float32), (px[0], px[1]), found.frame.vectors_px.copy(), found.transposed)


def _window(mask: npt.NDArray[np.bool_], most: int) -> tuple[slice, slice]:
    """The part of at most about `most` cells that holds the most good ones."""
    where = np.argwhere(mask)
    low, high = where.min(0), where.max(0) + 1
    sides = high - low
    if sides.prod() > most:
        side = int(np.sqrt(most))
        sides = np.minimum(sides, [max(side, most // sides[1]), max(side, most // sides[0])])
    some = mask[low[0] : high[0], low[1] : high[1]]
    rows, cols = densest_window(some, (int(sides[0]), int(sides[1])))
    return slice(low[0] + rows.start, low[0] + rows.stop), slice(low[1] + cols.start, low[1] + cols.stop)


def mean_repeat(found: LatticeMap, values: Float) -> Float:
    """Mean cell of a map, repeated over it."""
    n, m = (side // px for side, px in zip(values.shape, found.px, strict=True))
    four = values.reshape(n, found.px[0], m, found.px[1])
    weight = found.weight.reshape(four.shape)
    cell = (four * weight).sum((0, 2)) / np.maximum(weight.sum((0, 2)), 1)
    return np.tile(cell, (n, m)).astype(np.float32) * found.weight


@dataclass(frozen=True)
class Transform:
    """Power of what a map holds beyond its mean cell, tapered and whitened.

    Attributes
    ----------
    power : ndarray of shape (n, m // 2 + 1)
        Over the local background: of noise exponential with mean 1.
    background : ndarray of the same shape
        Power of noise.
    cells : tuple of int
        Cells of the map along u and v: steps of the transform for one order.
    energy : float
        Sum of the squared taper; `background / energy` is the mean |sum of pixels|^2 of noise, for one pixel.
    """

    power: Float
    background: Float
    cells: tuple[int, int]
    energy: float


def whitened(found: LatticeMap, values: Float) -> Transform:
    """Transform of a map, its background a median over a neighbourhood."""
    taper = np.outer(*(np.hanning(n + 2)[1:-1] for n in values.shape)).astype(np.float32) * found.weight
    spectrum = scipy.fft.rfft2(values * taper)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    background = _smooth_median(power) / np.float32(np.log(2)) + np.float32(1e-12 * power.max() + 1e-30)
    cells = (values.shape[0] // found.px[0], values.shape[1] // found.px[1])
    return Transform(power / background, background, cells, float((taper.astype(float) ** 2).sum()))


def _smooth_median(power: Float) -> Float:
    """Median over 15 x 15 steps, taken at every third."""
    wrapped = np.pad(power, ((8, 8), (0, 0)), mode="wrap")
    some = running_median(wrapped[::3, ::3], 7, 7)
    full = np.repeat(np.repeat(some, 3, 0), 3, 1)[: wrapped.shape[0], : power.shape[1]]
    return np.asarray(full[8:-8], dtype=np.float32)


def coefficients(found: LatticeMap, orders: Array) -> Complex:
    """Coefficients c_h of a map at any orders (n, 2) of its lattice."""
    u = (np.arange(found.values.shape[0]) + 0.5) / found.px[0]
    v = (np.arange(found.values.shape[1]) + 0.5) / found.px[1]
    several, index = np.unique(np.round(orders[:, 1], 9), return_inverse=True)
    waves = np.exp(-2j * np.pi * v[:, None] * several).astype(np.complex64)
    along = found.values @ waves.real + 1j * (found.values @ waves.imag)
    first, inverse = np.unique(np.round(orders[:, 0], 9), return_inverse=True)
    both = np.exp(-2j * np.pi * first[:, None] * u).astype(np.complex64) @ along
    return np.asarray(2 * both[inverse, index] / found.weight.sum(), dtype=np.complex128)


def noise_at(found: LatticeMap, transform: Transform, orders: Array) -> Array:
    """Standard error of the coefficients at orders (n, 2), from the background about them; shape (n,)."""
    n, m = transform.background.shape
    rows = np.rint(orders[:, 0] * transform.cells[0]).astype(int)
    cols = np.rint(orders[:, 1] * transform.cells[1]).astype(int)
    rows, cols = np.where(cols < 0, -rows, rows) % n, np.minimum(np.abs(cols), m - 1)
    return np.asarray(np.sqrt(2 * transform.background[rows, cols] / transform.energy / found.weight.sum()))


# ---------------------------------------------------------------- the true cell


def true_cell(found: LatticeMap) -> npt.NDArray[np.int64]:
    """The smallest cell that repeats all that a map shows, as rows in whole steps of the map's lattice.

    Reflections at rational orders are taken strongest first; each must stand out of the noise about it, lie at its
    rational order within half a step of the transform, not be what uneven lines of the scan make of others, and not
    be alone: what repeats shows itself at other orders that differ from it by whole ones.
    """
    transform = found.beyond_cell
    strong = _strong_orders(found)
    largest = float(np.abs(coefficients(found, strong)).max())
    basis = np.eye(2)
    for order in _rational_peaks(found, transform):
        inside = order @ np.linalg.inv(basis)
        larger = generated(np.concatenate([basis, order[None]]))
        if np.allclose(inside, np.rint(inside), atol=1e-6) or 1 / abs(np.linalg.det(larger)) > LARGEST_CELLS + 0.5:
            continue
        least = SMALLEST_PART * largest * abs(np.linalg.det(basis) / np.linalg.det(larger))
        left = _beyond_lines(found, order, strong)
        noise = float(noise_at(found, transform, order[None])[0])
        if left > max(least, np.sqrt(2 * SUPER_POWER) * noise) and _in_company(found, transform, order, left):
            basis = larger
    return np.asarray(np.rint(np.linalg.inv(basis).T), dtype=np.int64)


def _orders_about(found: LatticeMap, order: Array) -> Array:
    """Orders that differ from one by whole ones and are resolved, that one's and its opposite left out; (n, 2)."""
    grid = order + np.array([(h, k) for h in range(-5, 6) for k in range(-5, 6)], dtype=float)
    grid = grid[np.hypot(*(grid @ np.linalg.inv(found.vectors_px).T).T) < HIGHEST_FREQUENCY]
    same = [np.abs(grid - sign * order).sum(1) < 1e-6 for sign in (1, -1)]
    return np.asarray(grid[~(same[0] | same[1])])


def _in_company(found: LatticeMap, transform: Transform, order: Array, size: float) -> bool:
    others = _orders_about(found, order)
    sizes = np.abs(coefficients(found, others))
    return bool((sizes > np.maximum(COMPANY * size, 4 * noise_at(found, transform, others))).any())


def _strong_orders(found: LatticeMap) -> Array:
    """The strongest whole orders, of both signs; shape (n, 2)."""
    grid = np.array([(h, k) for h in range(-4, 5) for k in range(-4, 5) if h or k], dtype=float)
    grid = grid[np.hypot(*(grid @ np.linalg.inv(found.vectors_px).T).T) < HIGHEST_FREQUENCY]
    size = np.abs(coefficients(found, grid))
    return np.asarray(grid[size > 0.1 * size.max()])


def _rational_peaks(found: LatticeMap, transform: Transform) -> list[Array]:
    """Peaks of a transform that lie at rational orders, strongest first."""
    power = transform.power
    seen = (power == ndimage.maximum_filter(power, size=5, mode="wrap")) & (power > SUPER_POWER)
    rows, cols = np.nonzero(seen)
    n = power.shape[0]
    peaks = []
    for r, c in zip(rows, cols, strict=True):
        down = _vertex(power[(r - 1) % n, c], power[r, c], power[(r + 1) % n, c])
        across = _vertex(power[r, c - 1], power[r, c], power[r, c + 1]) if 0 < c < power.shape[1] - 1 else 0.0
        place = np.array([(r + n // 2) % n - n // 2 + down, c + across])
        order = np.array([_rational(x, cells) for x, cells in zip(place, transform.cells, strict=True)])
        frequency = float(np.hypot(*(order @ np.linalg.inv(found.vectors_px).T))) if np.isfinite(order).all() else 1.0
        if frequency < HIGHEST_FREQUENCY and np.abs(order).sum() > 0:
            peaks.append((float(power[r, c] * transform.background[r, c]), order))
    return [order for _, order in sorted(peaks, key=lambda peak: -peak[0])]


def _vertex(left: float, middle: float, right: float) -> float:
    """Place of a maximum between three values, of their logarithms, from the middle one."""
    a, b, c = np.log(np.maximum([left, middle, right], 1e-30))
    bend = a - 2 * b + c
    return float(np.clip(0.5 * (a - c) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _rational(steps: float, cells: int) -> float:
    """The order p / q that a place of the transform belongs to; nan if it belongs to none."""
    most = int(np.clip(np.sqrt(0.9 * cells), 3, LARGEST_DENOMINATOR))
    near = min(
        (Fraction(round(steps / cells * q), q) for q in range(1, most + 1)), key=lambda x: abs(x - steps / cells)
    )
    return float(near) if abs(float(near) * cells - steps) < AT_FRACTION else float("nan")


def _beyond_lines(found: LatticeMap, order: Array, strong: Array) -> float:
    """Amplitude of a reflection less what lines of uneven gain make there of the strong reflections.

    Gain m_k of frequency k along the slow direction turns a reflection c_h into c_h m_k / 2 at h + k.
    """
    reciprocal = np.linalg.inv(found.vectors_px).T
    fast = 0 if found.transposed else 1
    sides = [
        side / px * np.hypot(*v) for side, px, v in zip(found.values.shape, found.px, found.vectors_px, strict=True)
    ]
    beside = np.concatenate([np.zeros((1, 2)), strong])
    steps = order - beside
    along = np.abs((steps @ reciprocal)[:, fast]) < 1.0 / min(sides)
    (seen,) = coefficients(found, order[None])
    if not along.any():
        return float(abs(seen))
    if along[0]:
        return 0.0
    made = 0.5 * (coefficients(found, beside[along]) * coefficients(found, steps[along])).sum()
    return float(abs(seen - made))


def generated(rows: Array) -> Array:
    """Reduced basis of the lattice of all whole combinations of rational rows (n, 2)."""
    denominator = lcm(*(Fraction(float(x)).limit_denominator(720).denominator for x in rows.ravel()))
    whole = [[round(float(x) * denominator) for x in row] for row in rows]
    return np.array(_hermite(whole), dtype=float) / denominator


def _hermite(rows: list[list[int]]) -> list[list[int]]:
    """Basis ((a, b), (0, d)) of the lattice that whole rows span."""
    top, rest = [0, 0], 0
    for a, b in rows:
        while a:
            if top[0] == 0:
                top, a, b = [a, b], 0, 0
                break
            quotient = a // top[0]
            a, b = a - quotient * top[0], b - quotient * top[1]
            if a:
                top, (a, b) = [a, b], top
        rest = gcd(rest, b)
    return [top, [0, rest]]
