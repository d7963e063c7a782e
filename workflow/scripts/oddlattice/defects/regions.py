"""Extended defects: regions where the image is not the one crystal, told by their area, not as many odd columns."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_propagation, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from oddlattice.defects.listing import Defect
from oddlattice.lattice.columns import as_cells, px_of
from oddlattice.numerics.arrays import Array, Float, Mask

Cells = npt.NDArray[np.bool_]

SEED, GROW = 3.0, 1.8  # variance of z about a cell, 1 in bulk: so much tells a region, and where it ends
FEWEST_LOUD, FEWEST_GAP, FEWEST_AT_RIM = 6, 4, 9  # cells of a region: odd ones, masked ones, masked ones at the rim
NEAR_CELLS = 1.05  # odd columns closer than this belong together
MATTER = 0.5  # masked cells at the rim less bright than this part of the crystal are its edge, not a defect
ROUND = np.ones((3, 3), dtype=bool)


def _slow_changes(prediction: Float, mask: Mask) -> Array:
    """What background and contrast that vary over several cells add to the z of a cell, orthonormal; shape (400, 3)."""
    some = np.argwhere(mask > 0)[:: max(1, int(mask.sum()) // 1024)]
    mean = np.maximum(
        as_cells(prediction, px_of(prediction, mask))[some[:, 0], some[:, 1]].astype(np.float64).mean(axis=0), 1e-3
    ).ravel()
    # counting noise: its standard deviation goes with the root of the intensity
    return np.asarray(np.linalg.qr(np.stack([np.ones(mean.size), 1 / np.sqrt(mean), np.sqrt(mean)], -1))[0])


def loudness(z: Float, prediction: Float, mask: Mask) -> Array:
    """Variance of z in each analysed cell over the usual, as a median over 3 x 3 cells; shape (U, V), nan elsewhere.

    A single odd column touches four cells at most and does not move a median of nine. What a slowly varying background
    or contrast adds is left out.
    """
    if not mask.any():
        return np.full(mask.shape, np.nan)
    slow = _slow_changes(prediction, mask)
    variance = np.empty(mask.shape)
    for u, row in enumerate(as_cells(z, px_of(z, mask))):
        cells = row.reshape(len(row), -1).astype(np.float64)
        variance[u] = (cells**2).sum(axis=1) - ((cells @ slow) ** 2).sum(axis=1)
    square = np.where(mask > 0, variance / max(float(np.median(variance[mask > 0])), 1e-9), np.inf)
    wide = np.pad(square, 1, constant_values=np.inf)
    near = np.sort(np.lib.stride_tricks.sliding_window_view(wide, (3, 3)).reshape(*mask.shape, 9), axis=2)
    known = np.isfinite(near).sum(axis=2)
    middle = np.take_along_axis(near, np.maximum((known - 1) // 2, 0)[..., None], axis=2)[..., 0]
    return np.where(mask > 0, middle, np.nan)


def loud_cells(z: Float, prediction: Float, mask: Mask) -> Cells:
    """Cells of regions in which many columns are a little odd, as along the boundary of two domains."""
    level = np.nan_to_num(loudness(z, prediction, mask))
    labels, count = label(binary_propagation(level > SEED, structure=ROUND, mask=level > GROW), structure=ROUND)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return np.asarray((labels > 0) & (sizes[labels] >= FEWEST_LOUD))


def gap_cells(mask: Mask, inside: Mask, brightness: Array) -> Cells:
    """Cells of regions that are not this crystal: a hole, contamination, another phase, another grain.

    Parameters
    ----------
    mask, inside : ndarray of shape (U, V), uint8
        Cells analysed, and cells that lie in the image.
    brightness : ndarray of shape (U, V)
        Mean of each cell over that of the crystal.
    """
    gaps, count = label((mask == 0) & (inside > 0))
    beyond = binary_dilation(np.pad(inside == 0, 1, constant_values=True), iterations=1)[1:-1, 1:-1]
    found = np.zeros(mask.shape, dtype=bool)
    for number in range(1, count + 1):
        here = gaps == number
        at_rim = bool((here & beyond).any())
        if here.sum() < (FEWEST_AT_RIM if at_rim else FEWEST_GAP):
            continue
        found |= here & (not at_rim or float(brightness[here].mean()) > MATTER)
    return found


def extended_regions(defects: list[Defect], regions: Cells) -> list[Defect]:
    """Defects with those in and beside the regions (U, V) replaced by one of kind `extended` for each region, last."""
    labels, count = label(regions, structure=ROUND)
    around = [binary_dilation(labels == number, ROUND) for number in range(1, count + 1)]

    def owner(defect: Defect) -> int:
        cell = tuple(np.clip(np.floor(defect.uv).astype(int), 0, np.array(regions.shape) - 1))
        return next((number for number, cells in enumerate(around, 1) if cells[cell]), 0)

    owners = [owner(defect) for defect in defects]
    kept = [defect for defect, number in zip(defects, owners, strict=True) if not number]
    for number in range(1, count + 1):
        cells = np.argwhere(labels == number)
        middle = cells.mean(axis=0) + 0.5
        region = Defect((float(middle[0]), float(middle[1])), "", "extended", 1.0, cells=len(cells))
        taken = [defect for defect, own in zip(defects, owners, strict=True) if own == number and np.isfinite(defect.p)]
        if taken:
            odd = min(taken, key=lambda defect: defect.p)
            region = replace(region, z=odd.z, p=odd.p, q=odd.q, anm=odd.anm)
        kept.append(region)
    return kept


def group_extended(defects: list[Defect], least: int) -> list[Defect]:
    """Replace groups of at least `least` neighbouring defects by one region of kind `extended` each."""
    if len(defects) < least:
        return defects
    uv = np.array([d.uv for d in defects])
    pairs = cKDTree(uv).query_pairs(NEAR_CELLS, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(uv), len(uv)))
    _, group = connected_components(graph, directed=False)
    kept = [d for d, g in zip(defects, group, strict=True) if np.count_nonzero(group == g) < least]
    for g in np.unique(group):
        members = [d for d, other in zip(defects, group, strict=True) if other == g]
        if len(members) < least:
            continue
        strongest = min(members, key=lambda d: d.p)
        covered = {(int(np.floor(d.uv[0])), int(np.floor(d.uv[1]))) for d in members}
        middle = np.mean([d.uv for d in members], axis=0)
        kept.append(
            Defect(
                (float(middle[0]), float(middle[1])),
                "",
                "extended",
                1.0,
                z=strongest.z,
                p=strongest.p,
                q=strongest.q,
                change=float(np.mean([d.change for d in members])),
                anm=strongest.anm,
                cells=len(covered),
            )
        )
    return kept
