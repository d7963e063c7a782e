"""The ends of the scan's lines: where the probe still flies back the crystal looks bent."""

from typing import Any

import numpy as np

from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.frame import Frame, lifted
from oddlattice.lattice.mean_cell import MeanCell
from oddlattice.lattice.scan_lines import slopes_along_line
from oddlattice.numerics.arrays import Array, Bools, Float
from oddlattice.numerics.medians import median

BENT = 0.008  # [periods]: so much further than the period beside it the outermost one of all lines is off its place
SIGNIFICANT = 6.0  # standard errors of that
CLIPPED = 4.0  # standard deviations of a pixel
MOST_BLOCKS = 48  # of lines, a period high
STEP_PERIODS = 0.5  # of what is left out of each line
SAMPLED_COLS = 8  # every so many columns tell how much noise there is, and how much of the lattice


def bent_ends_px(
    image: Any, flattener: Flattener, frame: Frame, mean_cell: MeanCell, row_shift_px: Array
) -> tuple[int, int]:
    """Pixels at the beginning and the end of all lines (rows) that are to be left out; 0 where these are sound.

    The crystal is displaced along the lines by the same amount in all of them, and within a period: no frame that
    varies slowly follows that, and what lies beside it is bent. What was left out before, being blank, does not count.
    """
    period = max(round(frame.period_px), 4)
    known = ~flattener.seen.cols_blank
    if known.sum() < 6 * period:
        return 0, 0
    first, last = int(np.argmax(known)), len(known) - int(np.argmax(known[::-1]))
    windows = [slice(first + k * period, first + (k + 1) * period) for k in (0, 1)]
    windows += [slice(last - (k + 1) * period, last - k * period) for k in (0, 1)]
    rows = frame.shape[0]
    starts = np.linspace(0, rows - period, max(min(rows // period, MOST_BLOCKS), 1)).astype(int)
    blocks = [slice(int(start), int(start) + period) for start in starts]
    lines = _Lines(image, flattener, frame, mean_cell, row_shift_px)
    off = np.array([lines.displacements(rows, windows) for rows in blocks])
    step = max(round(STEP_PERIODS * period), 1)
    return tuple(step * _is_bent(off[:, k] - off[:, k + 1], frame.period_px) for k in (0, 2))  # type: ignore[return-value]


def _is_bent(apart_px: Array, period_px: float) -> bool:
    """Whether values of blocks of lines (n,) agree in being large."""
    some = apart_px[np.isfinite(apart_px)]
    if len(some) < 4:
        return False
    middle = float(np.median(some))
    error = 1.2533 * 1.4826 * float(np.median(np.abs(some - middle))) / np.sqrt(len(some))
    return bool(abs(middle) > max(BENT * period_px, SIGNIFICANT * error))


class _Lines:
    """Lines of an image beside the mean cell; the windows of columns that are asked for, and some of the others."""

    def __init__(
        self, image: Any, flattener: Flattener, frame: Frame, mean_cell: MeanCell, row_shift_px: Array
    ) -> None:
        self._image, self._flattener, self._shift_px = image, flattener, row_shift_px
        self._frame, self._mean_cell = frame, mean_cell
        self._uv, self._quality = lifted(flattener, frame)

    def displacements(self, rows: slice, windows: list[slice]) -> list[float]:
        """Displacement along the lines of what is in each window of columns [px]; nan where no crystal is seen."""
        sampled = slice(0, self._frame.shape[1], SAMPLED_COLS)
        parts = [np.arange(cols.start, cols.stop, cols.step or 1) for cols in (sampled, *windows)]
        some, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])[:-1]
        shift = self._shift_px[rows]
        template, slopes = slopes_along_line(self._mean_cell, self._frame, self._uv.strip(rows, some), shift)
        residuals = self._flattener.flat(self._image, rows)[:, some] - template
        crystal = self._quality.strip(rows, some)[0] > 0.5
        (residual, *_), (slope, *_), (good, *_) = split = [
            np.split(layer, ends, axis=1) for layer in (residuals, slopes, crystal)
        ]
        if not good.any():
            return [np.nan] * len(windows)
        limit = CLIPPED * 1.4826 * float(median(np.abs(residual[good])))
        told = 0.3 * float((slope**2 * good).mean()) * len(residual)
        each = list(zip(*split, strict=True))[1:]
        return [_displacement(r, s, g, limit, told * r.shape[1]) for r, s, g in each]


def _displacement(residual: Float, slope: Float, good: Bools, limit: float, told: float) -> float:
    """Displacement along the lines [px], by the slope of the mean cell; nan where `told` is not reached by it."""
    pull, information = np.clip(residual, -limit, limit) * slope * good, slope**2 * good
    return float(pull.sum()) / float(information.sum()) if information.sum() > told else np.nan
