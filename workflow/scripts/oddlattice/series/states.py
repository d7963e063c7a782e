"""The state of every column through time: bulk or changed, by a hidden Markov model of its level.

A hidden state is a kind (bulk, odd) and a level (change of intensity, on a grid). A bulk level is the column's own.
Changes of kind draw a new level. How often they happen is counted in the series itself, from nearly never upwards, so
that a series in which nothing happens has no events.
Source: Rabiner 1989, doi:10.1109/5.18626 (forward and backward recursions).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Float, Index
from oddlattice.numerics.medians import robust_std

LEVELS = (-1.15, 1.5)  # changes that are told apart
STEP_SIGMA = 0.4  # step of the levels over a frame's noise
STEPS = (0.005, 0.04)  # least and largest step
WIDTH = 5.0  # bulk levels reach so many times the columns' own scatter
LEAST_ODD = 3.0  # times the scatter: smaller odd levels are all equally likely
DRIFT = 0.008  # ASSUME: standard deviation by which a level drifts in 100 frames: slow changes are no events
STRAY, STRAY_RANGE = 0.002, 3.0  # ASSUME: part of measurements that are wrong, and the range over which they lie
EVENTS_AT_FIRST = 0.01  # of each sort in the whole series, before any is counted
ODD_AT_FIRST = 0.5  # columns odd from the first frame, before any is counted
PASSES = 3
CLEAR = 0.5  # what is likelier than not is counted
AGAIN = 3.0  # times what is believed without looking: sites that show less are not asked again
BLOCK_BYTES = 64 << 20
LEAST_SITES = 30  # for a frame to tell its own noise
EMPTY, LIGHTER, HEAVIER = 0, 1, 2
KINDS = ("vacancy-like", "lighter", "heavier")


@dataclass(frozen=True)
class Rates:
    """Chances for a column and frame interval, and the part of columns odd from the first frame."""

    leaves: float
    returns: float
    alters: float
    odd: float


@dataclass(frozen=True)
class States:
    """What is known of n sites in T frames.

    Attributes
    ----------
    odd : ndarray of shape (K, n, T)
        Probability of each odd kind.
    leaves, returns, alters : ndarray of shape (n, T)
        Probability that a site left bulk, went back or became odd in another way between frame t - 1 and t.
    level : ndarray of shape (n, T)
        Expected change of intensity.
    rates : Rates
    scatter : ndarray of shape (n,)
        The columns' own scatter of each one's site.
    change, sigma : ndarray of shape (n, T)
        What was judged: changes from the middle of the site, frame by frame, and their standard errors; NaN where
        a site was not seen.
    kinds : tuple of str
        Names of the odd kinds.
    """

    odd: Float
    leaves: Float
    returns: Float
    alters: Float
    level: Float
    rates: Rates
    scatter: Array
    change: Array
    sigma: Array
    kinds: tuple[str, ...] = KINDS


def scaled_noise(change: Array, sigma: Array) -> Array:
    """Standard errors (n, T) as the changes between frames show them; NaN where a site was not seen.

    Noise is what a series shows it to be, frame by frame: one out of focus has more.
    """
    steps = np.diff(change, axis=1) / np.sqrt(sigma[:, 1:] ** 2 + sigma[:, :-1] ** 2)
    each = [steps[np.isfinite(steps[:, t]), t] for t in range(steps.shape[1])]
    common = robust_std(np.concatenate(each)) if sum(map(len, each)) >= LEAST_SITES else 1.0
    own = np.array([robust_std(one) if len(one) >= LEAST_SITES else common for one in each])
    beside = np.minimum(np.concatenate([own[:1], own]), np.concatenate([own, own[-1:]]))
    return np.asarray(sigma * np.maximum(beside, max(common, 0.3)))


def centred(change: Array, sigma: Array) -> tuple[Array, float]:
    """Changes (n, T) of one site from its middle, frame by frame, and its columns' own scatter."""
    mean = np.nanmedian(change, axis=1)
    change = change - np.nanmedian(change - mean[:, None], axis=0) - np.median(mean)
    frames = np.isfinite(change).sum(axis=1)
    noise2 = 1.5 * np.nanmedian(sigma) ** 2 / np.maximum(frames, 1)  # of a median: pi / 2 of that of a mean
    return change, float(np.sqrt(max(robust_std(mean) ** 2 - float(np.median(noise2)), 0.003**2)))


