"""Row shifts: the scan's jitter, one number for every row, from laying the whole row on the rendered mean cell."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from oddlattice.anchor import MeanCell
from oddlattice.frame import Flattener, Frame, Lifted, flat_strip, strips
from oddlattice.smooth import finite, local_plane

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]

TABLE = 256  # steps of the mean cell's look-up table along u and v
REACH_PX = 4  # whole-pixel shifts tried when a row is laid on the template


@dataclass(frozen=True)
class CellStatistics:
    """Sums over the pixels of each cell; every array has shape (U, V). Cell (0, 0) starts at `first`."""

    first: tuple[int, int]
    pixels: Array
    counts: Array
    template: Array
    overlap: Array
    template_energy: Array
    residual: Array
    slope_u: Array
    slope_v: Array


@dataclass(frozen=True)
class Pushes:
    """Evidence of every column's own displacement along the fast axis, in bins of half a cell.

    A bin is centred on a multiple of half a lattice vector, where the columns of most cells are.

    Attributes
    ----------
    push, information : ndarray of shape (2 U + 2, 2 V + 2)
        Sums of slope times residual and of slope squared, weighted by the inverse variance.
    """

    push: Array
    information: Array

    def odd(self, sigmas: float = 4.0) -> npt.NDArray[np.bool_]:
        """Bins pushed further than their neighbours: they must not move the rows they lie in."""
        some = self.information > 0
        if not some.any():
            return some
        seen = self.information > 0.2 * float(np.median(self.information[some]))
        score = np.where(seen, self.push / np.sqrt(np.maximum(self.information, 1e-12)), 0.0)
        spread = 1.4826 * float(np.median(np.abs(score[seen])))
        return np.asarray(np.abs(score) > sigmas * max(spread, 1e-9))


@dataclass(frozen=True)
class _Tables:
    """Look-up tables of the mean cell's deviation and its derivatives by u and v; shape (TABLE * TABLE,) each."""

    value: Image
    by_u: Image
    by_v: Image


def _tables(mean: MeanCell) -> _Tables:
    value, by_u, by_v = (mean.table(TABLE, d).astype(np.float32).ravel() for d in ((0, 0), (1, 0), (0, 1)))
    return _Tables(value, by_u, by_v)


