"""Where the columns stand: their measured places, and the B site of a perovskite against its four A neighbours.

The places come from the image itself, not from its difference from a prediction: a displacement that all cells share
is bulk to the model, and only here can it be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import Column, Crystal
from oddlattice.lattice.columns import ColumnShape, column_cells, window_offsets, window_start_px
from oddlattice.numerics.arrays import Array, Mask
from oddlattice.numerics.compiled import compiled

FIT_PX = 5.4  # radius of the disc around a column that its place is fitted in
FARTHEST_PX = 4.0  # a column further off its place is none
FAINTEST = 0.25  # of the bulk column's height: an emptied column has no place
CENTRED_CELLS = 0.02  # so near to the middle of its four A neighbours is the B site of the perfect cell
_STEPS, _NEAR_CELLS = 5, 1e-5  # of Gauss-Newton: at most so many, until a place moves by no more
_BAND_CELLS = 128


@dataclass(frozen=True)
class Places:
    """Measured places of the columns of one site.

    Attributes
    ----------
    site : str
    u, v : float
        Place in the perfect cell.
    cells : ndarray of shape (n, 2)
        Cell (u, v) of each column.
    uv : ndarray of shape (n, 2)
        Measured place, lattice coordinates [cells]; NaN where the column has none.
    column : int
        Index in the crystal's cell.
    """

    site: str
    u: float
    v: float
    cells: npt.NDArray[np.intp]
    uv: Array
    column: int


@dataclass(frozen=True)
class Polar:
    """B site against the centroid of its four A neighbours, a cell each.

    Attributes
    ----------
    cells : ndarray of shape (n, 2)
        Cell (u, v) of the B column.
    uv : ndarray of shape (n, 2)
        Its measured place [cells].
    shift_pm : ndarray of shape (n, 2)
        (row, col) [pm].
    sigma_pm : float
        Noise of one cell's displacement along one direction [pm], NaN where it cannot be told.
    a_site, b_site : str
    """

    cells: npt.NDArray[np.intp]
    uv: Array
    shift_pm: Array
    sigma_pm: float
    a_site: str
    b_site: str


def measure_places(tiles: Any, mask: Mask, shape: ColumnShape) -> Places:
    """Fit place, height and level of every column of a site; its width is the mean column's.

    Parameters
    ----------
    tiles : array of shape (U n_u, V n_v)
        numpy or zarr; read in bands of cells.
    mask : ndarray of shape (U, V)
    shape : ColumnShape
    """
    cells, places = [np.empty((0, 2), dtype=np.intp)], [np.empty((0, 2))]
    for start in range(0, mask.shape[0], _BAND_CELLS):
        # two cells around a band: a column's window may reach over its own cell
        low, high = max(start - 2, 0), min(start + _BAND_CELLS + 2, mask.shape[0])
        here = column_cells(mask[low:high], shape)
        here = here[(here[:, 0] + low >= start) & (here[:, 0] + low < start + _BAND_CELLS)]
        if len(here):
            cells.append(here + np.array([low, 0], dtype=np.intp))
            band = np.asarray(tiles[low * shape.px_per_cell[0] : high * shape.px_per_cell[0]])
            places.append(cells[-1] + np.array([shape.u, shape.v]) + _measured(band, here, shape))
    return Places(shape.site, shape.u, shape.v, np.concatenate(cells), np.concatenate(places), shape.column)


def _measured(tiles: npt.NDArray[np.float32], cells: npt.NDArray[np.intp], shape: ColumnShape) -> Array:
    """Offset of the columns of `cells` from their place in the perfect cell; shape (n, 2) [cells]."""
    du, dv = (np.broadcast_to(d, (16, 16)) for d in window_offsets(shape))
    n_u, n_v = shape.px_per_cell
    near = np.ascontiguousarray(np.argwhere(np.hypot(du * n_u, dv * n_v) < FIT_PX))
    first = cells * (n_u, n_v) + np.array(window_start_px(shape))
    at = np.ascontiguousarray(np.stack([du, dv], -1)[near[:, 0], near[:, 1]])
    bell = np.array([shape.amplitude, *shape.precision])
    found = np.empty((len(cells), 3))
    _fit(np.ascontiguousarray(tiles, np.float32), np.ascontiguousarray(first), near, at, bell, found)
    offset, height = found[:, :2], found[:, 2]
    bad = (np.hypot(*(offset * (n_u, n_v)).T) > FARTHEST_PX) | (height < FAINTEST * shape.amplitude)
    return np.where(bad[:, None], np.nan, offset)


@compiled("void(float64[:, ::1], float64[::1])")
def _solve(normal: Array, right: Array) -> None:
    """Solve `normal` x = `right` in place, by Cholesky; of the positive definite matrix the lower half is read."""
    for i in range(len(right)):
        for j in range(i + 1):
            for k in range(j):
                normal[i, j] -= normal[i, k] * normal[j, k]
            normal[i, j] = np.sqrt(normal[i, i]) if i == j else normal[i, j] / normal[j, j]
        for k in range(i):
            right[i] -= normal[i, k] * right[k]
        right[i] /= normal[i, i]
    for i in range(len(right) - 1, -1, -1):
        for k in range(i + 1, len(right)):
            right[i] -= normal[k, i] * right[k]
        right[i] /= normal[i, i]


@compiled("void(float32[:, ::1], int64[:, ::1], int64[:, ::1], float64[:, ::1], float64[::1], float64[:, ::1])")
def _fit(
    tiles: npt.NDArray[np.float32],
    first: npt.NDArray[np.intp],
    near: npt.NDArray[np.intp],
    at: Array,
    bell: Array,
    out: Array,
) -> None:
    """Fit level, height and offset of a Gaussian to every column, by Gauss-Newton; (n, 3): offset [cells] and height.

    `first` (n, 2) is the first pixel of each window, `near` (p, 2) the pixels of a window that are looked at, `at`
    (p, 2) their distances from the column [cells]; `bell` holds the bulk's height and precision.
    """
    p_uu, p_uv, p_vv = bell[1], bell[2], bell[3]
    normal, right, row = np.empty((4, 4)), np.empty(4), np.empty(4)
    row[0] = 1.0
    for n in range(len(first)):
        u, v, height, level = 0.0, 0.0, bell[0], 0.0
        for _ in range(_STEPS):
            normal[:], right[:] = 0.0, 0.0
            for p in range(len(near)):
                du, dv = at[p, 0] - u, at[p, 1] - v
                slope_u, slope_v = p_uu * du + p_uv * dv, p_uv * du + p_vv * dv
                row[1] = np.exp(-(slope_u * du + slope_v * dv) / 2)
                row[2], row[3] = height * row[1] * slope_u, height * row[1] * slope_v
                rest = tiles[first[n, 0] + near[p, 0], first[n, 1] + near[p, 1]] - level - height * row[1]
                for i in range(4):
                    right[i] += row[i] * rest
                    for j in range(i + 1):
                        normal[i, j] += row[i] * row[j]
            little = 1e-9 * (normal[0, 0] + normal[1, 1] + normal[2, 2] + normal[3, 3])
            for i in range(4):
                normal[i, i] += little
            _solve(normal, right)
            level += right[0]
            height = max(height + right[1], 0.05 * bell[0])
            u += min(max(right[2], -0.08), 0.08)
            v += min(max(right[3], -0.08), 0.08)
            if abs(right[2]) < _NEAR_CELLS and abs(right[3]) < _NEAR_CELLS:
                break
        out[n, 0], out[n, 1], out[n, 2] = u, v, height


def perovskite_sites(crystal: Crystal) -> tuple[Column, Column] | None:
    """The A and the B column of a perovskite seen along a cube axis; None for another crystal.

    Two tested columns, one in the middle of four of the other. B is the one that shares its column with oxygen; where
    the model knows no atoms, the dimmer one.
    """
    tested = crystal.tested
    if len(tested) != 2:
        return None
    first, second = tested
    away = np.abs((np.array([second.u - first.u, second.v - first.v]) % 1.0) - 0.5)
    if away.max() > CENTRED_CELLS or abs(crystal.gamma_deg - 90) > 5:
        return None
    if all(column.atoms for column in tested):
        with_oxygen = ["O" in column.atoms for column in tested]
        if sum(with_oxygen) != 1:
            return None
        return (second, first) if with_oxygen[0] else (first, second)
    return (first, second) if first.brightness >= second.brightness else (second, first)


def _on_grid(places: Places, shape: tuple[int, int]) -> Array:
    """Measured places laid on the cells; shape (U + 2, V + 2, 2), NaN where there is none, one cell of rim."""
    grid = np.full((shape[0] + 2, shape[1] + 2, 2), np.nan)
    grid[places.cells[:, 0] + 1, places.cells[:, 1] + 1] = places.uv
    return grid


def _moved(grid: Array, du: int, dv: int) -> Array:
    """`grid` without its rim, seen from `du`, `dv` cells further on."""
    rows, cols = grid.shape[0] - 2, grid.shape[1] - 2
    return grid[1 + du : 1 + du + rows, 1 + dv : 1 + dv + cols]


def site_noise(places: Places, shape: tuple[int, int], vectors_pm: Array) -> float:
    """Noise of one measured place along one direction [pm]: columns against the mean of their four like neighbours.

    What all neighbours share drops out; what single columns really do is counted as noise, so this is an upper limit.
    The median is taken, so the odd ones do not count.
    """
    grid = _on_grid(places, shape)
    around = np.mean([_moved(grid, du, dv) for du, dv in ((-1, 0), (1, 0), (0, -1), (0, 1))], axis=0)
    off = (_moved(grid, 0, 0) - around).reshape(-1, 2) @ vectors_pm
    off = off[np.isfinite(off).all(axis=1)]
    if len(off) < 30:
        return float("nan")
    off -= np.median(off, axis=0)
    spread = 1.4826 * np.median(np.abs(off), axis=0)
    return float(
        np.sqrt((spread**2).mean() / 1.25)
    )  # a column's own variance and a quarter of it from the mean of four


def polar_displacements(a: Places, b: Places, shape: tuple[int, int], vectors_pm: Array) -> Polar:
    """B site against the centroid of its four A neighbours.

    Parameters
    ----------
    a, b : Places
    shape : tuple of int
        Cells (U, V) of the image.
    vectors_pm : ndarray of shape (2, 2)
        Lattice vectors a and b as rows, (row, col) [pm].
    """
    grid = _on_grid(a, shape)
    # the cells whose A column stands at the corners around B
    corner = np.rint(np.array([b.u - a.u, b.v - a.v]) - 0.5).astype(int)
    steps = [(corner[0] + i, corner[1] + j) for i in (0, 1) for j in (0, 1)]
    centroid = np.mean([_moved(grid, *step) for step in steps], axis=0)
    off = b.uv - centroid[b.cells[:, 0], b.cells[:, 1]]
    good = np.isfinite(off).all(axis=1)
    noise = [site_noise(site, shape, vectors_pm) for site in (a, b)]
    sigma = float(np.sqrt(noise[1] ** 2 + noise[0] ** 2 / 4))
    return Polar(b.cells[good], b.uv[good], off[good] @ vectors_pm, sigma, a.site, b.site)


@dataclass(frozen=True)
class Blocks:
    """Displacements averaged over square blocks of cells.

    Attributes
    ----------
    cells : int
        Side of a block [cells].
    uv : ndarray of shape (n, 2)
        Middle of each block [cells].
    shift_pm : ndarray of shape (n, 2)
    number : ndarray of shape (n,)
        Cells averaged.
    """

    cells: int
    uv: Array
    shift_pm: Array
    number: npt.NDArray[np.intp]


def in_blocks(cells: npt.NDArray[np.intp], shift_pm: Array, middle: Sequence[float], most: int = 28) -> Blocks:
    """Average displacements of cells over the smallest blocks that leave at most `most` of them along a side.

    Parameters
    ----------
    cells : ndarray of shape (n, 2)
    shift_pm : ndarray of shape (n, 2)
    middle : sequence of float
        What is measured from the cell's corner to the place drawn, (u, v) [cells].
    """
    if not len(cells):
        return Blocks(1, np.empty((0, 2)), np.empty((0, 2)), np.empty(0, dtype=np.intp))
    low = cells.min(axis=0)
    side = max(1, int(np.ceil((cells.max(axis=0) - low + 1).max() / most)))
    block = (cells - low) // side
    wide = int(block[:, 1].max()) + 1
    names, index, number = np.unique(block[:, 0] * wide + block[:, 1], return_inverse=True, return_counts=True)
    total = np.stack([np.bincount(index, weights=shift_pm[:, k], minlength=len(names)) for k in (0, 1)], axis=-1)
    corner = np.stack([names // wide, names % wide], axis=-1) * side + low
    full = number >= max(1, side * side // 4)
    centre = corner + np.asarray(middle) + (side - 1) / 2
    return Blocks(side, centre[full], (total / number[:, None])[full], number[full])


def lattice_field(
    nodes_px: npt.NDArray[np.floating], mask: Mask, pixel_nm: Array
) -> tuple[npt.NDArray[np.intp], Array]:
    """How far each analysed cell's corner lies from the perfect lattice through all of them.

    Parameters
    ----------
    nodes_px : ndarray of shape (2, U + 1, V + 1)
    mask : ndarray of shape (U, V)
    pixel_nm : ndarray of shape (2,)
        (row, col).

    Returns
    -------
    cells : ndarray of shape (n, 2)
    shift_pm : ndarray of shape (n, 2)
        (row, col); strain and the scan's drift together, an affine deformation taken out.
    """
    cells = np.argwhere(mask > 0)
    if len(cells) < 3:
        return cells, np.zeros((len(cells), 2))
    places = nodes_px[:, cells[:, 0], cells[:, 1]].T.astype(np.float64)
    design = np.column_stack([np.ones(len(cells)), cells])
    return cells, (places - design @ np.linalg.lstsq(design, places, rcond=None)[0]) * pixel_nm * 1000