@dataclass(frozen=True)
class _Grid:
    levels: Float  # (L,)
    bulk: slice  # of levels
    of_bulk: Float  # chance of each bulk level
    of_odd: Float
    walk: float  # chance in a frame that a level moves by a step


def _grid(sigma: float, scatter: float, reach: tuple[float, float] = LEVELS) -> _Grid:
    step = min(max(STEP_SIGMA * sigma, STEPS[0]), STEPS[1])
    levels = step * np.arange(round(reach[0] / step), round(reach[1] / step) + 1)
    inside = np.flatnonzero(np.abs(levels) <= max(WIDTH * scatter, step) + 1e-9)
    chance = np.exp(-(levels[inside] ** 2) / (2 * max(scatter, step / 2) ** 2))
    # a change is as likely between 0.1 and 0.2 as between 0.2 and 0.4: small ones are the many
    of_odd = 1 / np.maximum(np.abs(levels), max(LEAST_ODD * scatter, step))
    bulk = slice(int(inside[0]), int(inside[-1]) + 1)
    return _Grid(
        levels.astype(np.float32),
        bulk,
        (chance / chance.sum()).astype(np.float32),
        (of_odd / of_odd.sum()).astype(np.float32),
        DRIFT**2 / 100 / step**2,
    )


def _emission(change: Array, sigma: Array, levels: Float) -> Float:
    """Likelihood (n, L) of each level for the changes (n,) of a frame, scaled; 1 where a site was not seen."""
    seen = np.isfinite(change)
    sigma = np.where(seen, sigma, 1.0).astype(np.float32)
    off = (np.where(seen, change, 0.0).astype(np.float32)[:, None] - levels) / sigma[:, None]
    likely = (1 - STRAY) * np.exp(-0.5 * off**2) + STRAY * np.sqrt(2 * np.pi) * sigma[:, None] / STRAY_RANGE
    return np.asarray(np.where(seen[:, None], likely, 1.0), dtype=np.float32)


def _walked(values: Float, walk: float) -> Float:
    """Probabilities (n, L) after a step to a neighbouring level with the chance `walk`; symmetric, the ends reflect."""
    out = (1 - walk) * values
    out[:, 1:] += walk / 2 * values[:, :-1]
    out[:, :-1] += walk / 2 * values[:, 1:]
    out[:, 0] += walk / 2 * values[:, 0]
    out[:, -1] += walk / 2 * values[:, -1]
    return np.asarray(out)


def _forward(change: Array, sigma: Array, grid: _Grid, rates: Rates) -> tuple[Float, Float]:
    """Filtered probabilities of bulk and odd levels, (T, n, B) and (T, n, L), each frame summing to 1."""
    n, frames = change.shape
    bulk = np.empty((frames, n, len(grid.of_bulk)), np.float32)
    odd = np.empty((frames, n, len(grid.levels)), np.float32)
    for t in range(frames):
        if t == 0:
            b = np.broadcast_to((1 - rates.odd) * grid.of_bulk, bulk[0].shape)
            o = np.broadcast_to(rates.odd * grid.of_odd, odd[0].shape)
        else:
            was_bulk = bulk[t - 1].sum(axis=1, keepdims=True)
            was_odd = odd[t - 1].sum(axis=1, keepdims=True)
            b = (1 - rates.leaves) * _walked(bulk[t - 1], grid.walk) + rates.returns * was_odd * grid.of_bulk
            stays = 1 - rates.returns - rates.alters
            o = (
                stays * _walked(odd[t - 1], grid.walk)
                + (rates.leaves * was_bulk + rates.alters * was_odd) * grid.of_odd
            )
        likely = _emission(change[:, t], sigma[:, t], grid.levels)
        bulk[t], odd[t] = b * likely[:, grid.bulk], o * likely
        total = bulk[t].sum(axis=1, keepdims=True) + odd[t].sum(axis=1, keepdims=True)
        bulk[t] /= total
        odd[t] /= total
    return bulk, odd