def _table_index(u: Image, v: Image, first: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Index into the tables; `first` is below all (u, v), so that cutting off the fraction is the floor."""
    high = ((u - np.float32(first[0] - 4)) * np.float32(TABLE)).astype(np.int32)
    low = ((v - np.float32(first[1] - 4)) * np.float32(TABLE)).astype(np.int32)
    high &= TABLE - 1
    low &= TABLE - 1
    high *= TABLE
    high += low
    return np.asarray(high)


def coarse_row_shifts(image: Image, flattener: Flattener, frame: Frame, mean_cell: MeanCell) -> Array:
    """Shift of each row that lays it best on the rendered mean cell, by correlation; shape (rows,) [px].

    The correlation is computed at whole pixels and interpolated.
    """
    tables = _tables(mean_cell)
    mean, uv, quality = (
        flattener.lifted(frame.shape),
        frame.lifted(),
        Lifted(frame.quality[None], frame.grid, frame.shape),
    )
    per_col = np.hypot(*np.linalg.inv(frame.vectors_px)[1])
    reach = int(np.clip(0.3 / per_col, 1, REACH_PX))
    first, _ = first_and_count(frame)
    shifts = np.zeros(frame.shape[0])
    for rows in strips(frame.shape):
        flat = flat_strip(image, rows, flattener, mean)
        flat *= quality.strip(rows)[0] > 0.5
        u, v = uv.strip(rows)
        template = tables.value[_table_index(u, v, first)]
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


def _peak_of(overlap: Image) -> Array:
    """Place of the maximum of each row of correlations at whole steps, by cubic splines, relative to the middle."""
    steps = overlap.shape[1]
    fine = np.linspace(0, steps - 1, 32 * (steps - 1) + 1)
    curves = overlap @ CubicSpline(np.arange(steps), np.eye(steps))(fine).T
    best = curves.argmax(1)
    inner = (best > 0) & (best < len(fine) - 1) & (overlap.max(1) > 0)
    return np.where(inner, fine[best] - (steps - 1) / 2, 0.0)


def first_and_count(frame: Frame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Lattice coordinates of the first cell that touches the image, and the numbers of cells along u and v."""
    rows, cols = np.meshgrid(frame.grid.rows_px, frame.grid.cols_px, indexing="ij")
    uv = frame.uv_at(np.stack([rows.ravel(), cols.ravel()], -1))
    first, last = np.floor(uv.min(0) - 0.01).astype(int), np.ceil(uv.max(0) + 0.01).astype(int)
    return (int(first[0]), int(first[1])), (int(last[0] - first[0]), int(last[1] - first[1]))


def fine_pass(
    image: Image,
    flattener: Flattener,
    frame: Frame,
    mean_cell: MeanCell,
    row_shift_px: Array,
    odd: npt.NDArray[np.bool_] | None = None,
    by_cell: bool = True,
) -> tuple[Array, Array, CellStatistics, Pushes]:
    """One Gauss-Newton step of every row's shift, and sums with the step taken, over cells or over half cells.

    A row is laid on the template: (image - template) is regressed on the template's slope along the row, over the
    whole row, with clipped residuals.

    Parameters
    ----------
    odd : ndarray of shape (2 U + 2, 2 V + 2), bool, optional
        Bins (see `Pushes`) whose pixels are left out: a displaced column would drag its rows along.
    by_cell : bool
        Whether the statistics of cells are summed, or the pushes; the other stays 0.

    Returns
    -------
    row_shift_px : ndarray of shape (rows,)
    sigma_px : ndarray of shape (rows,)
        Standard errors; infinite where the row shows no lattice.
    statistics : CellStatistics
    pushes : Pushes
    """
    tables = _tables(mean_cell)
    mean, uv, quality = (
        flattener.lifted(frame.shape),
        frame.lifted(),
        Lifted(frame.quality[None], frame.grid, frame.shape),
    )
    along = np.linalg.inv(frame.vectors_px)[1].astype(np.float32)
    first, (n_u, n_v) = first_and_count(frame)
    sums = np.zeros((8, n_u * n_v))
    bins = np.zeros((2, (2 * n_u + 2) * (2 * n_v + 2)))
    shifts, sigmas = np.zeros(frame.shape[0]), np.full(frame.shape[0], np.inf)
    for rows in strips(frame.shape):
        flat = flat_strip(image, rows, flattener, mean)
        u, v = uv.strip(rows)
        before = row_shift_px[rows, None].astype(np.float32)
        u += before * along[0]
        v += before * along[1]
        index = _table_index(u, v, first)
        template, by_u, by_v = tables.value[index], tables.by_u[index], tables.by_v[index]
        slope = by_u * along[0] + by_v * along[1]
        residual = flat - template
        good = (quality.strip(rows)[0] > 0.5).astype(np.float32)
        good *= _inverse_variance(residual, template, good)
        limit = 4 / np.sqrt(np.maximum(good, 1e-12))
        if odd is not None or not by_cell:
            half_u = np.clip(np.floor(2 * u + 0.5).astype(np.int32) - 2 * first[0], 0, 2 * n_u + 1)
            half_v = np.clip(np.floor(2 * v + 0.5).astype(np.int32) - 2 * first[1], 0, 2 * n_v + 1)
        if odd is not None:
            good *= ~odd[half_u, half_v]
        weighted_slope = slope * good
        clipped = np.clip(residual, -limit, limit)
        information = np.einsum("rc,rc->r", weighted_slope, slope)
        whole = float(np.median(information[information > 0])) if (information > 0).any() else 1.0
        enough = information > 0.05 * whole
        step = np.where(enough, np.einsum("rc,rc->r", weighted_slope, clipped) / np.maximum(information, 1e-12), 0.0)
        step = np.clip(step, -1.0, 1.0)
        shifts[rows] = np.where(enough, row_shift_px[rows] + step, 0.0)
        sigmas[rows] = np.where(enough, 1 / np.sqrt(np.maximum(information, 1e-12)), np.inf)
        moved = step[:, None].astype(np.float32)
        residual -= slope * moved
        if not by_cell:
            half = (half_u * (2 * n_v + 2) + half_v).ravel()
            _add_up(bins, half, (weighted_slope * residual, weighted_slope * slope))
            continue
        u += moved * along[0]
        v += moved * along[1]
        cell_u = np.clip(np.floor(u).astype(np.int32) - first[0], 0, n_u - 1)
        cell_v = np.clip(np.floor(v).astype(np.int32) - first[1], 0, n_v - 1)
        cell = (cell_u * n_v + cell_v).ravel()
        counts = finite(image[rows]) + np.float32(flattener.pedestal)
        weighted = (
            None,
            counts,
            1 + template,
            flat * template,
            template * template,
            residual * residual,
            residual * by_u,
            residual * by_v,
        )
        _add_up(sums, cell, weighted)
    pushes = Pushes(*(total.reshape(2 * n_u + 2, 2 * n_v + 2) for total in bins))
    return shifts, sigmas, CellStatistics(first, *(total.reshape(n_u, n_v) for total in sums)), pushes


def _add_up(totals: Array, index: npt.NDArray[np.int32], weights: tuple[Image | None, ...]) -> None:
    """Add pixels, by their index, to each of `totals` (k, n); None counts them."""
    low = int(index.min())
    index = index - low  # only the totals that are met are touched
    number = int(index.max()) + 1
    for total, weight in zip(totals, weights, strict=True):
        total[low : low + number] += np.bincount(index, weights=None if weight is None else weight.ravel())


def _inverse_variance(residual: Image, template: Image, good: Image) -> Image:
    """Weights 1 / variance, the variance of a pixel being a straight line in its expected value."""
    some = (slice(None, None, 4), slice(None, None, 3))
    square, level, kept = residual[some] ** 2, 1 + template[some], good[some] > 0
    if kept.sum() < 100:
        return np.ones_like(residual)
    square, level = square[kept].astype(np.float64), level[kept].astype(np.float64)
    square = np.minimum(square, 12 * np.median(square) + 1e-12)
    middle, mean = float(level.mean()), float(square.mean())
    slope = float(((level - middle) * square).mean()) / max(float(level.var()), 1e-12)
    slope = min(max(slope, 0.0), mean / max(middle - float(level.min()), 1e-9) * 0.9)
    variance = np.maximum(mean + slope * (1 + template - middle), 0.05 * mean + 1e-12)
    return np.asarray(1 / variance, dtype=np.float32)


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
