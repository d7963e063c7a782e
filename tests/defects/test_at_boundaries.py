"""Columns that are odd one beside the other along a boundary belong to it; single ones there are defects."""

import numpy as np
import pytest

from oddlattice.defects.at_boundaries import distance_to_others, odd_along

PLACES = np.stack(np.meshgrid(np.arange(5.0, 200, 10), np.arange(5.0, 200, 10), indexing="ij"), -1).reshape(-1, 2)
LABELS = np.where(np.arange(220)[:, None] < 200, 1, 2).repeat(200, axis=1).astype(np.uint8)
AWAY = 200 - PLACES[:, 0]  # 5, 15, 25 ...: half a column's distance, one and a half


def test_distance_is_from_other_grains() -> None:
    assert distance_to_others(LABELS, 1, PLACES) == pytest.approx(AWAY)
    assert np.isinf(distance_to_others(np.ones((200, 200), np.uint8), 1, PLACES)).all()


@pytest.mark.parametrize(
    ("listed_per_layer", "deepest_px"),
    [([1, 0, 0], 0), ([2, 1, 0], 0), ([8, 0, 0], 10), ([0, 5, 0], 20), ([6, 0, 7], 30), ([6, 0, 0, 9], 10)],
)
def test_a_layer_is_odd_where_far_more_of_it_is_listed_than_inside(
    listed_per_layer: list[int], deepest_px: int
) -> None:
    listed = np.zeros(len(PLACES), dtype=bool)
    for layer, count in enumerate(listed_per_layer):
        listed[np.flatnonzero(10 * layer + 5 == AWAY)[:count]] = True
    listed[[30, 101, 180]] = True
    assert (odd_along(AWAY, PLACES, listed) == (deepest_px > AWAY)).all()


def test_a_doped_crystal_is_no_boundary() -> None:
    listed = np.random.default_rng(3).random(len(PLACES)) < 0.15
    assert not odd_along(AWAY, PLACES, listed).any()
