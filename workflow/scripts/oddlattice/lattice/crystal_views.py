"""The crystal library as images may show it: each crystal and axis with only its brighter columns, or with all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import TURNS
from oddlattice.lattice.projection import SAME_PART, Columns, primitive, reduced, symmetries
from oddlattice.numerics.arrays import Array, Complex

LEVEL_PART = 0.03  # columns closer in brightness than this are seen or unseen together
NEXT_PART = 0.7  # a kind of column with so much of the brightness of another may be seen where that is not
FAINTEST = 0.03  # of the brightest column: nobody sees less
ALIKE_PART = 0.25  # columns closer in brightness than this may be taken for one kind
ALIKE_PRIOR = 0.3  # how often they are
LARGEST_MULTIPLE = 4  # an image's cell may be so many of the crystal's
KIND_STEP = 0.03  # columns closer than this in ln(brightness) are of one kind


@dataclass(frozen=True)
class Entry:
    """A crystal along an axis.

    Attributes
    ----------
    crystal, family, axis, source : str
    sites : tuple of str
        Name of each column.
    a_nm, b_nm, gamma_deg : float
        Its smallest cell, all columns told apart.
    plane_group : str
    """

    crystal: str
    family: str
    axis: str
    source: str
    sites: tuple[str, ...]
    a_nm: float
    b_nm: float
    gamma_deg: float
    plane_group: str

    @property
    def name(self) -> str:
        """Crystal and axis, e.g. ``SrTiO3 [001]``."""
        return f"{self.crystal} {self.axis}"


@dataclass(frozen=True)
class View:
    """An entry as an image may show it.

    Attributes
    ----------
    entry : int
        Index of the entry.
    prior : float
        Chance that the entry is seen in this way, apart from what is too faint to be seen.
    vectors_nm : ndarray of shape (2, 2)
        Smallest cell of the columns seen, reduced, as rows [nm].
    places : ndarray of shape (k, 2)
    brightness : ndarray of shape (k,)
        Relative to the entry's brightest column.
    origin : ndarray of shape (k,), int
        Index of each column among those of the entry.
    hidden : ndarray of float
        Relative brightness of each kind of column that is not seen.
    turns : ndarray of shape (s, 2, 2), int
        Integer matrices on the vectors that turn or mirror the columns onto themselves.
    """

    entry: int
    prior: float
    vectors_nm: Array
    places: Array
    brightness: Array
    origin: npt.NDArray[np.intp]
    hidden: Array
    turns: npt.NDArray[np.int64]

    @cached_property
    def kinds(self) -> npt.NDArray[np.intp]:
        """Number of each column's kind: those with the same number have the same brightness; shape (k,)."""
        return np.unique(np.round(np.log(self.brightness) / KIND_STEP), return_inverse=True)[1]

    @cached_property
    def area_nm2(self) -> float:
        """Area of the cell [nm^2]."""
        return abs(float(np.linalg.det(self.vectors_nm)))


@dataclass(frozen=True)
class Library:
    """All entries, their views, and the shape of every cell and supercell that an image may show of a view.

    Attributes
    ----------
    entries : tuple of Entry
    views : tuple of View
    prior : ndarray of float
        Of each entry: crystals are equally likely, and so are the axes of a crystal; sums to one.
    shapes : ndarray of shape (s,), complex
        b / a of the cell `changes @ vectors` as complex numbers, imaginary part made positive.
    changes : ndarray of shape (s, 2, 2), int
        Integer matrices on the view's vectors; a negative determinant mirrors.
    view, sublattice : ndarray of shape (s,), int
        The view each belongs to, and the index of its lattice in `SUBLATTICES`.
    columns : ndarray of shape (s,), int
        Columns in the cell.
    """

    entries: tuple[Entry, ...]
    views: tuple[View, ...]
    prior: Array
    shapes: Complex
    changes: npt.NDArray[np.int64]
    view: npt.NDArray[np.intp]
    sublattice: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]


