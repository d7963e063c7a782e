"""One lattice for all frames of a stack: which cell of a frame is which cell of the first.

The lattice of a frame tells the drift but for whole cells. Those are told by what the columns keep from frame to frame:
each column's own intensity and the defects. Where neither is there, the smallest drift is taken, and it is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.numerics.medians import robust_std

NEAR_CELLS = 2  # whole cells that a frame may have drifted from where it was expected
PAD_CELLS = 24  # cells kept around the first frame, for a specimen that drifts
SAME_PLACE = 0.15  # of a cell: columns so near to each other are one
SAME_VECTORS = 0.15  # lattice vectors of frames may differ by this part
PER_CELL = 4.0  # log of how much less likely a drift between frames is for each cell more
TOLD = float(np.log(1e4))  # how much likelier the shift must be than any other
BY_ONE_HOP = 3  # columns that one hop changes as seen from a shift by its step, and one more
ODD, ODD_SCATTER = 0.01, 0.6  # ASSUME: part of columns that are defects, and how much these change
NEW = 0.003  # ASSUME: part of columns that change between frames


@dataclass(frozen=True)
class Frame:
    """The tested columns of a frame.

    Attributes
    ----------
    frame : int
    cells : ndarray of shape (n, 2), int
    column : ndarray of shape (n,), int
        Index in the crystal's cell.
    site : dict of int to str
        Name of each column of the cell.
    places_px : ndarray of shape (n, 2)
    change, sigma : ndarray of shape (n,)
        Change of intensity [fraction of a bulk column] and its standard error by the frame's noise.
    plain : ndarray of shape (n,), optional
        Change as read whatever else the frame lists; without it `change` is taken for it.
    shift_pm, shift_sigma_pm : ndarray of shape (n, 2) and (n,), optional
        Displacement (row, col) and its standard error in each direction.
    extra_px, extra_chance : ndarray of shape (m, 2) and (m,), optional
        Places of the extra columns that the frame lists, and how likely each is real.
    """

    frame: int
    cells: Index
    column: Index
    site: Mapping[int, str]
    places_px: Array
    change: Array
    sigma: Array
    plain: Array | None = None
    shift_pm: Array | None = None
    shift_sigma_pm: Array | None = None
    extra_px: Array | None = None
    extra_chance: Array | None = None


@dataclass(frozen=True)
class Lattice:
    """A frame's lattice: vectors (2, 2) [px] as rows, and the place (2,) [px] of each column of cell (0, 0)."""

    vectors_px: Array
    places_px: Mapping[int, Array]

    def fractions(self) -> dict[int, Array]:
        """Place of each column in the cell, from the first column."""
        first = self.places_px[min(self.places_px)]
        inverse = np.linalg.inv(self.vectors_px)
        return {c: (place - first) @ inverse for c, place in self.places_px.items()}


@dataclass(frozen=True)
class Laid:
    """A frame on the cells of the first.

    Attributes
    ----------
    cells, column : ndarray of shape (n, 2) and (n,), int
        Of each of the frame's columns, in the first frame's count.
    drift_px : ndarray of shape (2,)
        By how much the specimen has moved in the field since the first frame, at the middle of the field.
    margin : float
        Log of how much likelier it is than a shift by other whole cells; infinite for the first frame.
    """

    cells: Index
    column: Index
    drift_px: Array
    margin: float

    @property
    def told(self) -> bool:
        """Whether columns tell the whole cells; else the smallest drift was taken."""
        return self.margin >= TOLD


def lattice_of(frame: Frame) -> Lattice:
    """The regular lattice that fits a frame's columns best."""
    kinds = np.unique(frame.column)
    design = np.column_stack([frame.cells, frame.column[:, None] == kinds])
    found = np.linalg.lstsq(design.astype(np.float64), frame.places_px, rcond=None)[0].astype(np.float64)
    return Lattice(found[:2], {int(c): found[2 + k] for k, c in enumerate(kinds)})


def turn_between(frame: Lattice, first: Lattice) -> Index | None:
    """Whole-numbered matrix (2, 2) that takes a frame's cells to those of the first; None where cells differ."""
    exact = frame.vectors_px @ np.linalg.inv(first.vectors_px)
    whole = np.rint(exact).astype(np.int64)
    alike = np.abs(exact - whole).max() < SAME_VECTORS and round(abs(np.linalg.det(whole))) == 1
    return whole if alike else None


