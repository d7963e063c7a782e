"""Columns along a boundary: as many are missing as were left out, and none of a crystal that is whole."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from oddlattice.defects.boundary_columns import Beside, columns_at
from oddlattice.lattice.boundaries import lines_between
from oddlattice.lattice.columns import ColumnShape
from oddlattice.lattice.coordinates import Coordinates
from support.grain_fields import SAMPLES, GrainField, make_grains

SIDE = 320
APART = np.array([[0.3, 0.3], [0.7, 0.75]])


def beside(truth: GrainField, number: int) -> Beside:
    """A grain of a made-up scan as it was made."""
    vectors, columns = truth.vectors_px[number - 1], SAMPLES[truth.names[number - 1]].columns
    at = truth.places_px[(truth.grain == number) & (truth.column == 0)]
    origin = at[0] - np.array(columns[0][:2]) @ vectors
    cells = np.indices((121, 121)) - 60.0
    nodes = origin[:, None, None] + np.einsum("iuv,ij->juv", cells, vectors)
    shapes = [ColumnShape("A", u, v, height, (1.0, 0.0, 1.0)) for u, v, height in columns]
    return Beside(number, shapes, Coordinates(nodes, np.zeros(SIDE)), truth.cell_px)


def left_out(truth: GrainField, sides: list[Beside]) -> int:
    """Sites of bright columns on their own side of the line at which no column was put."""
    number = 0
    for side in sides:
        u, v = (np.arange(120.0) for _ in range(2))
        cells = np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2)
        for shape in side.shapes:
            at = side.coordinates.seen_px(cells + np.array([shape.u, shape.v]))
            at = at[((at > truth.cell_px / 2) & (at < SIDE - 1 - truth.cell_px / 2)).all(axis=1)]
            row, col = np.rint(at).astype(int).T
            at = at[truth.labels[row, col] == side.number]
            number += int((np.asarray(cKDTree(truth.places_px).query(at)[0]) > 1).sum())
    return number


@pytest.mark.parametrize(("name", "turn", "pixel_nm"), [("SrTiO3", 36.0, 0.02), ("Au [110]", 25.0, 0.018)])
def test_missing_columns_are_counted(name: str, turn: float, pixel_nm: float) -> None:
    truth = make_grains(
        (name, name), (5.0, 5.0 + turn), side_px=SIDE, pixel_nm=pixel_nm, dose=300, changed=0, middles=APART, seed=21
    )
    labels = truth.labels.astype(np.uint8)
    (line,) = lines_between(labels)
    sides = [beside(truth, 1), beside(truth, 2)]
    found = columns_at(truth.counts, labels, line, (sides[0], sides[1]))
    assert not isinstance(found, str)
    assert abs(found.missing - left_out(truth, sides)) <= 2
    assert found.extra <= 2
    truth.counts[150:180, 150:180] = np.median(truth.counts)  # nothing is there
    holed = columns_at(truth.counts, labels, line, (sides[0], sides[1]))
    assert not isinstance(holed, str)
    assert holed.missing >= found.missing + 2
    assert found.width_px is not None and found.width_sigma_px is not None
    assert 0.5 < found.width_px / truth.cell_px < 1.5
    assert found.width_sigma_px < 0.1 * found.width_px


def test_a_line_through_a_whole_crystal_misses_nothing() -> None:
    truth = make_grains(("SrTiO3",), (0.0,), side_px=SIDE, pixel_nm=0.02, dose=300, changed=0, seed=3)
    labels = np.ones((SIDE, SIDE), np.uint8)
    labels[:, 155:] = 2
    (line,) = lines_between(labels)
    one = beside(truth, 1)
    other = Beside(2, one.shapes, one.coordinates, one.cell_px)
    found = columns_at(truth.counts, labels, line, (one, other))
    assert not isinstance(found, str)
    assert (found.missing, found.extra) == (0, 0)
    assert found.width_px == pytest.approx(truth.cell_px / 2, rel=0.15)  # from Sr to Ti


def test_columns_that_are_not_seen_are_not_counted() -> None:
    truth = make_grains(("SrTiO3",), (0.0,), side_px=SIDE, pixel_nm=0.02, dose=300, changed=0, seed=3)
    labels = np.ones((SIDE, SIDE), np.uint8)
    labels[:, 155:] = 2
    (line,) = lines_between(labels)
    one = beside(truth, 1)
    noise = np.random.default_rng(1).poisson(50, (SIDE, SIDE)).astype(np.float32)
    said = columns_at(noise, labels, line, (one, Beside(2, one.shapes, one.coordinates, one.cell_px)))
    assert said == "columns are not seen one by one beside it"
