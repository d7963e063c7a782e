"""What happened in a series: columns that changed, went back, hopped, and for how long each was odd."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Float, Index
from oddlattice.series.states import CLEAR, EVENTS_AT_FIRST, States, watched, windows

LISTED = 0.9  # least probability of an event that is listed
CANDIDATE = 0.25  # and of a track, whatever the others are
LEVEL = 0.95  # of the interval of an event's frame
BESIDE = 2  # frames that must show a column before and after a change that enters rates
AROUND = 5  # frames before and after an event, of which the plain readings are held against its step
AGREES = 0.5  # part of the step that they must show
NEIGHBOUR = 1.6  # times the distance to the nearest column: an atom hops no farther
BULK = "bulk"


@dataclass(frozen=True)
class Track:
    """A column that was odd from frame `first` to frame `last`, indices into the series' frames."""

    site: int
    first: int
    last: int
    kind: str
    probability: float
    change: float


@dataclass(frozen=True)
class Event:
    """Something that happened to a column between frame `at` - 1 and frame `at`, which lies in `low` to `high`.

    Attributes
    ----------
    event : str
        ``changes`` (into something odd), ``returns`` (to bulk) or ``hops``.
    site : int
    at, low, high : int
        Indices into the series' frames.
    probability : float
    before, after : str
        Kinds, or ``bulk``.
    step : float
        Change of the level.
    chance : ndarray of shape (T,)
        Probability of each frame.
    from_site : int
        Of a hop: where it came from; else -1.
    """

    event: str
    site: int
    at: int
    low: int
    high: int
    probability: float
    before: str
    after: str
    step: float
    chance: Float
    from_site: int = -1


def runs(mask: Bools) -> list[tuple[int, int]]:
    """First and last index of every run of True in (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def tracks_of(states: States, fdr: float) -> list[Track]:
    """Every column that was odd for a time; of those listed, a part of `fdr` is false.

    The likeliest are listed, for as long as one minus their mean probability is at most `fdr`.
    """
    odd, found = states.odd.sum(axis=0), []
    for site in np.flatnonzero(odd.max(axis=1) >= CANDIDATE).tolist():
        for first, last in runs(odd[site] > min(CLEAR, odd[site].max() / 2)):
            part = slice(first, last + 1)
            kind = states.kinds[int(states.odd[:, site, part].sum(axis=1).argmax())]
            change = float(states.level[site, part].mean())
            found.append(Track(site, first, last, kind, min(float(odd[site, part].max()), 1.0), change))
    falling = np.sort([track.probability for track in found])[::-1]
    listed = np.cumsum(1 - falling) <= fdr * np.arange(1, len(falling) + 1)
    return [track for track in found if track.probability >= falling[listed].min(initial=np.inf)]


def least_probability(tracks: Sequence[Track], fdr: float) -> float:
    """How likely one track more must be, to be listed beside those that are."""
    spent = sum(1 - track.probability for track in tracks)
    return max(CANDIDATE, 1 - fdr * (len(tracks) + 1) + spent)


def _kind_at(states: States, site: int, t: int) -> str:
    parts = states.odd[:, site, t]
    return BULK if parts.sum() < 0.5 else states.kinds[int(parts.argmax())]


def _quantiles(chance: Float, low: int) -> tuple[int, int, int]:
    """Median and interval of the frame (indices) of an event of these chances, the first of which is of frame `low`."""
    below = np.cumsum(chance) / chance.sum()
    at, a, b = (int(np.searchsorted(below, q - 1e-9)) for q in (0.5, (1 - LEVEL) / 2, (1 + LEVEL) / 2))
    last = len(chance) - 1
    return low + min(at, last), low + min(a, last), low + min(b, last)


def single_events(states: States) -> list[Event]:
    """Changes and returns of single columns that are likely enough to be listed."""
    found = []
    for name, chances in (("changes", states.leaves), ("returns", states.returns), ("changes", states.alters)):
        for site in np.flatnonzero(chances.sum(axis=1) >= LISTED).tolist():
            for low, high, mass in windows(chances[site]):
                if mass < LISTED:
                    continue
                at, a, b = _quantiles(chances[site, low : high + 1], low)
                before, after = max(a - 1, 0), b
                step = float(states.level[site, after] - states.level[site, before])
                kinds = _kind_at(states, site, before), _kind_at(states, site, after)
                chance = np.zeros(chances.shape[1], np.float32)
                chance[low : high + 1] = chances[site, low : high + 1]
                found.append(Event(name, site, at, a, b, mass, *kinds, step, chance))
    return sorted(found, key=lambda event: (event.at, event.site, event.event))


def seen_plainly(found: Sequence[Event], plain: Array) -> tuple[list[Event], list[Event]]:
    """Events that the plain readings (n, T) show, too, and the others: jumps of the readings.

    A strongly changed column is taken out of the readings beside it, where a frame lists it: these jump from a frame
    that lists it to one that does not. A plain reading does not; it only feels what happens beside it. Jumps have made
    events look more frequent than they are: what is not likely enough without that is left out, too.
    """
    told = [event for event in found if _plain_step(event, plain) * np.sign(event.step) >= AGREES * abs(event.step)]
    while True:
        rarer = (len(told) + EVENTS_AT_FIRST) / (len(found) + EVENTS_AT_FIRST)
        kept = [event for event in told if _at_rate(event.probability, rarer) >= LISTED]
        if len(kept) == len(told):
            break
        told = kept
    real = {id(event) for event in told}
    sure = [replace(event, probability=_at_rate(event.probability, rarer)) for event in told]
    return sure, [event for event in found if id(event) not in real]


def _at_rate(probability: float, factor: float) -> float:
    """Probability of an event if events are so many times as frequent."""
    return factor * probability / (factor * probability + max(1 - probability, 1e-9))


def _plain_step(event: Event, plain: Array) -> float:
    """Step of the plain readings (n, T) at an event; the event's own where they are not known."""
    before = plain[event.site, max(event.low - AROUND, 0) : event.low]
    after = plain[event.site, event.high : event.high + AROUND]
    if not (np.isfinite(before).any() and np.isfinite(after).any()):
        return event.step
    return float(np.nanmedian(after) - np.nanmedian(before))


