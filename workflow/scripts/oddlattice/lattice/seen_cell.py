"""What an image shows of its crystal, and how likely an unknown crystal would show the same.

Source: shapes of lattices as points of the hyperbolic plane, Serre, A Course in Arithmetic (1973), ch. VII.
"""

from dataclasses import dataclass
from math import lgamma, log, pi, sqrt

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.projection import Columns, nearest, primitive, reduced
from oddlattice.numerics.arrays import Array

STRAIN = 0.012  # ASSUME: scale of scan distortion (half the aspect, half the shear), Student's t with STRAIN_FREEDOM
STRAIN_FREEDOM = 8.0
#: ASSUME: headers: weight and relative error of each sort; the last sort knows nothing over a factor of HEADER_RANGE.
HEADERS = ((0.65, 0.010), (0.19, 0.03), (0.1, 0.12))
#: ASSUME: wrong by a factor, up or down alike: binning by two, and ångström for nanometre; weight of both, and error.
HEADER_FACTORS, FACTOR_ERROR = ((2.0, 0.02), (10.0, 0.01)), 0.012
HEADER_BROAD, HEADER_RANGE = 0.03, 1000.0
LENGTH_DENSITY = 0.8  # of the logarithm of the distance between columns, for an unknown crystal
USUAL_NM, USUAL_RANGE, LENGTH_SOFTNESS = 0.22, 0.6, 0.25  # that distance, its ln to either side, and its fall beyond
PLACE_NM = 0.006  # ASSUME: how far a column may stand off its place in the library: tilts, strain, polar shifts
LOOSE_PART = 0.15  # of the distance between columns: a shift that brings columns so near others may be a lattice's
KIND_PART, KIND_SLOPE = 0.1, 0.2  # ASSUME: error of ln(expected brightness): constant, and per ln(brightness)
SEEN_PART = 0.2  # softness of the limit of what is seen, in ln(brightness)
SPECIAL = 0.6  # ASSUME: so many unknown crystals of a special lattice have columns at special places only
INVERTED = 0.4  # ASSUME: so many unknown crystals have a centre of inversion in projection
EQUAL = 0.3  # ASSUME: so many unknown crystals have columns all alike
THIRDS = np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]])


@dataclass(frozen=True)
class Observed:
    """What an image shows of its crystal.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors as rows, (row, col) [px].
    places : ndarray of shape (n, 2)
        (u, v) of the columns seen above noise, as fractions of the vectors.
    brightness : ndarray of shape (n,)
        How much each column stands out of its surroundings, > 0, in any unit.
    place_sigma_px : float
        Standard error of a column's place, along each direction [px].
    brightness_sigma : float
        Relative standard error of a column's brightness.
    pixel_nm : float or None
        Pixel size that the file states [nm].
    floor : float
        Brightness, as a part of the brightest column's, below which a column would not have been seen.
    dark : bool
        Whether columns are dark on bright ground: their brightness then says little of their atoms.
    """

    vectors_px: Array
    places: Array
    brightness: Array
    place_sigma_px: float
    brightness_sigma: float
    pixel_nm: float | None
    floor: float
    dark: bool = False


def lattice_name(shape: complex) -> str:
    """Name of the special lattice nearest to a shape."""
    near = {
        "square": strain_between(shape, 1j),
        "hexagonal": strain_between(shape, complex(0.5, sqrt(0.75))),
        "right-angled": 0.02 + abs(np.arcsinh(shape.real / shape.imag)) / 2,
        "rhombic": 0.02 + abs(np.arcsinh((abs(shape) ** 2 - 1) / (2 * shape.imag))) / 2,
    }
    return min(near, key=lambda name: near[name])


def strain_between(first: complex, second: complex) -> float:
    """Strain between two shapes: half their hyperbolic distance."""
    return float(np.arccosh(1 + abs(first - second) ** 2 / (2 * first.imag * second.imag)) / 2)


def strain_density(strain: npt.ArrayLike, dimensions: int) -> Array:
    """Student's t of a distortion of one or two components, at a distance `strain`."""
    nu, squared = STRAIN_FREEDOM, (np.asarray(strain) / STRAIN) ** 2
    if dimensions == 2:
        return np.asarray((1 + squared / nu) ** (-(nu + 2) / 2) / (2 * pi * STRAIN**2))
    scale = float(np.exp(lgamma((nu + 1) / 2) - lgamma(nu / 2)) / sqrt(nu * pi))
    return np.asarray(scale / STRAIN * (1 + squared / nu) ** (-(nu + 1) / 2))


