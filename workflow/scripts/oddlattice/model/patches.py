"""Training patches in the lattice frame: simulated ones, and ones cut from registered images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import CELL_PX
from oddlattice.lattice.columns import ColumnShape, peak_at
from oddlattice.numerics.arrays import Array, Float


@dataclass(frozen=True)
class Batch:
    """Patches for one step, each of shape (n, 40, 40), float32, standardised: local mean 0, contrast about 1.

    Attributes
    ----------
    patch : what the encoder sees: noise and, in part of the patches, a defect
    target : what is to be predicted: bulk
    variance : noise variance of `patch`
    """

    patch: Float
    target: Float
    variance: Float


def standardised(tiles: Float, contrast: float) -> Float:
    """What the network sees of an image divided by its local mean: mean 0, in units of the contrast of its cell."""
    return np.asarray((tiles - 1) / contrast, dtype=np.float32)


@dataclass(frozen=True)
class ImagePatches:
    """Bulk patches cut from registered images.

    Attributes
    ----------
    patches : ndarray of shape (n, 40, 40), float32
        Standardised (see `standardised`).
    variance : ndarray of shape (40, 40), or of the shape of `patches`, float32
        Noise variance, repeating with the cell; infinite where a patch shows nothing.
    shapes : list of ColumnShape
        The tested columns as the images show them, in the same unit.
    """

    patches: Float
    variance: Float
    shapes: list[ColumnShape]


def image_batches(source: ImagePatches, n: int, seed: int, defect_part: float = 0.5) -> Iterator[Batch]:
    """Endless batches of `n` patches from images; changed columns are pasted into a random part of the inputs."""
    rng = np.random.default_rng(seed)
    u, v = pixel_lines()
    while True:
        chosen = rng.integers(0, len(source.patches), n)
        variance = np.broadcast_to(source.variance, source.patches.shape)[chosen]
        target = source.patches[chosen]
        target = target * np.exp(rng.normal(0.0, 0.1, (n, 1, 1))).astype(np.float32)
        patch = target.copy()
        for k in np.flatnonzero(rng.random(n) < defect_part):
            shape = source.shapes[rng.integers(len(source.shapes))]
            row, col = np.array([shape.u, shape.v]) - 0.5 + rng.integers(-1, 2, 2)
            before = peak_at(shape, u - row, v - col)
            if rng.random() < 0.7:
                patch[k] += rng.uniform(-1.0, 1.0) * before
            else:
                du, dv = rng.uniform(-0.15, 0.15, 2)
                patch[k] += peak_at(shape, u - row - du, v - col - dv) - before
        yield Batch(np.where(np.isfinite(variance), patch, target), target, variance)


def padded(tiles: Float) -> Float:
    """Tiles with half a cell of reflected rim, so that rim cells have a patch too; shape (U*20 + 20, V*20 + 20)."""
    return np.pad(tiles, CELL_PX // 2, mode="reflect")


def patches_of(rimmed: Float, cells: npt.NDArray[np.intp]) -> Float:
    """Patches (n, 40, 40) about `cells` (n, 2), cut from tiles with a rim (see `padded`)."""
    view = np.lib.stride_tricks.sliding_window_view(rimmed, (2 * CELL_PX, 2 * CELL_PX))
    return np.ascontiguousarray(view[cells[:, 0] * CELL_PX, cells[:, 1] * CELL_PX])


def pixel_lines() -> tuple[Array, Array]:
    """Coordinates u, v [cells] of the pixels of a patch about its centre; shapes (40, 1), (1, 40)."""
    line = (np.arange(2 * CELL_PX) + 0.5) / CELL_PX - 1.0
    return line[:, None], line[None, :]
