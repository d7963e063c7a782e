"""Row shifts: the scan's jitter, one number for every row, from laying the whole row on the rendered mean cell."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from oddlattice.lattice.cell_statistics import CellStatistics
from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.frame import Frame, lifted
from oddlattice.lattice.grid import strips
from oddlattice.lattice.mean_cell import TABLE, MeanCell
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.local_plane import finite, local_plane
from oddlattice.numerics.medians import median

Index = npt.NDArray[np.int32]
Places = npt.NDArray[np.uint32]
ZERO = np.float32(0)
REACH_PX = 4  # whole-pixel shifts tried when a row is laid on the template


@dataclass(frozen=True)
class ColumnShifts:
    """Evidence of every column's own displacement along the fast axis, in bins of half a cell.

    A bin is centred on a multiple of half a lattice vector, where the columns of most cells are.

    Attributes
    ----------
    push, information : ndarray of shape (2 U + 2, 2 V + 2)
        Sums of slope times residual and of slope squared, weighted by the inverse variance.
    """

    push: Array
    information: Array

    def outliers(self, sigmas: float = 4.0) -> npt.NDArray[np.bool_]:
        """Bins pushed further than their neighbours: they must not move the rows they lie in."""
        some = self.information > 0
        if not some.any():
            return some
        seen = self.information > 0.2 * float(np.median(self.information[some]))
        score = np.where(seen, self.push / np.sqrt(np.maximum(self.information, 1e-12)), 0.0)
        spread = 1.4826 * float(np.median(np.abs(score[seen])))
        return np.asarray(np.abs(score) > sigmas * max(spread, 1e-9))


def _low(first: tuple[int, int]) -> tuple[float, float]:
    """Whole (u, v) below those of all pixels, so that cutting off the fraction of what is above is the floor."""
    return first[0] - 4.0, first[1] - 4.0


@compiled("void(uint32[::1], float32[::1], float32[::1], UniTuple(float32, 2))")
def _places_of(places: Places, u: Float, v: Float, low: tuple[float, float]) -> None:
    """Places in the tables of a line of pixels; `low`: see `_low`."""
    for c in range(len(places)):
        i = np.int32((u[c] - low[0]) * np.float32(TABLE)) & (TABLE - 1)
        j = np.int32((v[c] - low[1]) * np.float32(TABLE)) & (TABLE - 1)
        places[c] = i * TABLE + j


@compiled("uint32[:, ::1](float32[:, ::1], float32[:, ::1], float32, float32)")
def _table_index(u: Float, v: Float, low_u: float, low_v: float) -> Places:
    """Index into the tables; (low_u, low_v) see `_low`."""
    index = np.empty(u.shape, np.uint32)
    for r in range(u.shape[0]):
        _places_of(index[r], u[r], v[r], (low_u, low_v))
    return index


def places_in_tables(frame: Frame, uv: Float) -> Places:
    """Index into the mean cell's tables at lattice coordinates (2, rows, cols); shape (rows, cols)."""
    return _table_index(uv[0], uv[1], *_low(frame.first_and_count[0]))


def slopes_along_line(mean_cell: MeanCell, frame: Frame, uv: Float, row_shift_px: Array) -> tuple[Float, Float]:
    """The mean cell's deviation (rows, cols) and its slope along the lines [1/px], each line shifted."""
    along = np.linalg.inv(frame.vectors_px)[1].astype(np.float32)
    shift = row_shift_px[:, None].astype(np.float32)
    index = _table_index(uv[0] + shift * along[0], uv[1] + shift * along[1], *_low(frame.first_and_count[0]))
    seen = mean_cell.tables[index]
    return seen[..., 0], seen[..., 1] * along[0] + seen[..., 2] * along[1]


def coarse_row_shifts(image: Float, flattener: Flattener, frame: Frame, mean_cell: MeanCell) -> Array:
    """Shift of each row that lays it best on the rendered mean cell, by correlation; shape (rows,) [px].

    The correlation is computed at whole pixels and interpolated.
    """
    value = mean_cell.values
    uv, quality = lifted(flattener, frame)
    per_col = np.hypot(*np.linalg.inv(frame.vectors_px)[1])
    reach = int(np.clip(0.3 / per_col, 1, REACH_PX))
    low = _low(frame.first_and_count[0])
    shifts = np.zeros(frame.shape[0])
    for rows in strips(frame.shape):
        flat = flattener.flat(image, rows)
        flat *= quality.strip(rows)[0] > 0.5
        if not flat.any():
            continue
        u, v = uv.strip(rows)
        template = value[_table_index(u, v, *low)]
        inner = flat[:, reach:-reach]
        overlap = np.stack(
            [
                np.einsum("rc,rc->r", inner, template[:, reach + k : template.shape[1] - reach + k])
                for k in range(-reach, reach + 1)
            ],
            axis=1,
        )
        shifts[rows] = _peak_of(overlap)
    return shifts