def _smoothed(change: Array, sigma: Array, grid: _Grid, rates: Rates) -> tuple[Float, Float, Float]:
    """Probability of kinds (3, n, T), of events (3, n, T: leaves, returns, alters), and expected levels (n, T)."""
    n, frames = change.shape
    bulk, odd = _forward(change, sigma, grid, rates)
    kinds, events = np.zeros((3, n, frames), np.float32), np.zeros((3, n, frames), np.float32)
    level = np.zeros((n, frames), np.float32)
    after_bulk = np.ones((n, bulk.shape[2]), np.float32)
    after_odd = np.ones((n, odd.shape[2]), np.float32)
    kind_of = np.select([grid.levels < -0.8, grid.levels < 0], [EMPTY, LIGHTER], HEAVIER)
    stays = 1 - rates.returns - rates.alters
    for t in range(frames - 1, -1, -1):
        b, o = bulk[t] * after_bulk, odd[t] * after_odd
        total = b.sum(axis=1) + o.sum(axis=1)
        level[:, t] = (b @ grid.levels[grid.bulk] + o @ grid.levels) / total
        for kind in (EMPTY, LIGHTER, HEAVIER):
            kinds[kind, :, t] = o[:, kind_of == kind].sum(axis=1) / total
        if t == 0:
            break
        likely = _emission(change[:, t], sigma[:, t], grid.levels)
        b, o = likely[:, grid.bulk] * after_bulk, likely * after_odd
        to_bulk, to_odd = b @ grid.of_bulk, o @ grid.of_odd
        was_bulk, was_odd = bulk[t - 1].sum(axis=1), odd[t - 1].sum(axis=1)
        leaves = rates.leaves * was_bulk * to_odd
        returns, alters = rates.returns * was_odd * to_bulk, rates.alters * was_odd * to_odd
        b = (1 - rates.leaves) * _walked(b, grid.walk) + rates.leaves * to_odd[:, None]
        o = stays * _walked(o, grid.walk) + (rates.returns * to_bulk + rates.alters * to_odd)[:, None]
        whole = (bulk[t - 1] * b).sum(axis=1) + (odd[t - 1] * o).sum(axis=1)
        events[:, :, t] = np.stack([leaves, returns, alters]) / whole
        scale = np.maximum(b.max(axis=1), o.max(axis=1))[:, None]
        after_bulk, after_odd = b / scale, o / scale
    return kinds, events, level


