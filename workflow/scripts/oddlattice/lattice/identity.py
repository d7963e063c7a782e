"""Who is it: the crystal of an image, by its lattice and its columns, against a library of crystals and axes.

Each crystal and axis is a hypothesis, and so is "none of these": a lattice of any shape with columns anywhere. Their
likelihoods are those of the cell's shape (scan distortion), its length (headers may lie) and its columns (places and
brightness). What the image cannot tell apart is named as a class.

Source: shapes of lattices as points of the hyperbolic plane, Serre, A Course in Arithmetic (1973), ch. VII.
"""

from dataclasses import dataclass, replace
from math import lgamma, log, pi, sqrt

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.crystal_views import MULTIPLES, STEPS, Entry, Library, View
from oddlattice.lattice.projection import Columns, nearest, primitive, reduced
from oddlattice.numerics.arrays import Array

SURE = 0.9  # probability from which on a crystal is named
FAINT_CANDIDATE = 0.01  # a candidate below this is not listed
ALONE_LEAST = 0.95  # a candidate that holds so much, the others being that faint, is named alone
FAINT_MEMBER = 0.003  # a class takes in every candidate above this
CLASS_PART = 0.99  # and more until it holds this much of what the library explains
LONE_PART = 0.95  # the same where one column a cell leaves nothing but a length
MULTIPLE_PRIOR = (0.85, 0.05, 0.05, 0.05)  # an image's cell may be one to four of the crystal's
MANY, MANY_FAMILIES = 6, 3  # a class of more crystals is said by its families, of more families not at all
FAMILIES_BY_SHAPE = 2  # nor where only the shape of the cell is known, of more than these
UNKNOWN_PRIOR = 0.5  # ASSUME: so many images show a crystal that the library does not hold
STRAIN = 0.012  # ASSUME: scale of scan distortion (half the aspect, half the shear), Student's t with STRAIN_FREEDOM
STRAIN_FREEDOM = 8.0
LARGEST_STRAIN = 0.09
#: ASSUME: headers: weight and relative error of each sort; the last sort knows nothing over a factor of HEADER_RANGE.
HEADERS = ((0.65, 0.010), (0.2, 0.03), (0.12, 0.12))
HEADER_BROAD, HEADER_RANGE = 0.03, 25.0
LENGTH_DENSITY = 0.8  # of the logarithm of the distance between columns, for an unknown crystal
PLACE_NM = 0.006  # ASSUME: how far a column may stand off its place in the library: tilts, strain, polar shifts
LOOSE_PART = (
    0.15  # of the distance between columns: a shift that brings columns so close onto others may be a lattice's
)
PLACE_REACH = 4.2  # standard errors within which a column is the predicted one
LIKE_PART = 0.05  # scatter of like columns
KIND_PART, KIND_SLOPE = 0.1, 0.2  # ASSUME: error of ln(expected brightness): constant, and per ln(brightness)
DARK_PART = 0.7  # the same where columns are dark: no law is assumed
SEEN_PART = 0.2  # softness of the limit of what is seen, in ln(brightness)
MISSED, STRAY = 0.01, 0.01  # a predicted column that is not there; one that no prediction explains
SPECIAL = 0.6  # ASSUME: so many unknown crystals of a special lattice have columns at special places only
INVERTED = 0.4  # ASSUME: so many unknown crystals have a centre of inversion in projection
EQUAL = 0.3  # ASSUME: so many unknown crystals have columns all alike


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


@dataclass(frozen=True)
class Match:
    """One way to lay an entry on an image.

    Attributes
    ----------
    log_likelihood : float
    view : View
    cell : ndarray of shape (2, 2)
        The view's lattice vectors in units of the image's: rows; view vectors = cell @ image vectors.
    partner : ndarray of shape (n,), int
        Column of the view that each column of the image is; -1 for none.
    """

    log_likelihood: float
    view: View
    cell: Array
    partner: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Candidate:
    """A crystal along an axis, and how likely it is."""

    entry: Entry
    probability: float
    match: Match