def header_density(off: npt.ArrayLike) -> Array:
    """Density of ln(length by the header / true length)."""
    off = np.asarray(off)
    sorts = [(w, s, 0.0) for w, s in HEADERS]
    sorts += [(w / 2, FACTOR_ERROR, way * log(f)) for f, w in HEADER_FACTORS for way in (1, -1)]
    narrow = sum(w / (s * sqrt(2 * pi)) * np.exp(-0.5 * ((off - at) / s) ** 2) for w, s, at in sorts)
    return np.asarray(narrow + HEADER_BROAD / log(HEADER_RANGE) * (np.abs(off) < log(HEADER_RANGE) / 2))


def length_density(distance_nm: float) -> float:
    """Density of the logarithm of the distance between columns [nm by the header], for an unknown crystal."""

    def usual(off: float) -> float:
        beyond = max(abs(off) - USUAL_RANGE, 0.0)
        return float(LENGTH_DENSITY * np.exp(-0.5 * (beyond / LENGTH_SOFTNESS) ** 2))

    off = log(distance_nm / USUAL_NM)
    wrong = sum(w / 2 * (usual(off - log(f)) + usual(off + log(f))) for f, w in HEADER_FACTORS)
    right = 1 - HEADER_BROAD - sum(w for _, w in HEADER_FACTORS)
    return right * usual(off) + wrong + HEADER_BROAD / log(HEADER_RANGE)


def seen_chance(brightness: npt.ArrayLike, floor: float) -> Array:
    """Chance that a column of an expected relative brightness is seen."""
    expected = np.log(np.asarray(brightness))
    softness = SEEN_PART + np.hypot(KIND_PART, KIND_SLOPE * expected)
    return np.asarray(1 / (1 + np.exp(-1.7 * (expected - log(floor)) / softness)))


