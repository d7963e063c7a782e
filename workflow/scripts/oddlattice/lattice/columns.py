"""Atomic columns in the lattice frame: their shape in an image's mean cell, and what a changed one would look like."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import PX_PER_CELL, PxPerCell
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.medians import median

REACH_PX = 7  # half width of a column's window in the lattice frame [px]
SIDE_PX = 2 * REACH_PX + 2  # of a column's window


@dataclass(frozen=True)
class ColumnShape:
    """A bulk column as this image shows it.

    Attributes
    ----------
    site : str
    u, v : float
        Place in the cell, fractions of a and b.
    amplitude : float
        Height above the surroundings, in units of the local mean.
    precision : tuple of float
        (p_uu, p_uv, p_vv) of the Gaussian exp(-(p_uu du^2 + 2 p_uv du dv + p_vv dv^2) / 2) [1/cell^2].
    tail_weight, tail_width : float
        Height, over the amplitude, and width, over the width, of a second, wider Gaussian: thermal scattering and
        channelling spread a column's intensity under its neighbours.
    px_per_cell : tuple of int
        Pixels of the cell along (u, v).
    column : int
        Index in the crystal's cell.
    """

    site: str
    u: float
    v: float
    amplitude: float
    precision: tuple[float, float, float]
    tail_weight: float = 0.0
    tail_width: float = 2.0
    px_per_cell: PxPerCell = PX_PER_CELL
    column: int = 0

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """A shape as the infer stage wrote it, among other keys."""
        found: dict[str, Any] = {field.name: entry[field.name] for field in fields(cls)}
        for key in ("precision", "px_per_cell"):
            found[key] = tuple(found[key])
        return cls(**found)


class Shaped(Protocol):
    """An array, in memory or not."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths."""


def px_of(values: Shaped, cells: Shaped) -> PxPerCell:
    """Pixels per cell (n_u, n_v) of a map (U n_u, V n_v) whose cells are those of an array (U, V)."""
    return values.shape[0] // cells.shape[0], values.shape[1] // cells.shape[1]


