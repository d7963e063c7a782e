"""Steps of the current: from some line of the scan on, all of it is brighter or darker by one factor."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from oddlattice.lattice.frame import Flattener, Frame, lifted, strips
from oddlattice.lattice.mean_cell import MeanCell
from oddlattice.lattice.scan_lines import rendered
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.local_plane import finite

WIDE_PERIODS, LEAST_PERIODS = 3.0, 1.0  # lines on each side that tell a step; so few do at the ends
SHARP_PERIODS = 0.2  # lines on each side between which most of it must lie
SIGNIFICANT = 7.0  # standard errors: so much tells a step
LEAST_STEP = 0.005  # smaller ones move no column by more than its noise
SHARP = 0.3  # of a step: so far that between few lines may be off
CLEAR = 3.0  # a step is so much larger than what else is in the lines about it
ALIKE = 0.35  # of a step: so far valleys and peaks may differ
LEAST_BLOCKS = 5  # stretches of a line, a period each, that must tell the same
BROKEN = 0.12  # of the contrast: where it is further off, the mean cell does not lie on the crystal
MOST_STEPS = 12
VALLEYS, PEAKS = 0.4, 0.8  # quantiles of the mean cell below and above which a pixel is of a valley, of a peak


@dataclass(frozen=True)
class LineSums:
    """Sums over stretches of each line, a period long, where there is crystal; every array of shape (rows, blocks).

    Attributes
    ----------
    all, valleys, peaks : tuple of ndarray
        Counts, and what the mean cell has there: of all pixels, of those between columns, of those in them.
    period : float
        [lines]
    """

    all: tuple[Array, Array]
    valleys: tuple[Array, Array]
    peaks: tuple[Array, Array]
    period: float


def line_gain(image: Any, flattener: Flattener, frame: Frame, mean_cell: MeanCell) -> Array:
    """Factor of each line of the scan, shape (rows,), its logarithm 0 on average; all 1 where the current has no step.

    A step is told from whatever else begins at some line (another phase, a boundary) by three signs: it is there over
    the whole width, it lies between one line and the next, and valleys and peaks change by the same factor.
    """
    return gain_of(line_sums(image, flattener, frame, mean_cell))


def line_sums(image: Any, flattener: Flattener, frame: Frame, mean_cell: MeanCell) -> LineSums:
    """Gather an image's counts, and those of the mean cell laid over it."""
    (rows, cols), period = frame.shape, max(round(frame.period_px), 1)
    starts = np.arange(0, max(cols - period + 1, 1), period)
    low, high = np.quantile(mean_cell.table((64, 64)), [VALLEYS, PEAKS])
    sums = np.zeros((3, 2, rows, len(starts)))
    _, uv, quality = lifted(flattener, frame)
    for some in strips((rows, cols)):
        template = rendered(mean_cell, frame, uv.strip(some))
        good = quality.strip(some)[0] > 0.5
        seen = finite(image[some]) + np.float32(flattener.pedestal)
        for into, chosen in zip(sums, (good, good & (template < low), good & (template > high)), strict=True):
            into[0, some] = np.add.reduceat(np.where(chosen, seen, 0), starts, axis=1)
            into[1, some] = np.add.reduceat(np.where(chosen, 1 + template, 0), starts, axis=1)
    pairs = [(pair[0], pair[1]) for pair in sums]
    return LineSums(pairs[0], pairs[1], pairs[2], frame.period_px)


def gain_of(lines: LineSums) -> Array:
    """`line_gain` of the sums."""
    log_gain = np.zeros(len(lines.all[0]))
    for _ in range(MOST_STEPS):
        found = _surest_step(lines, np.exp(log_gain))
        if found is None:
            break
        row, step = found
        log_gain[row:] += np.log((1 + step / 2) / (1 - step / 2))
    else:
        log_gain[:] = 0.0  # so many are no steps of the current
    return np.asarray(np.exp(log_gain - log_gain.mean()))


