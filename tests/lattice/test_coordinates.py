"""Lattice coordinates and raw pixels: there and back, the shifts of scan lines included."""

import numpy as np
import pytest

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.register import fit_registration
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import SRTIO3, true_row_shift_px


def bent(transposed: bool = False) -> Coordinates:
    """A bent lattice of 12 x 8 cells over 300 x 250 px, each of its lines shifted."""
    u, v = np.meshgrid(np.arange(13.0), np.arange(9.0), indexing="ij")
    nodes = np.stack([20 * u + 3 * v + 0.02 * u * v, -4 * u + 19 * v + 0.03 * v**2 + 60])
    nodes += 0.2 * np.random.default_rng(0).normal(size=nodes.shape)
    shift = np.random.default_rng(1).normal(0, 0.4, 250 if transposed else 300)
    return Coordinates(nodes.astype(np.float32), shift, transposed)


def test_places_are_between_the_nodes() -> None:
    u, v = np.meshgrid(np.arange(5), np.arange(6), indexing="ij")
    nodes = np.stack([10 + 20.0 * u - 3.0 * v, 5 + 3.0 * u + 20.0 * v])
    at = Coordinates(nodes, np.zeros(100))
    np.testing.assert_allclose(at.seen_px(np.array([[1.5, 2.25]])), [[10 + 30 - 6.75, 5 + 4.5 + 45]])
    np.testing.assert_allclose(at.seen_px(np.array([[9.0, -2.0]])), [[10 + 180 + 6, 5 + 27 - 40]])  # beyond them too
    np.testing.assert_allclose(at.seen_px(np.array([1.5, 2.25])), [10 + 30 - 6.75, 5 + 4.5 + 45])  # a single place
    np.testing.assert_allclose(at.uv_of_straight(at.straight_px(np.array([1.5, 2.25]))), [1.5, 2.25], atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_there_and_back(transposed: bool) -> None:
    at = bent(transposed)
    uv = np.random.default_rng(2).uniform(-1, [13, 9], (50, 2))
    np.testing.assert_allclose(at.uv(at.seen_px(uv)), uv, atol=1e-6)
    np.testing.assert_allclose(at.uv_of_straight(at.straight_px(uv)), uv, atol=1e-6)
    moved = at.seen_px(uv) - at.straight_px(uv)
    assert np.abs(moved[:, 0 if transposed else 1]).max() > 0.3
    assert (moved[:, 1 if transposed else 0] == 0).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_columns_are_where_a_jittering_scan_shows_them(transposed: bool) -> None:
    conditions = Conditions(pixel_nm=0.0125, rotation_deg=17, dose_e_px=800, jitter_pm=8)
    scan = simulate_scan(SRTIO3, conditions, (300, 900), seed=4)
    counts = np.ascontiguousarray(scan.counts.T) if transposed else scan.counts
    found = fit_registration(counts, [SRTIO3], (0.0125, 0.0125))
    assert found.transposed == transposed
    at = Coordinates(found.nodes_px, found.row_shift_px, found.transposed)
    straight = scan.places_px[(scan.places_px > 20).all(1) & (scan.places_px < [280, 880]).all(1)]
    rows = straight[:, 0]
    seen = straight - np.stack([0 * rows, np.interp(rows, np.arange(300), true_row_shift_px(conditions, 300, 4))], -1)
    if transposed:
        straight, seen = straight[:, ::-1], seen[:, ::-1]
    uv = at.uv_of_straight(straight)

    def rms(places: np.ndarray) -> float:
        return float(np.sqrt(((places - seen) ** 2).sum(1).mean()))

    assert rms(at.straight_px(uv)) > 0.4  # so far is a marker from its column without the shifts
    assert rms(at.seen_px(uv)) < 0.15
