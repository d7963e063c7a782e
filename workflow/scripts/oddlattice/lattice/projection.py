"""A crystal seen along a zone axis: its atoms projected into columns of the smallest two-dimensional cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import TURNS, scattering_nm2
from oddlattice.numerics.arrays import Array, Mask

MERGED_NM = 0.06  # atoms closer than this in projection are one column: HAADF shows one, perhaps drawn out
SAME_NM = 0.01  # columns that a translation or a symmetry brings so close are the same
SAME_PART = 0.03  # and so close in brightness
SAME_METRIC = 0.003  # lattice vectors that a symmetry turns into each other differ by less than this
Composition = Mapping[str, float]


@dataclass(frozen=True)
class Columns:
    """Columns of a two-dimensional cell.

    Attributes
    ----------
    vectors_nm : ndarray of shape (2, 2)
        Lattice vectors as rows [nm].
    places : ndarray of shape (n, 2)
        (u, v) as fractions of the vectors, in [0, 1).
    brightness : ndarray of shape (n,)
        Expected HAADF intensity per repeat [nm^2].
    atoms : tuple of dict
        Atoms per repeat along the beam, by element symbol, of each column.
    repeat_nm : float
        Period along the beam [nm].
    """

    vectors_nm: Array
    places: Array
    brightness: Array
    atoms: tuple[dict[str, float], ...]
    repeat_nm: float

    def kept(self, chosen: Mask | npt.NDArray[np.intp]) -> "Columns":
        """The cell with these columns alone; `chosen` indexes them."""
        index = np.arange(len(self.places))[chosen]
        atoms = tuple(self.atoms[k] for k in index)
        return Columns(self.vectors_nm, self.places[index], self.brightness[index], atoms, self.repeat_nm)


def nearest(places: Array) -> Array:
    """Differences of places, brought into [-0.5, 0.5)."""
    return np.asarray((places + 0.5) % 1.0 - 0.5)


def reduced(vectors: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Shortest basis of a lattice, angle in [60, 90] deg, and the integer matrix that makes it of the given one.

    Source: Lagrange's reduction; Conway, The Sensual Quadratic Form (1997).
    """
    change = np.eye(2, dtype=np.int64)
    while True:
        basis = change @ vectors
        order = np.argsort((basis**2).sum(axis=1), kind="stable")
        change, basis = change[order], basis[order]
        times = int(np.rint(basis[0] @ basis[1] / (basis[0] @ basis[0]) - 1e-9))
        if times == 0:
            break
        change[1] -= times * change[0]
    if basis[0] @ basis[1] < 0:
        change[1] *= -1
    return np.asarray(change @ vectors), change


def on_basis(columns: Columns, change: npt.NDArray[np.int64]) -> Columns:
    """The same crystal on the basis `change @ vectors_nm`, `change` unimodular."""
    places = columns.places @ np.linalg.inv(change) % 1.0
    return Columns(change @ columns.vectors_nm, places % 1.0, columns.brightness, columns.atoms, columns.repeat_nm)


def _plane_basis(cell_nm: Array, zone: Sequence[int]) -> npt.NDArray[np.int64]:
    """Two lattice vectors that make a unimodular basis with `zone`, as short as can be in projection; shape (2, 3)."""
    beam = np.asarray(zone) @ cell_nm
    beam = beam / np.linalg.norm(beam)
    reach = max(2, *(abs(z) for z in zone))
    steps = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    flat = steps @ cell_nm
    length = np.linalg.norm(flat - np.outer(flat @ beam, beam), axis=1)
    order = np.argsort(length, kind="stable")
    order = order[length[order] > 1e-6][:60]
    pairs = [
        (length[i] + length[k], i, k)
        for i, k in product(order, order)
        if i < k and abs(round(np.linalg.det(np.array([steps[i], steps[k], zone])))) == 1
    ]
    _, first, second = min(pairs)
    return np.asarray(steps[[first, second]])


def _flat(vectors: Array, beam: Array) -> Array:
    """Vectors (2, 3) seen along `beam`, in two dimensions; shape (2, 2)."""
    flat = vectors - np.outer(vectors @ beam, beam)
    right = flat[0] / np.linalg.norm(flat[0])
    down = np.cross(beam, right)
    return np.asarray(np.stack([flat @ right, flat @ down], axis=1))


def _clusters(places: Array, vectors_nm: Array) -> npt.NDArray[np.intp]:
    """Number of the column each atom belongs to: atoms closer than MERGED_NM to a column's first; shape (n,)."""
    label = np.full(len(places), -1)
    for k in range(len(places)):
        if label[k] < 0:
            apart = np.linalg.norm(nearest(places - places[k]) @ vectors_nm, axis=1)
            label[(apart < MERGED_NM) & (label < 0)] = label.max() + 1
    return label