class SeenCell:
    """The image's smallest cell on its reduced basis, and what an unknown crystal would have to say to it."""

    def __init__(self, seen: Observed, columns: Columns, of_column: list[int]) -> None:
        self.given_px = seen.vectors_px
        self.of_column = of_column
        vectors, change = reduced(columns.vectors_nm)
        self.places = columns.places @ np.linalg.inv(change) % 1.0
        if np.linalg.det(vectors) < 0:
            vectors = vectors * [1, -1]
        self.to_given = np.linalg.inv(change @ columns.vectors_nm @ np.linalg.inv(seen.vectors_px))
        self.gram_px = vectors @ vectors.T
        self.area_px = float(sqrt(np.linalg.det(self.gram_px)))
        flat = vectors[:, 0] + 1j * vectors[:, 1]
        self.shape = complex(flat[1] / flat[0])
        self.brightness = columns.brightness
        self.seen = seen
        self.most_cells = self._most_cells()

    @classmethod
    def of(cls, seen: Observed) -> "SeenCell":
        """The smallest cell that repeats into the image's within its errors."""
        given = Columns(
            seen.vectors_px, seen.places, seen.brightness, tuple({str(k): 1.0} for k in range(len(seen.places))), 1.0
        )
        near_px = max(
            4 * seen.place_sigma_px, 0.03 * float(sqrt(abs(np.linalg.det(seen.vectors_px)) / len(seen.places)))
        )
        small = primitive(given, near_px, max(3 * sqrt(2) * seen.brightness_sigma, 0.05))
        inverse = np.linalg.inv(small.vectors_nm)
        apart = nearest((seen.places @ seen.vectors_px @ inverse)[:, None] - small.places[None])
        metric = np.linalg.norm(apart @ small.vectors_nm, axis=2)
        return cls(seen, small, [int(k) for k in metric.argmin(axis=1)])

    def _most_cells(self) -> int:
        """How many cells of a crystal the cell may hold, if like columns may differ in brightness: shifts that fit."""
        shifts = nearest(self.places - self.places[0])
        off = nearest(self.places[None, :, None] + shifts[:, None, None] - self.places[None, None])  # (n, n, n, 2)
        far2 = ((off @ self.gram_px) * off).sum(axis=-1).min(axis=2).max(axis=1)
        return int((far2 < LOOSE_PART**2 * self.area_px / len(self.places)).sum())

    def _log_shapes(self) -> tuple[float, float, float]:
        """Log density of the cell's shape for an unknown crystal: any, special but not hexagonal, hexagonal.

        Any: evenly over the shapes, 4 over the area pi / 3 of the modular domain. A lattice that so many operations
        turn into itself is met so many times; half of them mirror.
        """
        x, y = self.shape.real, self.shape.imag
        right = np.arcsinh(x / y) / 2
        rhombic = min(abs(np.arcsinh((x * x + y * y - 1) / (2 * y))), abs(np.arcsinh((0.5 - x) / y))) / 2
        square, six = strain_between(self.shape, 1j), strain_between(self.shape, complex(0.5, sqrt(0.75)))
        special = 0.2 * 2 * strain_density(square, 2) + 0.2 * 0.9 * strain_density(right, 1)
        special = special + 0.1 * 1.5 * strain_density(rhombic, 1)
        return log(0.25 * 12 / pi), float(np.log(special)), float(np.log(0.25 * 3 * strain_density(six, 2)))

    def described(self) -> str:
        """How many columns stand in what cell."""
        n = len(self.places)
        return f"{'one column' if n == 1 else f'{n} columns'} in a {lattice_name(self.shape)} cell"

    def part_of_no_special_shape(self) -> float:
        """Chance that the lattice of an unknown crystal has this shape for no reason of symmetry."""
        shapes = np.array(self._log_shapes())
        return float(np.exp(shapes[0] - np.logaddexp.reduce(shapes)))

    def log_unknown(self) -> float:
        """Log likelihood of the image for a crystal that the library does not hold."""
        anyhow, special, six = self._log_shapes()
        anywhere, halves, thirds = lgamma(len(self.places) + 1), self._log_on_lines(), self._log_on_thirds()
        anywhere = np.logaddexp(log(1 - INVERTED) + anywhere, log(INVERTED) + anywhere + self._log_inverted())
        in_six = np.logaddexp(halves, thirds) - log(2)
        ways = [
            anyhow + anywhere,
            special + np.logaddexp(log(1 - SPECIAL) + anywhere, log(SPECIAL) + halves),
            six + np.logaddexp(log(1 - SPECIAL) + anywhere, log(SPECIAL) + in_six),
        ]
        apart_px = sqrt(self.area_px / len(self.places))
        length = log(length_density(apart_px * self.seen.pixel_nm)) if self.seen.pixel_nm is not None else 0.0
        return float(np.logaddexp.reduce(ways)) + length + self._log_any_brightness() - log(4.3 * len(self.brightness))

    def place_sigma(self, pixel_nm: float) -> float:
        """Standard error of a column's place against a prediction, along each direction [nm]."""
        return float(np.hypot(PLACE_NM, self.seen.place_sigma_px * pixel_nm))

    def _from_brightest(self) -> Array:
        """Places of the other columns from the brightest; shape (n - 1, 2)."""
        first = int(self.brightness.argmax())
        return np.asarray(np.delete(self.places, first, axis=0) - self.places[first])

    def _log_on_lines(self) -> float:
        """Log density of places whose coordinates are often 0 or a half: columns on mirrors and at their crossings."""
        off = np.abs(nearest(2 * self._from_brightest()) / 2)  # from the nearest of 0 and a half
        sigma = np.sqrt(self._loose_sigma2() * np.diag(np.linalg.inv(self.gram_px)))
        on = np.exp(-0.5 * (off / sigma) ** 2) / (sigma * sqrt(2 * pi)) / 2
        return float(np.log(0.5 * on + 0.5).sum())

    def _log_on_thirds(self) -> float:
        """Log density of places that are often the threefold axes of a hexagonal cell."""
        off = nearest(self._from_brightest()[:, None] - THIRDS)
        sigma2 = self._loose_sigma2()
        squared = ((off @ self.gram_px) * off).sum(axis=-1).min(axis=1)
        on = self.area_px / (2 * pi * sigma2) * np.exp(-squared / (2 * sigma2)) / len(THIRDS)
        return float(np.log(0.9 * on + 0.1).sum())

    def _log_inverted(self) -> float:
        """What a centre of inversion adds to the log density of the places: half of them follow from the others."""
        n, sigma2 = len(self.places), self._loose_sigma2()
        fixed = n - 1 - n // 2
        centres = (self.places + self.places[0])[:, None] - self.places  # (c, n, 2): each place turned about a centre
        off = nearest(centres[:, :, None] - self.places)
        least = ((off @ self.gram_px) * off).sum(axis=-1).min(axis=2).sum(axis=1).min() / 2
        return float(fixed * log(self.area_px / (2 * pi * sigma2)) - least / (2 * sigma2))

    def _loose_sigma2(self) -> float:
        """Squared error of places against those that a symmetry demands [px^2]."""
        return float(2 * (0.004 * self.area_px / len(self.places) + 0.1 * self.seen.place_sigma_px**2))

    def _log_any_brightness(self) -> float:
        """Log density of the brightness up to a factor: anything down to the floor, or all alike."""
        n, logs = len(self.brightness), np.log(self.brightness)
        if n == 1:
            return 0.0
        width = max(log(1 / self.seen.floor) + 0.3, float(np.ptp(logs)) + 0.3)
        anything = (1 - n) * log(width)
        sigma2 = self.seen.brightness_sigma**2 + KIND_PART**2
        alike = -0.5 * ((n - 1) * log(2 * pi * sigma2) + log(n) + float(((logs - logs.mean()) ** 2).sum()) / sigma2)
        return float(np.logaddexp(log(1 - EQUAL) + anything, log(EQUAL) + alike))
