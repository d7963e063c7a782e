"""A stack of frames as one specimen seen many times: from the columns of its frames to tracks and events."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.series.drift import Frame, Laid, Lattice, laid_on_first, lattice_of
from oddlattice.series.events import Event, Track, seen_plainly, single_events, tracks_of, with_hops, without
from oddlattice.series.states import States, through_time

LEAST_FRAMES = 3  # fewer tell no noise of their own beside what happens


@dataclass(frozen=True)
class Followed:
    """A series.

    Attributes
    ----------
    frames : list of Frame
        Those used, in order.
    laid : list of Laid
        Where each lies.
    other_cell : list of int
        Numbers of frames left out because their cell is not that of the first.
    lattice : Lattice
        Of the first frame.
    cells, column : ndarray of shape (n, 2) and (n,), int
        The sites, counted as in the first frame.
    site : list of str
        Names of the sites.
    seen : ndarray of shape (n, T), bool
    states : States
    tracks, events : list
    """

    frames: list[Frame]
    laid: list[Laid]
    other_cell: list[int]
    lattice: Lattice
    cells: Index
    column: Index
    site: list[str]
    seen: Bools
    states: States
    tracks: list[Track]
    events: list[Event]

    def place_px(self, site: int, at: int) -> Array:
        """Place (2,) of a site in the frame of index `at` [px]: as measured there, else by lattice and drift."""
        same = (self.laid[at].cells == self.cells[site]).all(axis=1) & (self.laid[at].column == self.column[site])
        if same.any():
            return np.asarray(self.frames[at].places_px[same][0])
        return np.asarray(self.sites_px[site] + self.laid[at].drift_px)

    @property
    def sites_px(self) -> Array:
        """Places (n, 2) of all sites in the first frame, by its lattice [px]."""
        corner = np.array([self.lattice.places_px[c] for c in self.column.tolist()])
        return np.asarray(self.cells @ self.lattice.vectors_px + corner)


def _stacked(frames: Sequence[Frame], laid: Sequence[Laid]) -> tuple[Index, Array, Array, Array]:
    """Keys (n, 3: u, v, column) of the sites seen at least twice; changes, errors, plain readings (n, T) or NaN."""
    keys = np.concatenate([np.column_stack([one.cells, one.column]) for one in laid])
    sites, which, number = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    change, sigma, plain = (np.full((len(sites), len(frames)), np.nan) for _ in range(3))
    start = 0
    for t, frame in enumerate(frames):
        own = which[start : start + len(frame.change)]
        change[own, t], sigma[own, t] = frame.change, frame.sigma
        plain[own, t] = frame.change if frame.plain is None else frame.plain
        start += len(own)
    often = number > 1
    return sites[often], change[often], sigma[often], plain[often]


def follow(frames: Sequence[Frame], fdr: float) -> Followed | None:
    """Follow every column of a stack through its frames; None where fewer than `LEAST_FRAMES` have one cell.

    A part of `fdr` of the tracks listed is false.
    """
    if len(frames) < LEAST_FRAMES:
        return None
    found = laid_on_first(frames)
    used = [(frame, laid) for frame, laid in zip(frames, found, strict=True) if laid is not None]
    if len(used) < LEAST_FRAMES:
        return None
    kept, laid = [frame for frame, _ in used], [one for _, one in used]
    sites, change, sigma, plain = _stacked(kept, laid)
    column = sites[:, 2]
    states = through_time(change, sigma, column)
    # what all columns of a site have in common in a frame is no column's
    for one in np.unique(column):
        plain[column == one] -= np.nanmedian((plain - change)[column == one], axis=0)
    told, jumps = seen_plainly(single_events(states), plain)
    other = [frame.frame for frame, one in zip(frames, found, strict=True) if one is None]
    first = lattice_of(frames[0])
    names = [frames[0].site[c] for c in column.tolist()]
    tracks = without(tracks_of(states, fdr), jumps)
    series = Followed(kept, laid, other, first, sites[:, :2], column, names, np.isfinite(change), states, tracks, told)
    return replace(series, events=with_hops(told, series.sites_px))
