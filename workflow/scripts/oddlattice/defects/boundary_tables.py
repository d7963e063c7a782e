"""Rows of boundaries: those between grains, the faults within them, and both as defects."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from oddlattice.defects.boundary_columns import Beside, columns_at
from oddlattice.defects.broken_lattice import Broken, broken, fault_sort, wall
from oddlattice.defects.grain_tables import as_json
from oddlattice.defects.registered import Registered
from oddlattice.defects.tables import Tally
from oddlattice.lattice.boundaries import Line, Turn, turned
from oddlattice.lattice.breaks import Closure, Fault, waves_of
from oddlattice.lattice.fourier import reduced
from oddlattice.lattice.relations import is_twin, nearest_directions
from oddlattice.numerics.arrays import Array, Float, Labels
from oddlattice.storage import blocks
from oddlattice.storage.rows import Row

TWIN_DEG = 1.0  # by which a twin may miss its relation at most
MOST_PX = 1 << 24  # of an image whose waves are followed
NOT_FOLLOWED = "the waves of the lattice were not followed: they are too weak, or the image is above 16 million pixels"


@dataclass(frozen=True)
class Side:
    """A crystal at a boundary.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
    pixel_nm : ndarray of shape (2,)
        (row, col).
    sized : bool
        Whether its pixel size is known.
    beside : Beside
        Its columns.
    """

    vectors_px: Array
    pixel_nm: Array
    sized: bool
    beside: Beside

    @property
    def nm(self) -> float | None:
        """Size of a pixel, of equal area where it is not square; None where it is not known."""
        return math.sqrt(float(np.prod(self.pixel_nm))) if self.sized else None


@dataclass(frozen=True)
class Crystal:
    """A grain as its boundaries need it; `sized` where its pixel size is known."""

    image: Registered
    tally: Tally
    sized: bool

    def side(self, number: int) -> Side:
        """It as a side of a boundary, by its number."""
        at = self.image
        cell_px = math.sqrt(abs(float(np.linalg.det(at.vectors_px))))
        return Side(at.vectors_px, at.pixel_nm, self.sized, Beside(number, at.shapes, at.coordinates, cell_px))


@dataclass(frozen=True)
class Breaks:
    """What breaks the lattices of an image.

    Attributes
    ----------
    image : ndarray of shape (rows, cols), or None
        None where it is too large.
    labels : ndarray of shape (rows, cols), or None
        Grain of each pixel, of an image of several.
    sides : dict of int to Side
    broken : dict of int to Broken
        Of each grain whose waves are clear.
    """

    image: Float | None
    labels: Labels | None
    sides: Mapping[int, Side]
    broken: Mapping[int, Broken]

    def boundaries(self, image_id: str, between: list[Row]) -> list[Row]:
        """Rows of products.BOUNDARIES, numbered: those between grains, and the faults within these."""
        told = [row | self._relation(row) for row in between]
        faults = [
            fault_row(image_id, k, fault, self.sides[k]) for k, one in self.broken.items() for fault in one.faults
        ]
        return [row | {"boundary": number} for number, row in enumerate([*told, *faults], 1)]

    def with_closures(self, rows: list[Row], grain: int) -> list[Row]:
        """Rows of products.DEFECTS of a grain, with the Burgers vectors of its regions."""
        closures = iter(self.broken[grain].closures if grain in self.broken else [])
        vectors_pm = self.sides[grain].vectors_px * self.sides[grain].pixel_nm * 1000
        return [row | (_burgers(next(closures, None), vectors_pm) if row["kind"] == "extended" else {}) for row in rows]

    def _relation(self, row: Row) -> Row:
        one, other = self.sides.get(row["grain_1"]), self.sides.get(row["grain_2"])
        if one is None or other is None or self.image is None or self.labels is None:
            return {}
        found = _relation(row, self.image, self.labels, one, other)
        return found | columns_told(row, self.image, self.labels, one, other)


def breaks_of(raw: zarr.Array[Any], labels: Labels | None, crystals: Mapping[int, Crystal]) -> Breaks:
    """Dislocations and faults of an image (rows, cols), by its grains; `labels` says which pixel is whose."""
    sides = {k: crystal.side(k) for k, crystal in crystals.items()}
    if raw.shape[0] * raw.shape[1] > MOST_PX:
        return Breaks(None, labels, sides, {})
    image = np.asarray(blocks.read(raw), dtype=np.float32)
    found = {}
    for k in sides:
        own = labels == k if labels is not None else None
        waves = waves_of(image, sides[k].vectors_px, own)
        if waves is not None:
            found[k] = broken(waves, crystals[k].image.coordinates, crystals[k].tally.regions)
    return Breaks(image, labels, sides, found)


def _relation(row: Row, image: Float, labels: Labels, one: Side, other: Side) -> Row:
    """What twins, dislocations and directions tell of a boundary."""
    square = one.pixel_nm / math.sqrt(float(np.prod(one.pixel_nm)))
    vectors = one.vectors_px * square, other.vectors_px * square
    if row["sort"] == "phase":
        return directions(vectors[0], vectors[1])
    turn = turned(*vectors, (np.zeros(2), np.zeros(2)))
    if row["sort"] == "grain":
        return {"sort": "twin"} if is_twin(*vectors, TWIN_DEG) else {}
    if row["sort"] != "low-angle" or turn is None:
        return {}
    return wall_told(row, image, labels, one, other, turn)


def columns_told(row: Row, image: Float, labels: Labels, one: Side, other: Side) -> Row:
    """Columns missing and too many along a boundary, and its width; or why they are not told."""
    found = columns_at(image, labels, line_of(row), (one.beside, other.beside))
    if isinstance(found, str):
        return {"columns_reason": found}
    told: Row = {"columns_missing": found.missing, "columns_extra": found.extra}
    told |= {"width_px": found.width_px, "width_sigma_px": found.width_sigma_px}
    if one.nm is not None and found.width_px is not None:
        told["width_nm"] = found.width_px * one.nm
    return told


def line_of(row: Row) -> Line:
    """The line of a row of products.BOUNDARIES."""
    return Line((row["grain_1"], row["grain_2"]), json.loads(row["path_px"]), row["length_px"])


def directions(first_px: Array, second_px: Array) -> Row:
    """Of two crystals: the directions that run side by side, how much they are turned, and their misfit strain."""
    found = nearest_directions(first_px, second_px)
    names = ["[{} {}]".format(*d) for d in (found.first, found.second)]
    return {
        "direction_1": names[0],
        "direction_2": names[1],
        "directions_apart_deg": found.apart_deg,
        "misfit_along": found.misfit,
    }


def wall_told(row: Row, image: Float, labels: Labels, one: Side, other: Side, turn: Turn) -> Row:
    """Of a low-angle boundary: its dislocations, in vectors of its first grain."""
    own = (labels == row["grain_1"]) | (labels == row["grain_2"])
    found = wall(image, (one.vectors_px, other.vectors_px), turn, line_of(row), own)
    known = [one for one in found if one.burgers is not None]
    listed = [[round(r, 1), round(c, 1), *closure.burgers] for closure in known for r, c in [closure.place_px]]  # type: ignore[misc]
    left = max(len(found) - len(known), _untold(known, one.vectors_px, turn, row["length_px"]))
    return {"dislocations": len(known), "dislocations_not_told": left, "burgers": json.dumps(listed)}


def _untold(known: list[Closure], vectors_px: Array, turn: Turn, length_px: float) -> int:
    """How many dislocations of the shortest vector a boundary must have beside those known, by its angle (Frank)."""
    told = np.array([one.burgers for one in known]).reshape(-1, 2).sum(axis=0) @ vectors_px
    needed = 2 * math.sin(math.radians(turn.angle_deg) / 2) * length_px
    return max(round((needed - float(np.hypot(*told))) / float(np.hypot(*reduced(vectors_px).T).min())), 0)


def fault_row(image_id: str, grain: int, fault: Fault, side: Side) -> Row:
    """A fault within a grain as a row of products.BOUNDARIES, its number left out."""
    length = math.dist(*fault.ends_px)
    row: Row = {"image_id": image_id, "grain_1": grain, "grain_2": grain, "sort": fault_sort(fault)}
    row |= {"length_px": length, "path_px": as_json([list(fault.ends_px)])}
    row |= dict(zip(("shift_u", "shift_v"), fault.shift, strict=True))
    row |= dict(zip(("shift_u_sigma", "shift_v_sigma"), fault.sigma, strict=True))
    if side.nm is not None:
        row["length_nm"] = length * side.nm
    return row


def boundary_defect(about: Row, row: Row, pixel_nm: Array) -> Row:
    """A boundary as a row of products.DEFECTS, at the middle of its longest piece."""
    place = _middle(max(json.loads(row["path_px"]), key=_length))
    return {
        **{key: about[key] for key in ("image_id", "path", "signal", "frame")},
        "row_px": place[0],
        "col_px": place[1],
        "row_nm": place[0] * float(pixel_nm[0]),
        "col_nm": place[1] * float(pixel_nm[1]),
        "grain": row["grain_1"] if row["grain_1"] == row["grain_2"] else None,
        "number": row["boundary"],
        "site": "",
        "kind": "boundary",
        "sort": row.get("sort"),
        "in_region": False,
        "review": "",
    }


def _length(path: list[list[float]]) -> float:
    return float(np.hypot(*np.diff(path, axis=0).T).sum())


def _middle(path: list[list[float]]) -> tuple[float, float]:
    """Place half-way along a line."""
    at = np.array(path)
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(at, axis=0).T))])
    row, col = (float(np.interp(along[-1] / 2, along, at[:, axis])) for axis in range(2))
    return row, col


def _burgers(closure: Closure | None, vectors_pm: Array) -> Row:
    if closure is None or closure.burgers is None:
        return {"burgers_reason": closure.reason if closure is not None else NOT_FOLLOWED}
    u, v = closure.burgers
    length = float(np.hypot(*(np.array(closure.burgers) @ vectors_pm)))
    return {"burgers_u": u, "burgers_v": v, "burgers_pm": length}
