"""Boundaries between grains: where they run, and how the lattices on both sides are turned against each other."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from oddlattice.numerics.arrays import Array, Bools, Labels

Path = list[tuple[float, float]]

SMOOTH_PX = 2.0  # rms width over which the line is smoothed: a line of pixels is longer than the boundary
BETWEEN = 0.8  # part of what is about a place of the line that must be of the two grains
SIMPLE_PX = 0.5  # by so much the path that is told may differ from the line
LARGEST_STEP = 3  # of the cells that are compared, in steps of the lattice's vectors
LARGEST_STRETCH = 1.12  # between cells that are taken for the same
LARGEST_AREA_RATIO = 1.2


@dataclass(frozen=True)
class Line:
    """Where two grains meet.

    Attributes
    ----------
    grains : tuple of int
    paths_px : list of list of (row, col)
    length_px : float
    """

    grains: tuple[int, int]
    paths_px: list[Path]
    length_px: float


@dataclass(frozen=True)
class Turn:
    """How a lattice lies to another.

    Attributes
    ----------
    angle_deg, sigma_deg : float
        Least rotation that lays one onto the other, and its standard error.
    stretch : float
        Ratio of the principal stretches between their cells, at least 1.
    area_ratio : float
        Of the second's cell over the first's.
    cell : ndarray of shape (2, 2)
        The second's vectors, rows in steps of its own, that answer to the first's.
    """

    angle_deg: float
    sigma_deg: float
    stretch: float
    area_ratio: float
    cell: Array


def lines_between(labels: Labels) -> list[Line]:
    """The lines along which grains of a label map (rows, cols) meet; 0, no crystal, has none."""
    share = [ndimage.gaussian_filter((labels == k).astype(np.float32), SMOOTH_PX) for k in range(1, labels.max() + 1)]
    found = []
    for i, first in enumerate(share, 1):
        for j, second in enumerate(share[i:], i + 1):
            paths = _pieces(first - second, first + second)
            length = sum(float(np.hypot(*np.diff(path, axis=0).T).sum()) for path in paths)
            if length > 0:
                told = [_simple(path) for path in paths]
                found.append(Line((i, j), told, length))
    return found


def outline_of(own: Bools) -> list[Path]:
    """Closed lines around the pixels of a grain (rows, cols), along the image's edge where it reaches there."""
    contours = find_contours(np.pad(own.astype(np.float32), 1), 0.5)  # type: ignore[no-untyped-call]
    return [[(r - 1, c - 1) for r, c in _simple(contour)] for contour in contours]


def _simple(path: Array) -> Path:
    return [(float(r), float(c)) for r, c in approximate_polygon(path, SIMPLE_PX)]  # type: ignore[no-untyped-call]


def _pieces(apart: Array, both: Array) -> list[Array]:
    """The pieces of the line on which `apart` is 0 where the two grains are nearly all there is."""
    pieces = []
    for contour in find_contours(apart, 0.0):  # type: ignore[no-untyped-call]
        row, col = np.rint(contour).astype(int).T
        kept, count = ndimage.label(both[row, col] > BETWEEN)
        pieces += [contour[kept == k] for k in range(1, count + 1) if (kept == k).sum() > 1]
    return pieces


def turned(first_px: Array, second_px: Array, sigmas_px: tuple[Array, Array]) -> Turn | None:
    """How the second of two lattices lies to the first; None where no cell of one is nearly that of the other.

    With A the affine of the scan and R the rotation, F = A^-1 R A lays the first onto the second; the angle of its
    antisymmetric part is that of R up to the square of the shear in A.

    Parameters
    ----------
    first_px, second_px : ndarray of shape (2, 2)
        Lattice vectors as rows, in equal steps along both axes.
    sigmas_px : tuple of ndarray of shape (2,)
        Standard errors of a and b per component, of both.
    """
    inverse = np.linalg.inv(first_px)
    best: Turn | None = None
    steps = range(-LARGEST_STEP, LARGEST_STEP + 1)
    for a, b, c, d in product(steps, repeat=4):
        if a * d - b * c != 1:
            continue
        cell = np.array([[a, b], [c, d]])
        onto = inverse @ cell @ second_px
        large, small = np.linalg.svd(onto, compute_uv=False)
        ratio = float(large * small)
        if large / small > LARGEST_STRETCH or not 1 / LARGEST_AREA_RATIO < ratio < LARGEST_AREA_RATIO:
            continue
        angle = float(np.degrees(np.arctan2(onto[0, 1] - onto[1, 0], onto[0, 0] + onto[1, 1])))
        if best is None or abs(angle) < best.angle_deg:
            sigma = np.hypot(_turn_sigma(first_px, sigmas_px[0]), _turn_sigma(second_px, sigmas_px[1]))
            best = Turn(abs(angle), float(np.degrees(sigma)), float(large / small), ratio, cell)
    return best


def _turn_sigma(vectors_px: Array, sigma_px: Array) -> float:
    """Standard error of the rotation of a lattice [rad]: the mean of the turns of its two vectors."""
    return float(np.hypot(*(sigma_px / np.hypot(*vectors_px.T))) / 2)
