"""Planes on a grid: what is a plane comes out as it is, edges or not; large grids in bands are the same."""

import numpy as np
import pytest

from oddlattice.numerics.local_plane import BAND, Planes, planes_through


@pytest.mark.parametrize("side", [40, 5 * BAND + 7])
def test_a_plane_is_kept_up_to_ragged_edges_and_large_grids_are_the_same(side: int) -> None:
    rng = np.random.default_rng(0)
    known = np.ones((side, side + 9))
    known[: side // 4, : side // 3] = 0
    known[side // 2 :, side // 2 :] = rng.random((side - side // 2, side + 9 - side // 2)) > 0.3
    row, col = np.indices(known.shape) / side
    layers = np.stack([1 + 2 * row - col, rng.standard_normal(known.shape)])
    layers[:, known == 0] = np.nan
    planes = Planes(known, 3.0)
    smooth = planes.smooth(layers)
    there = known > 0
    assert np.abs(smooth[0] - layers[0])[there].max() < 0.02
    at_once = planes_through(np.where(there, layers, 0), *planes.terms(np.float64))
    np.testing.assert_allclose(smooth[:, there], at_once[:, there], atol=1e-12)
