"""Extended defects: regions where the image is not the one crystal, told by their area, not as many odd columns."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_opening, binary_propagation, grey_dilation, label, median_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from oddlattice.defects.listing import Defect
from oddlattice.lattice.columns import as_cells, px_of
from oddlattice.numerics.arrays import Array, Float, Mask

Cells = npt.NDArray[np.bool_]

SEED, GROW = 3.0, 1.8  # variance of z about a cell, 1 in bulk: so much tells a region, and where it ends
FEWEST_LOUD, FEWEST_GAP, FEWEST_AT_RIM = 6, 4, 9  # cells of a region: odd ones, masked ones, masked ones at the rim
SHAPE_ERROR = 0.2  # of a column's z that may be left when it is taken out
ALIKE = 0.5  # cosine between displacements that have one reason
OFF_SITE, TOGETHER = 0.08, 1.05  # of the shortest lattice vector: a column beside its site; neighbours
MATTER = 0.5  # masked cells at the rim less bright than this part of the crystal are its edge, not a defect
DARKEST = 2.0  # per cent of the cells, by which vacuum is known
ROUND = np.ones((3, 3), dtype=bool)


def _slow_changes(prediction: Float, mask: Mask) -> Array:
    """What slow changes of background and contrast add to the z of a cell, orthonormal; shape (n_u n_v, 3)."""
    some = np.argwhere(mask > 0)[:: max(1, int(mask.sum()) // 1024)]
    cells = as_cells(prediction, px_of(prediction, mask))[some[:, 0], some[:, 1]]
    mean = np.maximum(cells.astype(np.float64).mean(axis=0), 1e-3).ravel()
    # counting noise: its standard deviation goes with the root of the intensity
    return np.asarray(np.linalg.qr(np.stack([np.ones(mean.size), 1 / np.sqrt(mean), np.sqrt(mean)], -1))[0])


def _variances(z: Float, slow: Array, mask: Mask) -> Array:
    """Sum of squares of z in each cell of the mask, without what changes slowly; shape (U, V)."""
    found = np.empty(mask.shape)
    for u, row in enumerate(as_cells(z, px_of(z, mask))):
        cells = row.reshape(len(row), -1).astype(np.float64)
        found[u] = (cells**2).sum(axis=1) - ((cells @ slow) ** 2).sum(axis=1)
    return found


def loudness(z: Float, prediction: Float, mask: Mask, removed: Float | None = None) -> Array:
    """Variance of z in each analysed cell over what is expected, as a median over 3 x 3 cells; nan elsewhere.

    A single odd column touches four cells at most and does not move a median of nine. What a slowly varying background
    or contrast adds is left out. Expected is the usual, and what the error of a column's shape leaves of the z that was
    `removed` with columns. All maps of shape (U n_u, V n_v), the result of shape (U, V).
    """
    if not mask.any():
        return np.full(mask.shape, np.nan)
    slow = _slow_changes(prediction, mask)
    variance = _variances(z, slow, mask)
    expected = np.full(mask.shape, max(float(np.median(variance[mask > 0])), 1e-9))
    if removed is not None:
        expected += SHAPE_ERROR**2 * np.maximum(_variances(removed, slow, mask), 0.0)
    square = np.where(mask > 0, variance / expected, np.inf)
    wide = np.pad(square, 1, constant_values=np.inf)
    near = np.sort(np.lib.stride_tricks.sliding_window_view(wide, (3, 3)).reshape(*mask.shape, 9), axis=2)
    known = np.isfinite(near).sum(axis=2)
    middle = np.take_along_axis(near, np.maximum((known - 1) // 2, 0)[..., None], axis=2)[..., 0]
    return np.where(mask > 0, middle, np.nan)


def broken_cells(z: Float, prediction: Float, mask: Mask, removed: Float | None = None) -> Cells:
    """Cells of regions in which columns stand beside their sites, as along the boundary of two domains.

    `z` is without the changes of columns that stand on their sites, which are `removed`: a crowd of those is no region.
    """
    level = np.nan_to_num(loudness(z, prediction, mask, removed))
    labels, count = label(binary_propagation(level > SEED, structure=ROUND, mask=level > GROW), structure=ROUND)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return np.asarray((labels > 0) & (sizes[labels] >= FEWEST_LOUD))


def gap_cells(mask: Mask, inside: Mask, brightness: Array, level: Array | None = None, between: float = 0.0) -> Cells:
    """Cells of regions that are not this crystal: a hole, contamination, another phase, another grain.

    Parameters
    ----------
    mask, inside : ndarray of shape (U, V), uint8
        Cells analysed, and cells that lie in the image.
    brightness : ndarray of shape (U, V)
        Mean of each cell over that of the crystal about it.
    level : ndarray of shape (U, V), optional
        The mean of the crystal about each cell [counts]; None: everywhere the same.
    between : float
        The crystal's brightness between its columns, over its mean: what is darker is vacuum, or a film of carbon.
    """
    gaps, _ = label((mask == 0) & (inside > 0))
    beyond = binary_dilation(np.pad(inside == 0, 1, constant_values=True), iterations=1)[1:-1, 1:-1]
    of_rim = np.isin(gaps, gaps[beyond & (gaps > 0)])
    level = np.ones(mask.shape) if level is None else level
    dark = between * float(np.percentile(level[mask > 0], DARKEST)) if mask.any() else 0.0
    held = _large(_matter(of_rim, inside == 0, brightness * level, level, dark), FEWEST_AT_RIM)
    return np.asarray(_large((gaps > 0) & ~of_rim, FEWEST_GAP) | held)


def _matter(gaps: Cells, unseen: Cells, counts: Array, level: Array, dark: float) -> Cells:
    """Which cells (U, V) of gaps are brighter than half-way from vacuum to the crystal, whose own rim is left out.

    Detectors add a constant, so that vacuum may be nearly as bright as matter. It is as bright as the darkest of the
    gaps, if that is darker than the crystal between its columns; else it is taken to be black.
    """
    if not gaps.any():
        return gaps
    smooth = median_filter(counts, 3, mode="nearest")
    darkest = float(np.percentile(smooth[gaps], DARKEST))
    vacuum = darkest if darkest < dark else 0.0
    bright = gaps & (smooth > vacuum + MATTER * (level - vacuum))
    wide = binary_opening(np.pad(bright | unseen, 2, constant_values=True), ROUND)[2:-2, 2:-2]
    return np.asarray(bright & (wide | ~binary_dilation(gaps & ~bright, ROUND, 2)))


def _large(cells: Cells, least: int) -> Cells:
    """Connected cells of at least so many."""
    parts, count = label(cells)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    return np.asarray((parts > 0) & (sizes[parts] >= least))


def off_site(shift_pm: Array, vectors_pm: Array) -> bool:
    """Whether a column with this displacement (row, col) [pm] stands beside its site."""
    return bool(np.hypot(*shift_pm) > OFF_SITE * np.hypot(*vectors_pm.T).min())


def crowded_cells(defects: list[Defect], shape: tuple[int, int], vectors_pm: Array, least: int) -> Cells:
    """Cells (U, V) of at least `least` neighbouring columns that are displaced alike, as by a dislocation's strain."""
    found = np.zeros(shape, dtype=bool)
    short_pm = float(np.hypot(*vectors_pm.T).min())
    off = [d for d in defects if d.kind == "displaced"]
    if len(off) < least:
        return found
    uv = np.array([d.uv for d in off])
    pairs = cKDTree(uv @ vectors_pm).query_pairs(TOGETHER * short_pm, output_type="ndarray")
    way = np.array([d.shift_pm for d in off])
    way /= np.maximum(np.hypot(*way.T), 1e-12)[:, None]
    pairs = pairs[(way[pairs[:, 0]] * way[pairs[:, 1]]).sum(axis=1) > ALIKE]
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(uv), len(uv)))
    _, group = connected_components(graph, directed=False)
    many = np.bincount(group)[group] >= least
    found[tuple(np.clip(np.floor(uv[many]).astype(int), 0, np.array(shape) - 1).T)] = True
    return found