def levels_of(brightness: Array) -> npt.NDArray[np.intp]:
    """Number of the level each column is on, from the brightest down; columns of a level are about as bright."""
    order = np.argsort(-brightness, kind="stable")
    steps = -np.diff(np.log(brightness[order])) > LEVEL_PART
    level = np.zeros(len(brightness), dtype=np.intp)
    level[order[1:]] = np.cumsum(steps)
    return level


def views_of(columns: Columns) -> list[dict[str, Any]]:
    """Every view of an entry: its columns down to each level of brightness, as they are and with like ones as one.

    Of two levels about as bright either one may be seen without the other.
    """
    bright = columns.brightness / columns.brightness.max()
    level = levels_of(bright)
    heights = [float(bright[level == k].mean()) for k in range(level.max() + 1)]
    found = []
    for shown in _shown(heights):
        kept = np.flatnonzero(np.isin(level, shown))
        hidden = [round(height, 4) for k, height in enumerate(heights) if k not in shown]
        exact = _seen(columns, kept, SAME_PART)
        merged = _seen(columns, kept, ALIKE_PART)
        ways = [(exact, 1.0)]
        if len(merged.places) < len(exact.places):
            ways = [(exact, 1 - ALIKE_PRIOR), (merged, ALIKE_PRIOR)]
        found += [_as_json(one, prior, hidden) for one, prior in ways]
    return found


def _shown(heights: Sequence[float]) -> list[list[int]]:
    """Which levels may be seen together: all down to one, or that one passed over for the next, about as bright."""
    found = []
    for last, height in enumerate(heights):
        if height < FAINTEST:
            break
        found.append(list(range(last + 1)))
        if last and last + 1 < len(heights) and heights[last + 1] > NEXT_PART * height:
            found.append([*range(last), last + 1])
    return found


def _seen(columns: Columns, kept: npt.NDArray[np.intp], part: float) -> Columns:
    """The kept columns on their smallest cell, reduced; `atoms` holds the index of each among all."""
    chosen = columns.kept(kept)
    tags = tuple({"index": float(k)} for k in kept)
    relative = chosen.brightness / columns.brightness.max()
    seen = primitive(Columns(chosen.vectors_nm, chosen.places, relative, tags, chosen.repeat_nm), part=part)
    vectors, change = reduced(seen.vectors_nm)
    return Columns(vectors, seen.places @ np.linalg.inv(change) % 1.0, seen.brightness, seen.atoms, seen.repeat_nm)


def _as_json(seen: Columns, prior: float, hidden: list[float]) -> dict[str, Any]:
    return {
        "prior": prior,
        "vectors_nm": np.round(seen.vectors_nm, 5).tolist(),
        "places": np.round(seen.places, 4).tolist(),
        "brightness": np.round(seen.brightness, 4).tolist(),
        "origin": [int(one["index"]) for one in seen.atoms],
        "hidden": hidden,
        "turns": [turn.tolist() for turn, _ in symmetries(seen)],
    }


def _unimodular() -> npt.NDArray[np.int64]:
    """Integer matrices with entries -1, 0, 1 and determinant 1 or -1, one of each pair U, -U; shape (20, 2, 2)."""
    found: list[npt.NDArray[np.int64]] = []
    for one in TURNS:
        if not any(np.array_equal(-one, other) for other in found):
            found.append(one)
    return np.array(found)


