"""Why what repeats in an image is no crystal: two lattices on one place, fringes, spots of a diffraction pattern."""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from oddlattice.lattice.columns import as_cells
from oddlattice.lattice.fourier import NoLatticeError, find_lattice
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.trial_part import densest_part
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.local_plane import finite

SIDE_CELLS = 24  # of the part that is looked at
LEAST_SIDE = 6  # [cells]: of fewer nothing is told
# amplitude of a second lattice's waves over the largest of the first: 0.24 at most in 21 real images
SECOND = 0.35
OFF_LATTICE = 0.2  # in orders: a wave so far from every one of the lattice is not of it
LOWEST = 0.6  # of the shortest reciprocal vector: slower waves are conditions that vary
BEYOND_CHANCE = 3.0  # of noise's power, over the largest that is usual
ACROSS = 0.3  # sine of the angle between two of them that make a lattice
FASTEST = 0.4  # [cycles/px]
SPOTS, FALLS = 20.0, 0.5  # ratio of heights that no specimen has in one image; correlation with the distance
BEAM, IN_MIDDLE = 10.0, 0.08  # height of the central spot over the usual; so near the middle of the image, of its side
# of the largest wave, those across it must have so much: 0.39 at least in 16 real images and 13 made-up crystals
ACROSS_FRINGES = 0.15
LARGEST_PX = 1024  # of the part in which the beam is looked for


DIFFRACTION = (
    "no lattice of columns: the heights of the peaks fall off in all directions about one place, by more than "
    f"a factor of {SPOTS:.0f}: a diffraction pattern or a Fourier transform"
)
WITH_BEAM = (
    f"no lattice of columns: one peak in the middle is more than {BEAM:.0f} times as high as the others: a diffraction "
    "pattern"
)


def not_one_crystal(image: Any, found: Registration) -> str:
    """Why a registered image cannot be analysed as a crystal; "" where it can.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray.
    found : Registration
    """
    cells = densest_part(found.mask.astype(np.uint8), SIDE_CELLS)
    seen = found.mask[cells]
    if min(seen.shape) < LEAST_SIDE:
        return ""
    if is_diffraction(found):
        return DIFFRACTION
    if has_central_beam(image, found.frame.vectors_px):
        return WITH_BEAM
    parts = as_cells(found.record.cut(image, cells), found.px_per_cell).astype(np.float64)
    across = waves_across(np.median(parts[seen], axis=0))
    if across < ACROSS_FRINGES:
        return (
            f"no lattice: fringes; the waves across them have {across:.0%} of their amplitude: columns are not resolved"
        )
    part = second_lattice(parts, seen, found)
    if part > 1:
        return "no lattice: what does not repeat is stronger than what does (a diffraction pattern, or no crystal)"
    if part > SECOND:
        return (
            f"no lattice: two lattices on the same place (moiré); the waves of the second have {part:.0%} of the "
            "amplitude of the first"
        )
    return ""


def second_lattice(cells: Array, seen: npt.NDArray[np.bool_], found: Registration) -> float:
    """Amplitude of what repeats in cells otherwise than they do, over the largest amplitude of the cells themselves.

    It takes two waves that are not along one line; the weaker of them counts.

    Parameters
    ----------
    cells : ndarray of shape (U, V, n_u, n_v)
    seen : ndarray of shape (U, V)
        Which of them are crystal.
    """
    mean = np.median(cells[seen], axis=0)
    left = np.where(seen[..., None, None], cells - mean, 0.0)
    sides = cells.shape[0] * cells.shape[2], cells.shape[1] * cells.shape[3]
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in sides))
    # the half plane of waves: the other one has the same sizes
    size = np.abs(scipy.fft.rfft2(left.transpose(0, 2, 1, 3).reshape(sides) * window)) / window.sum()
    own = np.abs(np.fft.fft2(mean - mean.mean())) / mean.size
    lines = np.fft.fftfreq(sides[0]) * mean.shape[0], np.fft.rfftfreq(sides[1]) * mean.shape[1]
    orders = np.stack(np.meshgrid(*lines, indexing="ij"))
    reciprocal = np.linalg.inv(found.frame.vectors_px).T  # rows: [cycles/px]
    frequency = np.tensordot(orders, reciprocal, (0, 0))
    length = np.linalg.norm(frequency, axis=-1)
    off = np.abs(orders - np.rint(orders)).max(0)
    slow = LOWEST * float(np.linalg.norm(reciprocal, axis=1).min())
    looked_at = (off > OFF_LATTICE) & (length > slow) & (length < FASTEST)
    # the largest of so many random ones would be as large as that
    by_chance = float(np.median(size[looked_at]) ** 2 / np.log(2)) * (np.log(2 * looked_at.sum()) + BEYOND_CHANCE)
    size = np.where(looked_at, np.sqrt(np.maximum(size**2 - by_chance, 0.0)), 0.0)
    first = np.unravel_index(int(size.argmax()), size.shape)
    g = frequency[first]
    sine = np.abs(frequency[..., 0] * g[1] - frequency[..., 1] * g[0]) / np.maximum(length * np.hypot(*g), 1e-12)
    second = float(np.where(sine > ACROSS, size, 0.0).max())
    return second / max(float(own.max()), 1e-12)


