"""The shape of the columns in an image's mean cell, by least squares with slopes written out."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from oddlattice.crystal import PX_PER_CELL, Column
from oddlattice.lattice.columns import ColumnShape, gaussian, window_of_cell, window_offsets
from oddlattice.numerics.arrays import Array

TAIL_WEIGHT, TAIL_WIDTH = (0.12, 0.2), (2.0, 0.4)  # typical, and how far from it [of the column's own]
FIT_PX = 6.0  # radius in which a column is fitted by itself
WIDEST_PX, WIDER = 4.0, 0.1  # of a column, and ln of how far beyond: a wider one shows no width of its own
CELL_ERROR = 0.01  # misfit of a mean cell that says nothing, of the local mean


def fit_shape(cell: Array, column: Column) -> ColumnShape:
    """Fit a Gaussian on a level to a column of the mean cell (n_u, n_v), within FIT_PX.

    Raises
    ------
    ValueError
        If the cell shows no peak at the column's place.
    """
    at = ColumnShape(column.site, column.u, column.v, 1.0, (1.0, 0.0, 1.0), px_per_cell=(cell.shape[0], cell.shape[1]))
    du, dv = np.broadcast_arrays(*window_offsets(at))
    near = (du * cell.shape[0]) ** 2 + (dv * cell.shape[1]) ** 2 < FIT_PX**2
    window, du, dv = window_of_cell(cell, at)[near], du[near], dv[near]
    level, height = float(window.min()), float(np.ptp(window))

    def misfit(p: Array) -> Array:
        return np.asarray(p[0] + p[1] * gaussian(du - p[5], dv - p[6], p[2:5]) - window)

    def slopes(p: Array) -> Array:
        u, v = du - p[5], dv - p[6]
        bell = gaussian(u, v, p[2:5])
        peak = p[1] * bell
        by_precision = (-peak * u**2 / 2, -peak * u * v, -peak * v**2 / 2)
        by_place = (peak * (p[2] * u + p[3] * v), peak * (p[3] * u + p[4] * v))
        return np.stack([np.ones_like(u), bell, *by_precision, *by_place], axis=1)

    uu, uv, vv, u, v = _units(cell)
    low = [-np.inf, 0.0, 8.0 * uu, -300.0 * uv, 8.0 * vv, -0.1 * u, -0.1 * v]
    high = [np.inf, np.inf, 800.0 * uu, 300.0 * uv, 800.0 * vv, 0.1 * u, 0.1 * v]
    start = [level, max(height, 1e-6), 80.0 * uu, 0.0, 80.0 * vv, 0.0, 0.0]
    scale = [1, 1, 50 * uu, 50 * uv, 50 * vv, 0.05 * u, 0.05 * v]
    found = least_squares(misfit, start, jac=slopes, bounds=(low, high), x_scale=scale).x
    determinant = found[2] * found[4] - found[3] ** 2
    if found[1] <= 1e-6 or determinant <= 0:
        raise ValueError(f"no peak at the {column.site} column (u = {column.u:.2f}, v = {column.v:.2f})")
    precision = (float(found[2]), float(found[3]), float(found[4]))
    return replace(at, amplitude=float(found[1]), precision=precision)


def _units(cell: Array) -> tuple[float, float, float, float, float]:
    """Factors on precisions (uu, uv, vv) and distances (u, v) of a 20 x 20 px cell: in pixels, columns are alike."""
    u, v = (n / square for n, square in zip(cell.shape, PX_PER_CELL, strict=True))
    return u**2, u * v, v**2, 1 / u, 1 / v


def fit_shapes(cell: Array, columns: tuple[Column, ...]) -> list[ColumnShape]:
    """Shapes of the tested columns of a mean cell (n_u, n_v), with their tails; one that shows no peak is left out.

    The whole cell is fitted at once, by its Fourier coefficients: every tested column a Gaussian and a wider one of
    the same centre, every other column a Gaussian, on a level that is not negative. Tails and level are told apart
    because tails are wavy. Where the cell says little of them, they stay near what is typical; and where columns are so
    wide that they merge, height and width are told only together: they stay near the widest that are told apart.
    """
    starts = []
    for number, column in enumerate(columns):
        try:
            starts += [replace(fit_shape(cell, column), column=number)] if column.tested else []
        except ValueError as error:
            print(f"not tested: {error}")
    if not starts:
        return []
    known = {(start.u, start.v) for start in starts}
    light = [(column.u, column.v) for column in columns if (column.u, column.v) not in known]
    model = _MeanCell(cell, [*((start.u, start.v) for start in starts), *light], len(starts))
    n = model.peaks
    first = [max(0.3 * float(cell.min()), 1e-3)]
    first += [x for s in starts for x in (0.95 * s.amplitude, *s.precision, TAIL_WEIGHT[0])]
    first += [TAIL_WIDTH[0]] + [0.05] * len(light)
    uu, uv, vv, *_ = _units(cell)
    low = [0.0, *([0.0, 8.0 * uu, -300.0 * uv, 8.0 * vv, 0.0] * n), 1.6, *([0.0] * len(light))]
    high = [np.inf, *([np.inf, 1200.0 * uu, 300.0 * uv, 1200.0 * vv, 1.0] * n), 3.0, *([np.inf] * len(light))]
    scale = [0.1, *([1.0, 50.0 * uu, 50.0 * uv, 50.0 * vv, 0.1] * n), 0.5, *([0.1] * len(light))]
    start = np.clip(first, np.add(low, 1e-6), np.subtract(high, 1e-6))
    fit = least_squares(model.misfit, start, jac=model.slopes, bounds=(low, high), x_scale=scale, max_nfev=200)
    shapes = []
    for s, (height, p_uu, p_uv, p_vv, tail) in zip(starts, fit.x[1 : 1 + 5 * n].reshape(n, 5), strict=True):
        if height <= 1e-6 or p_uu * p_vv <= p_uv**2:
            shapes.append(s)
            continue
        precision = (float(p_uu), float(p_uv), float(p_vv))
        width = float(fit.x[1 + 5 * n])
        shapes.append(
            replace(s, amplitude=float(height), precision=precision, tail_weight=float(tail), tail_width=width)
        )
    return shapes


class _MeanCell:
    """Fourier coefficients of a mean cell, as columns make them, against those that are seen.

    Parameters are the level; height, precision (3) and weight of the tail of each of the first `peaks` columns; the
    width of all tails; the height of each other column, which is as wide as the first ones are on average.
    """

    def __init__(self, cell: Array, places: list[tuple[float, float]], peaks: int) -> None:
        n_u, n_v = cell.shape
        lines = np.fft.fftfreq(n_u, 1 / n_u), np.fft.rfftfreq(n_v, 1 / n_v)
        # half of the coefficients stand for two, but those of the first and of the last order
        weight = np.where((lines[1] == 0) | (lines[1] == n_v / 2), 1.0, np.sqrt(2)) / CELL_ERROR
        u, v = (line.ravel() for line in np.meshgrid(*lines, indexing="ij"))
        self._order, self._weight = (u, v), np.tile(weight, n_u)
        common = int(np.lcm(n_u, n_v))
        half_pixel = np.exp(-1j * np.pi * (u * (common // n_u) + v * (common // n_v)) / common)
        self._seen = np.fft.rfft2(cell).ravel() * half_pixel / (n_u * n_v)
        self._phases = [np.exp(-2j * np.pi * (u * place[0] + v * place[1])) for place in places]
        self.peaks = peaks
        self._px2 = float(n_u * n_v)

    def _too_wide(self, each: Array) -> tuple[Array, Array]:
        """How much wider than WIDEST_PX columns are, in WIDER, and its slopes by the precision; shapes (n,), (n, 3)."""
        p_uu, p_uv, p_vv = each[:, 1:4].T
        determinant = p_uu * p_vv - p_uv**2
        known = np.maximum(determinant, 1e-3)
        beyond = np.log(self._px2 / WIDEST_PX**2) / 2 - np.log(known) / 4
        slopes = -np.stack([p_vv, -2 * p_uv, p_uu], axis=1) / known[:, None] / 4
        return np.maximum(beyond, 0) / WIDER, slopes * ((beyond > 0) & (determinant > 1e-3))[:, None] / WIDER

    def _parts(self, p: Array) -> tuple[Array, float, Array]:
        n = self.peaks
        return p[1 : 1 + 5 * n].reshape(n, 5), float(p[1 + 5 * n]), p[2 + 5 * n :]

    def misfit(self, p: Array) -> Array:
        """Weighted difference, real and imaginary parts, how far tails are from typical ones, widths from too wide."""
        each, width, rest = self._parts(p)
        total = -self._seen
        total[0] += p[0]
        for (height, *precision, tail), phase in zip(each, self._phases, strict=False):
            log_decay, area, _ = self._gaussian(precision)
            wide = tail * width**2 * np.exp(width**2 * log_decay)
            total += height * area * (np.exp(log_decay) + wide) * phase
        log_decay, area, _ = self._gaussian(each[:, 1:4].mean(axis=0))
        for height, phase in zip(rest, self._phases[self.peaks :], strict=True):
            total += height * area * np.exp(log_decay) * phase
        total *= self._weight
        typical = [(width - TAIL_WIDTH[0]) / TAIL_WIDTH[1], *((each[:, 4] - TAIL_WEIGHT[0]) / TAIL_WEIGHT[1])]
        return np.concatenate([total.real, total.imag, typical, self._too_wide(each)[0]])

    def slopes(self, p: Array) -> Array:
        """Derivatives of the misfit; shape (misfits, parameters)."""
        each, width, rest = self._parts(p)
        n, wide = self.peaks, width**2
        by = np.zeros((len(p), len(self._seen)), dtype=np.complex128)
        by[0, 0] = 1.0
        for k, ((height, *precision, tail), phase) in enumerate(zip(each, self._phases, strict=False)):
            log_decay, area, (by_area, by_decay) = self._gaussian(precision)
            core, broad = area * np.exp(log_decay) * phase, area * wide * np.exp(wide * log_decay) * phase
            at = 1 + 5 * k
            by[at] = core + tail * broad
            for axis in range(3):
                of_core, of_broad = by_area[axis] + by_decay[axis], by_area[axis] + wide * by_decay[axis]
                by[at + 1 + axis] = height * (core * of_core + tail * broad * of_broad)
            by[at + 4] = height * broad
            by[1 + 5 * n] += height * tail * broad * 2 * (1 / width + width * log_decay)
        log_decay, area, (by_area, by_decay) = self._gaussian(each[:, 1:4].mean(axis=0))
        for k, (height, phase) in enumerate(zip(rest, self._phases[n:], strict=True)):
            core = area * np.exp(log_decay) * phase
            by[2 + 5 * n + k] = core
            for axis in range(3):
                by[2 + axis : 1 + 5 * n : 5] += height * core * (by_area[axis] + by_decay[axis]) / n
        by *= self._weight
        wide_by = np.zeros((len(p), n))
        for axis in range(3):
            wide_by[2 + axis + 5 * np.arange(n), np.arange(n)] = self._too_wide(each)[1][:, axis]
        typical = np.zeros((len(p), 1 + n))
        typical[1 + 5 * n, 0] = 1 / TAIL_WIDTH[1]
        typical[5 + 5 * np.arange(n), 1 + np.arange(n)] = 1 / TAIL_WEIGHT[1]
        return np.concatenate([by.real, by.imag, typical, wide_by], axis=1).T

    def _gaussian(self, precision: npt.ArrayLike) -> tuple[Array, float, tuple[Array, Array]]:
        """Coefficients of a periodic Gaussian: that of order 0, the others' logarithm over it; slopes of logarithms."""
        (p_uu, p_uv, p_vv), (u, v) = np.asarray(precision), self._order
        determinant = max(p_uu * p_vv - p_uv**2, 1e-3)
        # not negative: what is no ellipse on the way to the best fit must not grow without bounds
        square = np.maximum(p_vv * u**2 - 2 * p_uv * u * v + p_uu * v**2, 0.0) / determinant
        by_determinant = np.array([p_vv, -2 * p_uv, p_uu]) / determinant
        by_square = np.stack([v**2, -2 * u * v, u**2]) / determinant - by_determinant[:, None] * square
        area = float(2 * np.pi / np.sqrt(determinant))
        return -2 * np.pi**2 * square, area, (-by_determinant / 2, -2 * np.pi**2 * by_square)
