"""Columns at a boundary: which sites of the two crystals are taken there, what stands on none, and how wide it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from oddlattice.lattice.boundaries import Line
from oddlattice.lattice.columns import ColumnShape
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.numerics.arrays import Array, Bools, Float

BRIGHT = 0.35  # of the brightest column's height, that a kind of column is counted from
SMOOTH, APART = 0.1, 0.4  # of the distance between columns: blur before peaks are sought, and their distance
ON_SITE = 0.4  # of the same: a peak so near to a site is its column
LOWEST = 0.2  # of the height of bright columns over what is about them: less is no peak
BEYOND_CELLS = 3  # beyond the cells that are known, in which sites are continued
STRIP_CELLS, BULK_CELLS = 1.5, 6.0  # from the line: what belongs to it; what tells how well columns are seen
SEEN = (
    0.95  # of the sites in the crystals beside a boundary that must have a column, and of columns that must have a site
)
HALF = 0.5  # of the usual height of its kind: a site so bright has a column, if not one seen by itself
MOST_KINDS = 1000  # by which kinds of one side are told from those of the other
LEAST_SITES = 30  # by which that is told
LEAST_PIECES = 4  # along a boundary, by which its width is told


@dataclass(frozen=True)
class Beside:
    """A crystal beside a boundary: its columns, where its cells lie, and how large these are."""

    number: int
    shapes: Sequence[ColumnShape]
    coordinates: Coordinates
    cell_px: float


@dataclass(frozen=True)
class Columns:
    """What is counted at a boundary.

    Attributes
    ----------
    missing, extra : int
        Sites of the two crystals, each on its own side, without a column; columns on no site.
    width_px, width_sigma_px : float or None
        Mean distance across the line from the outermost column on its site on one side to that on the other.
    """

    missing: int
    extra: int
    width_px: float | None
    width_sigma_px: float | None


def columns_at(image: Float, labels: npt.NDArray[np.uint8], line: Line, sides: tuple[Beside, Beside]) -> Columns | str:
    """Count the columns along a boundary; a sentence where they cannot be told apart well enough.

    Parameters
    ----------
    image : ndarray of shape (rows, cols)
    labels : ndarray of shape (rows, cols)
        Grain of each pixel.
    """
    sites = [_sites(side, image.shape) for side in sides]
    apart = min(_nearest(at) for at, _ in sites)
    smooth, height = _heights(image, apart)
    peaks = _peaks(smooth, height, apart)
    cell = max(side.cell_px for side in sides)
    path, along = _sampled(line)
    tree = cKDTree(path)
    mine = np.isin(labels, [side.number for side in sides])
    peaks = peaks[_inner(peaks, image.shape, cell / 2) & mine[_pixels(peaks)]]
    own = [
        _inner(at, image.shape, cell / 2) & (labels[_pixels(at)] == side.number)
        for (at, _), side in zip(sites, sides, strict=True)
    ]
    every = np.concatenate([at[here] for (at, _), here in zip(sites, own, strict=True)])
    kind = np.concatenate(
        [kinds[here] + k * MOST_KINDS for k, ((_, kinds), here) in enumerate(zip(sites, own, strict=True))]
    )
    if not len(every) or not len(peaks):
        return "no columns are seen beside it"
    taken, on_site = _matched(every, peaks, ON_SITE * apart)
    far_sites, far_peaks = (np.asarray(tree.query(at)[0]) for at in (every, peaks))
    bulk_sites, bulk_peaks = ((far > STRIP_CELLS * cell) & (far < BULK_CELLS * cell) for far in (far_sites, far_peaks))
    if min(bulk_sites.sum(), bulk_peaks.sum()) < LEAST_SITES:
        return "too few columns are seen beside it"
    if min(taken[bulk_sites].mean(), on_site[bulk_peaks].mean()) < SEEN:
        return "columns are not seen one by one beside it"
    near = far_sites < STRIP_CELLS * cell
    empty = near & ~taken & ~_bright(height, every, kind, taken & bulk_sites)
    width = _width(tree, along, every[taken], kind[taken] // MOST_KINDS, cell)
    return Columns(int(empty.sum()), int((~on_site & (far_peaks < STRIP_CELLS * cell)).sum()), *width)


def _bright(height: Float, sites: Array, kind: npt.NDArray[np.intp], usual: Bools) -> Bools:
    """Which sites are about as bright as the `usual` ones of their kind: columns too near to others to be a peak."""
    found = ndimage.map_coordinates(height, sites.T, order=1)
    bright = np.zeros(len(sites), dtype=bool)
    for k in np.unique(kind[usual]):
        bright |= (kind == k) & (found > HALF * np.median(found[usual & (kind == k)]))
    return bright


def _sites(side: Beside, shape: tuple[int, ...]) -> tuple[Array, npt.NDArray[np.intp]]:
    """Places (n, 2) of the bright columns of a crystal in an image, beyond its cells too [px]; the kind of each."""
    u, v = (np.arange(-BEYOND_CELLS, n - 1 + BEYOND_CELLS) for n in side.coordinates.nodes_px.shape[1:])
    cells = np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2).astype(np.float64)
    brightest = max(one.amplitude for one in side.shapes)
    kinds = [(one.u, one.v) for one in side.shapes if one.amplitude > BRIGHT * brightest]
    at = side.coordinates.seen_px(np.concatenate([cells + np.array(kind) for kind in kinds]))
    inside = ((at >= 0) & (at <= np.array(shape) - 1)).all(axis=1)
    return at[inside], np.repeat(np.arange(len(kinds)), len(cells))[inside]


def _nearest(at: Array) -> float:
    """Distance between columns next to each other."""
    return float(np.median(np.asarray(cKDTree(at).query(at, 2)[0])[:, 1])) if len(at) > 1 else np.inf


def _heights(image: Float, apart: float) -> tuple[Float, Float]:
    """An image smoothed a little, and its height over what is about each place."""
    smooth = ndimage.gaussian_filter(np.nan_to_num(image), SMOOTH * apart)
    return smooth, smooth - ndimage.gaussian_filter(smooth, apart)


def _peaks(smooth: Float, height: Float, apart: float) -> Array:
    """Places (n, 2) of maxima that stand over what is about them."""
    highest = ndimage.maximum_filter(smooth, footprint=_disc(APART * apart))
    at = np.argwhere((smooth == highest) & (height > 0))
    tall = height[tuple(at.T)]
    return np.asarray(at[tall > LOWEST * np.percentile(tall, 75)] if len(at) else at, dtype=np.float64)


def _disc(radius: float) -> Bools:
    reach = int(np.ceil(radius))
    at = np.arange(-reach, reach + 1)
    return np.asarray(np.hypot(*np.meshgrid(at, at)) <= radius)


def _pixels(at: Array) -> tuple[npt.NDArray[np.intp], ...]:
    return tuple(np.rint(at).astype(np.intp).T)


def _inner(at: Array, shape: tuple[int, ...], margin_px: float) -> Bools:
    """Whether places are far enough from the edge of an image to be seen whole."""
    return np.asarray(((at > margin_px) & (at < np.array(shape) - 1 - margin_px)).all(axis=1))


def _matched(sites: Array, peaks: Array, reach: float) -> tuple[Bools, Bools]:
    """Which sites have a peak of their own within reach, and which peaks a site: the nearest of each other."""
    away, peak = (np.asarray(found) for found in cKDTree(peaks).query(sites))
    site = np.asarray(cKDTree(sites).query(peaks)[1])
    taken = (away < reach) & (site[peak] == np.arange(len(sites)))
    on_site = np.zeros(len(peaks), dtype=bool)
    on_site[peak[taken]] = True
    return np.asarray(taken), on_site


def _sampled(line: Line) -> tuple[Array, Array]:
    """Places (n, 2) every pixel of a boundary, and how far along it each is; pieces far from each other."""
    places, along, start = [], [], 0.0
    for path in line.paths_px:
        at = np.array(path)
        length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(at, axis=0).T))])
        here = np.arange(0.0, length[-1], 1.0)
        places.append(np.stack([np.interp(here, length, at[:, axis]) for axis in range(2)], -1))
        along.append(start + here)
        start += length[-1] + 1e6
    return np.concatenate(places), np.concatenate(along)


def _width(
    tree: cKDTree, along: Array, at: Array, side: npt.NDArray[np.intp], cell: float
) -> tuple[float | None, float | None]:
    """Mean distance between the outermost columns of two sides, piece by piece of a cell, and its standard error."""
    away, nearest = (np.asarray(found) for found in tree.query(at))
    piece = (along[nearest] // cell).astype(np.int64)
    found = []
    for k in np.unique(piece):
        ends = [away[(piece == k) & (side == s)] for s in (0, 1)]
        if min(len(end) for end in ends):
            found.append(sum(float(end.min()) for end in ends))
    if len(found) < LEAST_PIECES:
        return None, None
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found)))
