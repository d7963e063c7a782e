"""Breaks of a lattice: Burgers vectors by closures, shifts across faults, and how two lattices lie to each other."""

import numpy as np
import pytest
from scipy import ndimage

from oddlattice.lattice.boundaries import lines_between
from oddlattice.lattice.breaks import around, dislocations, fault_along, line_through, waves_of
from oddlattice.lattice.relations import is_twin, nearest_directions
from oddlattice.numerics.arrays import Array, Float
from support.grain_fields import SAMPLES, GrainField, make_grains

SIDE = 360


def crystal(name: str = "CeO2", turn: float = 12.0, pixel_nm: float = 0.018) -> GrainField:
    return make_grains((name,), (turn,), side_px=SIDE, pixel_nm=pixel_nm, dose=200, changed=0, seed=4)


def with_dislocations(truth: GrainField, places: list[tuple[float, float]], burgers: tuple[int, int]) -> Float:
    """The scan with a dislocation at each place: displacements grow by a lattice vector anticlockwise around it."""
    row, col = np.indices(truth.counts.shape).astype(float)
    part = -sum(np.arctan2(row - r, col - c) for r, c in places) / (2 * np.pi)
    moved = np.array(burgers) @ truth.vectors_px[0]
    at = [row - part * moved[0], col - part * moved[1]]
    return np.asarray(ndimage.map_coordinates(truth.counts, at, order=3, mode="mirror"), dtype=np.float32)


def shifted_beyond(truth: GrainField, shift: tuple[float, float]) -> tuple[Float, Array]:
    """The scan with all right of a slanted line shifted by a part (u, v) of a cell; and the ends of that line."""
    row, col = np.indices(truth.counts.shape).astype(float)
    right = col > 180 + 0.3 * (row - 180)
    moved = right[..., None] * (np.array(shift) @ truth.vectors_px[0])
    at = [row - moved[..., 0], col - moved[..., 1]]
    image = np.asarray(ndimage.map_coordinates(truth.counts, at, order=3, mode="mirror"), dtype=np.float32)
    return image, np.array([[SIDE - 6.0, 180 + 0.3 * (SIDE - 186)], [5.0, 180 - 0.3 * 175]])


@pytest.mark.parametrize("burgers", [(1, 0), (0, -1), (1, 1)])
def test_a_circuit_tells_the_burgers_vector(burgers: tuple[int, int]) -> None:
    truth = crystal()
    waves = waves_of(with_dislocations(truth, [(190.0, 170.0)], burgers), truth.vectors_px[0])
    assert waves is not None
    everywhere = np.ones(waves.weak.shape, dtype=bool)
    (found,) = dislocations(waves, everywhere)
    assert found.burgers == burgers
    assert found.place_px == pytest.approx((190, 170), abs=1.5 * truth.cell_px)
    core = np.hypot(*np.moveaxis(waves.places_px - (190, 170), -1, 0)) < truth.cell_px
    assert around(waves, core)[0].burgers == burgers
    beside = np.hypot(*np.moveaxis(waves.places_px - (80, 250), -1, 0)) < truth.cell_px
    assert around(waves, beside)[0].burgers == (0, 0)
    rim = np.hypot(*np.moveaxis(waves.places_px - (0, 250), -1, 0)) < truth.cell_px
    assert around(waves, rim)[0].reason.startswith("no circuit")


def test_a_wall_is_told_dislocation_by_dislocation() -> None:
    truth = crystal("SrTiO3", 0.0, 0.022)
    apart = 6.5 * truth.cell_px
    places = [(180 + k * apart, 180.0) for k in (-1, 0, 1)]
    waves = waves_of(with_dislocations(truth, places, (0, 1)), truth.vectors_px[0])
    assert waves is not None
    found = sorted(dislocations(waves, np.ones(waves.weak.shape, dtype=bool)), key=lambda one: one.place_px)
    told = [one for one in found if one.burgers is not None]
    assert [one.burgers for one in told] == [(0, 1)] * 3
    assert np.abs([np.subtract(one.place_px, at) for one, at in zip(told, places, strict=True)]).max() < truth.cell_px


@pytest.mark.parametrize(("name", "shift"), [("SrTiO3", (0.5, 0.5)), ("CeO2", (1 / 3, 0.0)), ("SrTiO3", (0.0, 0.2))])
def test_the_shift_across_a_fault_is_told_with_its_error(name: str, shift: tuple[float, float]) -> None:
    truth = crystal(name, 20.0)
    image, ends = shifted_beyond(truth, shift)
    waves = waves_of(image, truth.vectors_px[0])
    assert waves is not None
    labels, _ = ndimage.label(waves.weak, structure=np.ones((3, 3)))
    lines = [ends]
    if max(shift) > 0.25:  # less is not looked for
        line = line_through(labels == np.bincount(labels[labels > 0]).argmax(), waves)
        assert line is not None and line[1] > 4
        lines.append(line[0])
    for where in lines:
        found = fault_along(waves, where)
        assert found is not None
        way = np.sign(found.ends_px[0][0] - found.ends_px[1][0])  # upwards: right of it is right
        off = way * np.array(found.shift) - shift
        off -= np.rint(off)
        assert np.abs(off).max() < 0.02
        assert (np.abs(off) < 4 * np.array(found.sigma)).all()
        assert max(found.sigma) < 0.02


def test_no_fault_and_no_dislocation_in_a_crystal_with_defects() -> None:
    truth = make_grains(("CeO2",), (12.0,), side_px=SIDE, pixel_nm=0.016, dose=200, changed=12, seed=5)
    waves = waves_of(truth.counts, truth.vectors_px[0])
    assert waves is not None
    assert dislocations(waves, np.ones(waves.weak.shape, dtype=bool)) == []
    assert waves.weak.mean() < 0.01
    noise = np.random.default_rng(1).poisson(30, (SIDE, SIDE)).astype(np.float32)
    assert waves_of(noise, truth.vectors_px[0]) is None


def test_a_twin_is_a_mirrored_lattice_and_no_chance() -> None:
    vectors = SAMPLES["Au [110]"].vectors_nm
    mirror = np.diag([1.0, -1.0])

    def turned(degrees: float) -> Array:
        angle = np.deg2rad(degrees)
        return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[1, 0]))
    assert is_twin(vectors, vectors @ turned(-2 * angle + 0.2), 0.5)  # mirrored at b, as {111} of fcc
    assert not is_twin(vectors, vectors @ turned(20), 0.5)
    assert not is_twin(vectors, vectors @ mirror, 0.5)  # the lattice itself
    assert not is_twin(np.eye(2), np.eye(2) @ turned(36.87), 0.5)  # turned squares


def test_directions_that_run_side_by_side_and_their_misfit() -> None:
    square = 0.3905 * np.eye(2)
    angle = np.deg2rad(45.3)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    found = nearest_directions(square, 0.5411 / np.sqrt(2) * np.eye(2))
    assert (found.first, found.second) == ((0, 1), (0, 1))
    assert found.misfit == pytest.approx(0.5411 / np.sqrt(2) / 0.3905 - 1)
    cube_on_diagonal = nearest_directions(square, 0.5411 * turn)
    assert cube_on_diagonal.apart_deg == pytest.approx(0.3, abs=1e-6)
    assert sorted([abs(np.prod(cube_on_diagonal.first)), abs(np.prod(cube_on_diagonal.second))]) == [0, 1]


def test_a_line_between_grains_needs_both() -> None:
    labels = np.ones((40, 40), np.uint8)
    assert lines_between(labels) == []
