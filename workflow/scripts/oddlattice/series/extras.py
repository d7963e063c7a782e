"""Columns where the crystal has none: the places at which frames list extra columns, followed through the frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.series.events import Event, Track, nearest_distance, single_events, tracks_of
from oddlattice.series.states import EVENTS_AT_FIRST, ODD_AT_FIRST, PASSES, Rates, States, windows

SAME = 0.3  # of the distance between columns: extra columns so near to each other are one
EXTRA = ("extra",)
LISTED = 0.8, 2.0  # ASSUME: part of the frames that list an extra column that is there, and frames that this is worth


@dataclass(frozen=True)
class Extras:
    """Places at which frames list extra columns.

    Attributes
    ----------
    home_px : ndarray of shape (k, 2)
        In the first frame, by its lattice.
    near : ndarray of shape (k,), int
        The nearest site of each.
    tracks, events : list
        Their sites count these places.
    """

    home_px: Array
    near: Index
    tracks: list[Track]
    events: list[Event]


def gathered(home_px: Array, reach_px: float) -> Index:
    """Number (m,) of the place that each listed column belongs to; columns within `reach_px` of its first are one."""
    first, which = list[Array](), np.empty(len(home_px), np.int64)
    for i, place in enumerate(home_px):
        away = np.hypot(*(np.array(first).reshape(-1, 2) - place).T)
        if len(away) and away.min() <= reach_px:
            which[i] = int(away.argmin())
        else:
            which[i] = len(first)
            first.append(place)
    return which


def present(listed: Bools, seen: Bools, found: Array, false: float, rates: Rates) -> tuple[Array, Array]:
    """Chance (k, T) that an extra column is there, and (2, k, T) that it came or went between frames t - 1 and t.

    Parameters
    ----------
    listed, seen : ndarray of shape (k, T)
    found : ndarray of shape (k,)
        Part of the frames that list it while it is there.
    false : float
        Part of the frames that list it while it is not.
    """
    k, frames = listed.shape
    likely = np.stack([np.where(listed, false, 1 - false), np.where(listed, found[:, None], 1 - found[:, None])])
    likely = np.where(seen, likely, 1.0)
    step = np.array([[1 - rates.leaves, rates.leaves], [rates.returns, 1 - rates.returns]])
    forward, after = np.empty((frames, 2, k)), np.ones((2, k))
    now = np.array([1 - rates.odd, rates.odd])[:, None] * likely[:, :, 0]
    for t in range(frames):
        now = now if t == 0 else (step.T @ forward[t - 1]) * likely[:, :, t]
        forward[t] = now / now.sum(axis=0)
    there, moved = np.zeros((k, frames)), np.zeros((2, k, frames))
    for t in range(frames - 1, -1, -1):
        both = forward[t] * after
        there[:, t] = both[1] / both.sum(axis=0)
        if t:
            ahead = likely[:, :, t] * after
            after = step @ ahead
            whole = (forward[t - 1] * after).sum(axis=0)
            moved[0, :, t] = forward[t - 1, 0] * rates.leaves * ahead[1] / whole
            moved[1, :, t] = forward[t - 1, 1] * rates.returns * ahead[0] / whole
            after = after / after.sum(axis=0)
    return there, moved


def _states(listed: Bools, seen: Bools, sites: int, false: float) -> States:
    """States of places (k, T) among `sites` such places."""
    k, frames = listed.shape
    few = EVENTS_AT_FIRST / (sites * frames)
    rates, found = Rates(few, few, few, ODD_AT_FIRST / sites), np.full(k, LISTED[0])
    for _ in range(PASSES):
        there, moved = present(listed, seen, found, false, rates)
        number = [sum(len(windows(one.astype(np.float32))) for one in each) + EVENTS_AT_FIRST for each in moved]
        watched = float((there * seen).sum())
        odd = (float((there[:, 0] > 0.5).sum()) + ODD_AT_FIRST) / sites
        rates = Rates(number[0] / (sites * frames), min(number[1] / max(watched, 1.0), 0.3), few, min(odd, 0.5))
        weight = (there * seen).sum(axis=1) + LISTED[1]
        found = np.clip(((there * listed).sum(axis=1) + LISTED[0] * LISTED[1]) / weight, 0.05, 0.98)
    level, (came, went) = there.astype(np.float32), moved.astype(np.float32)
    never, nothing = np.zeros_like(level), np.zeros_like(there)
    return States(level[None], came, went, never, level, rates, nothing[:, 0], nothing, nothing, EXTRA)


def follow_extras(
    home_px: Array, frame: Index, chance: Array, sites_px: Array, sites_seen: Bools, fdr: float
) -> Extras:
    """Follow the extra columns that frames list.

    Parameters
    ----------
    home_px : ndarray of shape (m, 2)
        Where each listed extra column would lie in the first frame.
    frame : ndarray of shape (m,), int
        Index of its frame.
    chance : ndarray of shape (m,)
        Probability that it is real, by its frame alone.
    sites_px : ndarray of shape (n, 2)
    sites_seen : ndarray of shape (n, T), bool
        A place was seen where the nearest site was.
    fdr : float
        Part of the tracks listed that is false.
    """
    which = gathered(home_px, SAME * nearest_distance(sites_px))
    places = np.array([home_px[which == k].mean(axis=0) for k in range(which.max(initial=-1) + 1)]).reshape(-1, 2)
    near = np.array([int(np.hypot(*(sites_px - place).T).argmin()) for place in places], np.int64)
    listed = np.zeros((len(places), sites_seen.shape[1]), dtype=bool)
    listed[which, frame] = True
    false = max(float((1 - chance).sum()), ODD_AT_FIRST) / (len(sites_px) * listed.shape[1])
    states = _states(listed, sites_seen[near] | listed, len(sites_px), false)
    return Extras(places, near, tracks_of(states, fdr), _sure(single_events(states)))


def _sure(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.before != event.after]
