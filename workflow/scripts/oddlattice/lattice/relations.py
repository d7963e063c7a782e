"""How two lattices that meet lie to each other: twins, and directions that run side by side."""

from dataclasses import dataclass
from itertools import product
from math import gcd

import numpy as np

from oddlattice.lattice.fourier import reduced
from oddlattice.numerics.arrays import Array

LARGEST_INDEX = 2  # of directions that are compared
LARGEST_OF_TWINS = 1  # of the row of columns at which a twin is mirrored, in the reduced cell
SAME_CELL = 0.03  # by which steps of a twin's mirrored lattice may miss whole ones


@dataclass(frozen=True)
class Directions:
    """Rows of columns of two lattices that run nearly side by side.

    Attributes
    ----------
    first, second : tuple of int
        (u, v) of each.
    apart_deg : float
        Angle between them.
    misfit : float
        Of the second's distance between columns along it against the first's.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    apart_deg: float
    misfit: float


def _low_indices(largest: int = LARGEST_INDEX) -> list[tuple[int, int]]:
    """Directions of low indices, one of each pair of opposite ones, the lowest first."""
    steps = range(-largest, largest + 1)
    found = [(h, k) for h, k in product(steps, repeat=2) if gcd(h, k) == 1 and (h > 0 or (h == 0 and k > 0))]
    return sorted(found, key=lambda d: (d[0] ** 2 + d[1] ** 2, d))


def is_twin(first_px: Array, second_px: Array, within_deg: float) -> bool:
    """Whether the second lattice is the first mirrored at a row of columns, and not the first itself turned round.

    Parameters
    ----------
    first_px, second_px : ndarray of shape (2, 2)
        Lattice vectors as rows, in equal steps along both axes.
    within_deg : float
        Angle by which it may miss.
    """
    one, other = reduced(first_px), reduced(second_px)
    if _is_lattice(one, other, within_deg):
        return False
    return any(
        _is_lattice(_mirrored(one, np.array(d) @ one), other, within_deg) for d in _low_indices(LARGEST_OF_TWINS)
    )


def _mirrored(vectors: Array, along: Array) -> Array:
    unit = along / np.hypot(*along)
    return np.asarray(2 * np.outer(vectors @ unit, unit) - vectors)


def _is_lattice(one: Array, other: Array, within_deg: float) -> bool:
    """Whether two lattices have the same points near the origin."""
    steps = one @ np.linalg.inv(other)
    most = max(SAME_CELL, float(np.deg2rad(within_deg)))
    return bool(np.abs(steps - np.rint(steps)).max() < most and abs(abs(np.linalg.det(np.rint(steps))) - 1) < 0.5)


def nearest_directions(first_px: Array, second_px: Array) -> Directions:
    """The directions of low indices of two lattices that are least turned against each other, in their given cells."""
    found = []
    for d, e in product(_low_indices(), repeat=2):
        one, other = np.array(d) @ first_px, np.array(e) @ second_px
        angle = abs(float(np.degrees(np.arctan2(one[0] * other[1] - one[1] * other[0], one @ other))))
        misfit = float(np.hypot(*other) / np.hypot(*one)) - 1
        found.append(Directions(d, e, min(angle, 180 - angle), misfit))
    index = [sum(x * x for x in (*one.first, *one.second)) for one in found]
    # a direction of higher indices is nearer by chance: each step counts as half a degree
    return found[int(np.argmin([one.apart_deg + 0.5 * i for one, i in zip(found, index, strict=True)]))]
