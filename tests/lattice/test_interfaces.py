"""Two crystals that meet on one lattice are told by their cells; what changes within one crystal is none."""

import numpy as np
import pytest
from scipy import ndimage

from bench.grains import score_labels
from oddlattice.defects.grain_tables import boundary_rows
from oddlattice.lattice.interfaces import SHARP, _are_two, _step_at, crystals_on_one_lattice
from oddlattice.lattice.own_crystal import register_on_own
from support.grain_fields import GrainField
from support.interface_fields import PAIRS, Change, make_interface

STO = PAIRS["LSMO on SrTiO3"][0]


def crystals_of(field: GrainField) -> np.ndarray | None:
    return crystals_on_one_lattice(field.counts, register_on_own(field.counts)[0])


@pytest.mark.parametrize("name", ["BaTiO3 on SrTiO3", "LSMO on SrTiO3"])
def test_a_film_on_its_substrate_is_a_second_crystal(name: str) -> None:
    field = make_interface(Change(*PAIRS[name], 0.0), side_px=420, seed=1)
    found = crystals_of(field)
    assert found is not None and found.max() == 2
    nearest = ndimage.distance_transform_edt(found == 0, return_distances=False, return_indices=True)
    score = score_labels(found[nearest[0], nearest[1]], field)
    assert score.right > 0.99 * score.counted
    assert np.median(score.line_cells) < 0.5


@pytest.mark.parametrize(
    ("heights", "width_nm"),
    [
        ((1.0, 0.45), 0.0),  # a wedge alone
        ((1.26, 0.585), 0.0),  # a step of thickness by 30 %: lighter columns gain somewhat more
        ((1.6, 0.55), 6.0),  # content that goes over gradually
    ],
)
def test_one_crystal_stays_one(heights: tuple[float, ...], width_nm: float) -> None:
    field = make_interface(Change(STO, heights, 0.0, width_nm), side_px=420, wedge=0.5, seed=2)
    assert crystals_of(field) is None


@pytest.mark.parametrize(
    ("step", "slope", "sharp"), [(1.0, 0.0, True), (1.0, 0.02, True), (1.0, 0.1, False), (0.0, 0.2, False)]
)
def test_content_that_goes_on_changing_on_either_side_makes_no_interface(
    step: float, slope: float, sharp: bool
) -> None:
    """As tilt and bending make it over a flake: a line is there wherever one is drawn through it."""
    depth = np.repeat(np.arange(-14.5, 15)[:, None], 20, axis=1)
    score = step * np.sign(depth) / 2 + slope * depth
    known = np.ones(depth.shape, dtype=bool)
    steps = _step_at(score, depth, known), _step_at(-score, depth, known)
    assert [one > SHARP for one in steps] == [sharp, sharp]


@pytest.mark.parametrize(("layers", "two"), [(16, True), (29, False)])
def test_mixed_layers_at_a_line_are_no_hindrance_where_a_side_is_lost_without_it(layers: int, two: bool) -> None:
    """Of a flake that is analysed whole more is asked: content may go on changing, and a quarter of it was lost."""
    depth = np.repeat(np.arange(-14.5, 15)[:, None], 20, axis=1)
    score = np.clip(2 * depth / layers, -1, 1) + np.random.default_rng(1).normal(0, 0.15, depth.shape)
    known = np.ones(depth.shape, dtype=bool)
    cores = [depth < -3, depth > 3]
    assert _are_two(score, depth, known, cores, lost=True) == two
    assert not _are_two(score, depth, known, cores, lost=False)


def test_a_coherent_interface_is_one_of_phases() -> None:
    labels = np.repeat(np.array([[1, 2]], np.uint8), 50, axis=1).repeat(80, axis=0)
    side = {"model": "srtio3_001", "a_px": [20.0, 0.0], "b_px": [0.0, 20.0], "a_sigma_px": 0.01, "b_sigma_px": 0.01}
    side |= {"pixel_nm": 0.02}
    contents = [{"fit_quality": {"column_weights": {"Sr": 1.0, "Ti": ti}}} for ti in (0.45, 0.44, 0.3)]
    for other, sort in ((1, "low-angle"), (2, "phase")):
        (row,) = boundary_rows("x", labels, {1: side | contents[0], 2: side | contents[other]}, (0.02, 0.02))
        assert row["sort"] == sort
