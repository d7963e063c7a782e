"""The crystal that an image itself shows, counted against made-up fields whose truth is known."""

import numpy as np
import pytest

from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.own_columns import COMMON, Coefficients, _Fit, find_columns
from oddlattice.lattice.own_crystal import OwnCell, highest_seen, register_on_own
from oddlattice.lattice.reflections import generated
from support.own_crystals import CRYSTALS, Field, Sample, make_field

SITES = {
    "graphene": "AA",
    "MoS2": "AB",
    "WSe2": "AB",
    "Si [110]": "AA",
    "CdTe": "AB",
    "Au [110]": "A",
    "bcc Fe": "A",
    "SrTiO3 [110]": "AB",
    "BaTiO3": "AB",
    "YBCO [100]": "AABCCC",
    "Sr2TiO4": "AAB",
    "GaN": "AB",
    "oblique": "ABC",
}
SQUARE = np.diag([0.3905, 0.3905])


def own_of(field: Field) -> OwnCell:
    return register_on_own(field.counts)[1]


def cells_off(own: OwnCell, field: Field) -> float:
    """Area of the cell found, in cells of the sample."""
    return float(abs(np.linalg.det(own.vectors_px) / np.linalg.det(field.vectors_px)))


@pytest.mark.parametrize("name", SITES)
def test_every_column_is_found_and_none_that_is_not_there(name: str) -> None:
    for number, (dose, changed, dark) in enumerate([(15.0, 0.05, False), (40.0, 0.0, True)]):
        seed = 1000 * number + 17 * list(SITES).index(name)
        rotation = float(np.random.default_rng(seed).uniform(0, 180))
        sample = CRYSTALS[name]
        field = make_field(
            sample,
            side_px=512 if sample.area_nm2 > 0.14 else 384,
            rotation_deg=rotation,
            dose=dose,
            changed_part=changed,
            dark=dark,
            seed=seed,
        )
        own = own_of(field)
        assert cells_off(own, field) == pytest.approx(1, abs=0.01)
        assert own.columns.sign == (-1 if dark else 1)
        if name != "YBCO [100]":  # its six columns hold symmetries that noise may hide
            assert "".join(own.sites) == SITES[name]
        assert len(own.sites) == len(SITES[name])
        seen = np.sort(own.columns.intensity / own.columns.intensity.max())
        true = np.sort([column[2] for column in sample.columns]) / max(column[2] for column in sample.columns)
        assert np.abs(seen - true).max() < 0.1


@pytest.mark.parametrize(("second", "cells"), [(0.8, 1), (0.9, 1), (1.0, 0.5)])
def test_a_sublattice_is_not_lost(second: float, cells: float) -> None:
    for rotation in (0.0, 13.0):
        sample = Sample(SQUARE, ((0, 0, 1.0), (0.5, 0.5, second)))
        field = make_field(sample, dose=100, rotation_deg=rotation, seed=5)
        own = own_of(field)
        assert cells_off(own, field) == pytest.approx(cells, rel=0.01)
        assert len(own.sites) == round(2 * cells)


def test_hum_of_the_scan_makes_no_larger_cell() -> None:
    for rotation in (0.0, 45.0, 13.0):
        sample = Sample(SQUARE, ((0, 0, 1.0), (0.5, 0.5, 0.5)))
        field = make_field(sample, dose=100, rotation_deg=rotation, seed=5, hum_pm=8, hum_lines=7.3)
        assert cells_off(own_of(field), field) == pytest.approx(1, rel=0.01)


def test_cell_and_names_are_the_same_whatever_rotation_and_origin() -> None:
    for name in ("oblique", "MoS2", "Sr2TiO4"):
        found = [
            own_of(make_field(CRYSTALS[name], side_px=384, dose=80, rotation_deg=turn, seed=seed))
            for seed, turn in enumerate((3.0, 77.0, 215.0))
        ]
        first = found[0]
        for other in found[1:]:
            assert other.sites == first.sites
            apart = other.columns.places - first.columns.places
            assert np.abs(apart - np.rint(apart)).max() < 0.02
            assert np.linalg.norm(other.vectors_px, axis=1) == pytest.approx(
                np.linalg.norm(first.vectors_px, axis=1), rel=0.01
            )


def test_columns_of_the_registration_lie_on_those_of_the_field() -> None:
    field = make_field(CRYSTALS["oblique"], side_px=384, dose=200, rotation_deg=33, seed=2)
    found, own = register_on_own(field.counts)
    assert found.crystal is not None and found.mask.sum() > 50
    uv = found.frame.uv_at(field.places_px)
    for index, place in enumerate(own.columns.places):
        site = "ABC".index(own.sites[index])
        apart = uv[field.index == site] - place
        away = (apart - np.rint(apart)) @ found.frame.vectors_px
        inside = (field.places_px[field.index == site] > 20).all(1) & (field.places_px[field.index == site] < 364).all(
            1
        )
        assert np.sqrt((away[inside] ** 2).sum(1).mean()) < 0.5  # px