def project(cell_nm: Array, places: Array, atoms: Sequence[Composition], zone: Sequence[int]) -> Columns:
    """Columns of a crystal seen along a zone axis, on the smallest cell; the brightest one at the origin.

    Parameters
    ----------
    cell_nm : ndarray of shape (3, 3)
        Lattice vectors as rows [nm].
    places : ndarray of shape (n, 3)
        Fractional places of the atoms.
    atoms : sequence of mapping
        What is at each place: parts by element symbol.
    zone : sequence of int
        Direction [u v w] of the beam, without a common factor.
    """
    flat = _plane_basis(cell_nm, zone)
    beam = np.asarray(zone) @ cell_nm
    repeat = float(np.linalg.norm(beam))
    basis = np.concatenate([flat, [zone]])
    along = places @ np.linalg.inv(basis)
    vectors = _flat(flat @ cell_nm, beam / repeat)
    label = _clusters(along[:, :2], vectors)
    weight = np.array([float(scattering_nm2(dict(found), 1.0)) for found in atoms])
    middle, summed = [], []
    for k in range(label.max() + 1):
        inside = np.flatnonzero(label == k)
        first = along[inside[0], :2]
        off = nearest(along[inside, :2] - first)
        middle.append(first + weight[inside] @ off / weight[inside].sum())
        summed.append(_sum_of([atoms[int(i)] for i in inside]))
    brightness = np.array([float(scattering_nm2(found, 1.0)) for found in summed])
    columns = Columns(vectors, np.array(middle) % 1.0, brightness, tuple(summed), repeat)
    return at_brightest(primitive(_one_repeat(columns, along[:, 2], label)))


def _sum_of(found: Sequence[Composition]) -> dict[str, float]:
    symbols = dict.fromkeys(symbol for one in found for symbol in one)
    return {symbol: round(sum(one.get(symbol, 0.0) for one in found), 4) for symbol in symbols}


def _one_repeat(columns: Columns, heights: Array, label: npt.NDArray[np.intp]) -> Columns:
    """The columns per shortest period along the beam, where all repeat after a half, third... of the zone vector."""
    for times in (6, 4, 3, 2):
        sets = [np.sort(heights[label == k] % 1.0) for k in range(label.max() + 1)]
        moved = [np.abs(nearest((one[:, None] + 1 / times) - one[None, :])).min(axis=1).max() for one in sets]
        if max(moved) < 1e-3:
            atoms = tuple({symbol: n / times for symbol, n in one.items()} for one in columns.atoms)
            return Columns(
                columns.vectors_nm, columns.places, columns.brightness / times, atoms, columns.repeat_nm / times
            )
    return columns


def at_brightest(columns: Columns) -> Columns:
    """The cell on its reduced basis, brightest column first and at the origin."""
    _, change = reduced(columns.vectors_nm)
    columns = on_basis(columns, change)
    order = np.lexsort((columns.places[:, 1], columns.places[:, 0], -np.round(columns.brightness, 9)))
    columns = columns.kept(order)
    places = (columns.places - columns.places[0]) % 1.0
    places[places > 1 - 1e-6] = 0.0
    return Columns(columns.vectors_nm, places, columns.brightness, columns.atoms, columns.repeat_nm)


def maps_onto_itself(
    columns: Columns, turned: Array, shift: Array, near_nm: float = SAME_NM, part: float = SAME_PART
) -> npt.NDArray[np.intp] | None:
    """Which column each one becomes when places are `turned` and shifted; None where one finds no like partner."""
    apart = nearest((turned + shift)[:, None] - columns.places[None]) @ columns.vectors_nm
    far = np.linalg.norm(apart, axis=2)
    unlike = np.abs(np.log(columns.brightness[:, None] / columns.brightness[None]))
    cost = np.where(unlike < part, far, np.inf)
    partner = cost.argmin(axis=1)
    if cost.min(axis=1).max() > near_nm or len(set(partner.tolist())) < len(partner):
        return None
    return np.asarray(partner)


def translations(columns: Columns, near_nm: float = SAME_NM, part: float = SAME_PART) -> list[Array]:
    """Shifts in the cell, (u, v), that bring the columns onto like ones; the zero shift first."""
    rarest = columns.places[0]
    shifts = [nearest(place - rarest) for place in columns.places]
    found = [s for s in shifts if maps_onto_itself(columns, columns.places, s, near_nm, part) is not None]
    return sorted(found, key=lambda s: float(np.linalg.norm(s)))


def primitive(columns: Columns, near_nm: float = SAME_NM, part: float = SAME_PART) -> Columns:
    """The smallest cell whose repetition is the crystal; like columns of what were several cells are averaged.

    Parameters
    ----------
    near_nm, part : float
        What counts as alike: distance [nm], difference of brightness as a fraction.
    """
    shifts = translations(columns, near_nm, part)
    if len(shifts) == 1:
        return columns
    times = len(shifts)
    rational = [np.rint(shift * times) / times for shift in shifts]
    basis = _basis_of(rational, columns.vectors_nm)
    inverse = np.linalg.inv(basis)
    partners = [maps_onto_itself(columns, columns.places, shift, near_nm, part) for shift in shifts]
    orbits: dict[tuple[int, ...], None] = {}
    for k in range(len(columns.places)):
        orbits[tuple(sorted({int(p[k]) for p in partners if p is not None}))] = None
    firsts, bright, atoms = [], [], []
    for orbit in orbits:
        folded = columns.places[list(orbit)] @ inverse
        firsts.append(folded[0] + nearest(folded - folded[0]).mean(axis=0))
        bright.append(columns.brightness[list(orbit)].mean())
        atoms.append(columns.atoms[orbit[0]])
    return Columns(
        basis @ columns.vectors_nm, np.array(firsts) % 1.0, np.array(bright), tuple(atoms), columns.repeat_nm
    )


