"""Pair correlation against chance: counted pairs, and patterns of known kind."""

import numpy as np
import pytest

from oddlattice.statistics import pair_correlation


def lattice(side: int = 40, cell: float = 0.39, hole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Places [nm] and site of the columns of a perovskite; with a hole, the middle is masked."""
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    if hole:
        cells = cells[~((np.abs(cells - side / 2) < side / 4).all(axis=1))]
    return cell * np.concatenate([cells, cells + 0.5]), np.repeat([0, 1], len(cells))


def test_pairs_are_counted_once() -> None:
    places = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 3.0]])  # distances 1, 2, 3
    assert pair_correlation.pair_counts(places, np.array([0.0, 1.5, 2.5, 5.0])).tolist() == [1, 1, 1]


def test_extreme_rank_length_orders_curves() -> None:
    curves = np.array([[5.0, 5.0], [1.0, 3.0], [2.0, 4.0], [3.0, 2.0], [4.0, 1.0], [2.5, 3.5], [2.6, 3.4]])
    rank = pair_correlation.extremeness(curves)
    assert rank[0] == 1 / 7  # highest at both distances
    assert rank.max() == 1.0


def test_clusters_are_seen_and_chance_is_not() -> None:
    places, site = lattice(hole=True)
    rng = np.random.default_rng(2)
    edges = pair_correlation.radial_edges(0.39, 0.39**2 * 1200)
    chance = np.zeros(len(places), dtype=bool)
    chance[rng.choice(len(places), 60, replace=False)] = True
    centres = places[rng.choice(len(places), 10, replace=False)]
    near = np.argsort(np.abs(places[:, None] - centres[None]).sum(-1), axis=0)[: 6 * 8 : 8].ravel()
    clustered = np.zeros(len(places), dtype=bool)
    clustered[near] = True
    random = pair_correlation.pair_correlation(places, site, chance, edges, seed=1, simulations=199)
    odd = pair_correlation.pair_correlation(places, site, clustered, edges, seed=1, simulations=199)
    assert random is not None and odd is not None
    assert random.p_value > 0.05 and odd.p_value == pytest.approx(1 / 200, abs=0.006)
    assert odd.g[0] > 3 and odd.g[0] > odd.high[0]
    assert ((random.low <= random.g) & (random.g <= random.high)).all()
    # the sum over all distances of what is expected: all pairs within reach, whatever the hole
    assert odd.pairs[:2].sum() > odd.expected[:2].sum()


def test_p_values_of_chance_are_even() -> None:
    """Random flags on a field with a hole: p below 0.1 in about a tenth of the patterns, not more."""
    places, site = lattice(24, hole=True)
    edges = pair_correlation.radial_edges(0.39, 0.39**2 * 430)
    rng = np.random.default_rng(5)
    p = []
    for k in range(150):
        flagged = np.zeros(len(places), dtype=bool)
        flagged[rng.choice(len(places), 25, replace=False)] = True
        found = pair_correlation.pair_correlation(places, site, flagged, edges, seed=k, simulations=99)
        assert found is not None
        p.append(found.p_value)
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 150)
    assert 0.35 < np.mean(p) < 0.65


def test_few_defects_are_not_tested_and_the_seed_decides() -> None:
    places, site = lattice(12)
    edges = pair_correlation.radial_edges(0.39, 20.0)
    flagged = np.zeros(len(places), dtype=bool)
    flagged[:7] = True
    assert pair_correlation.pair_correlation(places, site, flagged, edges, seed=1) is None
    flagged[::20] = True
    one, two = (
        pair_correlation.pair_correlation(places, site, flagged, edges, seed=4, simulations=49) for _ in range(2)
    )
    assert one is not None and two is not None
    assert np.array_equal(one.low, two.low) and one.p_value == two.p_value
