"""What of a scan is spoilt: blank borders and lines, and saturated patches. There the crystal is not seen."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.numerics.arrays import Array, Bools, Float, Index
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.distances import distance_px
from oddlattice.numerics.local_plane import block_mean, finite

RUN_PX = 24  # so many equal pixels in a line are no image
CHANCE_RUNS = (
    12  # times as long as 95 % of an image's runs of equal pixels: where few electrons are counted, zeros follow
)
SAMPLED_ROWS = 8  # every so many rows tell how long runs are
VACUUM, CRYSTAL = 0.2, 0.5  # of the crystal's mean: vacuum is darker, and ends where it is as bright
EDGE_PERIODS, VACUUM_PERIODS = 0.7, 4.0  # over which the mean is taken; so far away the crystal is looked for
POOL_PX = 4  # pixels a side of a square of the map
BAND_ROWS = 256  # a multiple of POOL_PX
OVERLAY_PX, OVERLAY_PART, OVERLAY_ABOVE = 30, 0.2, 4.0  # pixels and part of an image; height over that of the brightest
SURROUNDED = 1.2  # of the shortest lattice vector: nearer what is not seen, what stands beside a column may be changed


@dataclass(frozen=True)
class Seen:
    """Where in an image the crystal is seen.

    Attributes
    ----------
    shape : tuple of int
        (rows, cols) of the image.
    blank : ndarray of shape (ceil(rows / POOL_PX), ceil(cols / POOL_PX)), bool, or None
        Squares with a blank pixel, and those around them, over which sampling there reaches; None: nothing is blank.
    """

    shape: tuple[int, int]
    blank: Bools | None = None

    @classmethod
    def of(cls, image: Any) -> Self:
        """That of an image, or of anything that slices to an ndarray."""
        rows, cols = image.shape
        run_px = longest_chance_run(image)
        pooled = np.zeros((-(-rows // POOL_PX), -(-cols // POOL_PX)), dtype=bool)
        for start in range(0, rows, BAND_ROWS):
            blank = blank_pixels(np.asarray(image[start : start + BAND_ROWS]), run_px)
            if not blank.any():
                continue
            wide = np.pad(blank, [(0, -blank.shape[0] % POOL_PX), (0, -cols % POOL_PX)])
            squares = np.logical_or.reduce(wide.reshape(wide.shape[0] // POOL_PX, POOL_PX, -1, POOL_PX), axis=(1, 3))
            pooled[start // POOL_PX : start // POOL_PX + squares.shape[0]] = squares
        if not pooled.any():
            return cls((rows, cols))
        return cls((rows, cols), ndimage.binary_dilation(pooled, np.ones((3, 3), dtype=bool)))

    @property
    def transposed(self) -> Self:
        """That of the image with rows and columns exchanged."""
        blank = None if self.blank is None else np.ascontiguousarray(self.blank.T)
        return replace(self, shape=self.shape[::-1], blank=blank)

    @property
    def cols_blank(self) -> Bools:
        """Columns of the image that are blank for the most part; shape (cols,)."""
        if self.blank is None:
            return np.zeros(self.shape[1], dtype=bool)
        return np.asarray(np.repeat(self.blank.mean(axis=0) > 0.5, POOL_PX)[: self.shape[1]])

    def without_ends(self, first_px: int, last_px: int) -> Self:
        """The same with so many more of the first and last columns blank."""
        known = np.flatnonzero(~self.cols_blank)
        rows, cols = (-(-n // POOL_PX) for n in self.shape)
        blank = np.zeros((rows, cols), dtype=bool) if self.blank is None else self.blank.copy()
        if len(known) and first_px:
            blank[:, : -(-(int(known[0]) + first_px) // POOL_PX)] = True
        if len(known) and last_px:
            blank[:, (int(known[-1]) + 1 - last_px) // POOL_PX :] = True
        return replace(self, blank=blank)

    def without_vacuum(self, image: Any, period_px: float) -> Self:
        """The same with vacuum at the rim of the image blank, up to the crystal's edge: where its mean has halved."""
        bands = (np.asarray(image[r : r + BAND_ROWS]) for r in range(0, self.shape[0], BAND_ROWS))
        mean = np.concatenate([block_mean(finite(band), POOL_PX) for band in bands]).astype(np.float64)
        local = ndimage.gaussian_filter(mean, EDGE_PERIODS * period_px / POOL_PX, mode="nearest")
        if local.min() < 0 or local.min() >= VACUUM * local.max():
            return self  # a background was subtracted: how bright nothing is cannot be told; or nothing is dark
        near = 2 * int(VACUUM_PERIODS * period_px / POOL_PX) + 1
        part = local / np.maximum(ndimage.maximum_filter(local, near, mode="nearest"), 1e-12)
        dark = local < VACUUM * np.percentile(local, 95)
        labels, _ = ndimage.label(dark | (part < CRYSTAL))
        rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        kept = np.intersect1d(rim, labels[dark | (part < VACUUM)])
        vacuum = np.isin(labels, kept[kept > 0])
        blank = vacuum if self.blank is None else vacuum | self.blank
        return replace(self, blank=blank) if vacuum.any() else self

    def keep(self, values: Float, rows: slice, cols: Index | None = None) -> Float:
        """Set the blank ones of the pixels of `rows`, `values` (rows, cols), to 0, in place; of all columns or some."""
        if self.blank is None:
            return values
        if cols is None:
            _clear(values, np.ascontiguousarray(self.blank), rows.start)
        else:
            squares = self.blank[np.arange(rows.start, rows.start + len(values)) // POOL_PX]
            values[squares[:, cols // POOL_PX]] = 0
        return values

    def cells(self, nodes_px: Array) -> Bools:
        """Cells (U, V) with corners (2, U + 1, V + 1) [px] that hold nothing blank."""
        if self.blank is None:
            return np.ones((nodes_px.shape[1] - 1, nodes_px.shape[2] - 1), dtype=bool)
        ends = (slice(None, -1), slice(1, None))
        corners = np.stack([nodes_px[:, along_u, along_v] for along_u in ends for along_v in ends])
        low = np.floor(corners.min(0) / POOL_PX).astype(int)
        high = np.floor(corners.max(0) / POOL_PX).astype(int) + 1
        total = np.pad(self.blank.cumsum(0, dtype=np.int64).cumsum(1), [(1, 0), (1, 0)])
        (r0, c0), (r1, c1) = (
            [np.clip(edge[axis], 0, self.blank.shape[axis]) for axis in (0, 1)] for edge in (low, high)
        )
        return np.asarray(total[r1, c1] - total[r0, c1] - total[r1, c0] + total[r0, c0] == 0)

    def depth_px(self, places_px: Array) -> Array:
        """Distance of places (2, ...) [px] from the nearest pixel that is not in the image or blank; 0 beyond."""
        ends = [np.minimum(at + 0.5, n - 0.5 - at) for at, n in zip(places_px, self.shape, strict=True)]
        depth = np.maximum(np.minimum(*ends), 0.0)
        if self.blank is None:
            return np.asarray(depth)
        away = POOL_PX * np.maximum(distance_px(~self.blank) - 0.5, 0.0)
        at = (places_px - (POOL_PX - 1) / 2) / POOL_PX
        return np.asarray(np.minimum(depth, ndimage.map_coordinates(away, at, order=1, mode="nearest")))


@compiled("void(float32[:, :], boolean[:, ::1], int64)")
def _clear(values: Float, blank: Bools, first_row: int) -> None:
    """Set to 0 what is in blank squares, of pixels (rows, cols) from a row on."""
    for row in range(values.shape[0]):
        squares = blank[(first_row + row) // POOL_PX]
        for square in range(len(squares)):
            if squares[square]:
                values[row, POOL_PX * square : POOL_PX * (square + 1)] = 0


def without_overlay(image: Float) -> Float:
    """An image with what is written over it blank (nan): scale bars and text of one value, far above all others."""
    top = image.max()
    over = image == top
    count = int(over.sum())
    if not OVERLAY_PX <= count < OVERLAY_PART * image.size:
        return image
    rest = image[~over]
    middle, high = np.percentile(rest, [50, 99.9])
    if top - middle < OVERLAY_ABOVE * (high - middle):
        return image
    return np.where(over, np.nan, image).astype(np.float32)


def longest_chance_run(image: Any) -> int:
    """Length of a run of equal pixels that chance does not make in an image [px], counted in some of its rows.

    Runs fall off exponentially, and a blank line, however long, is one among many.
    """
    counts = np.zeros(image.shape[1] + 1, np.int64)
    for start in range(0, image.shape[0], BAND_ROWS):
        some = np.asarray(image[start : start + BAND_ROWS])[::SAMPLED_ROWS]
        ends = np.ones(some.shape, dtype=bool)
        np.not_equal(some[:, 1:], some[:, :-1], out=ends[:, :-1])
        counts += np.bincount(np.diff(np.flatnonzero(ends), prepend=-1), minlength=len(counts))
    return max(RUN_PX, int(CHANCE_RUNS * _percentile_of_counts(counts, 95)))


def _percentile_of_counts(counts: Index, percent: float) -> float:
    """`numpy.percentile` of whole numbers from 0 on, of each so many."""
    upto = counts.cumsum()
    place = percent / 100 * (upto[-1] - 1)
    low, high = (int(np.searchsorted(upto, at, side="right")) for at in (int(place), min(int(place) + 1, upto[-1] - 1)))
    return float(low + (place - int(place)) * (high - low))


def blank_pixels(band: npt.NDArray[Any], run_px: int = RUN_PX) -> Bools:
    """Pixels that are not finite or lie in a run of `run_px` equal ones along a row or a column; shape as `band`."""
    blank = np.ascontiguousarray(~np.isfinite(band))
    _mark_runs(np.ascontiguousarray(band, np.float64), run_px, blank)
    return np.asarray(blank, dtype=bool)


@compiled("void(float64[:, ::1], int64, boolean[:, ::1])")
def _mark_runs(band: Array, run_px: int, blank: Bools) -> None:
    """Set `blank` where a pixel of a band (rows, cols) lies in a run of at least `run_px` equal ones.

    Of such a run two pixels are seen among pixels half as far apart: only about these it is looked for.
    """
    rows, cols = band.shape
    step, done = max(run_px // 2, 1), np.zeros(cols, np.int64)  # where the last run of each column ends
    for row in range(rows):
        end = 0
        for col in range(0, cols - step, step):
            if band[row, col + step] == band[row, col] and col >= end:
                start, end = _run_at(band[row], col)
                if end - start >= run_px:
                    blank[row, start:end] = True
    for row in range(0, rows - step, step):
        for col in range(cols):
            if band[row + step, col] == band[row, col] and row >= done[col]:
                start, done[col] = _run_at(band[:, col], row)
                if done[col] - start >= run_px:
                    blank[start : done[col], col] = True


@compiled("UniTuple(int64, 2)(float64[:], int64)")
def _run_at(line: Array, at: int) -> tuple[int, int]:
    """First place of the run of equal values about a place of a line, and the one beyond its last."""
    start, end = at, at + 1
    while start > 0 and line[start - 1] == line[at]:
        start -= 1
    while end < len(line) and line[end] == line[at]:
        end += 1
    return start, end
