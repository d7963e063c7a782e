"""A stack of frames as one specimen seen many times: from the columns of its frames to tracks and events."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.series.drift import Frame, Laid, Lattice, laid_on_first, lattice_of
from oddlattice.series.events import Event, Track, seen_plainly, single_events, tracks_of, with_hops, without
from oddlattice.series.extras import Extras, follow_extras
from oddlattice.series.moves import Happened, how_striking, more_striking, moves_of
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
    shift_pm : ndarray of shape (n, T, 2)
        Displacements as read; NaN where they are not known.
    states : States
        Of the intensities.
    extras : Extras
        Places that are no sites.
    tracks, events : list
        Those of extra columns have sites from n on.
    """

    frames: list[Frame]
    laid: list[Laid]
    other_cell: list[int]
    lattice: Lattice
    cells: Index
    column: Index
    site: list[str]
    seen: Bools
    shift_pm: Array
    states: States
    extras: Extras
    tracks: list[Track]
    events: list[Event]

    def nearest_site(self, site: int) -> int:
        """The site itself, or that next to the place of an extra column."""
        n = len(self.cells)
        return site if site < n else int(self.extras.near[site - n])

    def is_extra(self, site: int) -> bool:
        """Whether it is the place of an extra column."""
        return site >= len(self.cells)

    def home_px(self, site: int) -> Array:
        """Place (2,) of a site in the first frame, by its lattice [px]."""
        n = len(self.cells)
        return np.asarray(self.sites_px[site] if site < n else self.extras.home_px[site - n])

    def place_px(self, site: int, at: int) -> Array:
        """Place (2,) of a site in the frame of index `at` [px]: as measured there, else by lattice and drift."""
        if not self.is_extra(site):
            same = (self.laid[at].cells == self.cells[site]).all(axis=1) & (self.laid[at].column == self.column[site])
            if same.any():
                return np.asarray(self.frames[at].places_px[same][0])
        return np.asarray(self.home_px(site) + self.laid[at].drift_px)

    @cached_property
    def index_of(self) -> dict[int, int]:
        """Indices of the frames used, by their numbers."""
        return {frame.frame: t for t, frame in enumerate(self.frames)}

    @cached_property
    def sites_px(self) -> Array:
        """Places (n, 2) of all sites in the first frame, by its lattice [px]."""
        return _places(self.cells, self.column, self.lattice)


def _places(cells: Index, column: Index, lattice: Lattice) -> Array:
    corner = np.array([lattice.places_px[c] for c in column.tolist()])
    return np.asarray(cells @ lattice.vectors_px + corner)


@dataclass(frozen=True)
class _Readings:
    """Of sites (n, 3: u, v, column) seen at least twice, (n, T) each and `shift_pm` (n, T, 2); NaN where unseen."""

    sites: Index
    change: Array
    sigma: Array
    plain: Array
    shift_pm: Array
    shift_sigma_pm: Array


def _stacked(frames: Sequence[Frame], laid: Sequence[Laid]) -> _Readings:
    keys = np.concatenate([np.column_stack([one.cells, one.column]) for one in laid])
    sites, which, number = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    out = {name: np.full((len(sites), len(frames)), np.nan) for name in ("change", "sigma", "plain", "shift_sigma_pm")}
    out["shift_pm"] = np.full((len(sites), len(frames), 2), np.nan)
    start = 0
    for t, frame in enumerate(frames):
        own = which[start : start + len(frame.change)]
        for name, values in out.items():
            read = getattr(frame, name)
            values[own, t] = frame.change if read is None and name == "plain" else np.nan if read is None else read
        start += len(own)
    often = number > 1
    return _Readings(sites[often], **{name: values[often] for name, values in out.items()})


def _changes(read: _Readings, fdr: float) -> tuple[States, Happened]:
    """What intensities say."""
    column = read.sites[:, 2]
    states = through_time(read.change, read.sigma, column)
    plain = read.plain.copy()
    for one in np.unique(column):  # what all columns of a site have in common in a frame is no column's
        plain[column == one] -= np.nanmedian((plain - read.change)[column == one], axis=0)
    told, jumps = seen_plainly(single_events(states), plain)
    tracks = without(tracks_of(states, fdr), jumps)
    return states, Happened(tracks, told, how_striking(states, tracks, told))


def _extras(frames: Sequence[Frame], laid: Sequence[Laid], read: _Readings, sites_px: Array, fdr: float) -> Extras:
    """The extra columns that frames list, laid on the first frame by the site next to each."""
    number = {tuple(site): i for i, site in enumerate(read.sites.tolist())}
    home, at, chance = list[Array](), list[int](), list[float]()
    for t, (frame, one) in enumerate(zip(frames, laid, strict=True)):
        keys = map(tuple, np.column_stack([one.cells, one.column]).tolist())
        sites = np.array([number.get(key, -1) for key in keys])
        for place, likely in zip(_listed(frame.extra_px), _listed(frame.extra_chance), strict=True):
            away = np.where(sites < 0, np.inf, np.hypot(*(frame.places_px - place).T))
            nearest = int(away.argmin())
            home.append(sites_px[sites[nearest]] + place - frame.places_px[nearest])
            at.append(t)
            chance.append(float(likely))
    seen = np.isfinite(read.change)
    return follow_extras(np.array(home).reshape(-1, 2), np.array(at, np.int64), np.array(chance), sites_px, seen, fdr)


def _listed(values: Array | None) -> Array:
    return np.empty(0) if values is None else values


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
    read, first = _stacked(kept, laid), lattice_of(frames[0])
    cells, column = read.sites[:, :2], read.sites[:, 2]
    places = _places(cells, column, first)
    states, by_change = _changes(read, fdr)
    by_change, by_move = more_striking(by_change, moves_of(read.shift_pm, read.shift_sigma_pm, column, states, fdr))
    extras = _extras(kept, laid, read, places, fdr)
    other = [frame.frame for frame, one in zip(frames, found, strict=True) if one is None]
    n = len(column)
    tracks = [replace(track, site=n + track.site) for track in extras.tracks]
    events = [replace(event, site=n + event.site) for event in extras.events]
    return Followed(
        kept,
        laid,
        other,
        first,
        cells,
        column,
        [frames[0].site[c] for c in column.tolist()],
        np.isfinite(read.change),
        read.shift_pm,
        states,
        extras,
        by_change.tracks + by_move.tracks + tracks,
        sorted([*with_hops(by_change.events, places), *by_move.events, *events], key=lambda one: (one.at, one.site)),
    )