def waves_across(cell: Array) -> float:
    """Amplitude of the largest wave of a mean cell (n_u, n_v) that does not run along the largest of all, over that."""
    size = np.abs(np.fft.fft2(cell - cell.mean()))
    h, k = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in cell.shape), indexing="ij")
    at = np.unravel_index(int(size.argmax()), size.shape)
    aside = np.abs(h * k[at] - k * h[at]) > 0.5
    return float(np.where(aside, size, 0.0).max() / max(float(size.max()), 1e-12))


def has_central_beam(image: Any, vectors_px: Array) -> bool:
    """Whether a single peak near the middle of an image is far higher than all others: the undiffracted beam."""
    low = [max((n - LARGEST_PX) // 2, 0) for n in image.shape]
    middle = image[low[0] : low[0] + LARGEST_PX, low[1] : low[1] + LARGEST_PX]
    height, places = _heights(middle, vectors_px)
    if not len(height) or height.max() < BEAM * float(np.median(height)):
        return False
    beam = places[int(height.argmax())]
    beside = np.abs(places - beam).max(axis=1) <= 1.5 * float(np.hypot(*vectors_px.T).max())
    off = np.abs(beam + low - (np.array(image.shape) - 1) / 2) / np.array(image.shape)
    return bool((off < IN_MIDDLE).all() and (height[~beside] < 0.5 * height.max()).all())


def is_diffraction(found: Registration) -> bool:
    """Whether the heights of the cells' peaks are those of spots: they fall from one place, by more than thickness."""
    height = np.maximum(found.amplitude * found.local_mean, 1e-12)[found.mask]
    return _fall_off(height, np.argwhere(found.mask) @ found.frame.vectors_px)


def of_diffraction(image: Any) -> str:
    """What tells an image that could not be laid on its lattice for a diffraction pattern; "" where nothing does."""
    try:
        vectors_px = find_lattice(image).vectors_px
    except NoLatticeError:
        return ""
    height, places = _heights(image, vectors_px)
    if len(height) and _fall_off(height, places):
        return DIFFRACTION
    return WITH_BEAM if has_central_beam(image, vectors_px) else ""


def _heights(image: Any, vectors_px: Array) -> tuple[Array, Array]:
    """Heights (n,) of the peaks in squares of an image as large as its cells, and their middles (n, 2) [px]."""
    side = max(int(np.ceil(np.hypot(*vectors_px.T).max())), 4)
    rows, cols = (n // side for n in image.shape)
    if min(rows, cols) < LEAST_SIDE:
        return np.empty(0), np.empty((0, 2))
    squares = finite(image[: rows * side, : cols * side]).reshape(rows, side, cols, side).swapaxes(1, 2)
    flat = squares.reshape(rows * cols, side * side)
    height = np.asarray(np.maximum(flat.max(axis=1) - np.median(flat, axis=1), 1e-12), dtype=np.float64)
    middles = np.argwhere(np.ones((rows, cols), dtype=bool)).astype(np.float64) + 0.5
    return height, side * middles


def _fall_off(height: Array, places_px: Array) -> bool:
    """Whether heights (n,) at places (n, 2) fall off in all directions about the highest, by SPOTS and more."""
    height = np.log(height)
    high, low = np.quantile(height, (0.98, 0.1))
    if high - low < np.log(SPOTS):
        return False
    away = np.linalg.norm(places_px - places_px[int(height.argmax())], axis=1)
    return bool(np.corrcoef(away, height)[0, 1] < -FALLS)
