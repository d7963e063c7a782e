"""Steps of the current: from some line of the scan on, all of it is brighter or darker by one factor."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from scipy import ndimage

from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.frame import Frame, lifted
from oddlattice.lattice.grid import strips
from oddlattice.lattice.mean_cell import MeanCell
from oddlattice.lattice.scan_lines import Places, places_in_tables
from oddlattice.numerics.arrays import Array, Float, Index
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.local_plane import finite

WIDE_PERIODS, LEAST_PERIODS = 3.0, 1.0  # lines on each side that tell a step; so few do at the ends
SHARP_PERIODS = 0.2  # lines on each side between which most of it must lie
SIGNIFICANT = 7.0  # standard errors: so much tells a step
LEAST_STEP = 0.005  # smaller ones move no column by more than its noise
CLEAR = 3.0  # a step is so much larger than what else is in the lines about it
SHARP = 0.3  # of a step: so far that between few lines may be off
ALIKE = 0.35  # of a step: so far valleys and peaks may differ
BROKEN = 0.12  # of the contrast: where it is further off, the mean cell does not lie on the crystal
LEAST_BLOCKS, MOST_BLOCKS = 5, 64  # stretches of a line, whole periods each: so many must tell the same, are told apart
MOST_STEPS = 12
VALLEYS, PEAKS = 0.4, 0.8  # quantiles of the mean cell below and above which a pixel is of a valley, of a peak

#: Counts of some lines, and what the mean cell has there, of pixels in which its deviation is between two values: sums
#: over stretches of each line, whole periods long, where there is crystal; shape (2, rows, blocks).
Sums = Callable[[slice, tuple[float, float]], Array]


def line_gain(image: Any, flattener: Flattener, frame: Frame, mean_cell: MeanCell) -> Array:
    """Factor of each line of the scan, shape (rows,), its logarithm 0 on average; all 1 where the current has no step.

    A step is told from whatever else begins at some line (another phase, a boundary) by three signs: it is there over
    the whole width, it lies between one line and the next, and valleys and peaks change by the same factor.
    """
    sums: Sums = partial(_sums, image, flattener, frame, mean_cell)
    low, high = np.quantile(mean_cell.table((64, 64)), [VALLEYS, PEAKS])
    ratio = _ratio(sums(slice(0, frame.shape[0]), (-np.inf, np.inf)))
    log_gain = np.zeros(frame.shape[0])
    for _ in range(MOST_STEPS):
        found = _surest_step(ratio / np.exp(log_gain)[:, None], frame.period_px)
        alike = partial(_alike, sums, (float(low), float(high)), log_gain, round(1.5 * frame.period_px))
        step = next(((row, step) for row, step in found if alike(row, step)), None)
        if step is None:
            break
        log_gain[step[0] :] += np.log((1 + step[1] / 2) / (1 - step[1] / 2))
    else:
        log_gain[:] = 0.0  # so many are no steps of the current
    return np.asarray(np.exp(log_gain - log_gain.mean()))


def _sums(
    image: Any, flattener: Flattener, frame: Frame, mean_cell: MeanCell, rows: slice, between: tuple[float, float]
) -> Array:
    """See `Sums`."""
    cols, period = frame.shape[1], max(round(frame.period_px), 1)
    width = period * -(-cols // (period * MOST_BLOCKS))
    starts = np.arange(0, max(cols - width + 1, 1), width)
    found = np.zeros((2, frame.shape[0], len(starts)))
    uv, quality = lifted(flattener, frame)
    for strip in strips(frame.shape):
        some = slice(max(strip.start, rows.start), min(strip.stop, rows.stop))
        if some.start >= some.stop:
            continue
        counts, index = finite(image[some]), places_in_tables(frame, uv.strip(some))
        here = quality.strip(some)[0]
        _fill_sums(found[:, some], counts, mean_cell.values, index, here, starts, flattener.pedestal, between)
    return found[:, rows]


@compiled(
    "void(float64[:, :, :], float32[:, :], float32[::1], uint32[:, ::1], float32[:, ::1], int64[::1], float32,"
    "UniTuple(float64, 2))"
)
def _fill_sums(
    found: Array,
    counts: Float,
    values: Float,
    index: Places,
    quality: Float,
    starts: Index,
    pedestal: float,
    between: tuple[float, float],
) -> None:
    """Fill `found` (2, rows, blocks) with `Sums`: of stretches from `starts` on, the last to the end of the line."""
    for r in range(counts.shape[0]):
        for block in range(len(starts)):
            seen, expected = 0.0, 0.0
            for c in range(starts[block], starts[block + 1] if block + 1 < len(starts) else counts.shape[1]):
                value = values[index[r, c]]
                if quality[r, c] > np.float32(0.5) and between[0] < value < between[1]:
                    seen += counts[r, c] + pedestal
                    expected += value + np.float32(1)
            found[0, r, block], found[1, r, block] = seen, expected


def _ratio(sums: Array) -> Array:
    """Counts over what the mean cell has; nan where too little is seen; shape (rows, blocks)."""
    counts, expected = sums
    usual = float(np.median(expected[expected > 0])) if (expected > 0).any() else 1.0
    return np.where(expected > 0.5 * usual, counts / np.maximum(expected, 1e-9), np.nan)


def _surest_step(ratio: Array, period: float) -> list[tuple[int, float]]:
    """Lines in front of which there may be a step, the surest first, and its height over the middle of both sides."""
    reach, least = round(WIDE_PERIODS * period), max(round(LEAST_PERIODS * period), 3)
    filled = np.stack([_filled(column) for column in ratio.T], axis=-1)
    rows = np.arange(least, len(ratio) - least + 1)
    low, high = np.maximum(rows - reach, 0), np.minimum(rows + reach, len(ratio))
    many = np.pad(np.isfinite(ratio).cumsum(axis=0), [(1, 0), (0, 0)])
    told = np.minimum(many[rows] - many[low], many[high] - many[rows]) >= 0.7 * least
    steps = np.full(ratio.shape, np.nan)
    steps[rows] = np.where(told, _steps(filled, rows, reach), np.nan)
    wide, error = _agreed(steps)
    sure = np.where(np.abs(wide) > LEAST_STEP, np.abs(wide) / error, 0.0)
    found = []
    for near in np.argsort(-sure, kind="stable")[:8]:
        if sure[near] < SIGNIFICANT:
            break
        told = np.isfinite(steps[near])
        row, left = _placed(filled[:, told], int(near), reach, least // 2)
        apart = max(round(SHARP_PERIODS * period), 3)
        sharp = np.median(_step(filled[:, told], max(row - apart, 0), row, row + apart, sloped=False))
        step = float(wide[row])
        if abs(sharp - step) < SHARP * abs(step) + 3 * left / np.sqrt(apart / 2) and abs(step) > CLEAR * left:
            found.append((row, step))
    return found


@cache
def _kernel(before: int, after: int, sloped: bool) -> Array:
    """Weights (before + after,) of the step between two runs of lines by least squares, on one slope or level."""
    x = np.arange(-before, after) + 0.5
    step, slope = (layer - layer.mean() for layer in ((x > 0).astype(np.float64), x))
    if sloped:
        step -= slope * (step @ slope) / (slope @ slope)
    return np.asarray(step / (step @ step))


def _step(filled: Array, low: int, row: int, high: int, sloped: bool) -> Array:
    """Step in front of a line as a part of the level of lines `low` to `high`, by stretches (blocks,)."""
    lines = filled[low:high]
    level = np.maximum(lines.mean(axis=0), 1e-9)
    return np.asarray(_kernel(row - low, len(lines) - (row - low), sloped) @ lines / level)


def _steps(filled: Array, rows: Index, reach: int) -> Array:
    """`_step` in front of each of some lines, `reach` lines about it and fewer at the ends; shape (rows, blocks)."""
    whole = (rows >= reach) & (rows <= len(filled) - reach)
    steps = np.empty((len(rows), filled.shape[1]))
    if whole.any():
        kernel = _kernel(reach, reach, True)
        level = np.maximum(ndimage.uniform_filter1d(filled, 2 * reach, axis=0), 1e-9)
        steps[whole] = (ndimage.correlate1d(filled, kernel, axis=0) / level)[rows[whole]]
    for k in np.flatnonzero(~whole):
        low, high = max(int(rows[k]) - reach, 0), min(int(rows[k]) + reach, len(filled))
        steps[k] = _step(filled, low, int(rows[k]), high, sloped=True)
    return steps


def _filled(values: Array) -> Array:
    """Values (n,) with those that are nan between their neighbours."""
    known, at = np.isfinite(values), np.arange(len(values))
    return np.interp(at, at[known], values[known]) if known.any() else np.zeros(len(values))


def _agreed(steps: Array) -> tuple[Array, Array]:
    """Median of the stretches (rows, blocks) of each line and its standard error; 0 and infinite where few tell."""
    known = np.isfinite(steps)
    few = known.sum(axis=1) < LEAST_BLOCKS
    safe = np.where(few[:, None], 0.0, steps)
    middle = np.nanmedian(safe, axis=1)
    scatter = 1.4826 * np.nanmedian(np.abs(safe - middle[:, None]), axis=1)
    error = 1.2533 * scatter / np.sqrt(np.maximum(known.sum(axis=1), 1)) + 1e-9
    usual = float(np.median(error[~few])) if not few.all() else 0.0  # that of few stretches may be small by chance
    return middle, np.where(few, np.inf, np.maximum(error, 0.8 * usual))


def _placed(filled: Array, near: int, reach: int, apart: int) -> tuple[int, float]:
    """The line at most `apart` from `near` in front of which a step explains the lines best; rms of what is left."""
    low, high = max(near - reach, 0), min(near + reach, len(filled))
    lines = filled[low:high]
    profile = np.median(lines / np.maximum(lines.mean(axis=0), 1e-9), axis=1)
    x = np.arange(low, high) + 0.5
    rows = np.arange(max(near - apart, low + 1), min(near + apart, high - 1) + 1)
    designs = (np.stack([np.ones(len(x)), x - near, x > row], axis=-1) for row in rows)
    left = [np.sum((profile - design @ np.linalg.lstsq(design, profile)[0]) ** 2) for design in designs]
    return int(rows[int(np.argmin(left))]), float(np.sqrt(min(left) / len(x)))


def _alike(sums: Sums, limits: tuple[float, float], log_gain: Array, reach: int, row: int, step: float) -> bool:
    """Whether valleys and peaks change by one factor in front of a line, the crystal being whole on both its sides."""
    sides = []
    for part in (slice(max(row - reach, 0), row), slice(row, min(row + reach, len(log_gain)))):
        gain = np.exp(log_gain[part])[:, None]
        valleys, peaks = (_log_level(sums(part, b), gain) for b in ((-np.inf, limits[0]), (limits[1], np.inf)))
        sides.append(peaks - valleys)
    (before, after, apart), (_, _, error) = _agreed(np.stack([*sides, sides[1] - sides[0]]))
    whole = max(abs(before), abs(after)) < BROKEN
    return bool(whole and error < ALIKE * abs(step) and abs(apart) < ALIKE * abs(step) + 2 * error)


def _log_level(sums: Array, gain: Array) -> Array:
    """Logarithm of the counts of some lines over those of the mean cell, by stretches; nan where there are none."""
    counts, expected = (sums[0] / gain).sum(axis=0), sums[1].sum(axis=0)
    known = (counts > 0) & (expected > 0)
    return np.where(known, np.log(np.where(known, counts, 1.0) / np.where(known, expected, 1.0)), np.nan)
