"""Atomic columns in the lattice frame: their shape in an image's mean cell, and what a changed one would look like."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from oddlattice.crystal import CELL_PX, Column
from oddlattice.medians import median

Array = npt.NDArray[np.float64]

TAIL_WEIGHT, TAIL_WIDTH = (0.12, 0.2), (2.0, 0.4)  # typical, and how far from it [of the column's own]
CELL_ERROR = 0.01  # misfit of a mean cell that says nothing, of the local mean
REACH_PX = 7  # half width of a column's window in the lattice frame [px]: 0.35 cell


@dataclass(frozen=True)
class ColumnShape:
    """A bulk column as this image shows it.

    Attributes
    ----------
    site : str
    u, v : float
        Place in the cell, fractions of a and b.
    amplitude : float
        Height above the surroundings, in units of the local mean.
    precision : tuple of float
        (p_uu, p_uv, p_vv) of the Gaussian exp(-(p_uu du^2 + 2 p_uv du dv + p_vv dv^2) / 2) [1/cell^2].
    tail_weight, tail_width : float
        Height, over the amplitude, and width, over the width, of a second, wider Gaussian: thermal scattering and
        channelling spread a column's intensity under its neighbours.
    """

    site: str
    u: float
    v: float
    amplitude: float
    precision: tuple[float, float, float]
    tail_weight: float = 0.0
    tail_width: float = 2.0


def as_cells(tiles: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """View of a (U*20, V*20) map as (U, V, 20, 20) cells."""
    u, v = tiles.shape[0] // CELL_PX, tiles.shape[1] // CELL_PX
    return tiles.reshape(u, CELL_PX, v, CELL_PX).transpose(0, 2, 1, 3)


def sample_of(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Analysed cells (u, v) that stand for all of an image, evenly taken: 4,096 to 8,191 where there are more."""
    inside = np.argwhere(mask)
    return inside[:: max(1, len(inside) // 4096)]


def cells_at(tiles: npt.NDArray[np.floating], cells: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Cells (n, 20, 20) of tiles (U * 20, V * 20)."""
    return np.asarray(as_cells(tiles)[cells[:, 0], cells[:, 1]], dtype=np.float32)


def median_cell(cells: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Median of cells (n, 20, 20); shape (20, 20)."""
    return np.asarray(median(cells, axis=0), dtype=np.float64)


def mean_cell(tiles: npt.NDArray[np.floating], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Median cell over the analysed cells, or an even sample of them (`sample_of`); shape (20, 20)."""
    return median_cell(cells_at(tiles, sample_of(mask)))


def window_start_px(column: Column | ColumnShape) -> tuple[int, int]:
    """First (u, v) pixel of the column's window, from its cell's corner; the window has 2 REACH_PX + 2 px a side."""
    return int(np.floor(CELL_PX * column.u - 0.5)) - REACH_PX, int(np.floor(CELL_PX * column.v - 0.5)) - REACH_PX


def window_offsets(column: Column | ColumnShape, wider_px: int = 0) -> tuple[Array, Array]:
    """Distances (du, dv) of the window's pixels from the column [cells]; shapes (16, 1) and (1, 16).

    `wider_px` pixels more on every side widen the window.
    """
    start_u, start_v = (start - wider_px for start in window_start_px(column))
    line = np.arange(2 * (REACH_PX + wider_px) + 2) + 0.5
    return ((start_u + line) / CELL_PX - column.u)[:, None], ((start_v + line) / CELL_PX - column.v)[None, :]


def window_of_cell(cell: Array, column: Column | ColumnShape) -> Array:
    """The column's window cut from a periodic cell (20, 20); shape (16, 16)."""
    start_u, start_v = window_start_px(column)
    side = np.arange(2 * REACH_PX + 2)
    return cell[np.ix_((start_u + side) % CELL_PX, (start_v + side) % CELL_PX)]


def _gaussian(du: Array, dv: Array, precision: Array) -> Array:
    return np.asarray(np.exp(-(precision[0] * du**2 + 2 * precision[1] * du * dv + precision[2] * dv**2) / 2))


def fit_shape(cell: Array, column: Column) -> ColumnShape:
    """Fit a Gaussian on a level to a column of the mean cell (20, 20), within 0.3 cell.

    Raises
    ------
    ValueError
        If the cell shows no peak at the column's place.
    """
    du, dv = window_offsets(column)
    window = window_of_cell(cell, column)
    near = du**2 + dv**2 < 0.3**2
    level, height = float(window[near].min()), float(np.ptp(window[near]))

    def misfit(p: Array) -> Array:
        model = p[0] + p[1] * _gaussian(du - p[5], dv - p[6], p[2:5])
        return np.asarray((model - window)[near])

    low = [-np.inf, 0.0, 8.0, -300.0, 8.0, -0.1, -0.1]
    high = [np.inf, np.inf, 800.0, 300.0, 800.0, 0.1, 0.1]
    start = [level, max(height, 1e-6), 80.0, 0.0, 80.0, 0.0, 0.0]
    found = least_squares(misfit, start, bounds=(low, high), x_scale=[1, 1, 50, 50, 50, 0.05, 0.05]).x
    determinant = found[2] * found[4] - found[3] ** 2
    if found[1] <= 1e-6 or determinant <= 0:
        raise ValueError(f"no peak at the {column.site} column (u = {column.u:.2f}, v = {column.v:.2f})")
    return ColumnShape(
        column.site, column.u, column.v, float(found[1]), (float(found[2]), float(found[3]), float(found[4]))
    )


def fit_shapes(cell: Array, columns: tuple[Column, ...]) -> list[ColumnShape]:
    """Shapes of the tested columns of a mean cell (20, 20), with their tails; one that shows no peak is left out.

    The whole cell is fitted at once, by its Fourier coefficients: every tested column a Gaussian and a wider one of
    the same centre, every other column a Gaussian, on a level that is not negative. Tails and level are told apart
    because tails are wavy. Where the cell says little of them, they stay near what is typical.
    """
    starts = []
    for column in columns:
        try:
            starts += [fit_shape(cell, column)] if column.tested else []
        except ValueError as error:
            print(f"not tested: {error}")
    if not starts:
        return []
    known = {(start.u, start.v) for start in starts}
    light = [(column.u, column.v) for column in columns if (column.u, column.v) not in known]
    lines = np.fft.fftfreq(CELL_PX, 1 / CELL_PX), np.fft.rfftfreq(CELL_PX, 1 / CELL_PX)
    order = lines[0].astype(np.float64)[:, None], lines[1].astype(np.float64)[None, :]
    half_pixel = np.exp(-1j * np.pi * (order[0] + order[1]) / CELL_PX)
    seen = np.fft.rfft2(cell) * half_pixel / CELL_PX**2
    phases = [np.exp(-2j * np.pi * (order[0] * u + order[1] * v)) for u, v in (*((s.u, s.v) for s in starts), *light)]
    n = len(starts)

    def model(p: Array) -> npt.NDArray[np.complex128]:
        each, width, rest = p[1 : 1 + 5 * n].reshape(n, 5), p[1 + 5 * n], p[2 + 5 * n :]
        total = np.zeros(seen.shape, dtype=np.complex128)
        total[0, 0] = p[0]
        for (height, p_uu, p_uv, p_vv, tail), phase in zip(each, phases, strict=False):
            decay, area = _spectrum_of_gaussian(order, (p_uu, p_uv, p_vv))
            total += height * area * (decay + tail * width**2 * decay ** (width**2)) * phase
        decay, area = _spectrum_of_gaussian(order, tuple(each[:, 1:4].mean(axis=0)))
        for height, phase in zip(rest, phases[n:], strict=True):
            total += height * area * decay * phase
        return total

    def misfit(p: Array) -> Array:
        off = (model(p) - seen) * np.where((order[1] == 0) | (order[1] == CELL_PX / 2), 1.0, np.sqrt(2)) * CELL_PX
        typical = [(p[1 + 5 * n] - TAIL_WIDTH[0]) / TAIL_WIDTH[1], *((p[5::5][:n] - TAIL_WEIGHT[0]) / TAIL_WEIGHT[1])]
        return np.concatenate([off.real.ravel() / CELL_ERROR, off.imag.ravel() / CELL_ERROR, typical])

    first = [max(0.3 * float(cell.min()), 1e-3)]
    first += [x for s in starts for x in (0.95 * s.amplitude, *s.precision, TAIL_WEIGHT[0])]
    first += [TAIL_WIDTH[0]] + [0.05] * len(light)
    low = [0.0, *([0.0, 8.0, -300.0, 8.0, 0.0] * n), 1.6, *([0.0] * len(light))]
    high = [np.inf, *([np.inf, 1200.0, 300.0, 1200.0, 1.0] * n), 3.0, *([np.inf] * len(light))]
    scale = [0.1, *([1.0, 50.0, 50.0, 50.0, 0.1] * n), 0.5, *([0.1] * len(light))]
    start = np.clip(first, np.add(low, 1e-6), np.subtract(high, 1e-6))
    found = least_squares(misfit, start, bounds=(low, high), x_scale=scale, max_nfev=200).x
    shapes = []
    for s, (height, p_uu, p_uv, p_vv, tail) in zip(starts, found[1 : 1 + 5 * n].reshape(n, 5), strict=True):
        if height <= 1e-6 or p_uu * p_vv <= p_uv**2:
            shapes.append(s)
            continue
        precision = (float(p_uu), float(p_uv), float(p_vv))
        shapes.append(ColumnShape(s.site, s.u, s.v, float(height), precision, float(tail), float(found[1 + 5 * n])))
    return shapes


def _spectrum_of_gaussian(order: tuple[Array, Array], precision: tuple[float, ...]) -> tuple[Array, float]:
    """Fourier coefficients of a periodic Gaussian [1/cell^2] over that of order 0, and that one."""
    p_uu, p_uv, p_vv = precision
    determinant = max(p_uu * p_vv - p_uv**2, 1e-3)
    square = (p_vv * order[0] ** 2 - 2 * p_uv * order[0] * order[1] + p_uu * order[1] ** 2) / determinant
    return np.asarray(np.exp(-2 * np.pi**2 * square)), float(2 * np.pi / np.sqrt(determinant))


def peak_at(shape: ColumnShape, du: Array, dv: Array) -> Array:
    """The column's peak at distances (du, dv) from it [cells], in units of the local mean."""
    precision = np.array(shape.precision)
    core = shape.amplitude * _gaussian(du, dv, precision)
    if not shape.tail_weight:
        return core
    tail = shape.amplitude * shape.tail_weight * _gaussian(du, dv, precision / shape.tail_width**2)
    return np.asarray(core + tail)


def signatures(shape: ColumnShape, vectors_pm: Array) -> Array:
    """What a small change of the column adds to the image.

    Parameters
    ----------
    vectors_pm : ndarray of shape (2, 2)
        Lattice vectors a and b as rows, (row, col) [pm].

    Returns
    -------
    ndarray of shape (3, 16, 16)
        Per unit of relative intensity; per pm of displacement along row; per pm along col.
    """
    du, dv = window_offsets(shape)
    precision = np.array(shape.precision)
    by_u, by_v = np.zeros((2, du.shape[0], dv.shape[1]))
    for weight, width in ((1.0, 1.0), (shape.tail_weight, shape.tail_width)):
        p_uu, p_uv, p_vv = precision / width**2
        part = shape.amplitude * weight * _gaussian(du, dv, precision / width**2)
        by_u += part * (p_uu * du + p_uv * dv)  # minus the slope: a column moved along +u
        by_v += part * (p_uv * du + p_vv * dv)
    to_uv = np.linalg.inv(vectors_pm)  # (row, col) [pm] @ to_uv = (u, v) [cells]
    along_row, along_col = (to_uv[axis, 0] * by_u + to_uv[axis, 1] * by_v for axis in (0, 1))
    return np.stack([peak_at(shape, du, dv), along_row, along_col])


def column_cells(mask: npt.NDArray[np.uint8], column: Column | ColumnShape) -> npt.NDArray[np.intp]:
    """Cells (u, v) whose column has its whole window on analysed cells; shape (n, 2)."""
    start_u, start_v = window_start_px(column)
    good = mask.astype(bool)
    for axis, start in ((0, start_u), (1, start_v)):
        first, last = start // CELL_PX, (start + 2 * REACH_PX + 1) // CELL_PX
        merged = np.ones_like(good)
        for step in range(first, last + 1):
            rolled = np.roll(good, -step, axis)
            edge = [slice(None), slice(None)]
            if step:
                edge[axis] = slice(-step, None) if step > 0 else slice(None, -step)
                rolled[tuple(edge)] = False
            merged &= rolled
        good = merged
    return np.argwhere(good)


def cut_windows(
    tiles: npt.NDArray[np.floating], column: Column | ColumnShape, cells: npt.NDArray[np.intp]
) -> npt.NDArray[np.floating]:
    """The column's window in each of `cells`; shape (n, 16, 16)."""
    start_u, start_v = window_start_px(column)
    side = 2 * REACH_PX + 2
    view = np.lib.stride_tricks.sliding_window_view(tiles, (side, side))
    return view[cells[:, 0] * CELL_PX + start_u, cells[:, 1] * CELL_PX + start_v]
