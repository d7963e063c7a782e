"""What breaks the lattice of a grain: the Burgers vector of each extended region, and the faults among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.boundaries import Line, Turn
from oddlattice.lattice.breaks import Closure, Fault, Waves, around, dislocations, faults, waves_of
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.numerics.arrays import Array, Bools, Float

Regions = npt.NDArray[np.intp]

HALF = 0.06, 3.0  # cells and standard errors by which twice an antiphase shift may miss a lattice vector
LARGEST_WALL_DEG = 15.0  # of a low-angle boundary
ALONG_PERIODS = 3.0  # from a boundary, of its dislocations


@dataclass(frozen=True)
class Broken:
    """What is told of the regions of a grain.

    Attributes
    ----------
    closures : list of Closure
        Of each region, in their order.
    faults : list of Fault
    """

    closures: list[Closure]
    faults: list[Fault]


def broken(waves: Waves, coordinates: Coordinates, regions: Regions) -> Broken:
    """Closures around the regions of a grain, cells (U, V) with their numbers from 1, and faults along them."""
    cell = np.floor(coordinates.uv(waves.places_px.reshape(-1, 2))).astype(int)
    shape = waves.places_px.shape[:2]
    known = ((cell >= 0) & (cell < regions.shape)).all(axis=1)
    number = np.zeros(len(cell), dtype=int)
    number[known] = regions[tuple(cell[known].T)]
    at = number.reshape(shape)
    closures = [_closure(waves, at == k, coordinates, regions == k) for k in range(1, int(regions.max(initial=0)) + 1)]
    return Broken(closures, faults(waves))


def _closure(waves: Waves, places: Bools, coordinates: Coordinates, cells: Bools) -> Closure:
    """Of a region, at grid places (n, m), and in cells (U, V): one smaller than the grid's step is at the nearest."""
    if not places.any():
        middle = coordinates.seen_px(np.argwhere(cells).mean(axis=0) + 0.5)
        away = np.hypot(*np.moveaxis(waves.places_px - middle, -1, 0))
        places = away == away.min()
    return around(waves, places)[0]


def fault_sort(fault: Fault) -> str:
    """`antiphase` where twice the shift is a lattice vector, else `stacking fault`."""
    most = [max(HALF[0], HALF[1] * 2 * sigma) for sigma in fault.sigma]
    off = [abs(2 * part - round(2 * part)) for part in fault.shift]
    return "antiphase" if all(a <= b for a, b in zip(off, most, strict=True)) else "stacking fault"


def wall(image: Float, vectors_px: Sequence[Array], turn: Turn, line: Line, own: Bools) -> list[Closure]:
    """The dislocations of a low-angle boundary, in vectors of the first grain, against the lattice between both.

    Parameters
    ----------
    vectors_px : sequence of two ndarray of shape (2, 2)
    own : ndarray of shape (rows, cols), bool
        Pixels of both grains.
    """
    if turn.angle_deg > LARGEST_WALL_DEG:
        return []
    waves = waves_of(image, (vectors_px[0] + turn.cell @ vectors_px[1]) / 2, own)
    return [] if waves is None else dislocations(waves, near_line(waves, line))


def near_line(waves: Waves, line: Line) -> Bools:
    """Grid places (n, m) about a boundary."""
    on = np.zeros(waves.places_px.shape[:2], dtype=bool)
    corner, step = np.array([waves.grid.rows_px[0], waves.grid.cols_px[0]]), np.array(waves.grid.step_px)
    for path in line.paths_px:
        for first, last in pairwise(path):
            part = np.linspace(0, 1, 2 + int(np.hypot(last[0] - first[0], last[1] - first[1]) / step.min()))
            places = np.array(first) + part[:, None] * (np.array(last) - first)
            on[tuple(np.rint((places - corner) / step).astype(int).clip(0, np.array(on.shape) - 1).T)] = True
    return waves.dilated(on, ALONG_PERIODS)