def _blocks(n: int, bytes_each: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // max(bytes_each, 1))
    return (slice(start, start + size) for start in range(0, n, size))


def windows(chance: Float) -> list[tuple[int, int, float]]:
    """When single events fell, by the chances (T,) of one: first, last and sum of those above `CLEAR`, best first."""
    left, found = chance.astype(np.float64), list[tuple[int, int, float]]()
    while True:
        peak = int(np.argmax(left))
        low = high = peak
        floor = 0.01 * left[peak]
        while low > 0 and left[low - 1] > floor and left[low : high + 1].sum() < 1:
            low -= 1
        while high < len(left) - 1 and left[high + 1] > floor and left[low : high + 1].sum() < 1:
            high += 1
        mass = float(left[low : high + 1].sum())
        if mass < CLEAR:
            return found
        found.append((low, high, min(mass, 1.0)))
        left[low : high + 1] = 0.0


def watched(seen: Bools) -> Bools:
    """When sites (n, T) were watched: from the first frame that shows each to the last one."""
    since = np.maximum.accumulate(seen, axis=1)
    until = np.maximum.accumulate(seen[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(since & until)


def _counted(kinds: Float, events: Float, seen: Bools) -> Rates:
    """Rates by what is clear in the series."""
    odd = kinds.sum(axis=0)
    frames_odd = float(odd[seen].sum())
    frames_bulk = max(float(seen.sum()) - frames_odd, 1.0)
    asked = [np.flatnonzero(one.sum(axis=1) > CLEAR) for one in events]
    number = [sum(len(windows(one[k])) for k in which) for one, which in zip(events, asked, strict=True)]
    leaves, returns, alters = (k + EVENTS_AT_FIRST for k in number)
    first = float((odd[np.arange(len(odd)), seen.argmax(axis=1)] > CLEAR).sum())
    return Rates(
        min(leaves / frames_bulk, 0.3),
        min(returns / max(frames_odd, frames_bulk / 100), 0.3),
        min(alters / max(frames_odd, frames_bulk / 100), 0.3),
        min((first + ODD_AT_FIRST) / len(odd), 0.5),
    )


def through_time(change: Array, sigma: Array, site: Index, levels: tuple[float, float] = LEVELS) -> States:
    """States of sites through the frames of a series.

    Parameters
    ----------
    change, sigma : ndarray of shape (n, T)
        Change of intensity and its standard error by noise; NaN where a site was not seen or not tested.
    site : ndarray of shape (n,), int
        Which columns share a scatter.
    levels : tuple of float
        Least and largest change that is told apart.
    """
    n, frames = change.shape
    change, sigma, scatter = change.copy(), sigma.copy(), np.zeros(n)
    for one in np.unique(site):
        own = site == one
        sigma[own] = scaled_noise(change[own], sigma[own])
        change[own], scatter[own] = centred(change[own], sigma[own])
    seen = np.isfinite(change)
    during = watched(seen)
    between = np.concatenate([np.zeros((n, 1), bool), during[:, :-1] & during[:, 1:]], axis=1)
    cells = max(float(seen.sum()), 1.0)
    rates = Rates(*(EVENTS_AT_FIRST / cells,) * 3, ODD_AT_FIRST / n)
    kinds, events = np.zeros((3, n, frames), np.float32), np.zeros((3, n, frames), np.float32)
    level, ask = np.zeros((n, frames), np.float32), np.ones(n, dtype=bool)
    for turn in range(PASSES):
        rates = _counted(kinds, events, seen) if turn else rates
        for one in np.unique(site):
            which = np.flatnonzero((site == one) & ask)
            if not which.size:
                continue
            grid = _grid(float(np.nanmedian(sigma[site == one])), float(scatter[site == one][0]), levels)
            for part in _blocks(len(which), frames * 4 * (len(grid.levels) + len(grid.of_bulk))):
                k = which[part]
                kinds[:, k], events[:, k], level[k] = _smoothed(change[k], sigma[k], grid, rates)
        # what happened before a site came into view or after it left is not known
        kinds, events = kinds * during, events * between
        ask = (events[0].sum(axis=1) > AGAIN * frames * rates.leaves) | (kinds.sum(axis=0).max(axis=1) > 1e-3)
    return States(kinds, events[0], events[1], events[2], level, rates, scatter, change, sigma)


def odd_under(change: Array, sigma: Array, scatter: float, rates: Rates) -> Float:
    """Probability (n, T) that columns of one site are odd, at rates that are known; arguments as `States` has them."""
    found = np.zeros(change.shape, np.float32)
    grid = _grid(float(np.nanmedian(sigma)), scatter)
    for part in _blocks(len(change), change.shape[1] * 4 * (len(grid.levels) + len(grid.of_bulk))):
        found[part] = _smoothed(change[part], sigma[part], grid, rates)[0].sum(axis=0)
    return found
