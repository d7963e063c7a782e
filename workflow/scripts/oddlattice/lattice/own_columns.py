"""The columns of a mean cell: Gaussians fitted to its Fourier coefficients, as many as these give evidence for.

A column is a Gaussian with a wider one of the same centre below it (thermal scattering, channelling). All have one
shape, by a factor in width that stays near 1. Columns are added where the residual asks for one most, all are fitted
again, and they are kept while the Bayesian information criterion falls (Schwarz, Ann. Stat. 6 (1978) 461,
doi:10.1214/aos/1176344136). Two errors are allowed for: the noise of a coefficient, and a part of what coefficients of
its frequency amount to, for no column is quite a Gaussian.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import leastsq

from oddlattice.numerics.arrays import Array, Complex
from oddlattice.numerics.compiled import compiled

TAIL_WIDTH = 2.5  # of the wide Gaussian, in widths of the narrow one
BEND = 0.1  # rms of a phase or damping of higher order, where 2 pi sigma times the frequency is 1
LARGEST_TAIL, TAIL_START = (
    0.6,
    -1.1,
)  # part of a column's intensity that lies in it at most; logit of the usual part of it
COMMON = 9  # parameters that all columns share
COMMON_ERROR = (0.8, 0.2, 0.2, 1.0, *[BEND] * 5)  # of them: see _Fit
WHOLE_ERROR = 0.05  # columns hold at most all of the intensity, with this error
WIDTH_ERROR = 0.15  # rms of the logarithm of a column's width about that of all
SHAPE_ERROR = 0.04  # ASSUME: columns depart from Gaussians by so much of the coefficients at a frequency
FLOOR = 0.008  # of the largest coefficient: what interpolation and lines of the scan leave
LEAST_PART = 0.03  # of the brightest column; a fainter one is not told from the shape of others
CLOSEST = 1.8  # [widths]; what is nearer is the shape of one column
MARGIN = 12.0  # by which the criterion must fall for a column
DARK_MARGIN = 40.0  # by which dark columns on bright ground must explain better than bright ones
MOST_COLUMNS = 40
MOST_TRIES = 40  # of a fit
AS_GOOD = 1e-8  # relative change at which it ends
PATIENCE = 2  # so many columns in a row that do not pay end the search
MAP = 48  # steps along the shorter vector of the map in which the next column is sought


@dataclass(frozen=True)
class Coefficients:
    """Fourier coefficients of a mean cell: value(u, v) = 1 + Re sum_h c_h exp(2 pi i h.(u, v)).

    Attributes
    ----------
    orders : ndarray of shape (n, 2), int
        One of each pair h, -h.
    amplitudes : ndarray of shape (n,), complex
    noise : ndarray of shape (n,)
        Standard error of a coefficient, real and imaginary part each.
    vectors_px : ndarray of shape (2, 2)
    """

    orders: npt.NDArray[np.int64]
    amplitudes: Complex
    noise: Array
    vectors_px: Array

    @property
    def frequencies(self) -> Array:
        """Frequencies (n, 2) [cycles/px]."""
        return np.asarray(self.orders @ np.linalg.inv(self.vectors_px).T)


@dataclass(frozen=True)
class Columns:
    """Columns of a mean cell.

    Attributes
    ----------
    places : ndarray of shape (n, 2)
        (u, v) in the cell.
    intensity : ndarray of shape (n,)
        Integrated, as a part of the cell's mean; positive.
    place_sigma, intensity_sigma : ndarray of shape (n, 2), (n,)
        Standard errors; of an intensity as a part of all.
    widths : ndarray of shape (n,)
        Factors on the common width.
    spread_px2 : ndarray of shape (2, 2)
        Covariance of the common Gaussian, (row, col) [px^2].
    tail_part : float
    sign : int
        1: bright columns; -1: dark ones on bright ground.
    criterion : float
        The Bayesian information criterion.
    """

    places: Array
    intensity: Array
    place_sigma: Array
    intensity_sigma: Array
    widths: Array
    spread_px2: Array
    tail_part: float
    sign: int
    criterion: float


def errors(seen: Coefficients) -> Array:
    """Standard errors of the coefficients, what shapes leave open included; shape (n,)."""
    frequency = np.hypot(*seen.frequencies.T)
    power = np.maximum(np.abs(seen.amplitudes) ** 2 - 2 * seen.noise**2, 0)
    near = np.exp(-0.5 * ((frequency[:, None] - frequency) / (0.15 * frequency.max())) ** 2)
    usual = np.sqrt((near @ power) / near.sum(1))
    floor = FLOOR * float(np.sqrt(power.max()))
    return np.asarray(np.sqrt(seen.noise**2 + (SHAPE_ERROR * usual) ** 2 + floor**2))


def find_columns(seen: Coefficients) -> Columns | None:
    """The columns for which the coefficients give evidence; None if they give none.

    Where they seem to be of one column, they are sought again from narrow ones: a wide one may stand for several.
    """
    found = _found(seen, narrow=False)
    if found is None or len(found.places) > 1:
        return found
    again = _found(seen, narrow=True)
    return again if again is not None and again.criterion < found.criterion - MARGIN else found


def _found(seen: Coefficients, narrow: bool) -> Columns | None:
    """Columns, bright and dark ones added side by side, until neither kind has got better for a while."""
    searches = [_Search(_Fit(seen, sign), narrow) for sign in (1, -1)]
    most = min(MOST_COLUMNS, max(2 * len(seen.orders) // 4, 1))
    number = last = 0
    while number < min(last + PATIENCE, most):
        number += 1
        falls = [search.step() for search in searches]
        best = min(search.criterion for search in searches)
        if any(fell and search.criterion < best + DARK_MARGIN for fell, search in zip(falls, searches, strict=True)):
            last = number
    bright, dark = (search.pruned() for search in searches)
    if bright is None or dark is None:
        return bright or dark
    return dark if dark.criterion < bright.criterion - DARK_MARGIN else bright


class _Fit:
    """Columns laid on coefficients.

    Parameters, of all columns: logarithm of the spread [px^2], how it is stretched along rows and along the diagonal,
    logit of the part of the tail (of LARGEST_TAIL), four phases of third order in the frequency (coma), a damping of
    fourth order; then of each: logarithm of intensity, u, v, logarithm of width.
    """

    def __init__(self, seen: Coefficients, sign: int) -> None:
        self.seen, self.sign = seen, sign
        self._orders = np.ascontiguousarray(seen.orders, np.float64)
        g = seen.frequencies
        self.square = np.stack([(g**2).sum(1), g[:, 0] ** 2 - g[:, 1] ** 2, 2 * g[:, 0] * g[:, 1]], 1)
        self.sigma = errors(seen)
        self.data = sign * seen.amplitudes
        self.start = self._first_spread()
        x, y = (2 * np.pi * np.exp(self.start[0] / 2) * g).T
        damped = 1 / (1 + (x**2 + y**2) / 2) ** 1.5  # polynomials would run away where nothing is seen
        self.bent = (
            np.stack([1j * x**3, 1j * x**2 * y, 1j * x * y**2, 1j * y**3, -((x**2 + y**2) ** 2)], 1) * damped[:, None]
        )

    def _first_spread(self) -> Array:
        """Common parameters that make coefficients fall off as those seen do."""
        frequency2 = self.square[:, 0]
        power = np.abs(self.data) ** 2
        weight = power / (power + 4 * self.seen.noise**2)
        line = np.polyfit(frequency2, np.log(np.maximum(power, 1e-30)), 1, w=np.sqrt(weight))
        half = 0.5 / float(np.sqrt(frequency2.max()))  # [px]: half a period of the finest wave that is seen
        spread = float(np.clip(-line[0] / (4 * np.pi**2), (0.3 * half) ** 2, (1.5 * half) ** 2))
        return np.array([np.log(spread), 0.0, 0.0, TAIL_START, *[0.0] * 5])

    def _exponent(self, p: Array) -> Array:
        """Logarithm by which the narrow Gaussian damps the coefficients; shape (n,)."""
        return np.asarray(-2 * np.pi**2 * np.exp(p[0]) * np.maximum(self.square @ [1.0, p[1], p[2]], 0))

    def model(self, p: Array) -> Complex:
        """Coefficients that columns make; shape (n,)."""
        made = np.empty(len(self.data), np.complex128)
        _made(p, self._orders, self.square, self.bent, made, np.empty((0, 0), np.complex128))
        return made

    def misfit(self, p: Array) -> Array:
        """Residuals over their errors, real and imaginary parts, then over what is assumed of the parameters."""
        off = (self.model(p) - self.data) / self.sigma
        over = max(float(np.exp(p[COMMON::4]).sum()) - 1.0, 0.0) / WHOLE_ERROR
        assumed = [(p[:COMMON] - self.start) / COMMON_ERROR, p[COMMON + 3 :: 4] / WIDTH_ERROR, [over]]
        return np.concatenate([off.real, off.imag, *assumed])

    def slopes(self, p: Array) -> Array:
        """Derivatives of the misfit; shape (misfits, parameters)."""
        by = np.empty((len(self.data), len(p)), np.complex128)
        _made(p, self._orders, self.square, self.bent, np.empty(len(by), np.complex128), by)
        by /= self.sigma[:, None]
        count = (len(p) - COMMON) // 4
        assumed = np.zeros((COMMON + count + 1, len(p)))
        assumed[range(COMMON), range(COMMON)] = 1 / np.array(COMMON_ERROR)
        assumed[COMMON + np.arange(count), COMMON + 3 + 4 * np.arange(count)] = 1 / WIDTH_ERROR
        intensity = np.exp(p[COMMON::4])
        assumed[-1, COMMON::4] = intensity / WHOLE_ERROR * (intensity.sum() > 1)
        return np.concatenate([by.real, by.imag, assumed])

    def fitted(self, p: Array, free: npt.NDArray[np.bool_] | None = None) -> tuple[Array, float]:
        """Parameters that fit best, from these (only those `free` are changed), and the information criterion."""
        free = np.ones(len(p), dtype=bool) if free is None else free
        count = (len(p) - COMMON) // 4

        def whole(some: Array) -> Array:
            q = p.copy()
            q[free] = some
            return np.clip(q, -30, 30)

        def misfit(some: Array) -> Array:
            return self.misfit(whole(some))

        def slopes(some: Array) -> Array:
            return self.slopes(whole(some))[:, free]

        scale = np.array([0.2, 0.1, 0.1, 0.5] + [0.1] * 5 + [0.3, 0.05, 0.05, 0.1] * count)[free]
        # what `least_squares` calls for its method "lm", with a tenth of its own work beside it
        found, _, told, *_ = leastsq(
            misfit,
            p[free],
            Dfun=slopes,
            full_output=True,
            diag=1 / scale,
            maxfev=MOST_TRIES,
            ftol=AS_GOOD,
            xtol=AS_GOOD,
            gtol=AS_GOOD,
        )
        return whole(found), self.criterion(float(told["fvec"] @ told["fvec"]), 1 + 3 * count)

    def criterion(self, square: float, parameters: int) -> float:
        """Information criterion of a sum of squares; where it is more than errors allow for, these are larger."""
        n = 2 * len(self.data)
        return float((n * (1 + np.log(square / n)) if square > n else square) + parameters * np.log(n))

    def sound(self, p: Array) -> bool:
        """Whether every column is bright enough, and far enough from the others."""
        if np.hypot(p[1], p[2]) > 0.9 or p[COMMON::4].min() < p[COMMON::4].max() + np.log(LEAST_PART):
            return False
        places = np.stack([p[COMMON + 1 :: 4], p[COMMON + 2 :: 4]], 1)
        apart = distances_px(places, places, self.seen.vectors_px) + np.where(np.eye(len(places)), np.inf, 0)
        return bool(apart.min() > CLOSEST * np.exp(p[0] / 2)) if len(places) > 1 else True

    def next_place(self, p: Array) -> Array:
        """Where one more column would explain most: (u, v)."""
        left = self.data - self.model(p) if len(p) > COMMON else self.data
        shape = np.exp(self._exponent(p)) / self.sigma**2
        long = np.hypot(*self.seen.vectors_px.T)
        steps = [round(float(MAP * side / long.min())) for side in long]
        spectrum = np.zeros(steps, dtype=complex)
        orders = self.seen.orders
        np.add.at(spectrum, (orders[:, 0] % steps[0], orders[:, 1] % steps[1]), left * shape)
        asks = np.fft.ifft2(spectrum).real
        grid = np.stack(np.meshgrid(*(np.arange(n) / n for n in steps), indexing="ij"), -1).reshape(-1, 2)
        if len(p) > COMMON:
            taken = np.stack([p[COMMON + 1 :: 4], p[COMMON + 2 :: 4]], 1)
            near = distances_px(grid, taken, self.seen.vectors_px).min(1) < 1.2 * CLOSEST * np.exp(p[0] / 2)
            asks[near.reshape(asks.shape)] = -np.inf
        return np.asarray(grid[int(asks.argmax())])

    def result(self, p: Array, criterion: float) -> Columns:
        """Columns of the parameters, with errors."""
        slopes = self.slopes(p)
        covariance = np.linalg.pinv(slopes.T @ slopes)
        sigma = np.sqrt(np.maximum(np.diag(covariance), 0))
        among = covariance[COMMON::4, COMMON::4]  # of logarithms of intensities; what they share is left out
        apart = np.diag(among) - 2 * among.mean(1) + among.mean()
        return Columns(
            places=np.stack([p[COMMON + 1 :: 4], p[COMMON + 2 :: 4]], 1) % 1.0,
            intensity=np.exp(p[COMMON::4]),
            place_sigma=np.stack([sigma[COMMON + 1 :: 4], sigma[COMMON + 2 :: 4]], 1),
            intensity_sigma=np.sqrt(np.maximum(apart, 0)) * np.exp(p[COMMON::4]),
            widths=np.exp(p[COMMON + 3 :: 4]),
            spread_px2=np.exp(p[0]) * np.array([[1 + p[1], p[2]], [p[2], 1 - p[1]]]),
            tail_part=tail_of(p[3]),
            sign=self.sign,
            criterion=criterion,
        )


@compiled(
    "void(float64[::1], float64[:, ::1], float64[:, ::1], complex128[:, ::1], complex128[::1], complex128[:, ::1])"
)
def _made(p: Array, orders: Array, square: Array, bent: Complex, made: Complex, by: Complex) -> None:
    """Fill `made` (n,) with the coefficients that columns make, and `by` (n, parameters), if any, with its slopes.

    `p`, `square` and `bent` are as of `_Fit`.
    """
    columns, tail = (len(p) - COMMON) // 4, LARGEST_TAIL / (1 + np.exp(-p[3]))
    width2, height = np.exp(2 * p[COMMON + 3 :: 4]), 2 * np.exp(p[COMMON::4])
    by_tail = tail * (1 - tail / LARGEST_TAIL)
    by[:, :COMMON] = 0
    for n in range(len(made)):
        stretched = square[n, 0] + p[1] * square[n, 1] + p[2] * square[n, 2]
        damping = -2 * np.pi**2 * np.exp(p[0]) * max(stretched, 0.0)
        bend = complex(0.0)
        for k in range(bent.shape[1]):
            bend += bent[n, k] * p[4 + k]
        bend = np.exp(bend)
        made[n] = 0
        for k in range(columns):
            at, exponent = COMMON + 4 * k, damping * width2[k]
            turn = -2 * np.pi * (orders[n, 0] * p[at + 1] + orders[n, 1] * p[at + 2])
            wave = height[k] * complex(np.cos(turn), np.sin(turn)) * bend
            core, wide = wave * np.exp(exponent), wave * np.exp(exponent * TAIL_WIDTH**2)
            each = (1 - tail) * core + tail * wide
            made[n] += each
            if len(by):
                by_exponent = ((1 - tail) * core + tail * TAIL_WIDTH**2 * wide) * exponent  # by its logarithm
                by[n, 0] += by_exponent
                by[n, 3] += (wide - core) * by_tail
                by[n, at] = each
                by[n, at + 1] = each * complex(0.0, -2 * np.pi * orders[n, 0])
                by[n, at + 2] = each * complex(0.0, -2 * np.pi * orders[n, 1])
                by[n, at + 3] = 2 * by_exponent
        if len(by):
            for axis in (1, 2):
                by[n, axis] = by[n, 0] * square[n, axis] / max(stretched, 1e-12)
            for k in range(bent.shape[1]):
                by[n, 4 + k] = made[n] * bent[n, k]


def tail_of(logit: float) -> float:
    """Part of a column's intensity in its tail."""
    return float(LARGEST_TAIL / (1 + np.exp(-logit)))


