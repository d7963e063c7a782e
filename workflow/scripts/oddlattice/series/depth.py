"""How small a loss a series shows: trial losses put into its own columns."""

from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Index
from oddlattice.series.events import least_probability
from oddlattice.series.follow import Followed
from oddlattice.series.states import CLEAR, Rates, odd_under

COLUMNS = 100  # that losses are put into, of each site
LEAST_COLUMNS = 20
FOUND = 0.9  # part of the trial losses
STEPS = 7  # halvings of the range of losses: to within 1 %


@dataclass(frozen=True)
class Depth:
    """Smallest loss that a series shows.

    Attributes
    ----------
    site : str
    columns : int
        That losses were put into.
    loss_90 : float or None
        Found nine times in ten in a column that is odd in all frames, fraction of a bulk column; None where not even
        a whole column is.
    noise, scatter : float
        Standard deviation of a change by a frame's noise, and between columns in the mean of all frames.
    """

    site: str
    columns: int
    loss_90: float | None
    noise: float
    scatter: float


def _smallest(change: Array, sigma: Array, scatter: float, rates: Rates, least: float) -> float | None:
    """Smallest loss that is listed in nine of ten of the columns (n, T), being `least` likely; by halving."""

    def part_found(loss: float) -> float:
        odd = odd_under(change - loss, sigma, scatter, rates)
        return float((odd.max(axis=1) >= least).mean())

    if part_found(1.0) < FOUND:
        return None
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if part_found(middle) >= FOUND else (middle, high)
    return high


def depths(series: Followed, fdr: float, seed: int) -> list[Depth]:
    """The depth of each site, by losses put into columns that are bulk in all frames, at the rates of the series.

    `fdr` is that of the list of tracks.
    """
    states, rng = series.states, np.random.default_rng(seed)
    least = least_probability(series.tracks, fdr)
    bulk = (states.odd.sum(axis=0).max(axis=1) < CLEAR) & (series.seen.mean(axis=1) > 0.5)
    found = []
    for name in sorted(set(series.site)):
        of_site: Index = np.flatnonzero(bulk & (np.array(series.site) == name))
        if len(of_site) < LEAST_COLUMNS:
            continue
        some = np.sort(rng.permutation(of_site)[:COLUMNS])
        change, sigma, scatter = states.change[some], states.sigma[some], float(states.scatter[some[0]])
        loss = _smallest(change, sigma, scatter, states.rates, least)
        found.append(Depth(name, len(some), loss, float(np.nanmedian(sigma)), scatter))
    return found