def _basis_of(shifts: Sequence[Array], vectors: Array) -> Array:
    """Shortest two vectors, in units of the cell's, that generate it and the shifts; shape (2, 2)."""
    around = np.array(list(product((-1, 0, 1), repeat=2)))
    points = np.concatenate([np.asarray(shift) + around for shift in shifts])
    points = points[np.abs(points).max(axis=1) > 1e-9]
    points = points[np.argsort(np.linalg.norm(points @ vectors, axis=1), kind="stable")]
    area = 1 / len(shifts)
    for second in points[1:]:
        if abs(abs(np.linalg.det(np.array([points[0], second]))) - area) < 1e-6:
            return np.array([points[0], second])
    raise ValueError(f"shifts {np.array(shifts).tolist()} make no lattice")


def symmetries(columns: Columns) -> list[tuple[npt.NDArray[np.int64], Array]]:
    """Point operations (integer matrices on the lattice vectors) and shifts that map the crystal onto itself."""
    metric = columns.vectors_nm @ columns.vectors_nm.T
    near = SAME_METRIC * metric.trace()
    found = []
    for turn in TURNS:
        if np.abs(turn @ metric @ turn.T - metric).max() > near:
            continue
        turned = columns.places @ turn
        shifts = (nearest(place - turned[0]) for place in columns.places)
        shift = next((s for s in shifts if maps_onto_itself(columns, turned, s) is not None), None)
        if shift is not None:
            found.append((turn, shift))
    return found


def plane_group(columns: Columns) -> str:
    """Name of the plane group of a primitive cell, e.g. ``p4mm``.

    Source: International Tables for Crystallography, vol. A, ch. 2.2.
    """
    found = symmetries(columns)
    mirrors = [(turn, shift) for turn, shift in found if round(np.linalg.det(turn)) < 0]
    order = len(found) - len(mirrors)
    if not mirrors:
        return f"p{order}" if order > 1 else "p1"
    # a shift along the mirror's line that no lattice vector takes up makes it a glide
    glides = [_glides(turn, shift) for turn, shift in mirrors]
    centred = any(np.trace(turn) == 0 and abs(turn[0, 1]) == 1 and turn[0, 0] == 0 for turn, _ in mirrors) or any(
        np.abs(turn).sum() == 3 for turn, _ in mirrors
    )
    match order:
        case 1:
            return "cm" if centred else "pg" if glides[0] else "pm"
        case 2:
            return "c2mm" if centred else ("p2mm", "p2mg", "p2gg")[sum(glides)]
        case 3:
            return "p3m1" if _mirror_lies_across(mirrors[0][0], columns) else "p31m"
        case 4:
            return "p4gm" if any(glides) else "p4mm"
    return "p6mm"


def _glides(turn: npt.NDArray[np.int64], shift: Array) -> bool:
    along = shift @ (turn + np.eye(2)) / 2
    on_line = [
        np.array(step) @ (turn + np.eye(2)) / 2 for step in product((-1, 0, 1), repeat=2)
    ]  # what lattice vectors move along the line
    return bool(min(np.abs(along - step).max() for step in on_line) > 0.05)


def _mirror_lies_across(turn: npt.NDArray[np.int64], columns: Columns) -> bool:
    """Whether the mirror's line is perpendicular to a shortest lattice vector: it sends that vector to its opposite."""
    steps = [np.array(s) for s in product((-1, 0, 1), repeat=2) if any(s)]
    shortest = min(np.linalg.norm(s @ columns.vectors_nm) for s in steps)
    short = [s for s in steps if np.linalg.norm(s @ columns.vectors_nm) < 1.01 * shortest]
    return any(np.array_equal(s @ turn, -s) for s in short)


def conventional(vectors_nm: Array) -> npt.NDArray[np.int64]:
    """Integer matrix to the smallest right-angled cell of one or two primitive ones; the unit matrix where none is."""
    changes = [np.array(entries).reshape(2, 2) for entries in product((-2, -1, 0, 1, 2), repeat=4)]
    right = [
        change
        for change in changes
        if round(np.linalg.det(change)) in (1, 2) and _is_right_angle(*(change @ vectors_nm))
    ]
    simplest = min(right, key=lambda c: (round(np.linalg.det(c)), np.abs(c).sum(), (c < 0).sum()), default=None)
    return np.eye(2, dtype=np.int64) if simplest is None else np.asarray(simplest)


def _is_right_angle(a: Array, b: Array) -> bool:
    return bool(abs(a @ b) < 1e-3 * np.linalg.norm(a) * np.linalg.norm(b))