def waves_of(columns: Columns, seen: Coefficients) -> Complex:
    """Coefficients (n,) of orders that columns make, in the terms of `Coefficients`; without the bends of a fit."""
    g = seen.frequencies
    damping = -2 * np.pi**2 * np.einsum("ni,ij,nj->n", g, columns.spread_px2, g)
    exponent = damping[:, None] * columns.widths**2
    shape = (1 - columns.tail_part) * np.exp(exponent) + columns.tail_part * np.exp(exponent * TAIL_WIDTH**2)
    phase = np.exp(-2j * np.pi * (seen.orders @ columns.places.T))
    return np.asarray((2 * columns.intensity * shape * phase).sum(1))


def distances_px(places: Array, others: Array, vectors_px: Array) -> Array:
    """Distances from places (n, 2) to others (m, 2) of a periodic cell [px]; shape (n, m)."""
    return np.sqrt(_squares_px2(places, others, np.ascontiguousarray(vectors_px)))


@compiled("float64[:, ::1](float64[:, :], float64[:, :], float64[:, ::1])")
def _squares_px2(places: Array, others: Array, vectors_px: Array) -> Array:
    """Squared distances: see `distances_px`."""
    found = np.full((len(places), len(others)), np.inf)
    for n in range(len(places)):
        for m in range(len(others)):
            u, v = places[n, 0] - others[m, 0], places[n, 1] - others[m, 1]
            u, v = u - np.rint(u), v - np.rint(v)
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    row = (u + i) * vectors_px[0, 0] + (v + j) * vectors_px[1, 0]
                    col = (u + i) * vectors_px[0, 1] + (v + j) * vectors_px[1, 1]
                    found[n, m] = min(found[n, m], row * row + col * col)
    return found