def test_noise_is_refused() -> None:
    counts = np.random.default_rng(3).poisson(40, (256, 256)).astype(np.float32)
    with pytest.raises(NoLatticeError, match="no lattice"):
        register_on_own(counts)


def test_slopes_of_the_fit_are_its_differences() -> None:
    orders = np.array([(h, k) for h in range(4) for k in range(-3, 4) if h > 0 or k > 0])
    rng = np.random.default_rng(0)
    seen = rng.normal(size=len(orders)) + 1j * rng.normal(size=len(orders))
    fit = _Fit(Coefficients(orders, seen, np.full(len(orders), 0.1), np.array([[20.0, 3.0], [-5.0, 25.0]])), 1)
    common = [1.0, 0.1, -0.05, -0.7, 0.1, -0.05, 0.02, 0.03, 0.04]
    assert len(common) == COMMON
    p = np.array([*common, -0.5, 0.1, 0.2, 0.1, -0.3, 0.6, 0.7, -0.2])
    steps = 1e-6 * np.eye(len(p))
    differences = np.stack([(fit.misfit(p + step) - fit.misfit(p - step)) / 2e-6 for step in steps], 1)
    assert np.abs(fit.slopes(p) - differences).max() < 1e-6


def test_rational_rows_generate_their_lattice() -> None:
    basis = generated(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    assert abs(np.linalg.det(basis)) == pytest.approx(0.5)
    assert np.allclose(
        np.array([0.5, 0.5]) @ np.linalg.inv(basis), np.rint(np.array([0.5, 0.5]) @ np.linalg.inv(basis))
    )


@pytest.mark.parametrize("spread_px2", [20.0, 30.0])
def test_three_alike_columns_are_not_taken_for_a_wide_one(spread_px2: float) -> None:
    """As a layer of MXene shows them: the widest Gaussian explains most of the first reflections."""
    vectors, places = np.array([[39.2, 1.7], [-20.3, 32.7]]), np.array([[0, 0], [1 / 3, 1 / 3], [2 / 3, 2 / 3]])
    orders = np.array([(h, k) for h in range(4) for k in range(-4, 5) if h > 0 or k > 0])
    frequency = np.hypot(*(orders @ np.linalg.inv(vectors).T).T)
    orders, frequency = orders[np.argsort(frequency)][:18], np.sort(frequency)[:18]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        waves = np.exp(-2j * np.pi * orders @ places.T) @ np.array([0.076, 0.065, 0.0625])
        seen = 2 * waves * np.exp(-2 * np.pi**2 * spread_px2 * frequency**2)
        off = rng.normal(size=(2, 18)) @ np.diag(0.03 * np.abs(seen) + 4e-4)
        found = find_columns(Coefficients(orders, seen + off[0] + 1j * off[1], np.full(18, 4e-4), vectors))
        assert found is not None and len(found.places) == 3
        apart = (found.places[:, None] - places + 0.5) % 1 - 0.5
        assert np.hypot(*np.moveaxis(apart, -1, 0)).min(1).max() < 0.05


def test_two_faint_columns_alike_are_both_kept() -> None:
    """As oxygen in CeO2 [110], 6 % of cerium: each may be done without while the other is left."""
    vectors, places = np.array([[-30.9, 1.4], [-11.7, -28.7]]), np.array([[0, 0], [0.25, 0.25], [0.75, 0.75]])
    orders = np.array([(h, k) for h in range(5) for k in range(-5, 6) if h > 0 or k > 0])
    frequency = np.hypot(*(orders @ np.linalg.inv(vectors).T).T)
    orders, frequency = orders[np.argsort(frequency)][:31], np.sort(frequency)[:31]
    waves = np.exp(-2j * np.pi * orders @ places.T) @ np.array([0.353, 0.0215, 0.0215])
    for seed in range(3):
        off = np.random.default_rng(seed).normal(size=(2, 31)) * 1e-3
        seen = 2 * waves * np.exp(-2 * np.pi**2 * 13.5 * frequency**2) + off[0] + 1j * off[1]
        found = find_columns(Coefficients(orders, seen, np.full(31, 1e-3), vectors))
        assert found is not None and len(found.places) == 3


def test_hum_far_beyond_the_waves_of_columns_is_none_of_them() -> None:
    """As in MXene of which one wave is seen: four times its frequency along the lines of the scan, and nothing between.

    Taken for the columns' own it brought 32 waves of noise into the fit, and a second column.
    """
    assert highest_seen(np.array([0.0505, 0.0513, 0.0516, 0.2052]), 0.0505) == 0.0516
    assert highest_seen(np.array([0.1, 0.05, 0.0866]), 0.0125) == 0.1
    assert highest_seen(np.empty(0), 0.05) == 0.05
