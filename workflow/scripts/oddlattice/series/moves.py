"""Columns that move: the displacement of every column through time, each of its two directions followed by itself."""

from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Float, Index
from oddlattice.series.events import Event, Track, single_events, tracks_of
from oddlattice.series.states import EMPTY, States, through_time

UNIT_PM = 100.0  # that displacements are followed in
LEVELS = (-1.5, 1.5)  # displacements that are told apart
DISPLACED = ("displaced",)


@dataclass(frozen=True)
class Happened:
    """Tracks and events of one quantity, and how striking they make each site (n,) [standard errors]."""

    tracks: list[Track]
    events: list[Event]
    striking: Array

    def at(self, sites: Bools) -> "Happened":
        """What happened to some of the sites (n,)."""
        tracks = [track for track in self.tracks if sites[track.site]]
        return Happened(tracks, [event for event in self.events if sites[event.site]], self.striking)


def how_striking(states: States, tracks: list[Track], events: list[Event]) -> Array:
    """How far each site (n,) was from bulk, or its step from one level to another, over the errors of both."""
    found = np.zeros(len(states.sigma))
    for track in tracks:
        noise = np.nanmedian(states.sigma[track.site]) / np.sqrt(track.last - track.first + 1)
        far = abs(track.change) / np.hypot(states.scatter[track.site], noise)
        found[track.site] = max(found[track.site], far)
    for event in events:
        far = abs(event.step) / np.nanmedian(states.sigma[event.site])
        found[event.site] = max(found[event.site], far)
    return found


def moves_of(shift_pm: Array, sigma_pm: Array, site: Index, by_change: States, fdr: float) -> Happened:
    """Columns that were displaced for a time, and when they moved.

    Parameters
    ----------
    shift_pm : ndarray of shape (n, T, 2)
        Displacements (row, col); NaN where a site was not seen.
    sigma_pm : ndarray of shape (n, T)
        Their standard errors in each direction.
    site : ndarray of shape (n,), int
    by_change : States
        What intensities say: an emptied column has no place.
    fdr : float
        Part of the tracks that is false.
    """
    there = by_change.odd[EMPTY] < 0.5
    sigma = np.where(there, sigma_pm, np.nan) / UNIT_PM
    shifts = np.where(there[..., None], shift_pm, np.nan) / UNIT_PM
    often = np.flatnonzero(np.isfinite(sigma).sum(axis=1) > 1)
    if not often.size:
        return Happened([], [], np.zeros(len(site)))
    each = [through_time(shifts[often, :, k], sigma[often], site[often], LEVELS) for k in range(2)]
    states = _either(each, len(site), often)
    tracks, events = tracks_of(states, fdr), single_events(states)
    return Happened(tracks, events, how_striking(states, tracks, events))


def _either(each: list[States], n: int, often: Index) -> States:
    """States of `n` sites of which `often` were asked, that moved in one direction or the other."""
    row, col = each

    def whole(values: Array, fill: float = 0.0) -> Array:
        out = np.full((n, *values.shape[1:]), fill)
        out[often] = values
        return out

    def union(a: Float, b: Float) -> Float:
        return whole(1 - (1 - a.astype(np.float64)) * (1 - b)).astype(np.float32)

    return States(
        odd=union(row.odd.sum(axis=0), col.odd.sum(axis=0))[None],
        leaves=union(row.leaves, col.leaves),
        returns=union(row.returns, col.returns),
        alters=union(row.alters, col.alters),
        level=whole(np.hypot(row.level, col.level).astype(np.float64)).astype(np.float32),
        rates=row.rates,
        scatter=whole(np.hypot(row.scatter, col.scatter) / np.sqrt(2)),
        change=whole(np.hypot(row.change, col.change), np.nan),
        sigma=whole((row.sigma + col.sigma) / 2, np.nan),
        kinds=DISPLACED,
    )


def more_striking(by_change: Happened, by_move: Happened) -> tuple[Happened, Happened]:
    """Either with the sites at which it is the more striking: a column that moved far reads as one that lost a part."""
    changed = by_change.striking >= by_move.striking
    return by_change.at(changed), by_move.at(~changed)