class _Search:
    """Columns of one sign, added one by one; the best number of them is kept.

    With too few columns shapes go astray. So places, intensities and one width are fitted alone first, and where a fit
    of all is not sound the next column is sought from those; of a `narrow` search always, and the width waits, too.
    """

    def __init__(self, fit: _Fit, narrow: bool) -> None:
        self.fit, self._last, self._narrow = fit, fit.start, narrow
        self.criterion = np.inf
        self._best: Array | None = None

    def step(self) -> bool:
        """Add a column where the residual asks for one most; returns whether that pays."""
        p, fit = self._last, self.fit
        height = 0.3 * float(np.exp(p[COMMON::4]).max()) if len(p) > COMMON else 0.5 * float(np.abs(fit.data).max())
        p = np.concatenate([p, [np.log(height), *fit.next_place(p), 0.0]])
        placed = np.arange(len(p)) >= COMMON
        placed[0], placed[COMMON + 3 :: 4] = not self._narrow, False
        alone, criterion = fit.fitted(p, placed)
        tried, lower = fit.fitted(alone)
        p, criterion = (tried, lower) if fit.sound(tried) else (alone, criterion)
        self._last = alone if self._narrow else p
        pays = fit.sound(p) and criterion < self.criterion - MARGIN
        if pays:
            self._best, self.criterion = p, criterion
        return pays

    def pruned(self) -> Columns | None:
        """The best columns, without those that the criterion can do without.

        Two that are alike may each be done without where the other is left, and not both: then both are kept.
        """
        if self._best is None:
            return None
        p, criterion = kept, lowest = self._best, self.criterion
        while len(p) > COMMON + 4:
            columns = p[COMMON:].reshape(-1, 4)
            weakest = int(columns[:, 0].argmin())
            without, lower = self.fit.fitted(np.concatenate([p[:COMMON], np.delete(columns, weakest, 0).ravel()]))
            if lower > criterion + MARGIN or not self.fit.sound(without):
                break
            p, criterion = without, lower
            kept, lowest = (p, criterion) if criterion < lowest else (kept, lowest)
        p, criterion = (p, criterion) if criterion < lowest + MARGIN else (kept, lowest)
        return self.fit.result(p, criterion)
