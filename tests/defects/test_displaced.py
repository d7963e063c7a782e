"""Moved and bent is one question: how likely the two readings together are of a column that moved."""

import numpy as np
import pytest

from defects.test_kernels import TI, VECTORS_PM, judged, noise_map, put
from oddlattice.defects.displaced import Moved, bends_along
from oddlattice.defects.kernels import errors_over_bulks, moved_peak
from oddlattice.defects.noise import estimate_noise

DISTANCE = 0.3 * 1.12 ** np.arange(30)


@pytest.mark.parametrize("lost", [1e-6, 0.02, 0.09, 0.3])
def test_bulk_is_called_moved_as_often_as_told(lost: float) -> None:
    change, *shift = np.random.default_rng(1).standard_normal((3, 400_000))
    p = Moved(-lost * DISTANCE**2, DISTANCE).p_values(change, np.hypot(*shift))
    for level in (0.1, 0.01, 1e-3):
        assert (p < level).mean() == pytest.approx(level, rel=4 / np.sqrt(400_000 * level))


def test_a_column_that_moved_far_is_found_by_both_readings() -> None:
    """4.4 standard deviations moved, 1.75 bent: 0.66 of them by the displacement alone at 2 in 10,000, 0.77 by both."""
    change, *shift = np.random.default_rng(2).standard_normal((3, 100_000))
    distance = np.hypot(shift[0] + 4.4, shift[1])
    both = Moved(-0.09 * DISTANCE**2, DISTANCE).p_values(change - 1.75, distance)
    assert (np.exp(-(distance**2) / 2) < 2e-4).mean() < 0.67
    assert (both < 2e-4).mean() > 0.75
    # the farthest keep their order
    far = Moved(-0.09 * DISTANCE**2, DISTANCE).p_values(np.array([-5.0, -9.0]), np.array([9.0, 14.0]))
    assert 0 < far[1] < far[0] < 1e-15


def test_readings_of_a_moved_column_are_those_of_its_window() -> None:
    tiles = noise_map(3) * 0.05
    put(tiles, TI, (20, 20), moved_peak(TI, 0.0, np.array([0.0, 50.0]), VECTORS_PM))
    site = judged(tiles, TI)
    (i,) = np.flatnonzero((site.cells == 20).all(axis=1))
    lengths = np.interp(site.found[i, 2], site.moved[:, 1], np.arange(len(site.moved)))
    assert site.found[i, 2] < 45
    bent = bends_along(site.found[i, 3:], site.found[i, 1:3], site.kernel.bend)
    assert bent == pytest.approx(np.interp(lengths, np.arange(len(site.moved)), site.moved[:, 0]), rel=0.05)
    assert site.verdict.moved[i] and site.verdict.p_value[i] < 1e-30


@pytest.mark.parametrize("change", [-0.5, 0.0, 1.0])
def test_the_place_of_a_weak_column_is_known_less_well(change: float) -> None:
    tiles = noise_map(4)
    noise, whole = estimate_noise(tiles, np.ones((40, 40), np.uint8)), np.ones((16, 16), dtype=bool)
    at = np.array([change, 0.0, 0.0])
    of_change, of_shift = errors_over_bulks(at, whole, TI, noise, VECTORS_PM, (1.0, 1.0))
    assert of_change == pytest.approx(1.0, abs=0.05)
    assert np.diag(of_shift) == pytest.approx(1 / (1 + change), rel=0.1)
