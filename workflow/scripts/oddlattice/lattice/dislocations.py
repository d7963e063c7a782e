"""How a frame passes dislocations and faults: it is cut along lines at which its (u, v) jump.

Around a dislocation they grow by a lattice vector: it is cut from there to the rim, or to an opposite one. Across a
fault they jump by a part of one. What so turns or jumps is told by places and vectors alone; less it the phases of the
lattice's waves have no vortex and no step, and are followed as those of a perfect crystal.
Source: Hirth and Lothe, Theory of Dislocations (1982), eq. 3-45.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy import ndimage

from oddlattice.lattice.breaks import Fault, Waves, dislocations, faults
from oddlattice.lattice.grid import Grid
from oddlattice.numerics.arrays import Array, Bools

CORE = 2.0  # Burgers vectors from a dislocation to where the lattice is whole
ELASTIC = 0.5  # of a core's radius, from where on elasticity is taken to hold
FINER = 4  # times finer than a frame's grid that of one with cuts
RIM_PERIODS = 4.0  # from the end of a fault that goes through the rim
BEYOND = 10.0  # diagonals of the image beyond which a cut to the rim ends: what turns there is flat in the image


@dataclass(frozen=True)
class Cut:
    """The straight line along which (u, v) jump: a fault, or from a dislocation to its opposite or through the rim.

    Attributes
    ----------
    ends_px : ndarray of shape (2, 2)
        (row, col) of both ends.
    turn : ndarray of shape (2,)
        By which (u, v) grow around the first end, anticlockwise as the image is seen; around the other they fall.
    is_fault : bool
        Whether the lattice itself is broken along it.
    """

    ends_px: Array
    turn: Array
    is_fault: bool = False

    def part(self, places_px: Array) -> Array:
        """What turns around the ends, of (u, v) at places (n, m, 2); shape (2, n, m) [cells]."""
        at, (first, last) = places_px @ np.array([1, 1j]), self.ends_px @ np.array([1, 1j])
        return np.asarray(self.turn[:, None, None] * np.angle((at - first) * np.conj(at - last)) / (2 * np.pi))


@dataclass(frozen=True)
class Slips:
    """What dislocations and faults do to a frame.

    Attributes
    ----------
    cuts : tuple of Cut
    cores_px : ndarray of shape (c, 3)
        Middle (row, col) and radius of their cores.
    amounts : ndarray of shape (2, 5 c), or None
        How the lattice gives way about each core, of (u, v) [cells]: factors of `strain_terms`. None: not measured.
    """

    cuts: tuple[Cut, ...]
    cores_px: Array
    amounts: Array | None = None

    def part(self, places_px: Array) -> Array:
        """What they do to (u, v) at places (n, m, 2); shape (2, n, m) [cells]."""
        return sum((cut.part(places_px) for cut in self.cuts), self.strain(places_px))

    def strain(self, places_px: Array) -> Array:
        """Of that, what does not turn."""
        if self.amounts is None or not len(self.cores_px):
            return np.zeros((2, *places_px.shape[:2]))
        return np.asarray(np.tensordot(self.amounts, self._terms(places_px), 1))

    def with_strain(self, field: Array, weights: Array, grid: Grid, window_px: float) -> Self:
        """With what of a field (2, n, m) [cells] is strain about the cores, by least squares.

        The field was measured over Gaussian windows of this rms width, so the terms are taken over these, too.
        """
        if not len(self.cores_px):
            return self
        fine = grid.finer(FINER)
        blur = [window_px / step for step in fine.step_px]
        terms = [ndimage.gaussian_filter(term, blur)[::FINER, ::FINER] for term in self._terms(fine.places_px)]
        rows, cols = (np.linspace(-1, 1, n) for n in weights.shape)
        smooth = [np.outer(rows**i, cols**j) for i in range(4) for j in range(4 - i)]
        away = [np.hypot(*np.moveaxis(grid.places_px - core[:2], -1, 0)) / core[2] for core in self.cores_px]
        root = np.sqrt(np.where(np.min(away, axis=0) > ELASTIC, weights, 0.0)).ravel()
        design = np.stack([*terms, *smooth], -1).reshape(root.size, -1) * root[:, None]
        found = np.linalg.lstsq(design, (field.reshape(2, -1) * root).T, rcond=1e-8)[0]
        return replace(self, amounts=found[: len(terms)].T)

    def _terms(self, places_px: Array) -> Array:
        """Shape (5 c, n, m)."""
        return np.concatenate([strain_terms(places_px - core[:2], ELASTIC * core[2]) for core in self.cores_px])


def strain_terms(away_px: Array, core_px: float) -> Array:
    """What isotropic elasticity makes displacements about a dislocation of, at places (n, m, 2) from it; (5, n, m).

    The last two are of an error of its place.
    """
    x, y = np.moveaxis(away_px, -1, 0)
    square = x**2 + y**2 + core_px**2
    terms = (
        np.log(square / core_px**2),
        (x**2 - y**2) / square,
        x * y / square,
        core_px * x / square,
        core_px * y / square,
    )
    return np.stack(terms)


def from_line_px(places_px: Array, ends_px: Array) -> Array:
    """Distance of places (..., 2) from the straight line between two ends (2, 2); shape (...)."""
    first, along = ends_px[0], ends_px[1] - ends_px[0]
    part = np.clip((places_px - first) @ along / (along @ along), 0, 1)
    return np.asarray(np.hypot(*np.moveaxis(places_px - first - part[..., None] * along, -1, 0)))


def slips_of(waves: Waves, good: Bools) -> Slips:
    """The faults and dislocations among grid places of `good` crystal (n, m)."""
    along = [_along(fault, waves, good) for fault in faults(waves)]
    if along:
        jump = np.sum([cut.part(waves.places_px) for cut in along], axis=0)
        waves = replace(waves, waves=waves.waves * np.exp(-2j * np.pi * np.tensordot(waves.orders, jump, 1)))
    found = [(np.array(one.place_px), -np.array(one.burgers)) for one in dislocations(waves, good) if one.is_open]
    cores = [[*place, CORE * np.hypot(*(turn @ waves.vectors_px))] for place, turn in found]
    return Slips((*along, *_from_cores(found, waves, good)), np.array(cores).reshape(-1, 3))


def _along(fault: Fault, waves: Waves, good: Bools) -> Cut:
    """The cut along a fault: through the rim where it ends beside it."""
    ends = np.array(fault.ends_px)
    way = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
    for k, outwards in enumerate((-way, way)):
        beyond = ends[k] + RIM_PERIODS * waves.period_px * outwards
        away = np.hypot(*np.moveaxis(waves.places_px - beyond, -1, 0))
        if not waves.grid.holds(beyond) or not good[np.unravel_index(away.argmin(), away.shape)]:
            ends[k] += _far(waves) * outwards
    return Cut(ends, -np.array(fault.shift), is_fault=True)


def _far(waves: Waves) -> float:
    return BEYOND * float(np.hypot(*waves.places_px[-1, -1]))


def _from_cores(found: Sequence[tuple[Array, Array]], waves: Waves, good: Bools) -> list[Cut]:
    """Cuts from dislocations (place and turn of each): to an opposite one, or to the nearest rim."""
    ends = [_at_rim(place, waves, good) for place, _ in found]
    length = [float(np.hypot(*(end - place))) for end, (place, _) in zip(ends, found, strict=True)]
    pairs = [
        (float(np.hypot(*(one - other))), i, j)
        for i, (one, turn) in enumerate(found)
        for j, (other, back) in enumerate(found[:i])
        if (turn == -back).all()
    ]
    cuts, left = list[Cut](), set(range(len(found)))
    for apart, i, j in sorted(pairs):
        if {i, j} <= left and apart < length[i] + length[j]:
            left -= {i, j}
            cuts.append(Cut(np.array([found[i][0], found[j][0]]), found[i][1]))
    for k in sorted(left):
        place, turn = found[k]
        cuts.append(Cut(np.array([place, place + (ends[k] - place) * (1 + _far(waves) / length[k])]), turn))
    return cuts


def _at_rim(place_px: Array, waves: Waves, good: Bools) -> Array:
    """The nearest place (2,) to one at the rim of the image, or of what is no crystal up to there [px]."""
    labels, _ = ndimage.label(np.pad(~good, 1, constant_values=True))
    at = np.argwhere(labels == labels[0, 0]) - 1.0
    rim = np.array([waves.grid.rows_px[0], waves.grid.cols_px[0]]) + at * waves.grid.step_px
    return np.asarray(rim[np.hypot(*(rim - place_px).T).argmin()])
