"""Short-range order of unlike columns: counted pairs, chance, a checkerboard and clusters."""

import numpy as np
import numpy.typing as npt
import pytest

from oddlattice.statistics.short_range_order import neighbours, short_range_order

SIDE = 16
PLACES = 0.4 * np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1).reshape(-1, 2)


def test_neighbours_are_those_of_the_shell() -> None:
    first, second = neighbours(PLACES, 0.1, 0.45), neighbours(PLACES, 0.45, 0.6)
    assert len(first) == 2 * SIDE * (SIDE - 1) and len(second) == 2 * (SIDE - 1) ** 2
    assert np.allclose(np.hypot(*(PLACES[second[:, 0]] - PLACES[second[:, 1]]).T), 0.4 * np.sqrt(2))


@pytest.mark.parametrize(("unlike", "sign"), [((PLACES / 0.4).round().sum(1) % 2 == 0, -1), (PLACES[:, 0] < 1.5, 1)])
def test_a_checkerboard_avoids_and_a_half_plane_clusters(unlike: npt.NDArray[np.bool_], sign: int) -> None:
    found = short_range_order(neighbours(PLACES, 0.1, 0.45), unlike, seed=1)
    assert found is not None
    assert np.sign(found.alpha) == sign and abs(found.alpha) > 0.7 and found.p_value == 0.001
    if sign < 0:
        assert found.mixed == found.pairs


def test_chance_is_chance() -> None:
    pairs, inside, small = neighbours(PLACES, 0.1, 0.45), 0, 0
    for seed in range(40):
        unlike = np.random.default_rng(seed).random(SIDE**2) < 0.15
        found = short_range_order(pairs, unlike, seed, simulations=199)
        assert found is not None
        inside += found.chance_low <= found.alpha <= found.chance_high
        small += found.p_value <= 0.1
    assert inside >= 34 and small <= 10


def test_too_few_say_nothing() -> None:
    pairs, unlike = neighbours(PLACES, 0.1, 0.45), np.zeros(SIDE**2, bool)
    unlike[:2] = True
    assert short_range_order(pairs, unlike, 0) is None
    assert short_range_order(pairs[:0], np.arange(SIDE**2) % 2 == 0, 0) is None
