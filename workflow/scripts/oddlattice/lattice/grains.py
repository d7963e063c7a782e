"""The grains of an image: the lattices it holds, and which of them every place belongs to.

Windows of the image are asked for lattices, from large to small; where the reflections of one are strong and in step,
the image is taken, and what is left is asked again. Then every pixel goes to the lattice whose waves, continued from
the inside of its grain, are nearest to the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import ndimage

from oddlattice.crystal import LEAST_CELLS
from oddlattice.lattice.boundaries import turned
from oddlattice.lattice.demodulate import demodulate
from oddlattice.lattice.flattener import Flattener, fit_flattener
from oddlattice.lattice.fourier import (
    BLOCK_PX,
    PEAK_POWER,
    Lattice,
    blocks_of,
    lattice_of_peaks,
    reduced,
    refusal,
    spectrum_peaks,
    whitened_spectrum,
)
from oddlattice.lattice.grid import Grid, Lifted, grid_over, strips
from oddlattice.lattice.registration import Registration
from oddlattice.numerics.arrays import Array, Bools, Complex, Float, Labels
from oddlattice.numerics.distances import distance_px
from oddlattice.numerics.filters import gaussian_blur
from oddlattice.numerics.local_plane import finite

WINDOW_PERIODS = (24.0, 16.0, 11.0, 8.0)  # sides of the windows that are asked for a lattice
LEAST_WINDOW_PX = 64
PERIOD_OF_FRINGES = 1.4  # ASSUME: primitive cells are about so large, in periods of the strongest fringes
LEAST_LEFT_CELLS = 20  # connected cells not analysed in which another grain is looked for: it reaches beyond them
TURNED_DEG = 2.0  # a lattice that turns by more within the image may be two
TRIES = 25  # windows of a size that are asked at most
PURE = 0.75  # part of a window's peaks that its lattice must explain
COVER_PERIODS = 2.0  # rms width over which the strength of a lattice is measured
COVERED = 0.5  # of a lattice's usual strength: there it holds
IN_STEP = 0.5  # of SAME_STEP that a lattice may be out of step at most in three quarters of its window
TOGETHER, TOGETHER_PART = 4, 0.6  # strongest reflections of a lattice, and how much they must be so together
USUAL_PERCENT = 80  # of the places of its window at which a reflection is weaker than its usual strength
FREE = 0.2  # of a window's middle that may be covered where it is asked for a lattice
BESIDE_PERIODS = 4.0  # of what is no crystal beside a grain that is registered with it: vacuum, and what is spoilt
NEAR_STRENGTH = 0.25  # of a lattice's usual strength from which it may be that of a place
LEAST_PART = 1.5  # cells of a lattice in another's, of whose reflections it has some
BENT_DEG, BENT_STRETCH = 7.0, 1.12  # by so much the lattice of one crystal may differ between places
NEAREST_PERIODS = 0.5  # rms width over which it is asked which waves are nearest to the image
STEP_PERIODS = 1.0  # rms width over which waves are followed over a boundary
BESIDE = 1.25, 6.0  # periods from a boundary between which waves are beside it
WEAK_PERCENT = 10  # of the places of a boundary
GOES_OVER = 0.45  # of their size beside it that they keep there; 0.39 at most of 21 walls, 0.47 at least in crystals
JUMPS = 0.028  # of its frequency (1.6 degrees) by which a wave jumps between two grains, or is in step there
JUMPS_FAR = 0.06  # 3.4 degrees: by more no crystal jumps along a whole line, in step or not
JUMP_PERCENT = 25  # of the places of a boundary may jump by less
STRONGEST = 1.3  # of its usual strength that a reflection counts with at most
SAME_STEP = 0.035  # part by which two reflections of one lattice may differ in place: 2 degrees, or strain
REFLECTIONS = 6  # strongest, by which a lattice is followed
WAVES = 16  # strongest, of which its image is made
MOST_GRAINS = 12


@dataclass(frozen=True)
class Grains:
    """What grains an image holds.

    Attributes
    ----------
    labels : ndarray of shape (rows, cols), uint8
        Number of the grain of each pixel, the largest 1; 0 where there is no crystal.
    lattices : list of Lattice
        Of each grain.
    """

    labels: Labels
    lattices: list[Lattice]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.lattices)

    def region(self, grain: int) -> Bools:
        """Pixels of a grain, with what is no crystal in it and beside it, some periods wide."""
        margin_px = BESIDE_PERIODS * _period(self.lattices[grain - 1])
        region = self.nearest == grain
        about = _about(self.labels == grain, int(margin_px) + 1)
        own = ndimage.binary_fill_holes(self.labels[about] == grain)
        near = np.zeros_like(region)
        near[about] = distance_px(~own) <= margin_px
        return np.asarray(near & region)

    @cached_property
    def nearest(self) -> Labels:
        """The labels with what is no crystal given to the grain nearest to it."""
        away = ndimage.distance_transform_edt(self.labels == 0, return_distances=False, return_indices=True)
        return np.asarray(self.labels[away[0], away[1]])


@dataclass(frozen=True)
class _Followed:
    """A lattice and its strength on a coarse grid: 1 in its own crystal; 0 where it is out of step, too.

    `holds` tells whether it does so in the window in which it was seen.
    """

    lattice: Lattice
    strength: Array
    holds: bool = True

    @property
    def period_px(self) -> float:
        return _period(self.lattice)


def _about(where: Bools, margin_px: int) -> tuple[slice, slice]:
    """The window about the places of a mask (rows, cols), with a margin where the image has one."""
    lines = [np.flatnonzero(where.any(axis=axis)) for axis in (1, 0)]
    if not len(lines[0]):
        return slice(0, 0), slice(0, 0)
    rows, cols = (
        slice(max(int(at[0]) - margin_px, 0), min(int(at[-1]) + 1 + margin_px, n))
        for at, n in zip(lines, where.shape, strict=True)
    )
    return rows, cols


def _period(lattice: Lattice) -> float:
    return float(np.sqrt(abs(np.linalg.det(lattice.vectors_px))))


def find_grains(image: Float) -> Grains:
    """The grains of an image (rows, cols); `count` is 0 or 1 where it is no more."""
    image = finite(image)
    period_px = PERIOD_OF_FRINGES * _strongest_fringes_px(image)
    if not period_px or min(image.shape) < WINDOW_PERIODS[-1] * period_px:  # no window would hold a lattice
        return Grains(np.zeros(image.shape, np.uint8), [])
    flattener = fit_flattener(image, period_px)
    grid = grid_over((image.shape[0], image.shape[1]), 0.8 * period_px)
    followed = _followed_lattices(image, flattener, grid, period_px)
    if len(followed) < 2:
        labels = np.full(image.shape, len(followed), np.uint8)
        return Grains(labels, [one.lattice for one in followed])
    strengths = np.stack([one.strength for one in followed])
    best = strengths.max(0)
    # speckle is strong here and there only; about a boundary both lattices are weak
    core = ndimage.gaussian_filter((best > COVERED).astype(np.float64), 2.0, mode="nearest") > 0.5
    number = 1 + strengths.argmax(0)
    beside = [ndimage.binary_dilation(core & (number == k), iterations=4) for k in range(1, len(followed) + 1)]
    crystal = core | ((np.sum(beside, axis=0) > 1) & (best > 0.5 * COVERED))
    coarse = np.where(crystal, number, 0).astype(np.uint8)
    labels = _on_pixels(coarse, grid, image.shape)
    lattices = [one.lattice for one in followed]
    near = [_on_pixels((one.strength > NEAR_STRENGTH).astype(np.uint8), grid, image.shape) > 0 for one in followed]
    for _ in range(2):
        labels, lattices = _nearest_waves(image, flattener, grid, labels, lattices, near)
    return _numbered(_joined(image, flattener, grid, labels, lattices), lattices)


def takes_all(found: Registration) -> bool:
    """Whether a lattice leaves nothing of its image that could be another grain, and is not turned within it."""
    left = ndimage.binary_opening(found.inside & ~found.mask, np.ones((3, 3), dtype=bool))
    parts, _ = ndimage.label(left)
    if np.bincount(parts.ravel())[1:].max(initial=0) >= LEAST_LEFT_CELLS:
        return False
    along = ndimage.uniform_filter(np.diff(found.nodes_px, axis=2), (0, 5, 5))[:, :-1]
    turn = np.angle((along[1] + 1j * along[0])[found.mask] * np.exp(-1j * np.arctan2(*found.frame.vectors_px[1])))
    return bool(np.ptp(np.percentile(turn, [2, 98])) < np.deg2rad(TURNED_DEG))


def _strongest_fringes_px(image: Float) -> float:
    """Period of the strongest Fourier peaks of an image where it has most of them, the median of a few; 0 without."""
    found = []
    for block in blocks_of((image.shape[0], image.shape[1]), BLOCK_PX):
        peaks, powers = spectrum_peaks(whitened_spectrum(np.ascontiguousarray(image[block])), PEAK_POWER)
        if len(peaks):
            found.append((float(np.log(powers).sum()), float(np.median(1 / np.hypot(*peaks[:6].T)))))
    return max(found, default=(0.0, 0.0))[1]


# ---------------------------------------------------------------- lattices, one after the other


def _followed_lattices(image: Float, flattener: Flattener, grid: Grid, period_px: float) -> list[_Followed]:
    found: list[_Followed] = []
    covered = np.zeros((len(grid.rows_px), len(grid.cols_px)), dtype=bool)
    for periods in WINDOW_PERIODS:
        side = int(periods * period_px)
        if side > min(image.shape) or (side < LEAST_WINDOW_PX and found):
            continue
        seen = list(_lattices_in_windows(image, grid, covered, side))
        seen.sort(key=lambda one: -one[0])
        for _, lattice, corner in seen:
            known = any(_same(lattice, other.lattice) for other in found)
            if known or len(found) == MOST_GRAINS or not _is_free(covered, grid, (corner, side)):
                continue
            one = _follow(image, flattener, grid, lattice, (corner, side))
            if one.holds and _large_enough(one, found, grid):
                found.append(one)
                covered |= one.strength > COVERED
    return found


def _is_free(covered: Bools, grid: Grid, window: tuple[tuple[int, int], int]) -> bool:
    """Whether nothing covers the middle of a window yet."""
    (row, col), side = window
    rows = _between(grid.rows_px, slice(row + side // 4, row + 3 * side // 4))
    cols = _between(grid.cols_px, slice(col + side // 4, col + 3 * side // 4))
    return bool(covered[rows, cols].mean() < FREE)


def _lattices_in_windows(
    image: Float, grid: Grid, covered: Bools, side: int
) -> Iterator[tuple[float, Lattice, tuple[int, int]]]:
    """Lattices of windows whose middle nothing covers yet, with how clear each is, and the window's corner."""
    every = _corners((image.shape[0], image.shape[1]), side)
    corners = [corner for corner in every if _is_free(covered, grid, (corner, side))]
    step = -(-len(corners) // TRIES) or 1
    for row, col in corners[::step]:
        part = image[row : row + side, col : col + side]
        if np.ptp(part) == 0:
            continue
        spectrum = whitened_spectrum(part)
        peaks, powers = spectrum_peaks(spectrum, PEAK_POWER)
        lattice = lattice_of_peaks(peaks, powers, max(spectrum.step)) if len(peaks) >= 2 else None
        if lattice is None or refusal(lattice, peaks) or lattice.explained < PURE or not _is_shown(lattice):
            continue
        yield float(np.log(lattice.powers).sum() * lattice.explained**2), lattice, (row, col)


def _is_shown(lattice: Lattice) -> bool:
    """Whether a lattice has as many peaks as cells that the two strongest span: else it may be made up of others'."""
    orders = np.rint(lattice.peaks @ lattice.vectors_px.T)[np.argsort(lattice.powers)[::-1]]
    spans = np.abs(orders[0, 0] * orders[:, 1] - orders[0, 1] * orders[:, 0])
    return bool(len(orders) >= spans[np.argmax(spans > 0)])


def _corners(shape: tuple[int, int], side: int) -> list[tuple[int, int]]:
    lines = [np.unique(np.linspace(0, n - side, 1 + -(-3 * (n - side) // side)).astype(int)) for n in shape]
    return [(int(row), int(col)) for row in lines[0] for col in lines[1]]


def _between(grid_px: Array, pixels: slice) -> slice:
    low, high = np.searchsorted(grid_px, [pixels.start, pixels.stop])
    return slice(int(low), max(int(high), int(low) + 1))


def _same(one: Lattice, other: Lattice) -> bool:
    """Whether the strongest peaks of a lattice are peaks of another, too."""
    strong = one.peaks[np.argsort(one.powers)[::-1][:4]]
    apart = np.abs(np.hypot(*np.moveaxis(strong[:, None] - np.concatenate([other.peaks, -other.peaks]), -1, 0)))
    return bool((apart.min(1) < SAME_STEP * np.hypot(*strong.T)).all())


def _follow(
    image: Float, flattener: Flattener, grid: Grid, lattice: Lattice, window: tuple[tuple[int, int], int]
) -> _Followed:
    """Where a lattice that was seen in a window, a corner and a side, is strong and in step."""
    (row, col), side = window
    inner = (
        _between(grid.rows_px, slice(row + side // 3, row + side - side // 3)),
        _between(grid.cols_px, slice(col + side // 3, col + side - side // 3)),
    )
    period = _period(lattice)
    sigma = COVER_PERIODS * period
    orders = np.rint(lattice.peaks[:12] @ lattice.vectors_px.T)
    vectors = lattice.vectors_px
    for _ in range(2):
        waves, noise = demodulate(image, flattener, orders @ np.linalg.inv(vectors).T, grid, sigma)
        seen = waves[:, inner[0], inner[1]]
        vectors = _stepped(vectors, orders, seen, grid)
    frequencies = orders @ np.linalg.inv(vectors).T
    waves, noise = demodulate(image, flattener, frequencies, grid, sigma)
    rows, cols = _middle_of(grid, window)
    size = np.percentile(np.abs(waves[:, rows, cols]), USUAL_PERCENT, axis=(1, 2))
    kept = np.argsort(size)[::-1][:REFLECTIONS]
    size = size[kept][:, None, None]
    clear = np.sqrt(np.maximum(np.abs(waves[kept]) ** 2 - noise**2, 0))
    # all of them together: reflections of two lattices may be those of a third, their coincidence lattice
    strength = np.minimum(clear, STRONGEST * size).sum(0) / max(float(size.sum()), 1e-30)
    off = _off_step(waves[kept[:3]], np.hypot(*frequencies[kept[:3]].T), grid)
    held = _holds((clear / np.maximum(size, 1e-30))[:TOGETHER, rows, cols], off[rows, cols])
    strength = strength * np.exp(-0.5 * (off / SAME_STEP) ** 2)
    return _Followed(replace(lattice, vectors_px=reduced(vectors)), strength, held)


def _holds(parts: Array, off: Array) -> bool:
    """Whether a lattice holds where it was seen: its reflections together, and in step.

    Two that are turned a little make one of the middle, and any two may make a coincidence lattice.

    Parameters
    ----------
    parts : ndarray of shape (k, n, m)
        Amplitudes of its strongest reflections, as parts of their usual ones.
    off : ndarray of shape (n, m)
        How far they are out of step.
    """
    together = np.minimum(parts, 1.0)
    strong = together.mean(0) > COVERED
    if not strong.any() or together.min(0).sum() < TOGETHER_PART * together.mean(0).sum():
        return False
    return bool(np.percentile(off[strong], 75) < IN_STEP * SAME_STEP)


def _middle_of(grid: Grid, window: tuple[tuple[int, int], int]) -> tuple[slice, slice]:
    """Grid places of a window, a corner and a side, without its rim."""
    (row, col), side = window
    rim = side // 6
    rows = _between(grid.rows_px, slice(row + rim, row + side - rim))
    return rows, _between(grid.cols_px, slice(col + rim, col + side - rim))


def _stepped(vectors: Array, orders: Array, waves: Complex, grid: Grid) -> Array:
    """Vectors of a lattice mended by the steps of its phases on the grid."""
    if min(waves.shape[1:]) < 2:
        return vectors
    down = np.angle((waves[:, 1:] * np.conj(waves[:, :-1])).sum((1, 2))) / (2 * np.pi * grid.step_px[0])
    right = np.angle((waves[:, :, 1:] * np.conj(waves[:, :, :-1])).sum((1, 2))) / (2 * np.pi * grid.step_px[1])
    weight = np.abs(waves).mean((1, 2))[:, None]
    frequencies = orders @ np.linalg.inv(vectors).T + np.stack([down, right], -1)
    reciprocal = np.linalg.lstsq(orders * weight, frequencies * weight, rcond=None)[0]
    return np.asarray(np.linalg.inv(reciprocal).T)


def _off_step(waves: Complex, lengths: Array, grid: Grid) -> Array:
    """How far the local frequencies of waves (k, n, m) are off theirs, as a part of these; shape (n, m)."""
    off = np.zeros(waves.shape[1:])
    weight = np.zeros(waves.shape[1:])
    for wave, length in zip(waves, lengths, strict=True):
        square = np.zeros(wave.shape)
        for axis in range(2):
            product = np.take(wave, range(1, wave.shape[axis]), axis) * np.conj(
                np.take(wave, range(wave.shape[axis] - 1), axis)
            )
            smooth = ndimage.gaussian_filter(product.real, 1.5) + 1j * ndimage.gaussian_filter(product.imag, 1.5)
            step = np.angle(smooth) / (2 * np.pi * grid.step_px[axis] * length)
            square += np.pad(step, [(0, int(k == axis)) for k in range(2)], mode="edge") ** 2
        off += square * np.abs(wave) ** 2
        weight += np.abs(wave) ** 2
    return np.asarray(np.sqrt(off / np.maximum(weight, 1e-30)))


def _large_enough(one: _Followed, found: list[_Followed], grid: Grid) -> bool:
    """Whether a lattice is stronger than those known on a connected area that can be a grain."""
    others = np.max([known.strength for known in found], axis=0) if found else np.zeros_like(one.strength)
    own = ndimage.binary_opening((one.strength > COVERED) & (one.strength > 1.2 * others), np.ones((3, 3), dtype=bool))
    labels, _ = ndimage.label(own)
    largest = np.bincount(labels.ravel())[1:].max(initial=0)
    return bool(largest * grid.step_px[0] * grid.step_px[1] >= 0.5 * LEAST_CELLS * one.period_px**2)


# ---------------------------------------------------------------- every pixel to a lattice


def _joined(image: Float, flattener: Flattener, grid: Grid, labels: Labels, lattices: list[Lattice]) -> Labels:
    """Labels in which lattices that go over into each other are one: a crystal that is bent, or holds a dislocation.

    Or one that is so weak here and there that its strongest reflections alone are seen: they make a smaller cell.
    """
    labels, again = labels.copy(), True
    while again:  # a grain that another was joined to may touch more
        again = False
        for i, j in combinations(range(1, len(lattices) + 1), 2):
            kept, gone = (j, i) if _is_part(lattices[i - 1], lattices[j - 1]) else (i, j)
            own = labels == gone, labels == kept
            pair = lattices[gone - 1], lattices[kept - 1]
            if own[0].any() and own[1].any() and _alike(*pair) and _go_over(image, flattener, grid, own, *pair):
                labels[own[0]], again = kept, True
    return labels


def _alike(one: Lattice, other: Lattice) -> bool:
    """Whether two lattices may be one crystal's, as it is bent, or as far as it is seen."""
    turn = turned(one.vectors_px, other.vectors_px, (np.zeros(2), np.zeros(2)))
    bent = turn is not None and turn.angle_deg < BENT_DEG and turn.stretch < BENT_STRETCH
    return bent or _is_part(one, other)


def _is_part(one: Lattice, other: Lattice) -> bool:
    """Whether the reflections of a lattice are some of another's: its cell is a fraction of the other's."""
    cells = abs(float(np.linalg.det(other.vectors_px) / np.linalg.det(one.vectors_px)))
    strong = _mended_peaks(one)[np.argsort(one.powers)[::-1][:4]]
    orders = strong @ other.vectors_px.T
    off = (orders - np.rint(orders)) @ other.reciprocal
    return cells > LEAST_PART and bool((np.hypot(*off.T) < np.deg2rad(BENT_DEG) * np.hypot(*strong.T)).all())


def _go_over(
    image: Float, flattener: Flattener, grid: Grid, own: tuple[Bools, Bools], first: Lattice, second: Lattice
) -> bool:
    """Whether the strongest waves of two nearly equal lattices go over into each other at their boundary.

    Between two grains they are out of step by anything, so that their sum is weak in places, against what it is beside
    the boundary (contamination dims it on both sides); and their frequencies jump there. A dislocation makes a jump
    about itself only, strain and bending none, and contamination no weak place that is not as weak beside it.
    """
    period = _period(first)
    touch = np.logical_and(*(_dilated(one, 2) for one in own))
    rows, cols = (np.rint(px).astype(int) for px in (grid.rows_px, grid.cols_px))
    away = distance_px(~touch) / period
    beside = (away > BESIDE[0]) & (away < BESIDE[1])
    away, sides = away[np.ix_(rows, cols)], [(one & beside)[np.ix_(rows, cols)] for one in own]
    at = away < 0.6
    if not at.any() or not all(side.any() for side in sides):
        return False
    frequencies = _between_both(first, second)
    waves, _ = demodulate(image, flattener, frequencies, grid, STEP_PERIODS * period)
    sigma = [1.5 * period / step for step in grid.step_px]
    size = np.minimum(*(_smoothed(np.abs(waves), side, sigma) for side in sides))
    kept = np.percentile((np.abs(waves) / np.maximum(size, 1e-30))[:, at], WEAK_PERCENT, axis=1)
    jump = np.stack(
        [np.subtract(*(_local_frequency(waves, axis, side, sigma, grid) for side in sides)) for axis in range(2)]
    )
    part = np.percentile(np.hypot(*jump)[:, at], JUMP_PERCENT, axis=1) / np.hypot(*frequencies.T)
    return not bool((((kept < GOES_OVER) & (part > JUMPS)) | (part > JUMPS_FAR)).any())


def _dilated(where: Bools, times: int) -> Bools:
    """A mask (rows, cols) and what is so many steps beside it."""
    about, wide = _about(where, times), np.zeros_like(where)
    if where.any():
        wide[about] = ndimage.binary_dilation(where[about], iterations=times)
    return wide


def _mended_peaks(lattice: Lattice) -> Array:
    """Peaks (n, 2) of a lattice as its mended vectors have them."""
    return np.asarray(np.rint(lattice.peaks @ lattice.vectors_px.T) @ np.linalg.inv(lattice.vectors_px).T)


def _between_both(first: Lattice, second: Lattice) -> Array:
    """Frequencies (2, 2) between the two strongest of a lattice and those of another that are nearest to them."""
    strong = _mended_peaks(first)[np.argsort(first.powers)[::-1][:2]]
    others = np.concatenate([_mended_peaks(second), -_mended_peaks(second)])
    near = [others[np.hypot(*(others - g).T).argmin()] for g in strong]
    return np.asarray((strong + np.array(near)) / 2)


def _smoothed(layers: Array, where: Bools, sigma: list[float]) -> Array:
    """Gaussian means of layers (k, n, m) over the places of a mask alone."""
    weight = np.maximum(ndimage.gaussian_filter(where.astype(np.float64), sigma), 1e-9)
    return np.stack([ndimage.gaussian_filter(layer * where, sigma) / weight for layer in layers])


def _local_frequency(waves: Complex, axis: int, where: Bools, sigma: list[float], grid: Grid) -> Array:
    """Frequency of waves (k, n, m) along an axis beside their own, from the places of a mask about each place."""
    n = waves.shape[axis + 1]
    steps = np.take(waves, range(1, n), axis + 1) * np.conj(np.take(waves, range(n - 1), axis + 1))
    steps = np.pad(steps, [(0, 0)] + [(0, int(k == axis)) for k in range(2)], mode="edge")
    total = _smoothed(steps.real, where, sigma) + 1j * _smoothed(steps.imag, where, sigma)
    return np.asarray(np.angle(total) / (2 * np.pi * grid.step_px[axis]))


def _on_pixels(coarse: Labels, grid: Grid, shape: tuple[int, ...]) -> Labels:
    at = [
        np.clip(np.rint((np.arange(n) - px[0]) / (px[1] - px[0])).astype(int), 0, len(px) - 1)
        for n, px in zip(shape, (grid.rows_px, grid.cols_px), strict=True)
    ]
    return np.asarray(coarse[at[0]][:, at[1]])


def _nearest_waves(
    image: Float, flattener: Flattener, grid: Grid, labels: Labels, lattices: list[Lattice], near: list[Bools]
) -> tuple[Labels, list[Lattice]]:
    """Labels by which lattice's waves, continued from the inside of its grain, are nearest to the image.

    A place is asked of the lattices alone that are `near` (rows, cols): of one that is seen nowhere about it the waves
    are faint, and a crystal that is bent or weak is nearer to nothing than to its own.
    """
    flat = flattener.flat(image, slice(0, image.shape[0]))
    least, nearest, mended = np.full(image.shape, np.inf, np.float32), labels.copy(), list[Lattice]()
    for number, lattice in enumerate(lattices, 1):
        waves, better = _waves_of(image, flattener, grid, labels == number, lattice)
        mended.append(better)
        if waves is not None:
            off = gaussian_blur((flat - waves) ** 2, NEAREST_PERIODS * _period(lattice), truncate=3.0)
            nearer = near[number - 1] & (off < least)
            least[nearer], nearest[nearer] = off[nearer], number
    return np.where(labels > 0, nearest, 0).astype(np.uint8), mended


def _waves_of(
    image: Float, flattener: Flattener, grid: Grid, own: Bools, lattice: Lattice
) -> tuple[Float | None, Lattice]:
    """The image that a lattice's waves make, continued beyond its grain; and the lattice, mended."""
    period = _period(lattice)
    rows, cols = (np.rint(px).astype(int) for px in (grid.rows_px, grid.cols_px))
    about, depth = _about(own, 1), np.zeros(own.shape)
    if own.any():
        depth[about] = distance_px(np.pad(own[about], 1, mode="edge"))[1:-1, 1:-1]
    core = np.clip(depth[np.ix_(rows, cols)] / (1.5 * period), 0, 1)
    if (core > 0.9).sum() < 4:
        return None, lattice
    orders = _orders_up_to(lattice)
    frequencies = orders @ np.linalg.inv(lattice.vectors_px).T
    waves, _ = demodulate(image, flattener, frequencies, grid, 1.5 * period)
    size = np.sqrt((np.abs(waves) ** 2 * core).sum((1, 2)))
    kept = np.argsort(size)[::-1][:WAVES]
    vectors = _stepped(lattice.vectors_px, orders[kept], waves[kept] * core, grid)
    orders = orders[kept]
    frequencies = orders @ np.linalg.inv(vectors).T
    waves, _ = demodulate(image, flattener, frequencies, grid, 1.5 * period)
    sigma = [2.5 * period / step for step in grid.step_px]
    weight = ndimage.gaussian_filter(core**2 + 0.0, sigma, mode="nearest") + 1e-9
    layers = []
    for wave in waves:
        smooth = [ndimage.gaussian_filter(part * core**2, sigma, mode="nearest") for part in (wave.real, wave.imag)]
        layers += [part / weight for part in smooth]
    total = _laid(np.stack(layers), frequencies, grid, (image.shape[0], image.shape[1]))
    return total, replace(lattice, vectors_px=vectors)


def _laid(layers: Array, frequencies: Array, grid: Grid, shape: tuple[int, int]) -> Float:
    """Sum of waves over an image; `layers` (2 k, n, m) are the real and imaginary parts of their amplitudes."""
    lifted = Lifted(2 * layers, grid, shape)
    across = np.exp(2j * np.pi * frequencies[:, 1:] * np.arange(shape[1])).astype(np.complex64)
    total = np.zeros(shape, np.float32)
    for rows in strips(shape):
        amplitudes = lifted.strip(rows)
        down = np.exp(2j * np.pi * frequencies[:, :1] * np.arange(rows.start, rows.stop)).astype(np.complex64)
        for k in range(len(frequencies)):
            turn = down[k][:, None] * across[k]
            total[rows] += amplitudes[2 * k] * turn.real - amplitudes[2 * k + 1] * turn.imag
    return total


def _orders_up_to(lattice: Lattice) -> Array:
    """Half of the reflections of a lattice up to the highest frequency at which it has a peak; shape (k, 2)."""
    highest = 1.05 * float(np.hypot(*lattice.peaks.T).max())
    reach = [int(highest * np.hypot(*vector)) for vector in lattice.vectors_px]
    grid = [(h, k) for h in range(reach[0] + 1) for k in range(-reach[1], reach[1] + 1) if h > 0 or k > 0]
    orders = np.array(grid, dtype=float)
    return np.asarray(orders[np.hypot(*(orders @ np.linalg.inv(lattice.vectors_px).T).T) <= highest])


def _numbered(labels: Labels, lattices: list[Lattice]) -> Grains:
    """Connected parts large enough as grains, the largest first; what is too small goes to its neighbours."""
    parts = []
    square = np.ones((3, 3), dtype=bool)
    for number, lattice in enumerate(lattices, 1):
        about, own = _about(labels == number, 4), np.zeros(labels.shape, dtype=bool)
        if (labels == number).any():
            some = np.pad(labels[about] == number, 4, mode="edge")
            own[about] = ndimage.binary_opening(some, square, iterations=2)[4:-4, 4:-4]
        named, count = ndimage.label(own)
        sizes = np.bincount(named.ravel(), minlength=count + 1)
        least = LEAST_CELLS * _period(lattice) ** 2
        parts += [(int(sizes[k]), named == k, lattice) for k in range(1, count + 1) if sizes[k] >= least]
    parts.sort(key=lambda part: -part[0])
    kept = np.zeros(labels.shape, np.uint8)
    for number, (_, own, _) in enumerate(parts[:255], 1):
        kept[own] = number
    away = ndimage.distance_transform_edt(kept == 0, return_distances=False, return_indices=True)
    filled = kept[away[0], away[1]] if parts else kept
    return Grains(np.where(labels > 0, filled, 0).astype(np.uint8), [lattice for _, _, lattice in parts])
