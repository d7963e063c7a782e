"""Made-up scans of several crystals with known grains, boundaries and changed columns.

Grains are the Voronoi cells of drawn points: straight boundaries. A column belongs to the grain its place lies in;
of two columns of different grains that would touch, the one of the later grain is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from oddlattice.numerics.arrays import Array, Float
from support.own_crystals import (
    CRYSTALS,
    MARGIN_NM,
    TAIL_WEIGHT,
    TAIL_WIDTH,
    Sample,
    columns_over,
    stamp_columns,
    turn,
)

BACKGROUND = 0.15
TOUCHING = 0.6  # of the distance between columns: nearer, two columns of different grains cannot both be there
FACTORS = (0.0, 0.5, 1.5)  # by which a changed column is brighter
FOLD = {"graphene": 6, "MoS2": 6, "WSe2": 6, "bcc Fe": 4, "SrTiO3": 4}  # rotations after which a lattice looks the same
SRTIO3 = Sample(np.diag([0.3905, 0.3905]), ((0, 0, 1.0), (0.5, 0.5, 0.45)))
SAMPLES = CRYSTALS | {"SrTiO3": SRTIO3}


@dataclass(frozen=True)
class GrainField:
    """A made-up scan of several grains and its truth.

    Attributes
    ----------
    counts : ndarray of shape (rows, cols)
    pixel_nm : float
    names : tuple of str
        Crystal of each grain.
    rotations_deg : tuple of float
    vectors_px : list of ndarray of shape (2, 2)
        Of each grain, distortion of the scan included.
    labels : ndarray of shape (rows, cols)
        Number of the grain of each pixel, from 1.
    places_px : ndarray of shape (n, 2)
    grain, column : ndarray of shape (n,)
        Of each column: its grain, from 1, and its index in the cell.
    changed : ndarray of shape (n,), bool
    d_ideal : ndarray of shape (n,)
        Of the changed columns: d' of an observer who knows what to look for and where; 0 of the others.
    """

    counts: Float
    pixel_nm: float
    names: tuple[str, ...]
    rotations_deg: tuple[float, ...]
    vectors_px: list[Array]
    labels: np.ndarray
    places_px: Array
    grain: np.ndarray
    column: np.ndarray
    changed: np.ndarray
    d_ideal: Array

    @property
    def cell_px(self) -> float:
        """Square root of the area of the largest primitive cell."""
        return max(float(np.sqrt(abs(np.linalg.det(v)))) for v in self.vectors_px)


def column_distance_nm(sample: Sample) -> float:
    """Distance between the nearest columns of a crystal."""
    steps = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)])
    uv = np.array([c[:2] for c in sample.columns])
    apart = ((uv[:, None, None] - uv[None, :, None] + steps) @ sample.vectors_nm).reshape(-1, 2)
    distance = np.hypot(*apart.T)
    return float(distance[distance > 1e-6].min())


def disorientation_deg(name: str, first_deg: float, second_deg: float) -> float:
    """Angle between two grains of a crystal, modulo the rotations after which its lattice looks the same."""
    step = 360 / FOLD.get(name, 2)
    apart = (second_deg - first_deg) % step
    return float(min(apart, step - apart))


def _voronoi(middles: Array, places: Array) -> np.ndarray:
    return np.asarray(cKDTree(middles).query(places)[1])


def make_grains(
    names: tuple[str, ...],
    rotations_deg: tuple[float, ...],
    *,
    side_px: int = 512,
    pixel_nm: float = 0.0125,
    dose: float = 100.0,
    jitter_pm: float = 5.0,
    shear: float = 0.0,
    changed: int = 8,
    middles: Array | None = None,
    from_line_cells: float = 1.5,
    moved: Callable[[Array], Array] | None = None,
    over: Callable[[Array], Array] | None = None,
    seed: int = 0,
) -> GrainField:
    """A scan with Poisson noise of grains with these crystals and rotations.

    Parameters
    ----------
    changed : int
        Columns changed in each grain, no nearer than 1.5 cells to the image's edge, 3 cells apart.
    middles : ndarray of shape (grains, 2), optional
        Points whose Voronoi cells are the grains, as parts of the image.
    from_line_cells : float
        How far changed columns are from a boundary at least [cells].
    moved : callable, optional
        Where columns that should be at places (n, 2) [px] are.
    over : callable, optional
        What becomes of the image (rows, cols) before electrons are counted.
    shear : float
        Of the whole scan: cols move with the rows by this part.
    """
    rng = np.random.default_rng(seed)
    samples = [SAMPLES[name] for name in names]
    middles = middles_of(len(names), rng) if middles is None else middles
    middles = middles * side_px
    scan = np.array([[1.0, shear], [0.0, 1.0]])
    shift = rng.normal(0, jitter_pm / 1000 / pixel_nm, side_px)
    margin = MARGIN_NM / pixel_nm
    vectors, places, grain, column, weight, sigma = [], [], [], [], [], []
    for number, (sample, degrees) in enumerate(zip(samples, rotations_deg, strict=True), 1):
        vectors.append(sample.vectors_nm @ turn(degrees) @ scan / pixel_nm)
        at, index = columns_over(sample, vectors[-1], side_px, side_px / 2 + rng.random(2) @ vectors[-1], margin)
        at = at if moved is None else moved(at)
        own = _voronoi(middles, at) == number - 1
        at, index = at[own], index[own]
        if places:
            near, _ = cKDTree(np.concatenate(places)).query(at)
            free = near > TOUCHING * column_distance_nm(sample) / pixel_nm
            at, index = at[free], index[free]
        places.append(at)
        column.append(index)
        grain.append(np.full(len(at), number))
        weight.append(np.array([c[2] for c in sample.columns])[index])
        sigma.append(np.full(len(at), sample.sigma_nm / pixel_nm))
    at, grains = np.concatenate(places), np.concatenate(grain)
    odd = drawn(at, grains, _to_line(at, middles), vectors, side_px, (changed, from_line_cells), rng)
    factor = np.where(odd, rng.choice(FACTORS, len(at)), 1.0)
    heights, widths = np.concatenate(weight), np.concatenate(sigma)
    image = np.full((side_px, side_px), BACKGROUND)
    for width in np.unique(widths):
        one = widths == width
        stamp_columns(image, at[one], (heights * factor)[one], float(width), shift)
    ideal = ideals(image, at, odd, heights, factor, widths, dose)
    image = image if over is None else over(image)
    counts = rng.poisson(dose * image).astype(np.float32)
    pixels = np.stack(np.indices((side_px, side_px)), -1).reshape(-1, 2).astype(float)
    labels = (_voronoi(middles, pixels) + 1).reshape(side_px, side_px)
    inside = ((at > 0) & (at < side_px - 1)).all(1)
    truth = (a[inside] for a in (at, grains, np.concatenate(column), odd, ideal))
    return GrainField(counts, pixel_nm, names, rotations_deg, vectors, labels, *truth)


def middles_of(count: int, rng: np.random.Generator) -> Array:
    """Points (count, 2) in the unit square, no two nearer than a third of it."""
    while True:
        found = 0.1 + 0.8 * rng.random((count, 2))
        if count == 1 or cKDTree(found).query(found, 2)[0][:, 1].min() > 0.42:
            return found


def _to_line(at: Array, middles: Array) -> Array:
    """Distance of places from the nearest boundary [px]; infinite of a single grain."""
    if len(middles) == 1:
        return np.full(len(at), np.inf)
    away = np.hypot(*np.moveaxis(at[:, None] - middles, -1, 0))
    own = away.argmin(1)
    best = np.full(len(at), np.inf)
    for k, middle in enumerate(middles):
        apart = middles[own] - middle
        gap = np.hypot(*apart.T)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (away[:, k] ** 2 - away[np.arange(len(at)), own] ** 2) / (2 * gap)
        best = np.where(own == k, best, np.minimum(best, distance))
    return best


def drawn(
    at: Array,
    grain: np.ndarray,
    to_line: Array,
    vectors: list[Array],
    side: int,
    how: tuple[int, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Which columns are changed; `how` says how many of each grain, and how far from a boundary [cells]."""
    count, from_line = how
    odd = np.zeros(len(at), dtype=bool)
    for number, vector in enumerate(vectors, 1):
        cell = float(np.sqrt(abs(np.linalg.det(vector))))
        inner = (
            ((at > 1.5 * cell) & (at < side - 1 - 1.5 * cell)).all(1) & (to_line > from_line * cell) & (grain == number)
        )
        kept: list[int] = []
        for k in rng.permutation(np.flatnonzero(inner)):
            if len(kept) < count and (not kept or np.hypot(*(at[kept] - at[k]).T).min() > 3 * cell):
                kept.append(int(k))
        odd[kept] = True
    return odd


def ideals(
    image: Array, at: Array, odd: np.ndarray, heights: Array, factor: Array, widths: Array, dose: float
) -> Array:
    """`ideal_d` of each column; 0 of those that are not changed."""
    found = np.zeros(len(at))
    for k in np.flatnonzero(odd):
        found[k] = ideal_d(image, at[k], heights[k], factor[k], widths[k], dose)
    return found


def ideal_d(image: Array, place: Array, height: float, factor: float, width: float, dose: float) -> float:
    """d' of an ideal observer of a changed column, from the image with the change."""
    rows, cols = (np.arange(n) for n in image.shape)
    square = (rows[:, None] - place[0]) ** 2 + (cols[None, :] - place[1]) ** 2
    shape = (1 - TAIL_WEIGHT) * np.exp(-square / (2 * width**2))
    shape += TAIL_WEIGHT / TAIL_WIDTH**2 * np.exp(-square / (2 * (TAIL_WIDTH * width) ** 2))
    change = (factor - 1) * height * shape
    return float(np.sqrt(dose * (change**2 / (image - np.minimum(change, 0))).sum()))
