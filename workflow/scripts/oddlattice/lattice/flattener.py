"""The slowly varying mean of an image, and the image as its relative deviation from it."""

from dataclasses import dataclass, replace
from dataclasses import field as filled_by
from functools import cached_property
from typing import Any

import numpy as np
from scipy import ndimage

from oddlattice.lattice.grid import Grid, Lifted, strips
from oddlattice.lattice.spoilt import Seen
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.local_plane import block_mean, finite

LEAST_PEDESTAL, MOST_PEDESTAL = 0.2, 4.0  # of the height of the middle over the lowest, and beyond it of the mean
KEPT_PX = 1 << 24  # an image of at most so many pixels is flattened once and kept


@dataclass(frozen=True)
class Flattener:
    """The slowly varying mean of an image on a coarse grid, and limits beyond which a pixel is clipped.

    What is blank counts nowhere: there the flattened image is 0.
    """

    mean: Array
    grid: Grid
    limits: tuple[float, float]
    pedestal: float
    seen: Seen
    _kept: list[tuple[Any, Float]] = filled_by(default_factory=list, init=False, repr=False, compare=False)

    def flat(self, image: Any, rows: slice) -> Float:
        """Relative deviation of rows of the image from its mean, clipped; 0 where it is blank. Of the caller's own."""
        if image.shape[0] * image.shape[1] > KEPT_PX:
            return self._flat(image, rows)
        if not self._kept or self._kept[0][0] is not image:
            whole = np.empty(image.shape, np.float32)
            for some in strips(image.shape):
                whole[some] = self._flat(image, some)
            self._kept[:] = [(image, whole)]
        return self._kept[0][1][rows].copy()

    def _flat(self, image: Any, rows: slice) -> Float:
        low, high = self.limits
        flat = _flattened(finite(image[rows]), self._lifted.strip(rows)[0], self.pedestal, low, high)
        return self.seen.keep(flat, rows)

    @cached_property
    def _lifted(self) -> Lifted:
        return Lifted(self.mean[None], self.grid, self.seen.shape)

    @property
    def transposed(self) -> "Flattener":
        """That of the image with rows and columns exchanged."""
        mean = np.ascontiguousarray(self.mean.T)
        return replace(self, mean=mean, grid=self.grid.transposed, seen=self.seen.transposed)


def fit_flattener(image: Float, period_px: float, seen: Seen | None = None) -> Flattener:
    """Slowly varying mean of an image over about two periods of its lattice, of what is `seen` where that is known.

    Where an image has no positive mean (a background was subtracted, or it is signed) a pedestal is added first.
    """
    rows, cols = image.shape
    n = max(int(period_px / 3), 1)
    height = n * max(512 // n, 1)
    parts = [slice(start, min(start + height, rows)) for start in range(0, rows, height)]
    seen = seen or Seen.of(image)
    strips = (finite(image[part]).copy() for part in parts)
    small = np.concatenate([block_mean(seen.keep(strip, part), n) for strip, part in zip(strips, parts, strict=True)])
    small = small.astype(np.float64)
    known = np.ones(small.shape)
    if seen.blank is not None:
        ones = (np.ones((min(part.stop, rows) - part.start, cols), np.float32) for part in parts)
        known = np.concatenate([block_mean(seen.keep(one, p), n) for one, p in zip(ones, parts, strict=True)])
        known = known.astype(np.float64)
        small /= np.maximum(known, 1e-6)
    width = 2.0 * period_px / n
    some = small[known > 0.5] if (known > 0.5).any() else small
    lowest, middle = float(np.percentile(some, 0.1)), float(np.median(some))
    pedestal = 0.0 if lowest > 0 and middle > 0 else -lowest + max(middle - lowest, 1e-12) * LEAST_PEDESTAL
    if pedestal:
        pedestal += _more_pedestal(small + pedestal, known, width)
    smooth = _blurred(small + pedestal, known, width)
    smooth = np.maximum(smooth, 0.05 * float(np.median(smooth)) + 1e-12)
    at_rows, at_cols = (np.arange(count, dtype=np.float64) * n + (n - 1) / 2 for count in small.shape)
    grid = Grid(at_rows, at_cols)
    part = slice(max(rows // 2 - 64, 0), min(rows // 2 + 64, rows))
    flat = (finite(image[part]) + pedestal) / Lifted(smooth[None], grid, (rows, cols)).strip(part)[0] - 1
    low, high = np.percentile(seen.keep(flat, part), [0.2, 99.8])
    spread = max(float(high - low), 1e-6)
    return Flattener(smooth, grid, (float(low - spread), float(high + 1.5 * spread)), pedestal, seen)


def _more_pedestal(small: Array, known: Array, width: float) -> float:
    """What to add to an image (n, m) so that its contrast is the same part of its mean everywhere; 0 where it is.

    Contrast grows with the mean where the specimen gets thicker. Of a signed image, as of integrated phase contrast,
    the mean says nothing of the columns: so much is added then that dividing by it takes off the mean and little else.
    """
    mean = _blurred(small, known, width)
    contrast = np.sqrt(np.maximum(_blurred((small - mean) ** 2, known, width), 0))
    x, y = (layer[known > 0.5] if (known > 0.5).any() else layer.ravel() for layer in (mean, contrast))
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / max(float(((x - x.mean()) ** 2).sum()), 1e-300)
    most = MOST_PEDESTAL * float(x.mean())
    if slope * most <= float(y.mean()) - slope * float(x.mean()):
        return most
    return float(np.clip(float(y.mean()) / slope - float(x.mean()), 0, most))


def _blurred(values: Array, known: Array, sigma: float) -> Array:
    """Gaussian mean of `values` (n, m) where they are `known` (0 to 1); far from all of these the nearest such mean."""

    def blur(layer: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(layer, sigma, mode="nearest", truncate=3.0))

    if (known == 1).all():
        return blur(values)
    weight = blur(known)
    near = weight > 0.02 * float(weight.max())
    mean = blur(values * known) / np.maximum(weight, 1e-12)
    nearest = ndimage.distance_transform_edt(~near, return_distances=False, return_indices=True)
    return np.asarray(mean[nearest[0], nearest[1]])


@compiled("float32[:, ::1](float32[:, :], float32[:, ::1], float32, float32, float32)")
def _flattened(strip: Float, mean: Float, pedestal: float, low: float, high: float) -> Float:
    """(strip + pedestal) / mean - 1, between `low` and `high`."""
    flat = np.empty(strip.shape, np.float32)
    for r in range(strip.shape[0]):
        for c in range(strip.shape[1]):
            value = (strip[r, c] + pedestal) / mean[r, c] - np.float32(1)
            flat[r, c] = min(max(value, low), high)
    return flat
