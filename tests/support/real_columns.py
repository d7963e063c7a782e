"""Columns of a real scan, found by the project's own registration, and changed in place; for tests and trials."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rsciio.emd import file_reader
from scipy.ndimage import map_coordinates, spline_filter

from oddlattice.crystal import CELL_PX, Crystal
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.registration import render

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

FULL_CELLS, NOTHING_CELLS = 0.22, 0.35  # a change is whole so near its column, and nothing beyond half way to the next
BETWEEN = ((0.5, 0.0), (0.0, 0.5))  # places of the perovskite's cell without a heavy column


@dataclass(frozen=True)
class RealScan:
    """A real scan laid on its lattice.

    Attributes
    ----------
    counts : ndarray of shape (rows, cols)
    pixel_nm : float
        By the lattice.
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors as rows (row, col) [px].
    places_px : dict of str to ndarray of shape (n, 2)
        (row, col) of the columns in the image [px] by site, were there no jitter; whole cells only.
    brightness : dict of str to ndarray of shape (n,)
        Local mean about each column [counts].
    cell : ndarray of shape (20, 20)
        Median cell over the local mean.
    ground : float
        Its mean between the columns.
    jitter_px : tuple of ndarray
        What jitter adds to (row, col) of the pixels, to be broadcast to (rows, cols): pixel plus jitter is the place.
    """

    counts: Array
    pixel_nm: float
    vectors_px: Array
    places_px: dict[str, Array]
    brightness: dict[str, Array]
    cell: Array
    ground: float
    jitter_px: tuple[Array, Array] = (np.zeros((1, 1)), np.zeros((1, 1)))


def read_counts(path: Path) -> tuple[Array, tuple[float, float]]:
    """An NCEM .emd image [counts] and its pixel size (row, col) by the header [nm]."""
    (signal,) = file_reader(str(path))
    scale = [float(axis["scale"]) for axis in signal["axes"]]
    return np.asarray(signal["data"], dtype=np.float64), (scale[0], scale[1])


def lay_on_lattice(path: Path, crystal: Crystal) -> RealScan:
    """Find every column of a real scan of `crystal`."""
    counts, header_nm = read_counts(path)
    found = fit_registration(counts.astype(np.float32), [crystal], header_nm)
    cells = np.argwhere(found.mask)
    tiles = render(counts.astype(np.float32), found, (slice(0, found.mask.shape[0]), slice(0, found.mask.shape[1])))
    stack = tiles.reshape(found.mask.shape[0], CELL_PX, found.mask.shape[1], CELL_PX).swapaxes(1, 2)
    cell = np.median(stack[found.mask], axis=0)
    nodes = found.nodes_px
    a = (nodes[:, -1, :] - nodes[:, 0, :]).mean(1) / (nodes.shape[1] - 1)
    b = (nodes[:, :, -1] - nodes[:, :, 0]).mean(1) / (nodes.shape[2] - 1)
    vectors = np.array([a, b])
    coordinates = Coordinates(found.nodes_px, found.row_shift_px, found.transposed)
    places, brightness = {}, {}
    for column in crystal.tested:
        places[column.site] = coordinates.straight_px(cells + np.array([column.u, column.v]))
        brightness[column.site] = found.local_mean[cells[:, 0], cells[:, 1]]
    ground = float(sample(cell, np.array(BETWEEN)).mean())
    pixel_nm = float(np.sqrt(crystal.a_nm * crystal.b_nm / abs(np.linalg.det(vectors))))
    still, shift = np.zeros((1, 1)), found.row_shift_px
    jitter = (shift[None, :], still) if found.transposed else (still, shift[:, None])
    return RealScan(counts, pixel_nm, vectors, places, brightness, cell, ground, jitter)


def sample(cell: Array, uv: Array) -> Array:
    """A periodic cell (20, 20), its pixels' middles at (i + 0.5) / 20, at lattice coordinates (..., 2)."""
    knots = spline_filter(cell, order=3, mode="grid-wrap")
    at = np.moveaxis(np.asarray(uv, dtype=np.float64), -1, 0) * CELL_PX - 0.5
    return np.asarray(map_coordinates(knots, at, order=3, mode="grid-wrap", prefilter=False))


def change_at(
    scan: RealScan,
    crystal: Crystal,
    site: str,
    number: int,
    *,
    to: str | float = 0.0,
    moved_pm: float = 0.0,
    angle: float = 0.0,
) -> tuple[tuple[slice, slice], Array]:
    """What a change adds to the image about one column: the part of the image, and the counts added there.

    Parameters
    ----------
    to : str or float
        A site whose mean column takes this one's place, or the factor on the column's own above what lies between.
    moved_pm, angle : float
        Displacement [pm] and its direction from +row towards +col [rad].
    """
    place = scan.places_px[site][number]
    side = float(np.sqrt(abs(np.linalg.det(scan.vectors_px))))
    reach = int(np.ceil((NOTHING_CELLS + 0.1) * side)) + 1
    low = np.maximum(np.rint(place).astype(int) - reach, 0)
    high = np.minimum(np.rint(place).astype(int) + reach + 1, scan.counts.shape)
    part = slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
    rows, cols = np.mgrid[part]
    jitter = [np.broadcast_to(shift, scan.counts.shape)[part] for shift in scan.jitter_px]
    away = np.stack([rows + jitter[0] - place[0], cols + jitter[1] - place[1]], -1)
    at = {column.site: np.array([column.u, column.v]) for column in crystal.tested}
    inverse = np.linalg.inv(scan.vectors_px)

    def column_of(name: str, offset: Array) -> Array:
        distance = np.hypot(offset[..., 0], offset[..., 1]) / side
        part_of = np.clip((distance - FULL_CELLS) / (NOTHING_CELLS - FULL_CELLS), 0, 1)
        return np.asarray(
            (0.5 + 0.5 * np.cos(np.pi * part_of)) * (sample(scan.cell, offset @ inverse + at[name]) - scan.ground)
        )

    own = column_of(site, away)
    step = moved_pm / 1000 / scan.pixel_nm * np.array([np.cos(angle), np.sin(angle)])
    new = column_of(to, away) if isinstance(to, str) else to * column_of(site, away - step)
    return part, (new - own) * scan.brightness[site][number]
