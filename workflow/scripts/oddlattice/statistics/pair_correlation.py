"""Are defects clustered? Their pair correlation against defects put on the tested columns at random.

A defect can only be where a column was tested, so chance is that: as many columns of each site drawn from all tested
ones. This keeps masked cells, the image's edge and the lattice's own distances in the comparison, and g(r) needs no
correction for any of them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Array

SIMULATIONS = 999
MANY = 1000  # with more defects than this fewer simulations do
LEAST_DEFECTS = 8
NEAREST_CELLS = 1.1  # closer pairs may have been taken for one defect or for a region: they are left out
MOST_CELLS = 16.0
LEVEL = 0.05


@dataclass(frozen=True)
class Randomness:
    """Pair correlation of defects and what chance makes of it.

    Attributes
    ----------
    edges_nm : ndarray of shape (k + 1,)
    g : ndarray of shape (k,)
        Pairs seen over pairs expected by chance; 1 is random, more is clustered. NaN where chance makes no pair.
    low, high : ndarray of shape (k,)
        Global envelope: all of 95 % of random patterns lies inside.
    pairs, expected : ndarray of shape (k,)
        Pairs seen and expected by chance.
    p_value : float
        Of the whole curve.
    simulations, defects : int
    """

    edges_nm: Array
    g: Array
    low: Array
    high: Array
    pairs: Array
    expected: Array
    p_value: float
    simulations: int
    defects: int


def pair_counts(places: Array, edges: Array) -> Array:
    """Pairs of points (n, 2) by their distance, each pair once, in bins (edges[k], edges[k + 1]]; shape (k,)."""
    from scipy.spatial import cKDTree  # here, not above: the report asks this module for numbers only

    tree = cKDTree(places)
    both_ways = tree.count_neighbors(tree, edges).astype(np.float64)
    return np.diff(both_ways) / 2


def extremeness(curves: Array) -> Array:
    """Rank of each curve (s, k) by extreme rank length, 1 / s for the most extreme, ties share the largest rank.

    Source: Myllymäki et al. 2017, doi:10.1111/rssb.12172.
    """
    import polars as pl  # scipy.stats has ranks as well, and takes half a second of every job to load

    up, down = (pl.DataFrame(c).select(pl.all().rank("average")).to_numpy() for c in (curves, -curves))
    ranks = np.sort(np.minimum(up, down), axis=1)
    # lexicographic: the smallest rank first, then the next one
    _, order = np.unique(ranks, axis=0, return_inverse=True)
    return pl.Series(order.ravel()).rank("max").to_numpy() / len(curves)


def radial_edges(cell_nm: float, area_nm2: float) -> Array:
    """Bins one cell wide, up to a quarter of the field's side."""
    reach = min(MOST_CELLS * cell_nm, 0.25 * np.sqrt(area_nm2))
    number = max(int(reach / cell_nm - NEAREST_CELLS), 3)
    return np.asarray(cell_nm * (NEAREST_CELLS + np.arange(number + 1)))


def pair_correlation(
    places_nm: Array,
    site: npt.NDArray[np.intp],
    flagged: npt.NDArray[np.bool_],
    edges_nm: Array,
    seed: int,
    simulations: int | None = None,
) -> Randomness | None:
    """Pair correlation of the flagged columns, with a global envelope of random flags.

    Parameters
    ----------
    places_nm : ndarray of shape (n, 2)
        Every tested column (row, col) [nm].
    site : ndarray of shape (n,), int
        Number of its site.
    flagged : ndarray of shape (n,), bool
    edges_nm : ndarray of shape (k + 1,)
    seed : int
    simulations : int, optional
        Default: 999, fewer for many defects.

    Returns
    -------
    Randomness, or None for fewer than 8 flagged columns.
    """
    number = int(flagged.sum())
    if number < LEAST_DEFECTS:
        return None
    times = simulations or max(199, int(SIMULATIONS * min(1.0, MANY / number)) // 100 * 100 + 99)
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(site == s) for s in np.unique(site)]
    wanted = [int(flagged[m].sum()) for m in members]
    curves = np.empty((times + 1, len(edges_nm) - 1))
    curves[0] = pair_counts(places_nm[flagged], edges_nm)
    for k in range(1, times + 1):
        drawn = np.concatenate([rng.choice(m, w, replace=False) for m, w in zip(members, wanted, strict=True)])
        curves[k] = pair_counts(places_nm[drawn], edges_nm)
    expected = curves[1:].mean(axis=0)
    rank = extremeness(curves)
    # the observed curve is one of the random ones if chance made it
    inside = curves[rank > LEVEL]
    with np.errstate(invalid="ignore", divide="ignore"):
        g, low, high = (
            np.where(expected > 0, c / expected, np.nan) for c in (curves[0], inside.min(axis=0), inside.max(axis=0))
        )
    return Randomness(edges_nm, g, low, high, curves[0], expected, float(rank[0]), times, number)