def _peak_of(overlap: Float) -> Array:
    """Place of the maximum of each row of correlations at whole steps, by cubic splines, relative to the middle."""
    steps = overlap.shape[1]
    fine, between = _splines(steps)
    curves = overlap @ between
    best = curves.argmax(1)
    inner = (best > 0) & (best < len(fine) - 1) & (overlap.max(1) > 0)
    return np.where(inner, fine[best] - (steps - 1) / 2, 0.0)


@cache
def _splines(steps: int) -> tuple[Array, Array]:
    """Places between so many whole steps (n,), and the matrix (steps, n) that interpolates to them by cubic splines."""
    fine = np.linspace(0, steps - 1, 32 * (steps - 1) + 1)
    return fine, CubicSpline(np.arange(steps), np.eye(steps))(fine).T


def fine_pass(
    image: Float,
    flattener: Flattener,
    frame: Frame,
    mean_cell: MeanCell,
    row_shift_px: Array,
    odd: npt.NDArray[np.bool_] | None = None,
    by_cell: bool = True,
) -> tuple[Array, Array, CellStatistics, ColumnShifts]:
    """One Gauss-Newton step of every row's shift, and sums with the step taken, over cells or over half cells.

    A row is laid on the template: (image - template) is regressed on the template's slope along the row, over the
    whole row, with clipped residuals.

    Parameters
    ----------
    odd : ndarray of shape (2 U + 2, 2 V + 2), bool, optional
        Bins (see `ColumnShifts`) whose pixels are left out: a displaced column would drag its rows along.
    by_cell : bool
        Whether the statistics of cells are summed, or the pushes; the other stays 0.

    Returns
    -------
    row_shift_px : ndarray of shape (rows,)
    sigma_px : ndarray of shape (rows,)
        Standard errors; infinite where the row shows no lattice.
    statistics : CellStatistics
    column_shifts : ColumnShifts
    """
    tables = mean_cell.tables
    uv, quality = lifted(flattener, frame)
    along = np.linalg.inv(frame.vectors_px)[1].astype(np.float32)
    first, (n_u, n_v) = frame.first_and_count
    low = _low(first)
    left_out = np.zeros((0, 0), dtype=bool) if odd is None else odd
    cells, halves = (n_u, n_v), (2 * n_u + 2, 2 * n_v + 2)
    sums, bins = np.zeros((n_u * n_v, 8)), np.zeros((halves[0] * halves[1], 2))
    shifts, sigmas = np.zeros(frame.shape[0]), np.full(frame.shape[0], np.inf)
    for rows in strips(frame.shape):
        residual, (u, v), weight = flattener.flat(image, rows), uv.strip(rows), quality.strip(rows)[0]
        before = row_shift_px[rows].astype(np.float32)
        line = _variance_line(residual, u, v, before, along, low, tables, weight)
        index = np.empty(residual.shape, np.uint32)
        information, pull = _row_sums(residual, u, v, before, along, low, tables, weight, index, line, first, left_out)
        step, sigmas[rows] = _step(information, pull)
        shifts[rows] = np.where(np.isfinite(sigmas[rows]), row_shift_px[rows] + step, 0.0)
        moved = step.astype(np.float32)
        if by_cell:
            counts = finite(image[rows])
            _add_to_cells(sums, residual, index, tables, u, v, moved, along, first, cells, counts)
        else:
            _add_to_bins(bins, residual, index, tables, u, v, moved, along, first, halves, weight)
    sums[:, 1] += flattener.pedestal * sums[:, 0]
    statistics = CellStatistics(first, *np.ascontiguousarray(sums.T).reshape(8, n_u, n_v))
    return shifts, sigmas, statistics, ColumnShifts(*np.ascontiguousarray(bins.T).reshape(2, *halves))


def _step(information: Array, pull: Array) -> tuple[Array, Array]:
    """Steps of the rows' shifts [px], and their standard errors: infinite where a row shows no lattice."""
    whole = float(np.median(information[information > 0])) if (information > 0).any() else 1.0
    enough = information > 0.05 * whole
    step = np.clip(np.where(enough, pull / np.maximum(information, 1e-12), 0.0), -1.0, 1.0)
    return step, np.where(enough, 1 / np.sqrt(np.maximum(information, 1e-12)), np.inf)


