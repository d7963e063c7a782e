"""Coherent interfaces: two crystals on one lattice that goes on over the line between them, told by their cells.

What is left of a cell beside its brightness, its contrast and its place is its content. Where content has two levels
and a sharp line between, there are two crystals. A wedge or a step of thickness changes brightness and contrast, and
content but little; what goes over gradually is no interface, nor is a line beyond which the cell is the same, shifted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, ndimage

from oddlattice.crystal import LEAST_CELLS
from oddlattice.lattice.columns import as_cells
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.registration import Registration
from oddlattice.numerics.arrays import Array, Bools, Float, Index, Labels
from oddlattice.numerics.compiled import compiled

BLOCK_PX = 4  # pixels of the lattice frame that are taken together
SEEN = 0.2  # of the usual contrast, from which the lattice is seen in a cell
LEAST_CONTRAST = 0.1  # of that of the mean cell: less is not scaled up
SMOOTH_CELLS, EVEN_CELLS = 3, 5  # side of the squares over which content is a mean, and the side of a cell is a median
RIDGE = 0.1  # of the usual noise of a direction that is added to each
DIFFERENT = 0.07  # of the contrast of the mean cell, by which two contents differ at least
SEPARATE = 4.0  # times the scatter of smoothed cells within a level, by which two levels are apart
NEAR = 1.5  # cells from the line, nearer than which content is smoothed over it
SHARP = 0.65  # of the difference between two crystals that is a step at the line, beside trends of their own
#: Where most of a side is masked on the one lattice, nothing is lost by a second: two levels are apart by so many
#: robust scatters (halves of one that is spread evenly, or normally, by 2.7), and so much of it is a step. Layers at
#: the line may be mixed.
LOST, FAR_APART, SOFT = 0.5, 6.0, 0.4
SHIFTED = 0.5  # of the difference that is left where one cell is the other, shifted
CORE_CELLS = 3  # width that each crystal has at least
MOST_CRYSTALS = 6
NEAREST = 0.5  # cells, rms width over which it is asked which crystal is nearest to the image
STRIP_ROWS = 256  # of pixels that are labelled at once


@dataclass(frozen=True)
class _Contents:
    """The cells of an image as blocks of pixels (U, V, k, l), their mean taken off, and where the lattice is seen."""

    blocks: Array
    seen: Bools


def crystals_on_one_lattice(image: Any, found: Registration) -> Labels | None:
    """Number of the crystal of each pixel (rows, cols), 0 where the lattice is not seen; None where there is but one.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray.
    found : Registration
        Of the image on one lattice.
    """
    contents = _contents(image, found)
    labels = contents.seen.astype(np.uint8)
    number = 1
    while number <= labels.max() < MOST_CRYSTALS:
        beyond = _beyond(contents.blocks, labels == number, found.mask)
        if beyond is None:
            number += 1
        else:
            labels[beyond] = labels.max() + 1
    return _on_pixels(_to_line(image, found, labels), found) if labels.max() > 1 else None


def _contents(image: Any, found: Registration) -> _Contents:
    sides = found.mask.shape
    parts = [max(1, round(n / BLOCK_PX)) for n in found.px_per_cell]
    blocks = np.empty((*sides, *parts))
    cuts = [np.linspace(0, n, k + 1).round().astype(np.int64) for n, k in zip(found.px_per_cell, parts, strict=True)]
    for cells, tile in found.record.bands(image, keep=True):
        _fill_means(blocks[cells], tile, *cuts)
    blocks -= blocks.mean(axis=(2, 3), keepdims=True)
    contrast = ndimage.uniform_filter(np.where(found.inside, found.amplitude, 0.0), SMOOTH_CELLS)
    usual = float(np.percentile(contrast[found.mask], 75))
    seen = ndimage.binary_opening(found.inside & (contrast > SEEN * usual), np.ones((3, 3), dtype=bool))
    return _Contents(blocks, np.asarray(seen))


@compiled("void(float64[:, :, :, :], float32[:, ::1], int64[::1], int64[::1])")
def _fill_means(means: Array, tile: Float, cuts_u: Index, cuts_v: Index) -> None:
    """Fill `means` (U, V, k, l) with those of blocks of the cells of a tile; they begin and end at the cuts."""
    n_u, n_v = cuts_u[-1], cuts_v[-1]
    for u in range(means.shape[0]):
        for v in range(means.shape[1]):
            for k in range(len(cuts_u) - 1):
                for m in range(len(cuts_v) - 1):
                    total, rows, cols = 0.0, cuts_u[k + 1] - cuts_u[k], cuts_v[m + 1] - cuts_v[m]
                    for row in range(u * n_u + cuts_u[k], u * n_u + cuts_u[k + 1]):
                        for col in range(v * n_v + cuts_v[m], v * n_v + cuts_v[m + 1]):
                            total += tile[row, col]
                    means[u, v, k, m] = total / (rows * cols)


def _beyond(blocks: Array, known: Bools, analysed: Bools) -> Bools | None:
    """Those of the cells `known` (U, V) that are a second crystal, the smaller part of them; None where none is.

    `analysed` (U, V) are those that pass for the crystal of the one lattice.
    """
    if known.sum() < 2 * LEAST_CELLS:
        return None
    left = _content(blocks, known)
    score = _score(left, known)
    sides = _two_levels(score, known)
    if sides is None:
        return None
    one, other = sides
    depth = ndimage.distance_transform_edt(~other) - ndimage.distance_transform_edt(~one)  # positive in the first
    cores = [side & (sign * depth > CORE_CELLS) for side, sign in ((one, 1), (other, -1))]
    if min(core.sum() for core in cores) < LEAST_CELLS // 2:
        return None
    apart = float(np.linalg.norm(left[cores[0]].mean(axis=0) - left[cores[1]].mean(axis=0)))
    lost = max(float((~analysed[side]).mean()) for side in sides) > LOST
    if apart < DIFFERENT or not _are_two(score, depth, known, cores, lost):
        return None
    return None if _is_shifted(*(blocks[core].mean(axis=0) for core in cores)) else other


def _content(blocks: Array, known: Bools) -> Array:
    """What is left of each cell beside the mean one and its displacements, over its contrast; shape (U, V, k l)."""
    mean = np.median(blocks[known], axis=0)
    mean -= mean.mean()
    spectrum = np.fft.fft2(mean)
    slopes = [
        np.fft.ifft2(spectrum * 2j * np.pi * np.fft.fftfreq(n, 1 / n).reshape((-1, 1) if axis == 0 else (1, -1))).real
        for axis, n in enumerate(mean.shape)
    ]
    layers = [np.ones(mean.size), mean.ravel(), *(slope.ravel() for slope in slopes)]
    usual = linalg.orth(np.stack(layers, axis=-1))
    cells = blocks.reshape(*known.shape, -1)
    size = float(np.linalg.norm(mean))
    contrast = np.maximum(cells @ mean.ravel() / size**2, LEAST_CONTRAST)
    left = cells / (size * contrast[..., None])
    left -= (left @ usual) @ usual.T
    left -= left[known].mean(axis=0)
    return np.asarray(np.where(known[..., None], left, 0.0))


def _score(left: Array, known: Bools) -> Array:
    """Content (U, V, n), smoothed, along the direction in which it varies most over its noise; shape (U, V)."""
    part = ndimage.uniform_filter(known.astype(np.float64), SMOOTH_CELLS)
    smooth = ndimage.uniform_filter(left, (SMOOTH_CELLS, SMOOTH_CELLS, 1)) / np.maximum(part, 1e-3)[..., None]
    steps = [np.diff(left, axis=axis)[_both(known, axis)] for axis in (0, 1)]
    jumps = np.concatenate(steps)
    noise = jumps.T @ jumps / (2 * len(jumps))
    noise += RIDGE * np.trace(noise) / len(noise) * np.eye(len(noise))
    varied = smooth[known].T @ smooth[known] / known.sum()
    last = len(noise) - 1
    _, direction = linalg.eigh(varied, noise, subset_by_index=[last, last])
    return np.asarray(smooth @ direction[:, 0])


def _both(known: Bools, axis: int) -> Bools:
    """Where a cell and the next along an axis are known."""
    cells = np.moveaxis(known, axis, 0)
    return np.moveaxis(cells[1:] & cells[:-1], 0, axis)


def _two_levels(score: Array, known: Bools) -> tuple[Bools, Bools] | None:
    """The cells about the upper and the lower of two levels, the larger part first; None where one is too small."""
    values = score[known]
    low, high = np.percentile(values, [10, 90])
    for _ in range(20):
        middle = (low + high) / 2
        low, high = values[values <= middle].mean(), values[values > middle].mean()
    signed = np.where(known, np.sign(score - (low + high) / 2), 0.0)
    upper = known & (ndimage.uniform_filter(signed, EVEN_CELLS) > 0)
    parts = [_large_parts(side, known) for side in (upper, known & ~upper)]
    if not all(part.any() for part in parts):
        return None
    nearer = np.argmin([ndimage.distance_transform_edt(~part) for part in parts], axis=0)
    sides = sorted((known & (nearer == k) for k in (0, 1)), key=lambda side: -side.sum())
    return sides[0], sides[1]


def _large_parts(cells: Bools, known: Bools) -> Bools:
    """Connected cells that can be a crystal; one may be narrow where nothing is known beside it."""
    square = np.ones((CORE_CELLS, CORE_CELLS), dtype=bool)
    core = ndimage.binary_opening(np.pad(cells | ~known, CORE_CELLS, constant_values=True), square)
    named, count = ndimage.label(core[CORE_CELLS:-CORE_CELLS, CORE_CELLS:-CORE_CELLS] & cells)
    sizes = np.bincount(named.ravel(), minlength=count + 1)
    return np.asarray((named > 0) & (sizes[named] >= LEAST_CELLS))


def _are_two(score: Array, depth: Array, known: Bools, cores: list[Bools], lost: bool) -> bool:
    """Whether the cores of two sides have levels of their own, and content jumps from one to the other at the line.

    Less is asked where a side is `lost`: most of it is masked on the one lattice.
    """
    step = _step_at(score, depth, known)
    gap = abs(float(score[cores[0]].mean() - score[cores[1]].mean()))
    scatter = float(np.sqrt(np.mean([score[core].var() for core in cores])))
    if step > SHARP and gap > SEPARATE * scatter:
        return True
    if not lost:
        return False
    away = [1.4826 * float(np.median(np.abs(score[core] - np.median(score[core])))) for core in cores]
    return step > SOFT and gap > FAR_APART * float(np.hypot(away[0], away[1])) / np.sqrt(2)


def _step_at(score: Array, depth: Array, known: Bools) -> float:
    """What part of the difference between two sides is a step at the line, where `depth` is 0.

    On either side content may go on changing with the distance from the line, as tilt and thickness make it: that part
    of the difference is no step.
    """
    cells = known & (np.abs(depth) > NEAR)
    far, side = depth[cells], np.sign(depth[cells])
    layers = [np.ones_like(far), side, np.maximum(far, 0.0), np.minimum(far, 0.0)]
    step = np.linalg.lstsq(np.stack(layers, axis=-1), score[cells], rcond=None)[0][1]
    apart = (score[cells][side > 0].mean() - score[cells][side < 0].mean()) / 2
    return float(step / apart) if apart else 0.0


def _is_shifted(one: Array, other: Array) -> bool:
    """Whether a mean cell (k, l) is another, shifted by part of a cell: the line between is an antiphase boundary."""
    one, other = (cell / max(float(np.linalg.norm(cell)), 1e-30) for cell in (one, other))
    at_place = float(np.linalg.norm(one - other))
    overlap = np.fft.ifft2(np.fft.fft2(one) * np.conj(np.fft.fft2(other))).real
    return float(np.sqrt(max(2 - 2 * float(overlap.max()), 0.0))) < SHIFTED * at_place


def _to_line(image: Any, found: Registration, labels: Labels) -> Labels:
    """Labels of cells (U, V) on the pixels of the tiles (U n_u, V n_v): near a line by the crystal nearest to them.

    Every crystal is continued over the line: its mean cell, as bright as it is where it begins.
    """
    n_u, n_v = found.px_per_cell
    whole = slice(0, labels.shape[0]), slice(0, labels.shape[1])
    counts = as_cells(found.record.cut(image, whole), found.px_per_cell) * found.local_mean[..., None, None]
    numbers = range(1, int(labels.max()) + 1)
    best, owner = np.full((labels.shape[0] * n_u, labels.shape[1] * n_v), np.inf), _fine(labels, found)
    for k in numbers:
        others = (labels > 0) & (labels != k)
        core = (labels == k) & (ndimage.distance_transform_edt(~others) > CORE_CELLS)
        at = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
        level = found.local_mean[at[0], at[1]][..., None, None]
        cell = np.median(counts[core] / found.local_mean[core][:, None, None], axis=0)
        off = (counts - cell * level) ** 2
        off = ndimage.gaussian_filter(off.swapaxes(1, 2).reshape(best.shape), (NEAREST * n_u, NEAREST * n_v))
        reach = ndimage.distance_transform_edt(labels != k) <= CORE_CELLS
        nearer = _fine(reach & (labels > 0), found) & (off < best)
        best[nearer], owner[nearer] = off[nearer], k
    return owner


def _fine(cells: npt.NDArray[Any], found: Registration) -> npt.NDArray[Any]:
    """Values of cells (U, V) on the pixels of the tiles."""
    n_u, n_v = found.px_per_cell
    return np.asarray(np.repeat(np.repeat(cells, n_u, axis=0), n_v, axis=1))


def _on_pixels(labels: Labels, found: Registration) -> Labels:
    """Labels of the pixels of the tiles on those of the image (rows, cols); what lies beyond is its neighbour's."""
    rows, cols = found.frame.shape
    lattice = Coordinates(found.nodes_px, found.row_shift_px, found.transposed)
    beyond = _fine(~found.inside, found)
    nearest = ndimage.distance_transform_edt(beyond, return_distances=False, return_indices=True)
    labels = labels[nearest[0], nearest[1]]
    pixels = np.empty((rows, cols), np.uint8)
    for start in range(0, rows, STRIP_ROWS):
        strip = np.moveaxis(np.indices((min(STRIP_ROWS, rows - start), cols)), 0, -1) + np.array([start, 0])
        at = np.floor(lattice.uv(strip.astype(np.float64)) * found.px_per_cell).astype(int)
        u, v = (np.clip(at[..., axis], 0, labels.shape[axis] - 1) for axis in (0, 1))
        pixels[start : start + len(strip)] = labels[u, v]
    return pixels