@dataclass(frozen=True)
class Identity:
    """What an image's crystal is, as far as the image tells.

    Attributes
    ----------
    kind : str
        ``crystal``: one, named; ``class``: one of several that look alike; ``lattice``: only the kind of lattice is
        known, of a single column without a length; ``unknown``.
    name : str
        Name of the crystal or class; "" where it is unknown.
    probability : float
        Of that name; of the best candidate where it is unknown.
    candidates : tuple of Candidate
        The most likely first, down to a hundredth.
    none : float
        Probability that the library does not hold the crystal.
    sites : tuple of str
        Name of each column of the image; "" where it is not known.
    pixel_nm : float or None
        Pixel size by the crystal's lattice constants; None where the members of a class differ.
    sizes_nm : tuple of float
        The same by the lattice constants of each candidate.
    """

    kind: str
    name: str
    probability: float
    candidates: tuple[Candidate, ...]
    none: float
    sites: tuple[str, ...]
    pixel_nm: float | None
    sizes_nm: tuple[float, ...] = ()


def identify(seen: Observed, library: Library) -> Identity:
    """The crystal of an image.

    Parameters
    ----------
    seen : Observed
    library : Library
        See `crystal_views.load_library`.
    """
    cell = _Cell.of(seen)
    matches = best_matches(cell, library)
    totals = np.full(len(library.entries), -np.inf)
    for number, (total, _) in matches.items():
        totals[number] = total
    logs = np.append(totals + np.log((1 - UNKNOWN_PRIOR) * library.prior), log(UNKNOWN_PRIOR) + cell.log_unknown())
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    order = [int(k) for k in np.argsort(-weights[:-1], kind="stable") if weights[k] > 0.001]
    found = [Candidate(library.entries[k], float(weights[k]), matches[k][1]) for k in order]
    who = _named(seen, cell, found, float(weights[-1]))
    return replace(who, sizes_nm=tuple(_pixel_nm(cell, one.match) for one in who.candidates))


def _named(seen: Observed, cell: "_Cell", found: list[Candidate], none: float) -> Identity:
    """Name one candidate, a class, or nothing."""
    lone = len(cell.places) == 1
    members = _members(found, (1 - none) * (LONE_PART if lone else CLASS_PART), 1.0 if lone else FAINT_MEMBER)
    total = sum(member.probability for member in members)
    listed = tuple(one for one in found if one.probability >= FAINT_CANDIDATE)
    unnamed = ("",) * len(seen.places)
    by_length = seen.pixel_nm is not None and lattice_name(cell.shape) in ("square", "hexagonal")
    poor = lone and not (total > SURE and by_length)
    families = len({one.entry.family for one in members})
    many = families > MANY_FAMILIES and len(members) > MANY if seen.pixel_nm else families > FAMILIES_BY_SHAPE
    if poor or (total > SURE and many):
        special = 1 - none * cell.part_of_no_special_shape()
        if special > SURE:
            return Identity("lattice", cell.described(), special, listed, none, unnamed, None)
    if total <= SURE or many:
        return Identity("unknown", "", found[0].probability if found else 0.0, listed, none, unnamed, None)
    kind = "crystal" if len(members) == 1 else "class"
    return Identity(kind, label(members), total, listed, none, _sites(cell, members), _ruler(cell, members))


def _members(found: list[Candidate], enough: float, faint: float) -> list[Candidate]:
    """The best candidate alone where the others hardly count, else all that make up `enough`, and those not `faint`."""
    if found and found[0].probability >= ALONE_LEAST and all(one.probability < FAINT_CANDIDATE for one in found[1:]):
        return found[:1]
    members: list[Candidate] = []
    for one in found:
        if sum(member.probability for member in members) >= enough and one.probability < faint:
            break
        members.append(one)
    return members


