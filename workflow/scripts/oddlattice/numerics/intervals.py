"""Intervals of counts and proportions.

By hand, not by statsmodels 0.15 (`proportion_confint`, `confint_poisson`): it gives the same numbers to the last digit,
takes 1.2 s of processor and 110 MB to load in every job, and 150 to 300 times as long a call. scipy.stats takes half a
second to load.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, gammaincc, gammaincinv, ndtri  # not scipy.stats: three times as long to load


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion; (0, 1) without trials. Source: Wilson 1927, doi:10.1080/01621459.1927.10502953."""
    if n == 0:
        return 0.0, 1.0
    # by hand: scipy's binomtest finds a p-value too, which takes a hundred times as long
    z2, part = float(ndtri((1 + level) / 2)) ** 2, hits / n
    middle, half = part + z2 / (2 * n), np.sqrt(z2 * (part * (1 - part) + z2 / (4 * n)) / n)
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return (float(low) if hits else 0.0), (float(high) if hits < n else 1.0)


def poisson_interval(number: float, level: float = 0.95, dispersion: float | None = None) -> tuple[float, float]:
    """Exact interval of a Poisson mean. Source: Garwood 1936, doi:10.1093/biomet/28.3-4.437.

    Counts that scatter by a `dispersion` above 1 times what counting does tell so much less: they are divided by it.
    """
    tail, scale = (1 - level) / 2, max(dispersion or 1.0, 1.0)
    low = float(gammaincinv(number / scale, tail)) if number else 0.0
    return scale * low, scale * float(gammaincinv(number / scale + 1, 1 - tail))


def jeffreys_interval(number: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a Poisson mean that holds it as often as said on average; the exact one does so at least.

    Source: Brown, Cai and DasGupta 2003, Statistica Sinica 13, 19.
    """
    tail = (1 - level) / 2
    low = float(gammaincinv(number + 0.5, tail)) if number else 0.0
    return low, float(gammaincinv(number + 0.5, 1 - tail))


def weighted_poisson_interval(weights: npt.NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Interval of a sum of Poisson counts that stand for `weights` (n,) each.

    Source: Fay and Feuer 1997, doi:10.1002/(SICI)1097-0258(19970415)16:7<791::AID-SIM500>3.0.CO;2-#.
    """
    tail, total, spread = (1 - level) / 2, float(weights.sum()), float((weights**2).sum())
    most = float(weights.max(initial=1.0))
    low = float(gammaincinv(total**2 / spread, tail) * spread / total) if len(weights) else 0.0
    above, wider = total + most, spread + most**2
    return low, float(gammaincinv(above**2 / wider, 1 - tail) * wider / above)


def count_interval(mean: float, variance: float, most: int, level: float = 0.95) -> tuple[int, int]:
    """Interval of a whole number of at most `most`, of which mean and variance are known.

    Quantiles of a binomial, Poisson or negative binomial distribution, whichever has this mean and variance; a sum of
    independent events of different probability is close to the first.
    """
    if most <= 0 or mean <= 0:
        return 0, 0
    numbers = np.arange(most + 1, dtype=np.float64)
    if variance < 0.999 * mean:
        trials = mean**2 / (mean - variance)
        # a number of trials need not be whole: the binomial's tail is a beta probability
        below = np.where(
            numbers < trials, betainc(np.maximum(trials - numbers, 1e-9), numbers + 1, 1 - mean / trials), 1.0
        )
    elif variance > 1.001 * mean:
        size = mean**2 / (variance - mean)
        below = betainc(size, numbers + 1, size / (size + mean))
    else:
        below = gammaincc(numbers + 1, mean)
    low, high = (int(np.searchsorted(below, tail)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return min(low, most), min(high, most)