def _variance_line(
    flat: Float,
    u: Float,
    v: Float,
    before: Float,
    along: Float,
    low: tuple[float, float],
    tables: Float,
    quality: Float,
) -> tuple[float, float, float]:
    """Variance of a pixel as a straight line in its expected deviation: value at 0, slope and floor; by a sample.

    Of lines each moved by `before` [px], at lattice coordinates (u, v).
    """
    some = (slice(None, None, 4), slice(None, None, 3))
    kept = quality[some] > 0.5
    if kept.sum() < 100:
        return 1.0, 0.0, 1.0
    moved = before[::4, None]
    index = _table_index(u[some] + moved * along[0], v[some] + moved * along[1], *low)
    template = tables[index[kept], 0]
    square = (flat[some][kept] - template).astype(np.float64) ** 2
    level = template.astype(np.float64)
    square = np.minimum(square, 12 * median(square) + 1e-12)
    middle, mean = float(level.mean()), float(square.mean())
    slope = float(((level - middle) * square).mean()) / max(float(level.var()), 1e-12)
    slope = min(max(slope, 0.0), mean / max(middle - float(level.min()), 1e-9) * 0.9)
    return mean - slope * middle, slope, 0.05 * mean + 1e-12


@compiled(
    "UniTuple(float64[::1], 2)(float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[::1], float32[::1],"
    "UniTuple(float32, 2), float32[:, ::1], float32[:, ::1], uint32[:, ::1], UniTuple(float64, 3), UniTuple(int64, 2),"
    "boolean[:, ::1])"
)
def _row_sums(
    flat: Float,
    u: Float,
    v: Float,
    before: Float,
    along: Float,
    low: tuple[float, float],
    tables: Float,
    weight: Float,
    index: Places,
    line: tuple[float, float, float],
    first: tuple[int, int],
    left_out: npt.NDArray[np.bool_],
) -> tuple[Array, Array]:
    """Sums over each row of weighted slope squared, and of slope times residual, clipped at four sigma.

    In place, `flat` becomes the residual beside the mean cell; `u` and `v` are moved; `weight`, the lattice's quality,
    becomes 1 / variance, 0 outside the crystal and in bins left out; `index` is filled with places in the tables.
    """
    out, half, near = left_out.reshape(-1), np.float32(0.5), np.empty(flat.shape[1], np.int32)
    information, pull = np.zeros(len(flat)), np.zeros(len(flat))
    template, told = np.empty((3, flat.shape[1]), np.float32), np.empty((2, flat.shape[1]), np.float32)
    for r in range(flat.shape[0]):
        by_u, by_v = before[r] * along[0], before[r] * along[1]
        for c in range(flat.shape[1]):
            u[r, c] += by_u
            v[r, c] += by_v
        _places_of(index[r], u[r], v[r], low)
        if len(out):
            _bins_of(near, 2 * u[r] + half, 2 * v[r] + half, 2.0, first, left_out.shape)
            for c in range(len(near)):
                if out[near[c]]:
                    weight[r, c] = 0
        for c in range(flat.shape[1]):
            i = index[r, c]
            template[0, c], template[1, c], template[2, c] = tables[i, 0], tables[i, 1], tables[i, 2]
        _told_by(told, flat[r], weight[r], template, along, line)
        of_slope, of_residual = 0.0, 0.0
        for c in range(flat.shape[1]):
            of_slope += told[0, c]
            of_residual += told[1, c]
        information[r], pull[r] = of_slope, of_residual
    return information, pull


@compiled("void(float32[:, ::1], float32[::1], float32[::1], float32[:, ::1], float32[::1], UniTuple(float64, 3))")
def _told_by(
    told: Float, flat: Float, weight: Float, template: Float, along: Float, line: tuple[float, float, float]
) -> None:
    """What each pixel of a line adds to its sums (2, cols): see `_row_sums`; `template` is the mean cell and slopes."""
    at_zero, by_level, floor = np.float32(line[0]), np.float32(line[1]), np.float32(line[2])
    half, least, four, level = np.float32(0.5), np.float32(1e-12), np.float32(4), template[0]
    for c in range(len(flat)):
        variance = at_zero + by_level * level[c]
        w = np.float32(1) / (variance if variance > floor else floor)
        w = w if weight[c] > half else ZERO
        slope = template[1, c] * along[0] + template[2, c] * along[1]
        limit = four / np.sqrt(w if w > least else least)
        residual = flat[c] - level[c]
        flat[c], weight[c] = residual, w
        residual = residual if residual > -limit else -limit
        told[0, c] = w * slope * slope
        told[1, c] = w * slope * (residual if residual < limit else limit)


@compiled("void(int32[::1], float32[::1], float32[::1], float32, UniTuple(int64, 2), UniTuple(int64, 2))")
def _bins_of(bins: Index, u: Float, v: Float, parts: float, first: tuple[int, int], shape: tuple[int, int]) -> None:
    """Bins of a line of pixels, `parts` of them to a cell, cells from `first` on, within an array of `shape`."""
    low_u, low_v = np.int32(parts * first[0]), np.int32(parts * first[1])
    most_u, most_v = np.int32(shape[0] - 1), np.int32(shape[1] - 1)
    for c in range(len(bins)):
        i = min(max(np.int32(np.floor(u[c])) - low_u, np.int32(0)), most_u)
        j = min(max(np.int32(np.floor(v[c])) - low_v, np.int32(0)), most_v)
        bins[c] = i * np.int32(shape[1]) + j