@dataclass(frozen=True)
class Pairing:
    """How columns of the cell are paired.

    Attributes
    ----------
    column, cell : dict
        Index, and cell (2,), in the first frame's count, of each column of cell (0, 0).
    start : ndarray of shape (2,)
        Where the frame's first column comes to lie in the first frame's cell.
    """

    column: Mapping[int, int]
    cell: Mapping[int, Index]
    start: Array


def pairings(frame: Frame, lattice: Lattice, first: Frame, of_first: Lattice, turn: Index) -> list[Pairing]:
    """All ways to lay the columns of a frame's cell on columns of the same site, but for whole cells."""
    own, other = lattice.fractions(), of_first.fractions()
    lead, found = min(own), []
    for start_on in (c for c in other if first.site[c] == frame.site[lead]):
        column, cell = dict[int, int](), dict[int, Index]()
        for c, place in own.items():
            away = {d: place @ turn + other[start_on] - at for d, at in other.items() if first.site[d] == frame.site[c]}
            near = {d: off for d, off in away.items() if np.abs(off - np.rint(off)).max() < SAME_PLACE}
            if near:
                column[c] = min(near, key=lambda d: float(np.abs(near[d] - np.rint(near[d])).max()))
                cell[c] = np.rint(near[column[c]]).astype(np.int64)
        if len(column) == len(own):
            found.append(Pairing(column, cell, other[start_on]))
    return found


class Memory:
    """What is known of every site from the frames laid so far: mean change and its weight, cells counted with a pad."""

    def __init__(self, first: Frame, scatter: float) -> None:
        self.low = first.cells.min(axis=0) - PAD_CELLS
        size = first.cells.max(axis=0) + PAD_CELLS + 1 - self.low
        self.weight = np.zeros((*size, int(first.column.max()) + 1))
        self.sum = np.zeros_like(self.weight)
        self.parts = ((1 - ODD, scatter), (ODD, ODD_SCATTER))  # of the columns, and how much these scatter

    def index(self, cells: Index, column: Index) -> tuple[tuple[Index, ...], Bools]:
        """Index of sites, and which of them lie in what is kept."""
        at = cells - self.low
        inside = ((at >= 0) & (at < self.weight.shape[:2])).all(axis=1)
        at = np.where(inside[:, None], at, 0)
        return (at[:, 0], at[:, 1], column), inside

    def add(self, cells: Index, column: Index, frame: Frame) -> None:
        """Take in a frame; a site that has changed by much is forgotten."""
        index, inside = self.index(cells, column)
        index = tuple(i[inside] for i in index)
        change, sigma = frame.change[inside], frame.sigma[inside]
        known = self.weight[index] > 0
        mean = np.where(known, self.sum[index] / np.where(known, self.weight[index], 1.0), change)
        error = np.sqrt(sigma**2 + 1 / np.maximum(self.weight[index], 1e-9))
        old = known & (np.abs(change - mean) < 5 * error)
        self.sum[index] = np.where(old, self.sum[index], 0.0) + change / sigma**2
        self.weight[index] = np.where(old, self.weight[index], 0.0) + 1 / sigma**2

    def evidence(self, cells: Index, column: Index, frame: Frame, alone: Array) -> Array:
        """Log of how much likelier each change (n,) is if these are its sites than if they are any (`alone`)."""
        index, inside = self.index(cells, column)
        weight = self.weight[index]
        known = inside & (weight > 0)
        variance = 1 / np.where(known, weight, 1.0)
        mean = np.where(known, self.sum[index], 0.0) * variance
        paired, seen = np.zeros(len(mean)), np.zeros(len(mean))
        for part, scatter in self.parts:
            prior = part * _normal(mean, scatter**2 + variance)
            shrink = scatter**2 / (scatter**2 + variance)
            paired = paired + prior * _normal(frame.change - shrink * mean, shrink * variance + frame.sigma**2)
            seen = seen + prior
        together = (1 - NEW) * paired / seen + NEW * _normal(frame.change, ODD_SCATTER**2)
        return np.where(known, np.log(together) - alone, 0.0)

    def alone(self, frame: Frame) -> Array:
        """Log of the chance of each change (n,) at any site."""
        any_site = sum(part * _normal(frame.change, s**2 + frame.sigma**2) for part, s in self.parts)
        return np.log((1 - NEW) * any_site + NEW * _normal(frame.change, ODD_SCATTER**2))