def label(members: list[Candidate]) -> str:
    """Name of a class: crystals by axis where they are few, else axes by family."""
    names: dict[str, dict[str, None]] = {}
    if len(members) <= MANY:
        for one in members:
            names.setdefault(one.entry.axis, {})[one.entry.crystal] = None
        return "; ".join(f"{_either(list(crystals))} {axis}" for axis, crystals in names.items())
    for one in members:
        names.setdefault(one.entry.family or one.entry.crystal, {})[one.entry.axis] = None
    return "; ".join(f"{family} {_either(list(axes))}" for family, axes in names.items())


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _sites(cell: "_Cell", members: list[Candidate]) -> tuple[str, ...]:
    """Names of the image's columns on which all members agree."""
    said = []
    for one in members:
        view = one.match.view
        names = [one.entry.sites[view.origin[k]] if k >= 0 else "" for k in one.match.partner]
        said.append([names[k] for k in cell.of_column])
    return tuple(names[0] if len(set(names)) == 1 else "" for names in zip(*said, strict=True))


def _ruler(cell: "_Cell", members: list[Candidate]) -> float | None:
    """Pixel size by the members' lattice constants [nm], where they agree to half a per cent."""
    sizes = np.array([_pixel_nm(cell, one.match) for one in members])
    weights = np.array([one.probability for one in members])
    mean = float(sizes @ weights / weights.sum())
    return mean if np.abs(sizes / mean - 1).max() < 0.005 else None


def _pixel_nm(cell: "_Cell", match: Match) -> float:
    return float(sqrt(match.view.area_nm2 / abs(np.linalg.det(match.cell @ cell.given_px))))


def lattice_name(shape: complex) -> str:
    """Name of the special lattice nearest to a shape."""
    near = {
        "square": _far(shape, 1j),
        "hexagonal": _far(shape, complex(0.5, sqrt(0.75))),
        "right-angled": 0.02 + abs(np.arcsinh(shape.real / shape.imag)) / 2,
        "rhombic": 0.02 + abs(np.arcsinh((abs(shape) ** 2 - 1) / (2 * shape.imag))) / 2,
    }
    return min(near, key=lambda name: near[name])


def _far(first: complex, second: complex) -> float:
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
    narrow = sum(w / (s * sqrt(2 * pi)) * np.exp(-0.5 * (off / s) ** 2) for w, s in HEADERS)
    return np.asarray(narrow + HEADER_BROAD / log(HEADER_RANGE) * (np.abs(off) < log(HEADER_RANGE) / 2))


def seen_chance(brightness: npt.ArrayLike, floor: float) -> Array:
    """Chance that a column of an expected relative brightness is seen."""
    expected = np.log(np.asarray(brightness))
    softness = SEEN_PART + np.hypot(KIND_PART, KIND_SLOPE * expected)
    return np.asarray(1 / (1 + np.exp(-1.7 * (expected - log(floor)) / softness)))


class _Cell:
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
    def of(cls, seen: Observed) -> "_Cell":
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
        square, six = _far(self.shape, 1j), _far(self.shape, complex(0.5, sqrt(0.75)))
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
        length = log(LENGTH_DENSITY) if self.seen.pixel_nm is not None else 0.0
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


THIRDS = np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]])


