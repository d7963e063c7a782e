"""Do unlike columns seek or avoid each other? Pairs of neighbours against unlike columns put on the sites at random."""

from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index

SIMULATIONS, FEWER, MANY = 999, 199, 10_000  # with more pairs than so many fewer do
LEVEL = 0.95
LEAST = 3  # unlike columns


@dataclass(frozen=True)
class Order:
    """Order in one shell of neighbours.

    Attributes
    ----------
    pairs, mixed : int
        Pairs of neighbours, and those of a like and an unlike column.
    alpha : float
        Warren and Cowley's: 1 - mixed pairs over those expected by chance. Positive where unlike columns cluster,
        negative where they avoid each other. Source: Cowley 1950, doi:10.1103/PhysRev.77.669.
    chance_low, chance_high : float
        Between which 95 % of random arrangements lie.
    p_value : float
        Of a random arrangement at least as far from its mean, either way.
    """

    pairs: int
    mixed: int
    alpha: float
    chance_low: float
    chance_high: float
    p_value: float


def neighbours(places_nm: Array, nearest_nm: float, farthest_nm: float) -> Index:
    """Pairs (m, 2) of columns (n, 2) whose distance lies in (nearest, farthest]."""
    from scipy.spatial import cKDTree  # here, not above: few processes ask

    pairs = cKDTree(places_nm).query_pairs(farthest_nm, output_type="ndarray").astype(np.int64)
    away = np.hypot(*(places_nm[pairs[:, 0]] - places_nm[pairs[:, 1]]).T)
    return np.asarray(pairs[away > nearest_nm])


def short_range_order(pairs: Index, unlike: Bools, seed: int, simulations: int | None = None) -> Order | None:
    """Order of the unlike ones among columns (n,) over pairs of neighbours (m, 2) of the same site.

    Chance puts as many unlike columns on the same places at random; masked places and edges are so in both.

    Returns
    -------
    Order, or None where there are fewer than 3 unlike or like columns, or no pairs.
    """
    n, number = len(unlike), int(unlike.sum())
    if min(number, n - number) < LEAST or not len(pairs):
        return None
    expected = len(pairs) * 2 * number * (n - number) / (n * (n - 1))
    simulations = simulations or (SIMULATIONS if len(pairs) < MANY else FEWER)
    rng, drawn = np.random.default_rng(seed), unlike.copy()
    random = np.empty(simulations)
    for k in range(simulations):
        rng.shuffle(drawn)
        random[k] = (drawn[pairs[:, 0]] != drawn[pairs[:, 1]]).sum()
    mixed = int((unlike[pairs[:, 0]] != unlike[pairs[:, 1]]).sum())
    beyond = int((np.abs(random - expected) >= abs(mixed - expected) - 1e-9).sum())
    low, high = np.quantile(1 - random / expected, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p_value = (1 + beyond) / (1 + simulations)
    return Order(len(pairs), mixed, float(1 - mixed / expected), float(low), float(high), p_value)
