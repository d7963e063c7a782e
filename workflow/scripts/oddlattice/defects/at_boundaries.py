"""Columns along a boundary that are odd one beside the other: they belong to the boundary, not to either crystal."""

import numpy as np
from scipy import stats
from scipy.spatial import cKDTree

from oddlattice.numerics.arrays import Array, Bools, Labels
from oddlattice.numerics.distances import distance_px

LAYER, DEEPEST = 0.5, 3.0  # distances between columns: thickness of a layer along a boundary; so far they are asked
INSIDE = 4.0  # from it, of the columns that tell how often one is listed
LEAST_LISTED, BY_CHANCE = 3, 1e-3  # of a layer whose columns are not odd by themselves
LEAST_INSIDE = 30


def distance_to_others(labels: Labels, number: int, places_px: Array) -> Array:
    """Distance of places (n, 2) in a grain from the other grains [px]; shape (n,)."""
    away = distance_px((labels == 0) | (labels == number))
    return np.asarray(away[tuple(np.rint(places_px).astype(int).clip(0, np.array(labels.shape) - 1).T)])


def odd_along(away_px: Array, places_px: Array, listed: Bools) -> Bools:
    """Which columns (n,) of a grain stand in a layer along a boundary that is odd as a whole, or between it and that.

    A layer is odd where far more of its columns are listed than inside of the grain.

    Parameters
    ----------
    away_px : ndarray of shape (n,)
        From other grains.
    places_px : ndarray of shape (n, 2)
    listed : ndarray of shape (n,), bool
    """
    if len(places_px) < LEAST_INSIDE:
        return np.zeros(len(places_px), dtype=bool)
    depth = away_px / float(np.median(np.asarray(cKDTree(places_px).query(places_px, 2)[0])[:, 1]))
    inside = depth > INSIDE
    if inside.sum() < LEAST_INSIDE:
        return np.zeros(len(places_px), dtype=bool)
    usual = (listed[inside].sum() + 1) / (inside.sum() + 1)
    deepest = 0.0
    for end in np.arange(LAYER, DEEPEST + LAYER / 2, LAYER):
        layer = (depth >= end - LAYER) & (depth < end)
        count = int(listed[layer].sum())
        if count >= LEAST_LISTED and stats.binom.sf(count - 1, int(layer.sum()), usual) < BY_CHANCE:
            deepest = float(end)
    return np.asarray(depth < deepest)