def _normal(off: Array, variance: Array | float) -> Array:
    # a floor: what lies beyond any scatter is equally unlikely everywhere
    return np.asarray(np.exp(-(off**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance) + 1e-12)


@dataclass(frozen=True)
class _Trial:
    cells: Index
    column: Index
    drift_px: Array
    steps: float  # cells from where it was expected
    evidence: Array


def _trials(
    frame: Frame, lattice: Lattice, first: Frame, of_first: Lattice, memory: Memory, last_px: Array
) -> list[_Trial]:
    """All shifts by whole cells near to where the frame is expected, the nearest first."""
    turn = turn_between(lattice, of_first)
    if turn is None:
        return []
    inverse = np.linalg.inv(of_first.vectors_px)
    middle = frame.places_px.mean(axis=0)
    from_lead = (middle - lattice.places_px[min(lattice.places_px)]) @ np.linalg.inv(lattice.vectors_px) @ turn
    origin = of_first.places_px[min(of_first.places_px)]
    expected = (middle - last_px - origin) @ inverse - from_lead
    found, alone = list[_Trial](), memory.alone(frame)
    for pairing in pairings(frame, lattice, first, of_first, turn):
        nearest = np.rint(expected - pairing.start).astype(np.int64)
        column = np.array([pairing.column[c] for c in frame.column.tolist()])
        base = frame.cells @ turn + np.array([pairing.cell[c] for c in frame.column.tolist()])
        for u in range(-NEAR_CELLS, NEAR_CELLS + 1):
            for v in range(-NEAR_CELLS, NEAR_CELLS + 1):
                whole = nearest + np.array([u, v])
                off = pairing.start + whole - expected
                drift = last_px - off @ of_first.vectors_px
                cells = base + whole
                evidence = memory.evidence(cells, column, frame, alone)
                found.append(_Trial(cells, column, drift, float(np.hypot(*off)), evidence))
    return sorted(found, key=lambda trial: trial.steps)


def _decided(trials: list[_Trial]) -> tuple[_Trial, float]:
    """The likeliest shift, and how much likelier it is than others; the smallest drift where columns do not tell.

    A shift that is not the smallest must be told by more columns than one hop changes: a defect that hops looks like a
    specimen that moves.
    """
    total = np.array([trial.evidence.sum() for trial in trials])
    best = int(np.argmax(total - PER_CELL * np.array([trial.steps for trial in trials])))
    others = np.delete(total, best)
    margin = float(total[best] - others.max()) if len(others) else np.inf
    if best:
        gained = np.sort(trials[best].evidence - trials[0].evidence)
        margin = min(margin, float(gained[:-BY_ONE_HOP].sum()))
    return (trials[best], margin) if margin >= TOLD else (trials[0], min(margin, float(total[0] - total[1:].max())))


def own_scatter(frames: Sequence[Frame]) -> float:
    """How much the columns themselves differ: scatter of changes beyond the frames' noise, at least 0.005."""
    beyond = [robust_std(frame.change) ** 2 - float(np.median(frame.sigma**2)) for frame in frames]
    return float(np.sqrt(max(float(np.median(beyond)), 0.005**2)))


def laid_on_first(frames: Sequence[Frame]) -> list[Laid | None]:
    """Every frame on the cells of the first; None where its lattice or its columns are other ones."""
    first, of_first = frames[0], lattice_of(frames[0])
    memory = Memory(first, own_scatter(frames))
    memory.add(first.cells, first.column, first)
    found: list[Laid | None] = [Laid(first.cells, first.column, np.zeros(2), np.inf)]
    last = np.zeros(2)
    for frame in frames[1:]:
        trials = _trials(frame, lattice_of(frame), first, of_first, memory, last)
        if not trials:
            found.append(None)
            continue
        chosen, margin = _decided(trials)
        memory.add(chosen.cells, chosen.column, frame)
        found.append(Laid(chosen.cells, chosen.column, chosen.drift_px, margin))
        last = chosen.drift_px
    return found
