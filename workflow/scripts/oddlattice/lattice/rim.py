"""An image up to its rim: the cells that the rim of the image cuts, where cells are long.

A cell that is not in the image as a whole is not analysed, and with it all of its columns are lost. Of a long cell
(YBCO along [100]) many of these lie far enough from the rim to be tested. So cells with such columns are taken in, and
what is missing of them is copied from the nearest whole cell, as at seams.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.spoilt import SURROUNDED
from oddlattice.numerics.arrays import Array, Bools, Float

LONG = 1.3  # of how far from the rim columns are tested: cells with a longer vector are taken in
SECOND_NEAREST = 1.42  # distance of the second nearest columns over that of the nearest, as in a centred square


def beside_px(vectors_px: Array, places: Array) -> float:
    """How far a column's neighbours stand [px]: the shortest lattice vector, in a cell of several columns less.

    Parameters
    ----------
    vectors_px : ndarray of shape (2, 2)
    places : ndarray of shape (n, 2)
        (u, v) of the columns in the cell.
    """
    shortest = float(np.hypot(*vectors_px.T).min())
    if len(places) < 2:
        return shortest
    apart = places[:, None] - places
    apart = (apart - np.rint(apart)) @ vectors_px + np.where(np.eye(len(places)), np.inf, 0.0)[..., None]
    return min(shortest, SECOND_NEAREST * float(np.hypot(apart[..., 0], apart[..., 1]).min()))


def up_to_rim(found: Registration) -> Registration:
    """The registration with the cells that the rim of the image cuts and in which a column can be tested."""
    if found.crystal is None:
        return found
    vectors, places = found.frame.vectors_px, np.array([(column.u, column.v) for column in found.crystal.tested])
    lengths, beside = np.hypot(*vectors.T), beside_px(vectors, places)
    if lengths.max() < LONG * SURROUNDED * beside:
        return found
    shape, where = found.frame.shape, Coordinates(found.nodes_px, found.row_shift_px, found.transposed)
    corners = np.moveaxis(np.indices(found.mask.shape), 0, -1)
    held = (_to_rim(where.seen_px(corners[..., None, :] + places), shape) > SURROUNDED * beside).any(-1)
    to_rim = _to_rim(np.moveaxis(found.nodes_px, 0, -1), shape)
    near_rim = _at_all_corners(np.abs(found.depth_px - np.maximum(to_rim, 0)) < 1e-6)  # and nothing else
    beside_known = ndimage.binary_dilation(found.mask, np.ones((3, 3), dtype=bool))
    cut = held & near_rim & ~_at_all_corners(to_rim > 0) & beside_known & ~found.mask
    if not cut.any():
        return found
    # negative beyond the rim: so depth runs straight over a cell that it cuts; the test reckons in shortest vectors
    depth = np.where(found.depth_px > 0, found.depth_px, np.minimum(to_rim, 0))
    mask, inside, in_shortest = found.mask | cut, found.inside | cut, float(lengths.min()) / beside
    missing = _missing(found, where, cut)
    return replace(found, mask=mask, inside=inside, depth_px=depth * in_shortest, foreign=missing)


def _at_all_corners(corners: Bools) -> Bools:
    """Cells (U, V) that have a property at all their corners (U + 1, V + 1)."""
    return np.asarray(corners[:-1, :-1] & corners[1:, :-1] & corners[:-1, 1:] & corners[1:, 1:])


def _to_rim(places_px: Array, shape: tuple[int, int]) -> Array:
    """Distance of places (..., 2) from the rim of an image [px]; negative beyond it."""
    ends = [np.minimum(places_px[..., axis] + 0.5, shape[axis] - 0.5 - places_px[..., axis]) for axis in (0, 1)]
    return np.asarray(np.minimum(*ends))


def _missing(found: Registration, where: Coordinates, cut: Bools) -> Float:
    """`Record.foreign` of an image: nan where a pixel of the cells that are `cut` is not in it, 0 elsewhere."""
    n_u, n_v = found.px_per_cell
    missing = np.zeros((cut.shape[0] * n_u, cut.shape[1] * n_v), np.float32)
    in_cell = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in (n_u, n_v)), indexing="ij"), -1)
    for u, v in np.argwhere(cut):
        beyond = _to_rim(where.straight_px(in_cell + np.array([u, v])), found.frame.shape) < 0
        missing[u * n_u : (u + 1) * n_u, v * n_v : (v + 1) * n_v][beyond] = np.nan
    return missing
