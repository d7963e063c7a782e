"""Maps of the lattice frame laid back onto the raw image, and written there as OME-Zarr."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.pixel_size import PixelNm
from oddlattice.lattice.record import turned_over
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.local_plane import lerp
from oddlattice.storage.omezarr import Bands
from oddlattice.storage.windows import Windows, give_back

BAND_ROWS, BLOCK_COLS = 512, 2048
STEP_PX = 8  # grid on which raw pixels are laid on the lattice
KEPT_BITS = 12  # of the 23 of a float32's fraction: values good to a part in 8,000, on two thirds of the disk


def on_grid(coordinates: Coordinates, px_per_cell: tuple[int, int], rows: slice, cols: slice) -> Array:
    """Places in the lattice frame [px] of straight raw places every STEP_PX from (rows.start, cols.start) - STEP_PX.

    Between them it is linear: over STEP_PX the lattice hardly bends. Shape (2, ceil(rows / STEP_PX) + 3,
    ceil(cols / STEP_PX) + 3).
    """
    grid = (s.start + np.arange(-1, -(-(s.stop - s.start) // STEP_PX) + 2) * float(STEP_PX) for s in (rows, cols))
    uv = coordinates.uv_of_straight(np.stack(np.meshgrid(*grid, indexing="ij"), -1))
    return np.ascontiguousarray(np.moveaxis(uv * px_per_cell, -1, 0) - 0.5)


class InCounts:
    """A prediction (U n_u, V n_v) in the image's counts; 0 stays 0: there nothing was predicted.

    It is times the local mean (U, V) [counts], which is known at cell centres, less the pedestal [counts] that was
    added to the image before it was divided by that mean. With a `sign` of -1 it was turned over about 1.
    """

    def __init__(
        self, prediction: Float | Windows, local_mean: npt.NDArray[np.floating], pedestal: float, sign: int = 1
    ) -> None:
        self._sign = sign
        self.shape, self._prediction, self._pedestal = prediction.shape, prediction, np.float32(pedestal)
        self._cells = local_mean.shape
        self._mean = np.pad(local_mean.astype(np.float64), ((0, 1), (0, 1)), mode="edge")[None]

    def __getitem__(self, window: tuple[slice, slice]) -> Float:
        lines: list[Any] = []
        for s, n, cells in zip(window, self.shape, self._cells, strict=True):
            at = np.clip((np.arange(*s.indices(n)) + 0.5) / (n // cells) - 0.5, 0, cells - 1)
            low = at.astype(np.int64)
            lines += [low, (at - low).astype(np.float32)]
        counts = np.asarray(lerp(self._mean, *lines)[0])
        prediction = self._prediction[window]
        if self._sign < 0:
            prediction = turned_over(prediction)
        counts *= prediction
        if self._pedestal:
            counts -= self._pedestal * (prediction != 0)
        return counts


Map = Float | Windows | InCounts


@compiled("void(float64[:, ::1], UniTuple(int64, 2), float64[:, ::1], int32[::1], float32[:, ::1])")
def _corners(line: Array, shape: tuple[int, int], at: Array, start: npt.NDArray[np.int32], parts: Float) -> None:
    """Where in a window of `shape` the four pixels around each place of a line begin, -1 beyond it; how far it lies on.

    `line` (2, steps) holds places (row, col) in the window every STEP_PX, the first before the line begins; `at` is
    filled with the places between them.
    """
    for axis in range(2):
        for first in range(0, len(start), STEP_PX):
            here = line[axis, 1 + first // STEP_PX]
            step = (line[axis, 2 + first // STEP_PX] - here) / STEP_PX
            for col in range(first, min(first + STEP_PX, len(start))):
                at[axis, col] = here + step * (col - first)
    last_u, last_v, width = np.int32(shape[0] - 1), np.int32(shape[1] - 1), np.int32(shape[1])
    for col in range(len(start)):
        u, v = at[0, col], at[1, col]
        i, j = min(np.int32(u), last_u - np.int32(1)), min(np.int32(v), last_v - np.int32(1))
        parts[0, col], parts[1, col] = np.float32(u - i), np.float32(v - j)
        start[col] = i * width + j if (u >= 0) & (v >= 0) & (u <= last_u) & (v <= last_v) else np.int32(-1)


@compiled("void(UniTuple(int64, 2), int64[::1], float64[:, :, ::1], float64[::1], int32[:, ::1], float32[:, :, ::1])")
def _places(
    shape: tuple[int, int],
    low: npt.NDArray[np.int64],
    grid: Array,
    shift_px: Array,
    start: npt.NDArray[np.int32],
    parts: Float,
) -> None:
    """`_corners` of all rows, in a window of `shape` that starts at pixel `low` (row, col) of the lattice frame.

    `grid` is that of `on_grid`; between its places it is linear, along a row after the row's shift. Filled
    are `start` (rows, cols) and `parts` (rows, 2, cols).
    """
    rows, cols = start.shape
    steps = grid.shape[2]
    line, at = np.empty((2, steps)), np.empty((2, cols))
    for row in range(rows):
        above = 1 + row // STEP_PX
        part = (row % STEP_PX) / STEP_PX
        shift = shift_px[row] / (2 * STEP_PX)
        for axis in range(2):
            upper, lower = grid[axis, above], grid[axis, above + 1]
            for k in range(1, steps - 1):
                here = upper[k] + (lower[k] - upper[k]) * part
                after = upper[k + 1] + (lower[k + 1] - upper[k + 1]) * part
                before = upper[k - 1] + (lower[k - 1] - upper[k - 1]) * part
                line[axis, k] = here + shift * (after - before) - low[axis]
        _corners(line, shape, at, start[row], parts[row])


@compiled("void(float32[:, ::1], int32[:, ::1], float32[:, :, ::1], float32[:, ::1])")
def _sampled(window: Float, start: npt.NDArray[np.int32], parts: Float, out: Float) -> None:
    """Fill `out` (rows, cols) bilinearly from a window of a map, at `_places`; 0 beyond the window."""
    flat, below = window.reshape(-1), np.uint64(window.shape[1])
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            i = np.uint64(max(start[row, col], np.int32(0)))
            down, right = parts[row, 0, col], parts[row, 1, col]
            top = flat[i] + (flat[i + np.uint64(1)] - flat[i]) * right
            bottom = flat[i + below] + (flat[i + below + np.uint64(1)] - flat[i + below]) * right
            out[row, col] = top + (bottom - top) * down if start[row, col] >= 0 else np.float32(0)


def warped(maps: Sequence[Map], coordinates: Coordinates, rows: slice, cols: slice) -> list[Float]:
    """Lattice-frame maps at the raw pixels of a window, 0 outside of them; only what is needed is read."""
    if coordinates.transposed:
        return [np.ascontiguousarray(found.T) for found in warped(maps, coordinates.upright, cols, rows)]
    shape, cells = np.array(maps[0].shape), np.array(coordinates.nodes_px.shape[1:]) - 1
    n_u, n_v = (shape // cells).tolist()
    grid = on_grid(coordinates, (n_u, n_v), rows, cols)
    shift = coordinates.line_shift_px[rows].astype(np.float64)
    reach = 1 + np.abs(shift).max() * np.abs(np.diff(grid, axis=2)).max() / STEP_PX
    low = np.clip(np.floor(grid.min(axis=(1, 2)) - reach), 0, shape).astype(np.int64)
    high = np.clip(np.ceil(grid.max(axis=(1, 2)) + reach) + 1, 0, shape).astype(np.int64)
    found = [np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.float32) for _ in maps]
    if (high - low >= 2).all():
        window = slice(low[0], high[0]), slice(low[1], high[1])
        size = int(high[0] - low[0]), int(high[1] - low[1])
        start, parts = np.empty(found[0].shape, np.int32), np.empty((len(found[0]), 2, found[0].shape[1]), np.float32)
        _places(size, low, grid, shift, start, parts)
        for values, out in zip(maps, found, strict=True):
            _sampled(np.ascontiguousarray(values[window]), start, parts, out)
    return found


@compiled("void(int32[::1])")
def _round(bits: npt.NDArray[np.int32]) -> None:
    """Round float32 values, given as their bits, to KEPT_BITS of their fraction; halves go away from zero."""
    half = np.int32(1 << (22 - KEPT_BITS))
    kept = np.int32(-2 << (22 - KEPT_BITS))
    for i in range(len(bits)):
        bits[i] = (bits[i] + half) & kept


@dataclass(frozen=True)
class Laid:
    """Maps (U n_u, V n_v) of a grain in its lattice frame by name, and where they lie in the image.

    What is in counts gets back the `line_gain` that the image was divided by: (rows,), of a transposed scan (cols,).
    """

    maps: dict[str, Map]
    coordinates: Coordinates
    line_gain: Array | None = None

    def seen(self, rows: slice, cols: slice) -> list[Float]:
        """Every map at the raw pixels of a window."""
        found = warped(list(self.maps.values()), self.coordinates, rows, cols)
        if self.line_gain is not None and (self.line_gain != 1).any():
            gain = self.line_gain[None, cols] if self.coordinates.transposed else self.line_gain[rows, None]
            for kind, values in zip(self.maps.values(), found, strict=True):
                if isinstance(kind, InCounts):
                    values *= gain.astype(np.float32)
        return found


def write_maps(group: zarr.Group, grains: list[Laid], shape: tuple[int, int], header: PixelNm | None) -> None:
    """Write lattice-frame maps as OME-Zarr images in the raw frame, with the raw image's scale.

    All grains go into one map: no two have a pixel in common, but for the outermost ones that are partly 0.
    Values are rounded to `KEPT_BITS`: what noise decides is not worth the disk.
    """
    names = list(grains[0].maps)
    with ExitStack() as stack:
        images = [
            stack.enter_context(Bands(group.create_group(name), shape, np.float32, header, name=name)) for name in names
        ]
        for start in range(0, shape[0], BAND_ROWS):
            rows = slice(start, min(start + BAND_ROWS, shape[0]))
            blocks = [
                _merged(grains, rows, slice(col, min(col + BLOCK_COLS, shape[1])))
                for col in range(0, shape[1], BLOCK_COLS)
            ]
            for image, *band in zip(images, *blocks, strict=True):
                values = band[0] if len(band) == 1 else np.concatenate(band, axis=1)
                _round(values.reshape(-1).view(np.int32))
                image.push(values)
            if shape[1] > BLOCK_COLS:
                give_back()


def _merged(grains: list[Laid], rows: slice, cols: slice) -> list[Float]:
    """A window of the image of every map, each grain's own where it has one."""
    found, *others = (grain.seen(rows, cols) for grain in grains)
    for other in others:
        for values, more in zip(found, other, strict=True):
            np.copyto(values, more, where=values == 0)
    return found