def _sublattices() -> npt.NDArray[np.int64]:
    """Hermite normal forms of every sublattice up to LARGEST_MULTIPLE, the lattice itself first; shape (15, 2, 2)."""
    forms = [
        [[first, shift], [0, times // first]]
        for times in range(1, LARGEST_MULTIPLE + 1)
        for first in range(1, times + 1)
        if times % first == 0
        for shift in range(times // first)
    ]
    return np.array(forms, dtype=np.int64)


UNIMODULAR = _unimodular()
SUBLATTICES = _sublattices()
MULTIPLES = np.rint(np.linalg.det(SUBLATTICES)).astype(np.intp)  # cells in a cell of each sublattice


def steps_of(sublattice: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Lattice steps to each cell in one cell of a sublattice (Hermite normal form); shape (m, 2), zero first."""
    first, second = int(sublattice[0, 0]), int(sublattice[1, 1])
    return np.array([[i, k] for i in range(first) for k in range(second)])


STEPS = [steps_of(one) for one in SUBLATTICES]


def _reduced_all(vectors: Array) -> npt.NDArray[np.int64]:
    """Integer matrices that reduce many lattices at once (`projection.reduced`, but for signs); vectors (s, 2, 2)."""
    change = np.tile(np.eye(2, dtype=np.int64), (len(vectors), 1, 1))
    for _ in range(12):
        basis = change @ vectors
        squared = (basis**2).sum(axis=2)
        swap = squared[:, 0] > squared[:, 1] * (1 + 1e-9)
        change[swap] = change[swap, ::-1]
        basis[swap] = basis[swap, ::-1]
        times = np.rint((basis[:, 0] * basis[:, 1]).sum(axis=1) / (basis[:, 0] ** 2).sum(axis=1) - 1e-9).astype(
            np.int64
        )
        if not (swap.any() or times.any()):
            break
        change[:, 1] -= times[:, None] * change[:, 0]
    return change


def library_from(found: Sequence[Mapping[str, Any]]) -> Library:
    """The library of entries as the files hold them."""
    entries = tuple(_entry_from(one) for one in found)
    views = tuple(_view_from(number, view) for number, one in enumerate(found) for view in one["views"])
    names = [entry.crystal for entry in entries]
    prior = np.array([1 / names.count(name) for name in names]) / len(set(names))
    cells = SUBLATTICES[None] @ np.stack([view.vectors_nm for view in views])[:, None]  # (views, 15, 2, 2)
    change = _reduced_all(cells.reshape(-1, 2, 2)).reshape(len(views), -1, 2, 2) @ SUBLATTICES
    changes = (UNIMODULAR @ change[:, :, None]).reshape(-1, 2, 2)  # (views * 15 * 20, 2, 2)
    each = len(SUBLATTICES) * len(UNIMODULAR)
    view = np.repeat(np.arange(len(views)), each)
    made = changes @ np.stack([one.vectors_nm for one in views])[view]
    flat: Complex = made[..., 0] + 1j * made[..., 1]
    shapes: Complex = flat[:, 1] / flat[:, 0]
    shapes = np.where(shapes.imag < 0, shapes.conj(), shapes)
    sublattice = np.tile(np.repeat(np.arange(len(SUBLATTICES)), len(UNIMODULAR)), len(views))
    columns = np.array([len(one.places) for one in views])[view] * MULTIPLES[sublattice]
    return Library(entries, views, prior, shapes, changes, view, sublattice, columns)


def _entry_from(found: Mapping[str, Any]) -> Entry:
    names = {key: str(found[key]) for key in ("crystal", "family", "axis", "source", "plane_group")}
    lengths = {key: float(found[key]) for key in ("a_nm", "b_nm", "gamma_deg")}
    return Entry(sites=tuple(str(column["site"]) for column in found["columns"]), **names, **lengths)  # type: ignore[arg-type]


def _view_from(entry: int, found: Mapping[str, Any]) -> View:
    return View(
        entry=entry,
        prior=float(found["prior"]),
        vectors_nm=np.array(found["vectors_nm"], dtype=np.float64),
        places=np.array(found["places"], dtype=np.float64),
        brightness=np.array(found["brightness"], dtype=np.float64),
        origin=np.array(found["origin"], dtype=np.intp),
        hidden=np.array(found["hidden"], dtype=np.float64),
        turns=np.array(found["turns"], dtype=np.int64),
    )


@lru_cache(maxsize=4)
def load_library(paths: tuple[Path, ...]) -> Library:
    """The library of several files together; kept, since every image asks for it.

    Raises
    ------
    ValueError
        If a file is not a crystal library; the message names it.
    """
    entries: list[Mapping[str, Any]] = []
    for path in paths:
        try:
            entries += json.loads(path.read_text(encoding="utf-8"))["entries"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: found {type(error).__name__} ({error}); needed a crystal library") from None
    return library_from(entries)
