"""Columns in the lattice frame: windows, shapes and signatures."""

import numpy as np
import pytest

from oddlattice.columns import (
    REACH_PX,
    ColumnShape,
    as_cells,
    column_cells,
    cut_windows,
    fit_shape,
    peak_at,
    signatures,
    window_offsets,
)
from oddlattice.crystal import CELL_PX, Column

CORNER = ColumnShape("Sr", 0.0, 0.0, 2.0, (90.0, 10.0, 70.0))
MIDDLE = ColumnShape("Ti", 0.5, 0.5, 1.0, (80.0, 0.0, 80.0))


def periodic_cell(shape: ColumnShape) -> np.ndarray:
    """A cell (20, 20) with the column and its periodic copies on a level of 0.5."""
    line = (np.arange(CELL_PX) + 0.5) / CELL_PX
    total = np.full((CELL_PX, CELL_PX), 0.5)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            total += peak_at(shape, line[:, None] - shape.u - i, line[None, :] - shape.v - j)
    return total


@pytest.mark.parametrize("shape", [CORNER, MIDDLE], ids=["corner", "middle"])
def test_window_is_centred_on_the_column(shape: ColumnShape) -> None:
    du, dv = window_offsets(shape)
    assert du.shape == (2 * REACH_PX + 2, 1) and dv.shape == (1, 2 * REACH_PX + 2)
    assert abs(du.mean()) < 0.5 / CELL_PX + 1e-9 and abs(dv.mean()) < 0.5 / CELL_PX + 1e-9
    tiles = np.tile(periodic_cell(shape), (4, 4))
    window = cut_windows(tiles, shape, np.array([[1, 2]]))[0]
    np.testing.assert_allclose(window, 0.5 + peak_at(shape, du, dv), atol=2e-2)


@pytest.mark.parametrize("shape", [CORNER, MIDDLE], ids=["corner", "middle"])
def test_shape_is_found_again(shape: ColumnShape) -> None:
    column = Column(shape.site, shape.u, shape.v, {"Sr": 1}, 0.009, True)
    found = fit_shape(periodic_cell(shape), column)
    assert found.amplitude == pytest.approx(shape.amplitude, rel=0.02)
    np.testing.assert_allclose(found.precision, shape.precision, rtol=0.05, atol=2.0)


def test_no_peak_is_said() -> None:
    hole = 1.0 - periodic_cell(MIDDLE)
    with pytest.raises(ValueError, match="no peak at the Ti column"):
        fit_shape(hole, Column("Ti", 0.5, 0.5, {"Ti": 1}, 0.008, True))


def test_signatures_are_the_derivatives() -> None:
    vectors_pm = np.array([[390.0, 30.0], [-20.0, 400.0]])
    du, dv = window_offsets(CORNER)
    step_pm = 0.5
    su, sv = np.array([0.0, step_pm]) @ np.linalg.inv(vectors_pm)
    moved = (peak_at(CORNER, du - su, dv - sv) - peak_at(CORNER, du + su, dv + sv)) / (2 * step_pm)
    brighter, _, along_col = signatures(CORNER, vectors_pm)
    np.testing.assert_allclose(along_col, moved, atol=1e-5)
    np.testing.assert_allclose(brighter, peak_at(CORNER, du, dv))


def test_columns_need_all_cells_of_their_window() -> None:
    mask = np.ones((6, 7), np.uint8)
    mask[3, 4] = 0
    middle = {tuple(c) for c in column_cells(mask, MIDDLE)}
    assert len(middle) == 6 * 7 - 1 and (3, 4) not in middle
    corner = {tuple(c) for c in column_cells(mask, CORNER)}
    # the corner column of cell (i, j) touches cells i-1, i and j-1, j: 5 x 6 inside the frame, less four about the gap
    assert len(corner) == 5 * 6 - 4
    assert not corner & {(3, 4), (4, 4), (3, 5), (4, 5)}


def test_cells_are_a_view() -> None:
    tiles = np.zeros((40, 60), np.float32)
    as_cells(tiles)[1, 2, 3, 4] = 7.0
    assert tiles[23, 44] == 7.0