def best_matches(cell: _Cell, library: Library) -> dict[int, tuple[float, Match]]:
    """Log likelihood (summed over the ways it may lie) and best match of every entry that fits lattice and number."""
    n = len(cell.places)
    strain = np.arccosh(1 + np.abs(library.shapes - cell.shape) ** 2 / (2 * library.shapes.imag * cell.shape.imag)) / 2
    enough = np.where(n == 1, library.columns == 1, library.columns > 1) & (n >= 0.7 * library.columns)
    enough &= MULTIPLES[library.sublattice] <= cell.most_cells
    near = np.flatnonzero((strain < LARGEST_STRAIN) & enough & (n <= library.columns + n // 6))
    groups = library.view[near] * len(MULTIPLES) + library.sublattice[near]
    found: dict[int, list[Match]] = {}
    for group in np.unique(groups):
        rows = near[groups == group]
        view, sublattice = library.views[library.view[rows[0]]], int(library.sublattice[rows[0]])
        match = match_view(cell, view, sublattice, library.changes[rows], strain[rows])
        if match is not None:
            found.setdefault(view.entry, []).append(match)
    return {
        number: (
            float(np.logaddexp.reduce([one.log_likelihood for one in matches])),
            max(matches, key=lambda one: one.log_likelihood),
        )
        for number, matches in found.items()
    }


def match_view(cell: _Cell, view: View, sublattice: int, changes: npt.NDArray[np.int64], strain: Array) -> Match | None:
    """All ways to lay cells of a view on the image's cell; None where its columns do not fit.

    Parameters
    ----------
    sublattice : int
        Index of the cells' lattice in `crystal_views.SUBLATTICES`.
    changes : ndarray of shape (b, 2, 2)
        Integer matrices from the view's vectors to cells of that lattice.
    strain : ndarray of shape (b,)
    """
    multiple = int(MULTIPLES[sublattice])
    pixel_nm = sqrt(multiple * view.area_nm2 / cell.area_px)
    base = log(view.prior) + log(MULTIPLE_PRIOR[multiple - 1] / int((multiple == MULTIPLES).sum()))
    base += float(np.log1p(-seen_chance(view.hidden, cell.seen.floor)).sum())
    kinds = np.unique(view.kinds, return_index=True)[1]
    base += float(np.log(seen_chance(view.brightness[kinds], cell.seen.floor)).sum())
    if cell.seen.pixel_nm is not None:
        base += float(np.log(header_density(log(cell.seen.pixel_nm / pixel_nm))))
    shape = base + np.log(0.5 * strain_density(strain, 2))
    if len(cell.places) == 1:
        lone = np.zeros(1, dtype=np.intp)
        total = float(np.logaddexp.reduce(shape))
        return Match(total, view, _cell_on(cell, changes[int(shape.argmax())]), lone)
    chosen, times = _unlike(np.concatenate([changes, -changes]), view.turns)
    signed = np.concatenate([changes, -changes])[chosen]
    logs = np.concatenate([shape, shape])[chosen] + np.log(times / 2)
    return _best_of(cell, view, sublattice, signed, logs[:, None], pixel_nm)


def _unlike(changes: npt.NDArray[np.int64], turns: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], Array]:
    """Matrices that no symmetry of the columns turns into each other: one of each sort, and how many it has."""
    weights = 1000 ** np.arange(4, dtype=np.int64)
    codes = ((changes[:, None] @ turns[None]).reshape(len(changes), len(turns), 4) + 500) @ weights
    _, chosen, times = np.unique(codes.min(axis=1), return_index=True, return_counts=True)
    return chosen, times.astype(np.float64)


def _cell_on(cell: _Cell, change: npt.NDArray[np.int64]) -> Array:
    """The view's vectors in units of the vectors the image was given with."""
    return np.asarray(np.linalg.inv(change) @ np.linalg.inv(cell.to_given))


def _best_of(
    cell: _Cell, view: View, sublattice: int, changes: npt.NDArray[np.int64], logs: Array, pixel_nm: float
) -> Match | None:
    """Lay the view so that the image's brightest column is each of its columns in turn; sum up, and keep the best."""
    sigma = cell.place_sigma(pixel_nm)
    multiple = int(MULTIPLES[sublattice])
    partner, residual2, matched = _pairs(cell, view, STEPS[sublattice], changes, pixel_nm, sigma)
    n, predicted = len(cell.places), multiple * len(view.places)
    places = (matched - 1) * log(pixel_nm**2 * cell.area_px / (2 * pi * sigma**2)) - np.log(np.maximum(matched, 1))
    places = places - residual2 / (2 * sigma**2)
    places = places + (n - matched) * log(STRAY) + (predicted - matched) * log(MISSED) + log(multiple)
    total = logs + places
    total[matched < max(2, 0.7 * predicted)] = -np.inf
    if not np.isfinite(total).any():
        return None
    total[total < total.max() - 12] = -np.inf
    for row, col in np.argwhere(np.isfinite(total)):
        total[row, col] += _log_brightness(cell, view, partner[row, col])
    row, col = np.unravel_index(int(total.argmax()), total.shape)
    summed = float(np.logaddexp.reduce(total, axis=None))
    return Match(summed, view, _cell_on(cell, changes[row]), partner[row, col])


def _pairs(
    cell: _Cell,
    view: View,
    steps: npt.NDArray[np.int64],
    changes: npt.NDArray[np.int64],
    pixel_nm: float,
    sigma: float,
) -> tuple[npt.NDArray[np.intp], Array, npt.NDArray[np.intp]]:
    """Which predicted column each column of the image is, for every way (b) and every column (k) laid on the brightest.

    Returns
    -------
    partner : ndarray of shape (b, k, n), int
        Index of the view's column; -1 for none.
    residual2 : ndarray of shape (b, k)
        Sum of squared distances of the pairs, the common shift taken out [nm^2].
    matched : ndarray of shape (b, k), int
    """
    k = len(view.places)
    tiled = (view.places + steps[:, None]).reshape(-1, 2) @ np.linalg.inv(changes)  # (b, m k, 2)
    bright = int(cell.brightness.argmax())
    shift = cell.places[bright] - tiled[:, :k]  # (b, k, 2)
    laid = tiled[:, None] + shift[:, :, None]  # (b, k, m k, 2)
    off = nearest(cell.places[:, None] - laid[:, :, None])  # (b, k, n, m k, 2)
    squared = pixel_nm**2 * ((off @ cell.gram_px) * off).sum(axis=-1)
    choice = squared.argmin(axis=3)  # (b, k, n)
    least = np.take_along_axis(squared, choice[..., None], axis=3)[..., 0]
    close = least < (PLACE_REACH * sqrt(2) * sigma) ** 2
    nearer = close[..., None, :] & (least[..., None] > least[..., None, :])
    close &= ~((choice[..., None] == choice[..., None, :]) & nearer).any(axis=3)
    vectors = np.take_along_axis(off, choice[..., None, None], axis=3)[..., 0, :]  # (b, k, n, 2)
    matched = close.sum(axis=2)
    mean = (vectors * close[..., None]).sum(axis=2) / np.maximum(matched, 1)[..., None]
    rest = vectors - mean[:, :, None]
    rest2 = pixel_nm**2 * ((rest @ cell.gram_px) * rest).sum(axis=-1) * close
    return np.where(close, choice % k, -1), rest2.sum(axis=2), matched


def _log_brightness(cell: _Cell, view: View, partner: npt.NDArray[np.intp]) -> float:
    """Log density of the brightness of the matched columns, up to a factor, and of strays.

    ln(observed / expected) is a constant, an error of each kind of column and a scatter of each column; the constant
    is integrated out.
    """
    pairs = np.flatnonzero(partner >= 0)
    mine = partner[pairs]
    rest = np.log(cell.brightness[pairs]) - np.log(view.brightness[mine])
    slope = KIND_SLOPE * np.log(view.brightness[mine])
    kind = np.full(len(rest), DARK_PART) if cell.seen.dark else np.hypot(KIND_PART, slope)
    same = view.kinds[mine][:, None] == view.kinds[mine]
    own = cell.seen.brightness_sigma**2 + LIKE_PART**2
    covariance = same * kind[:, None] * kind + own * np.eye(len(rest))
    factor = np.linalg.cholesky(covariance)
    ones, white = np.linalg.solve(factor, np.stack([np.ones_like(rest), rest], axis=1)).T
    weight = float(ones @ ones)
    quadratic = float(white @ white - (ones @ white) ** 2 / weight)
    spread = 2 * float(np.log(np.diag(factor)).sum()) + log(weight)
    stray = len(partner) - len(pairs)
    return -0.5 * ((len(rest) - 1) * log(2 * pi) + spread + quadratic) - stray * log(3.0)