def numbered_regions(regions: Cells) -> npt.NDArray[np.intp]:
    """Cells (U, V) of regions with the number of each, from 1 in the order in which they are listed."""
    return np.asarray(label(regions, structure=ROUND)[0], dtype=np.intp)


def extended_regions(defects: list[Defect], regions: Cells) -> tuple[list[Defect], Cells]:
    """The defects, told whether they stand in a region, and one of kind `extended` for each region, last.

    Parameters
    ----------
    regions : ndarray of shape (U, V), bool
        Cells of the regions.

    Returns
    -------
    defects : list of Defect
    taken : ndarray of shape (U, V), bool
        The regions and their rims, of a cell: what is in them is no point defect.
    """
    labels = numbered_regions(regions)
    count = int(labels.max(initial=0))
    owner = grey_dilation(labels, footprint=ROUND)
    last = np.array(regions.shape) - 1
    owners = [int(owner[tuple(np.clip(np.floor(d.uv).astype(int), 0, last))]) for d in defects]
    listed = [replace(d, in_region=number > 0) for d, number in zip(defects, owners, strict=True)]
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    middles = [np.bincount(labels.ravel(), at.ravel(), count + 1) for at in np.indices(regions.shape)]
    for number in range(1, count + 1):
        uv = (float(middles[0][number] / sizes[number]) + 0.5, float(middles[1][number] / sizes[number]) + 0.5)
        region = Defect(uv, "", "extended", 1.0, cells=int(sizes[number]))
        held = [d for d, own in zip(defects, owners, strict=True) if own == number and np.isfinite(d.p)]
        if held:
            odd = min(held, key=lambda defect: defect.p)
            region = replace(region, z=odd.z, p=odd.p, q=odd.q, anm=odd.anm)
        listed.append(region)
    return listed, owner > 0