def _surest_step(lines: LineSums, gain: Array) -> tuple[int, float] | None:
    """First line after the surest step, and its height over the middle of both sides; None where none is sure."""
    counts, expected = lines.all
    enough = expected > 0.5 * np.median(expected[expected > 0]) if (expected > 0).any() else expected > 0
    ratio = np.where(enough, counts / np.maximum(expected, 1e-9) / gain[:, None], np.nan)
    wide, error = _agreed(_steps(ratio, int(WIDE_PERIODS * lines.period), int(LEAST_PERIODS * lines.period)))
    near = max(round(SHARP_PERIODS * lines.period), 3)
    sharp, sharp_error = _agreed(_steps(ratio, near, near, sloped=False))
    sure = np.where(np.abs(wide) > LEAST_STEP, np.abs(wide) / error, 0.0)
    for row in np.argsort(-sure, kind="stable")[:8]:
        if sure[row] < SIGNIFICANT:
            return None
        row, rough = _placed(ratio, int(row), int(WIDE_PERIODS * lines.period), int(LEAST_PERIODS * lines.period / 2))
        step = float(wide[row])
        is_sharp = abs(sharp[row] - step) < SHARP * abs(step) + 3 * min(float(sharp_error[row]), abs(step) / 5)
        if is_sharp and abs(step) > CLEAR * rough and _alike(lines, gain, row, step):
            return row, step
    return None


def _placed(ratio: Array, near: int, reach: int, apart: int) -> tuple[int, float]:
    """The line at most `apart` from `near` in front of which a step explains the lines best; rms of what is left."""
    low, high = max(near - reach, 0), min(near + reach, len(ratio))
    told = np.isfinite(ratio[low:high]).mean(axis=0) > 0.5
    part = np.stack([_filled(column) for column in ratio[low:high, told].T])
    profile = np.median(part / part.mean(axis=1)[:, None], axis=0)
    x = np.arange(low, high) + 0.5
    rows = np.arange(max(near - apart, low + 1), min(near + apart, high - 1) + 1)
    designs = (np.stack([np.ones(len(x)), x - near, x > row], axis=-1) for row in rows)
    left = [np.sum((profile - design @ np.linalg.lstsq(design, profile)[0]) ** 2) for design in designs]
    return int(rows[int(np.argmin(left))]), float(np.sqrt(min(left) / len(x)))


@cache
def _kernel(before: int, after: int, sloped: bool) -> Array:
    """Weights (before + after,) that give the step between two runs of lines by least squares on one slope or level."""
    x = np.arange(-before, after) + 0.5
    terms = [x > 0, np.ones(len(x)), x] if sloped else [x > 0, np.ones(len(x))]
    return np.asarray(np.linalg.pinv(np.stack(terms, axis=-1).astype(np.float64))[0])


def _steps(ratio: Array, reach: int, least: int, sloped: bool = True) -> Array:
    """Step in front of each line, as a part, by stretches; nan where too few lines tell it; shape (rows, blocks)."""
    rows = len(ratio)
    known = np.isfinite(ratio)
    filled = np.stack([_filled(column) for column in ratio.T], axis=-1)
    many = np.pad(known.cumsum(axis=0), [(1, 0), (0, 0)])
    found = np.full(ratio.shape, np.nan)
    for row in range(least, rows - least + 1):
        low, high = max(row - reach, 0), min(row + reach, rows)
        told = np.minimum(many[row] - many[low], many[high] - many[row]) >= 0.7 * least
        level = filled[low:high].mean(axis=0)
        if row < rows and told.any():
            found[row] = np.where(
                told, _kernel(row - low, high - row, sloped) @ filled[low:high] / np.maximum(level, 1e-9), np.nan
            )
    return found


def _filled(values: Array) -> Array:
    """Values (n,) with those that are nan between their neighbours."""
    known = np.isfinite(values)
    at = np.arange(len(values))
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


def _alike(lines: LineSums, gain: Array, row: int, step: float) -> bool:
    """Whether valleys and peaks change by one factor in front of a line, the crystal being whole on both its sides."""
    reach = int(1.5 * lines.period)
    sides = []
    for part in (slice(max(row - reach, 0), row), slice(row, row + reach)):
        valleys, peaks = (_log_level(sums, part, gain) for sums in (lines.valleys, lines.peaks))
        sides.append(peaks - valleys)
    (before, after, apart), (_, _, error) = _agreed(np.stack([*sides, sides[1] - sides[0]]))
    whole = max(abs(before), abs(after)) < BROKEN
    return bool(whole and error < ALIKE * abs(step) and abs(apart) < ALIKE * abs(step) + 2 * error)


def _log_level(sums: tuple[Array, Array], part: slice, gain: Array) -> Array:
    """Logarithm of the counts of some lines over those of the mean cell, by stretches; nan where there are none."""
    counts, expected = (sums[0][part] / gain[part, None]).sum(axis=0), sums[1][part].sum(axis=0)
    known = (counts > 0) & (expected > 0)
    return np.where(known, np.log(np.where(known, counts, 1.0) / np.where(known, expected, 1.0)), np.nan)
