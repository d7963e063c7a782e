"""Distances on a grid are scipy's, to the last bit."""

import numpy as np
import pytest
from scipy import ndimage

from oddlattice.numerics.distances import distance_px


@pytest.mark.parametrize(
    ("shape", "part"),
    [((40, 60), 0.9), ((60, 40), 0.5), ((1, 30), 0.8), ((30, 1), 0.8), ((90, 70), 0.999), ((5, 5), 0)],
)
def test_distances_are_those_of_scipy(shape: tuple[int, int], part: float) -> None:
    inside = np.random.default_rng(7).random(shape) < part
    inside[0, 0] = False
    assert np.array_equal(distance_px(inside), ndimage.distance_transform_edt(inside))


def test_where_there_is_nothing_beyond_distances_are_infinite() -> None:
    assert np.isinf(distance_px(np.ones((3, 4), dtype=bool))).all()
