"""How long columns stay bulk: the part of them that has not changed yet, against frame."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.series.follow import Followed

LEVEL = 0.95


@dataclass(frozen=True)
class Survival:
    """Part of the columns that are bulk in the first frame and have not left it, (T,) each, with its interval."""

    part: Array
    low: Array
    high: Array  # NaN, both, before the first change: there the interval is not defined


def survival(grains: Sequence[Followed], numbers: Index) -> Survival | None:
    """Kaplan-Meier estimate of the part of columns that stay bulk; None where no column is bulk in the first frame.

    A column is watched from the first frame to its first listed change, or to the last frame that shows it. Interval:
    log-log. Source: Kaplan and Meier 1958, doi:10.1080/01621459.1958.10501452.

    Parameters
    ----------
    grains : sequence of Followed
        Of one stack; those that the first frame shows are counted.
    numbers : ndarray of shape (T,), int
        The frames in use.
    """
    from scipy.stats import CensoredData, ecdf  # half a second to load, and few shards hold a stack

    watched = [_watched(one, numbers) for one in grains if one.frames[0].frame == numbers[0]]
    if not any(len(at) for at, _ in watched):
        return None
    at, observed = (np.concatenate(each) for each in zip(*watched, strict=True))
    found: Any = ecdf(CensoredData(uncensored=at[observed], right=at[~observed])).sf
    times = np.arange(len(numbers))
    part = np.asarray(found.evaluate(times), dtype=np.float64)
    if not observed.any():
        return Survival(part, np.full(len(times), np.nan), np.full(len(times), np.nan))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        between = found.confidence_interval(LEVEL, method="log-log")
    low, high = (np.asarray(one.evaluate(times), dtype=np.float64) for one in (between.low, between.high))
    before = times < at[observed].min()
    low[before] = high[before] = np.nan
    return Survival(part, low, high)


def _watched(series: Followed, numbers: Index) -> tuple[Index, Bools]:
    """Of the columns that are bulk in the first frame: until which of the frames each is watched, and if it changes."""
    begins = series.seen[:, 0] & (series.states.odd[:, :, 0].sum(axis=0) < 0.5)
    frames = series.seen.shape[1]
    last = frames - 1 - np.argmax(series.seen[:, ::-1], axis=1)
    left = {
        event.site: event.at for event in reversed(series.events) if event.before == "bulk" and event.site < len(begins)
    }
    changed = np.array([k in left for k in range(len(begins))], dtype=bool)
    at = np.array([left.get(k, last[k]) for k in range(len(begins))])
    of_stack = np.searchsorted(numbers, list(series.index_of))
    return of_stack[at[begins]], changed[begins]
