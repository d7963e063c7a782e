"""Columns in the lattice frame: windows, shapes and signatures."""

import numpy as np
import pytest
from scipy.optimize._numdiff import approx_derivative

from oddlattice.crystal import CELL_PX, PX_PER_CELL, Column
from oddlattice.lattice.columns import (
    REACH_PX,
    ColumnShape,
    as_cells,
    bends,
    column_cells,
    cut_windows,
    peak_at,
    signatures,
    window_offsets,
)
from oddlattice.lattice.shapes import TAIL_WIDTH, _MeanCell, fit_shape, fit_shapes

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


def test_tails_are_told_from_the_level() -> None:
    """A column's wide tail runs under its neighbours; an oxygen column between them must not be taken for it."""
    line = (np.arange(CELL_PX) + 0.5) / CELL_PX
    tailed = [
        ColumnShape("Sr", 0.0, 0.0, 2.0, (90.0, 10.0, 70.0), 0.2, 2.1),
        ColumnShape("Ti", 0.5, 0.5, 1.0, (80.0, 0.0, 80.0), 0.1, 2.1),
    ]
    oxygen = ColumnShape("O", 0.5, 0.0, 0.15, (85.0, 0.0, 85.0))
    cell = np.full((CELL_PX, CELL_PX), 0.1)
    for shape in (*tailed, oxygen):
        for i in (-2, -1, 0, 1, 2):
            for j in (-2, -1, 0, 1, 2):
                cell += peak_at(shape, line[:, None] - shape.u - i, line[None, :] - shape.v - j)
    columns = tuple(Column(s.site, s.u, s.v, {s.site: 1}, 0.009, s.site != "O") for s in (*tailed, oxygen))
    found = fit_shapes(cell, columns)
    du, dv = window_offsets(CORNER)
    for shape, other in zip(tailed, found, strict=True):
        own, seen = peak_at(shape, du, dv), peak_at(other, du, dv)
        assert shape.site == other.site
        assert (own * seen).sum() / (seen * seen).sum() == pytest.approx(1.0, abs=0.07)


def test_columns_without_tails_get_none() -> None:
    columns = (Column("Ti", 0.5, 0.5, {"Ti": 1}, 0.009, True),)
    (found,) = fit_shapes(periodic_cell(MIDDLE), columns)
    du, dv = window_offsets(MIDDLE)
    own, seen = peak_at(MIDDLE, du, dv), peak_at(found, du, dv)
    assert (own * seen).sum() / (seen * seen).sum() == pytest.approx(1.0, abs=0.05)


def test_a_fit_goes_on_to_the_end_where_there_are_no_tails() -> None:
    """Slopes by differences stop short at a tail of no weight: changes of Ti were read 10 % too small."""
    columns = (Column("Sr", 0.0, 0.0, {"Sr": 1}, 0.009, True), Column("Ti", 0.5, 0.5, {"Ti": 1}, 0.009, True))
    cell = periodic_cell(ColumnShape("Sr", 0.0, 0.0, 2.0, (113.0, 0.0, 113.0)))
    cell += periodic_cell(ColumnShape("Ti", 0.5, 0.5, 1.0, (116.0, 0.0, 116.0))) - 0.5
    model = _MeanCell(cell, [(0.0, 0.0), (0.5, 0.5)], 2)
    start = [0.5, 2.0, 113.0, 0.0, 113.0, 0.0, 1.0, 116.0, 0.0, 116.0, 0.0, TAIL_WIDTH[0]]
    best = (model.misfit(np.array(start)) ** 2).sum()
    found = fit_shapes(cell, columns)
    level = cell.mean() - sum(
        s.amplitude * (1 + s.tail_weight * s.tail_width**2) * 2 * np.pi / np.sqrt(s.precision[0] * s.precision[2])
        for s in found
    )
    each = [x for s in found for x in (s.amplitude, *s.precision, s.tail_weight)]
    assert (model.misfit(np.array([level, *each, found[0].tail_width])) ** 2).sum() <= 1.01 * best


@pytest.mark.parametrize("widths", [1.0, 0.2], ids=["narrow", "too wide"])
def test_slopes_of_the_mean_cell_are_its_derivatives(widths: float) -> None:
    model = _MeanCell(periodic_cell(CORNER), [(0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5)], 2)
    p = np.array([0.3, 1.0, 90.0, 3.0, 100.0, 0.2, 0.5, 110.0, -2.0, 95.0, 0.1, 2.1, 0.05, 0.03])
    p[[2, 3, 4, 7, 8, 9]] *= widths
    np.testing.assert_allclose(model.slopes(p), approx_derivative(model.misfit, p, method="3-point"), atol=1e-6)


def test_columns_of_which_one_wave_is_seen_are_no_wider_than_those_that_are_told_apart() -> None:
    """Three columns of a hexagonal cell: one wave tells height and width only together (MXene out of focus)."""
    hexagon, line = [(0.0, 0.0), (1 / 3, 2 / 3), (2 / 3, 1 / 3)], (np.arange(CELL_PX) + 0.5) / CELL_PX
    waves = [np.cos(2 * np.pi * (h * line[:, None] + k * line[None, :])) for h, k in ((1, 1), (2, -1), (1, -2))]
    cell = 1 + 0.02 * sum(waves, np.zeros((CELL_PX, CELL_PX)))
    shapes = fit_shapes(cell, tuple(Column(f"A{k}", *at, {"Ti": 1}, 0.008, True) for k, at in enumerate(hexagon)))
    for shape in shapes:
        p_uu, p_uv, p_vv = shape.precision
        assert CELL_PX / (p_uu * p_vv - p_uv**2) ** 0.25 < 4.1


def test_a_column_without_a_peak_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    columns = (Column("Ti", 0.5, 0.5, {"Ti": 1}, 0.008, True),)
    assert fit_shapes(1.0 - periodic_cell(MIDDLE), columns) == []
    assert "not tested: no peak at the Ti column" in capsys.readouterr().out


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
    as_cells(tiles, PX_PER_CELL)[1, 2, 3, 4] = 7.0
    assert tiles[23, 44] == 7.0


def test_bends_are_what_signatures_leave_of_a_moved_column() -> None:
    """Second differences of the peak, of a skew cell and a column with a tail."""
    shape = ColumnShape("x", 0.3, 0.6, 2.0, (90.0, 20.0, 70.0), tail_weight=0.1)
    vectors_pm, h = np.array([[390.0, 40.0], [-30.0, 380.0]]), 2.0
    du, dv = window_offsets(shape)

    def at(row: float, col: float) -> np.ndarray:
        su, sv = np.array([row, col]) @ np.linalg.inv(vectors_pm)
        return peak_at(shape, du - su, dv - sv)

    steps = [((h, 0), (h, 0)), ((h, 0), (0, h)), ((0, h), (0, h))]
    for one, other, found in zip(*zip(*steps, strict=True), bends(shape, vectors_pm), strict=True):
        plus, minus = np.add(one, other), np.subtract(one, other)
        second = (at(*plus) - at(*minus) - at(*-minus) + at(*-plus)) / (4 * h * h)
        np.testing.assert_allclose(found, second, atol=3e-3 * np.abs(found).max())