def without(tracks: Sequence[Track], jumps: Sequence[Event]) -> list[Track]:
    """Tracks but for those that begin with a jump of the reading alone."""
    return [
        track
        for track in tracks
        if not any(jump.site == track.site and jump.low <= track.first <= jump.high for jump in jumps)
    ]


def with_hops(found: Sequence[Event], places: Array) -> list[Event]:
    """Events with those paired that are a hop: a column loses while a neighbour gains in the same interval.

    How likely a pair is one hop, not two events by chance, follows from how many others could have fallen so near in
    place and time; how often hops are, from the series itself.

    Parameters
    ----------
    found : sequence of Event
    places : ndarray of shape (n, 2)
        Of the sites [px].
    """
    pairs = _pairs(found, places)
    part = 0.2
    for _ in range(3):
        likely = [part / (part + chance) for chance, _, _ in pairs]
        part = (sum(p for p in likely if p > 0.5) + 0.1) / (len(found) + 1)
    taken, hops = set[int](), dict[int, Event]()
    for p, (_, left, came) in sorted(zip(likely, pairs, strict=True), key=lambda pair: -pair[0]) if pairs else []:
        both = p * found[left].probability * found[came].probability
        if both >= LISTED and not {left, came} & taken:
            taken |= {left, came}
            hops[came] = replace(found[came], event="hops", probability=both, from_site=found[left].site)
    return [hops.get(k, event) for k, event in enumerate(found) if k in hops or k not in taken]


def _pairs(found: Sequence[Event], places: Array) -> list[tuple[float, int, int]]:
    """Pairs of events that may be a hop: chance of such a neighbour by accident, where it left, where it came to.

    What is odd hops: the one that goes back to bulk has left, else the one that loses.
    """
    if len(found) < 2:
        return []
    reach = NEIGHBOUR * nearest_distance(places)
    at = places[[event.site for event in found]]
    per_site = np.pi * reach**2 / max(_area(places), reach**2)
    pairs = []
    for i, one in enumerate(found):
        for j in np.flatnonzero(np.hypot(*(at - at[i]).T) <= reach).tolist():
            other = found[j]
            if j == i or other.site == one.site or not one.step < 0 < other.step:
                continue
            same = float((one.chance * other.chance).sum() / (one.chance.sum() * other.chance.sum()))
            if same > 1e-6:
                chance = len(found) * per_site / (same * len(one.chance))
                left, came = (j, i) if other.event == "returns" and one.event != "returns" else (i, j)
                pairs.append((chance, left, came))
    return pairs


def nearest_distance(places: Array) -> float:
    """Typical distance of a column to the nearest one [px]."""
    some = places[:: max(1, len(places) // 200)]
    away = np.hypot(*(some[:, None] - places).transpose(2, 0, 1))
    away[away < 1e-6] = np.inf
    return float(np.median(away.min(axis=1)))


def _area(places: Array) -> float:
    return float(np.prod(np.ptp(places, axis=0)))


def counted(seen: Bools) -> Bools:
    """Whether a change between frames t - 1 and t (n, T) enters rates: `BESIDE` frames show the column on both sides.

    Fewer hardly ever make a change sure.
    """
    during, frames = watched(seen), seen.shape[1]
    padded = np.pad(during, [(0, 0), (BESIDE, BESIDE)])
    return np.asarray(during & padded[:, :frames] & padded[:, 2 * BESIDE - 1 : frames + 2 * BESIDE - 1])


def rate_of_changes(found: Sequence[Event], states: States, seen: Bools) -> tuple[int, float]:
    """Changes of bulk columns, and the intervals between frames (n, T) in which bulk columns could have changed."""
    asked, bulk = counted(seen), 1 - states.odd.sum(axis=0)
    own = [event for event in found if event.site < len(seen)]  # an extra column is no bulk column that changed
    left = [event for event in own if event.before == BULK and event.event != "returns"]
    return sum(bool(asked[event.site, event.at]) for event in left), float((bulk[:, :-1] * asked[:, 1:]).sum())


def nearest_track(tracks: Sequence[Track], site: int, at: int, *, ends: bool) -> Index:
    """Indices of the track of a site that begins, or where it `ends` ends, nearest to a frame; empty without."""
    own = [k for k, track in enumerate(tracks) if track.site == site]
    return np.array(
        sorted(own, key=lambda k: abs((tracks[k].last + 1 if ends else tracks[k].first) - at))[:1], np.int64
    )