def as_cells(tiles: npt.NDArray[Any], px_per_cell: PxPerCell) -> npt.NDArray[Any]:
    """View of a map (U n_u, V n_v) as cells (U, V, n_u, n_v)."""
    n_u, n_v = px_per_cell
    return tiles.reshape(tiles.shape[0] // n_u, n_u, tiles.shape[1] // n_v, n_v).transpose(0, 2, 1, 3)


def sample_of(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Analysed cells (u, v) that stand for all of an image, evenly taken: 4,096 to 8,191 where there are more."""
    inside = np.argwhere(mask)
    return inside[:: max(1, len(inside) // 4096)]


def cells_at(
    tiles: npt.NDArray[np.floating], cells: npt.NDArray[np.intp], px_per_cell: PxPerCell
) -> npt.NDArray[np.float32]:
    """Cells (n, n_u, n_v) of tiles (U n_u, V n_v)."""
    return np.asarray(as_cells(tiles, px_per_cell)[cells[:, 0], cells[:, 1]], dtype=np.float32)


def median_cell(cells: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Median of cells (n, n_u, n_v); shape (n_u, n_v)."""
    return np.asarray(median(cells, axis=0), dtype=np.float64)


def mean_cell(tiles: npt.NDArray[np.floating], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Median cell over the analysed cells, or an even sample of them (`sample_of`); shape (n_u, n_v)."""
    return median_cell(cells_at(tiles, sample_of(mask), px_of(tiles, mask)))


def repeated(cell: npt.NDArray[np.floating], mask: Shaped) -> npt.NDArray[np.float32]:
    """A cell (n_u, n_v) laid over all cells of a mask (U, V); shape (U n_u, V n_v)."""
    return np.tile(cell.astype(np.float32), (mask.shape[0], mask.shape[1]))


def with_bulk_around(tiles: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Tiles (U n_u, V n_v) in which what is not in the image, 0 until now, looks like bulk to the cells at its rim."""
    beyond = tiles == 0
    if not beyond.any():
        return tiles
    return np.where(beyond, repeated(mean_cell(tiles, mask), mask), tiles)


def window_start_px(column: ColumnShape) -> tuple[int, int]:
    """First (u, v) pixel of the column's window, from its cell's corner; the window has 2 REACH_PX + 2 px a side."""
    n_u, n_v = column.px_per_cell
    return int(np.floor(n_u * column.u - 0.5)) - REACH_PX, int(np.floor(n_v * column.v - 0.5)) - REACH_PX


def window_offsets(column: ColumnShape, wider_px: int = 0) -> tuple[Array, Array]:
    """Distances (du, dv) of the window's pixels from the column [cells]; shapes (16, 1) and (1, 16).

    `wider_px` pixels more on every side widen the window.
    """
    start_u, start_v = (start - wider_px for start in window_start_px(column))
    line = np.arange(2 * (REACH_PX + wider_px) + 2) + 0.5
    n_u, n_v = column.px_per_cell
    return ((start_u + line) / n_u - column.u)[:, None], ((start_v + line) / n_v - column.v)[None, :]


def window_of_cell(cell: Array, column: ColumnShape) -> Array:
    """The column's window cut from a periodic cell (n_u, n_v); shape (16, 16)."""
    start_u, start_v = window_start_px(column)
    side = np.arange(2 * REACH_PX + 2)
    return cell[np.ix_((start_u + side) % cell.shape[0], (start_v + side) % cell.shape[1])]


def gaussian(du: Array, dv: Array, precision: Array) -> Array:
    """exp(-(p_uu du^2 + 2 p_uv du dv + p_vv dv^2) / 2) at distances (du, dv) [cells]."""
    return np.asarray(np.exp(-(precision[0] * du**2 + 2 * precision[1] * du * dv + precision[2] * dv**2) / 2))


def peak_at(shape: ColumnShape, du: Array, dv: Array) -> Array:
    """The column's peak at distances (du, dv) from it [cells], in units of the local mean."""
    precision = np.array(shape.precision)
    core = shape.amplitude * gaussian(du, dv, precision)
    if not shape.tail_weight:
        return core
    tail = shape.amplitude * shape.tail_weight * gaussian(du, dv, precision / shape.tail_width**2)
    return np.asarray(core + tail)


def signatures(shape: ColumnShape, vectors_pm: Array) -> Array:
    """What a small change of the column adds to the image.

    Parameters
    ----------
    vectors_pm : ndarray of shape (2, 2)
        Lattice vectors a and b as rows, (row, col) [pm].

    Returns
    -------
    ndarray of shape (3, 16, 16)
        Per unit of relative intensity; per pm of displacement along row; per pm along col.
    """
    du, dv = window_offsets(shape)
    precision = np.array(shape.precision)
    by_u, by_v = np.zeros((2, du.shape[0], dv.shape[1]))
    for weight, width in ((1.0, 1.0), (shape.tail_weight, shape.tail_width)):
        p_uu, p_uv, p_vv = precision / width**2
        part = shape.amplitude * weight * gaussian(du, dv, precision / width**2)
        by_u += part * (p_uu * du + p_uv * dv)  # minus the slope: a column moved along +u
        by_v += part * (p_uv * du + p_vv * dv)
    to_uv = np.linalg.inv(vectors_pm)  # (row, col) [pm] @ to_uv = (u, v) [cells]
    along_row, along_col = (to_uv[axis, 0] * by_u + to_uv[axis, 1] * by_v for axis in (0, 1))
    return np.stack([peak_at(shape, du, dv), along_row, along_col])


def bends(shape: ColumnShape, vectors_pm: Array) -> Array:
    """Second derivatives of the column's peak, by row and row, row and col, col and col; shape (3, 16, 16) [1 / pm^2].

    Half of them times the squared displacement is what `signatures` leave of a column that moved.
    """
    du, dv = window_offsets(shape)
    du, dv = np.broadcast_arrays(du, dv)
    to_uv = np.linalg.inv(vectors_pm)
    form = np.zeros((2, 2, *du.shape))
    for weight, width in ((1.0, 1.0), (shape.tail_weight, shape.tail_width)):
        precision = np.array(shape.precision) / width**2
        matrix = precision[[[0, 1], [1, 2]]]
        slope = np.einsum("ij,jmn->imn", matrix, np.stack([du, dv]))
        square = slope[:, None] * slope[None] - matrix[:, :, None, None]
        form += shape.amplitude * weight * gaussian(du, dv, precision) * square
    row, col = np.einsum("ai,bj,ijmn->abmn", to_uv, to_uv, form)
    return np.stack([row[0], row[1], col[1]])


def column_cells(mask: npt.NDArray[np.uint8], column: ColumnShape) -> npt.NDArray[np.intp]:
    """Cells (u, v) whose column has its whole window on analysed cells; shape (n, 2)."""
    start_u, start_v = window_start_px(column)
    good = mask.astype(bool)
    for axis, (start, n) in enumerate(zip((start_u, start_v), column.px_per_cell, strict=True)):
        first, last = start // n, (start + 2 * REACH_PX + 1) // n
        merged = np.ones_like(good)
        for step in range(first, last + 1):
            rolled = np.roll(good, -step, axis)
            edge = [slice(None), slice(None)]
            if step:
                edge[axis] = slice(-step, None) if step > 0 else slice(None, -step)
                rolled[tuple(edge)] = False
            merged &= rolled
        good = merged
    return np.argwhere(good)


def cut_windows(
    tiles: npt.NDArray[np.floating], column: ColumnShape, cells: npt.NDArray[np.intp]
) -> npt.NDArray[np.floating]:
    """The column's window in each of `cells`; shape (n, 16, 16)."""
    start_u, start_v = window_start_px(column)
    side = 2 * REACH_PX + 2
    view = np.lib.stride_tricks.sliding_window_view(tiles, (side, side))
    n_u, n_v = column.px_per_cell
    return view[cells[:, 0] * n_u + start_u, cells[:, 1] * n_v + start_v]