@compiled(
    "void(float64[:, ::1], float32[:, ::1], uint32[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1],"
    "float32[::1], float32[::1], UniTuple(int64, 2), UniTuple(int64, 2), float32[:, ::1])"
)
def _add_to_bins(
    bins: Array,
    residual: Float,
    index: Places,
    tables: Float,
    u: Float,
    v: Float,
    moved: Float,
    along: Float,
    first: tuple[int, int],
    shape: tuple[int, int],
    weight: Float,
) -> None:
    """Add up, by bins, slope times the residual that is left when each row is moved, and slope squared."""
    half, near = np.float32(0.5), np.empty(residual.shape[1], np.int32)
    for r in range(residual.shape[0]):
        _bins_of(near, 2 * u[r] + half, 2 * v[r] + half, 2.0, first, shape)
        end = 0
        while end < len(near):
            here, push, information = near[end], ZERO, ZERO
            while end < len(near) and near[end] == here:
                i = index[r, end]
                slope = tables[i, 1] * along[0] + tables[i, 2] * along[1]
                push += weight[r, end] * slope * (residual[r, end] - slope * moved[r])
                information += weight[r, end] * slope * slope
                end += 1
            bins[here, 0] += push
            bins[here, 1] += information


@compiled(
    "void(float64[:, ::1], float32[:, ::1], uint32[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1],"
    "float32[::1], float32[::1], UniTuple(int64, 2), UniTuple(int64, 2), float32[:, :])"
)
def _add_to_cells(
    sums: Array,
    residual: Float,
    index: Places,
    tables: Float,
    u: Float,
    v: Float,
    moved: Float,
    along: Float,
    first: tuple[int, int],
    shape: tuple[int, int],
    counts: Float,
) -> None:
    """Add up, by cells, what `CellStatistics` holds, with each row moved."""
    near = np.empty(residual.shape[1], np.int32)
    for r in range(residual.shape[0]):
        _bins_of(near, u[r] + moved[r] * along[0], v[r] + moved[r] * along[1], 1.0, first, shape)
        end = 0
        while end < len(near):
            here, start = near[end], end
            total, ones, overlap, energy, rest, rest_u, rest_v = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
            while end < len(near) and near[end] == here:
                template, by_u, by_v = tables[index[r, end], 0], tables[index[r, end], 1], tables[index[r, end], 2]
                left = residual[r, end] - (by_u * along[0] + by_v * along[1]) * moved[r]
                total += counts[r, end]
                ones += template
                overlap += (residual[r, end] + template) * template
                energy += template * template
                rest += left * left
                rest_u += left * by_u
                rest_v += left * by_v
                end += 1
            cell = sums[here]
            cell[0] += end - start
            cell[1] += total
            cell[2] += end - start + ones
            cell[3] += overlap
            cell[4] += energy
            cell[5] += rest
            cell[6] += rest_u
            cell[7] += rest_v


def shrunk(shift_px: Array, sigma_px: Array) -> Array:
    """Row shifts pulled towards 0 by as much as their errors explain their scatter (empirical Bayes)."""
    known = np.isfinite(sigma_px)
    if not known.any():
        return np.zeros_like(shift_px)
    middle = float(np.median(shift_px[known]))
    scatter = 1.4826 * float(np.median(np.abs(shift_px[known] - middle)))
    true = max(scatter**2 - float(np.median(sigma_px[known] ** 2)), 0.0)
    return np.where(known, shift_px * true / (true + np.where(known, sigma_px, 1.0) ** 2 + 1e-12), 0.0)


def slow_part(shift_px: Array, sigma_px: Array, width_px: float) -> Array:
    """The part of the row shifts that varies over more than `width_px` rows: it belongs to the frame."""
    weight = np.where(np.isfinite(sigma_px), 1.0, 0.0)
    if not weight.any():
        return np.zeros_like(shift_px)
    limit = 4 * 1.4826 * float(np.median(np.abs(shift_px[weight > 0]))) + 1e-9
    smooth, support = local_plane(np.clip(shift_px, -limit, limit)[None, :, None], weight[:, None], width_px)
    return np.asarray(smooth[0, :, 0] * (support[:, 0] > 1e-3))


def with_slow_rows(frame: Frame, slow_px: Array) -> Frame:
    """The frame with a slow row shift taken into its field."""
    along = np.linalg.inv(frame.vectors_px)[1]
    at_grid = np.interp(frame.grid.rows_px, np.arange(len(slow_px)), slow_px)
    return replace(frame, field=frame.field + along[:, None, None] * at_grid[None, :, None])
