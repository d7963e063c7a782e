"""Do counts change with time, do groups differ? Poisson rates with exposure, dispersion taken seriously.

Images of one sample differ by more than counting noise wherever defects are not spread evenly. So every p-value and
interval is given for counting noise alone and for the scatter that the images themselves show, and the more cautious of
the two is the one to quote.

Holm's p-values by hand, not by `multipletests` of statsmodels 0.15: the same numbers, without 110 MB to load. Its
Poisson regression and its test of two rates know no dispersion beside the exact conditional test.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, special

from oddlattice.numerics.arrays import Array
from oddlattice.storage.rows import Row

FEW = 100  # with fewer defects than this the p-value is counted out in a simulation, not taken from the limit
SIMULATIONS = 9999
STEEPEST = 30.0  # a slope beyond exp(30) over the whole range is no number any more
LEVEL = 0.05  # of p-values whose slopes lie outside the interval
MOST_PAIRS = 66  # 12 groups: with more, each is compared with all others together


def _log_likelihood(slope: float, counts: Array, exposure: Array, x: Array) -> float:
    """Of a log-linear rate; the level is profiled out, as the whole number of defects is given."""
    weight = np.log(exposure) + slope * x
    top = float(weight.max())
    return float(slope * (counts * x).sum() - counts.sum() * (top + math.log(np.exp(weight - top).sum())))


def _expected(slope: float, counts: Array, exposure: Array, x: Array) -> Array:
    weight = np.log(exposure) + slope * x
    weight = np.exp(weight - weight.max())
    return np.asarray(counts.sum() * weight / weight.sum())


def trend(counts: Sequence[int], exposure: Sequence[float], x: Sequence[float], seed: int) -> Row:
    """Poisson regression: rate = level * exp(slope * x), with exposure.

    Parameters
    ----------
    counts : sequence of int
        Defects of each image.
    exposure : sequence of float
        Area of each image [nm^2]; positive.
    x : sequence of float
        Time or dose; at least two different values.
    seed : int
        Of the simulation that gives the p-value of few defects.

    Returns
    -------
    dict
        `slope` (per unit of x, of the logarithm of the rate); `ci_low`, `ci_high`: profile likelihood, cut where the
        p-value is 5 %, so that no slope lies outside exactly where it is below; None where the data do not bound it;
        `p_poisson` (likelihood ratio; simulated for few defects); `dispersion` (Pearson; None for fewer than 4 images);
        `p_value`: the larger of p_poisson and the F test with the dispersion. All None without defects.
    """
    n, area, place = (np.asarray(values, dtype=np.float64) for values in (counts, exposure, x))
    found: Row = dict.fromkeys(("slope", "ci_low", "ci_high", "p_poisson", "dispersion", "p_value"))
    span = float(np.ptp(place))
    if not n.sum() or not span:
        return found
    unit = (place - place.mean()) / span

    def fall(slope: float) -> float:
        return float((n - _expected(slope, n, area, unit)) @ unit)

    bounded = fall(-STEEPEST) > 0 > fall(STEEPEST)
    best = float(optimize.brentq(fall, -STEEPEST, STEEPEST)) if bounded else math.copysign(STEEPEST, fall(0))
    top = _log_likelihood(best, n, area, unit)
    ratio = max(2 * (top - _log_likelihood(0.0, n, area, unit)), 0.0)
    p_poisson, reach = _of_counting(ratio) if n.sum() >= FEW else _simulated(n, area, unit, ratio, seed)
    dispersion, p_value = None, p_poisson
    freedom = len(n) - 2
    if freedom >= 2:
        mean = _expected(best, n, area, unit)
        dispersion = float(((n - mean) ** 2 / np.maximum(mean, 1e-12)).sum() / freedom)
        if dispersion > 1:
            p_value = max(p_poisson, float(special.fdtrc(1, freedom, ratio / dispersion)))
            reach = max(reach, dispersion * float(special.fdtri(1, freedom, 1 - LEVEL)))
    ends = [_profile_end(sign, best, top, reach, n, area, unit) for sign in (-1, 1)]
    return {
        "slope": best / span if bounded else None,
        "ci_low": None if ends[0] is None else ends[0] / span,
        "ci_high": None if ends[1] is None else ends[1] / span,
        "p_poisson": p_poisson,
        "dispersion": dispersion,
        "p_value": p_value,
    }


def _profile_end(
    sign: int, best: float, top: float, reach: float, counts: Array, exposure: Array, x: Array
) -> float | None:
    def drop(slope: float) -> float:
        return 2 * (top - _log_likelihood(slope, counts, exposure, x)) - reach

    far = sign * STEEPEST
    if (abs(best) >= STEEPEST and best * sign > 0) or drop(far) < 0:
        return None
    return float(optimize.brentq(drop, min(best, far), max(best, far)))


def _of_counting(ratio: float) -> tuple[float, float]:
    """P-value of a likelihood ratio of many defects, and the ratio of which it is 5 %."""
    return float(special.chdtrc(1, ratio)), float(special.chdtri(1, LEVEL))


def _simulated(counts: Array, exposure: Array, x: Array, ratio: float, seed: int) -> tuple[float, float]:
    """The same when every defect falls into an image by its area alone, counted out.

    With the number of defects given, the ratio depends on sum(counts * x) alone and grows to both sides of its mean.
    """
    if ratio < 1e-9:
        return 1.0, float(special.chdtri(1, LEVEL))
    number, part = float(counts.sum()), exposure / exposure.sum()
    slopes = np.linspace(-STEEPEST, STEEPEST, 601)
    weight = part * np.exp(slopes[:, None] * x)
    sums = number * (weight @ x) / weight.sum(axis=1)
    root = np.sign(slopes) * np.sqrt(np.maximum(2 * (slopes * sums - number * np.log(weight.sum(axis=1))), 0.0))
    drawn = np.random.default_rng(seed).multinomial(int(number), part, SIMULATIONS) @ x
    of_drawn, seen = (np.abs(np.interp(at, sums, root)) for at in (drawn, float(counts @ x)))
    p_value = float((1 + np.count_nonzero(of_drawn >= seen * (1 - 1e-6))) / (SIMULATIONS + 1))
    reach = float(np.sort(of_drawn)[-int(LEVEL * (SIMULATIONS + 1))]) ** 2
    # drawn ratios are few different numbers: where the seen one is at the edge, its p-value decides
    return p_value, min(reach, ratio * (1 - 1e-6)) if p_value < LEVEL else max(reach, ratio * (1 + 1e-6))


def within_dispersion(groups: Sequence[tuple[Sequence[int], Sequence[float]]]) -> float | None:
    """Pearson's dispersion of counts about their group's rate; None for fewer than 2 degrees of freedom."""
    squares, freedom = 0.0, 0
    for counts, exposure in groups:
        n, area = np.asarray(counts, dtype=np.float64), np.asarray(exposure, dtype=np.float64)
        mean = n.sum() * area / area.sum()
        if n.sum():
            squares += float(((n - mean) ** 2 / mean).sum())
            freedom += len(n) - 1
    return squares / freedom if freedom >= 2 else None


def rate_ratio(first: tuple[float, float], second: tuple[float, float], dispersion: float = 1.0) -> Row:
    """Ratio of two Poisson rates, (count, exposure) each: the exact conditional test and its interval.

    Source: Przyborowski and Wilenski 1940, doi:10.1093/biomet/31.3-4.313; limits by Clopper and Pearson 1934. With a
    dispersion above 1 the counts carry so much less information: they are divided by it.

    Returns
    -------
    dict
        `ratio` of the first rate to the second (None where the second is 0), `ci_low`, `ci_high` (None: unbounded),
        `p_value` (two-sided, doubled tail).
    """
    (n1, area1), (n2, area2) = first, second
    scale = max(dispersion, 1.0)
    a, b = n1 / scale, n2 / scale
    if a + b == 0:
        return {"ratio": None, "ci_low": None, "ci_high": None, "p_value": 1.0}
    low = float(special.betaincinv(a, b + 1, 0.025)) if a else 0.0
    high = float(special.betaincinv(a + 1, b, 0.975)) if b else 1.0
    null = area1 / (area1 + area2)
    # binomial tails as beta probabilities, which counts divided by a dispersion have too
    at_least = float(special.betainc(a, b + 1, null)) if a else 1.0
    at_most = float(special.betaincc(a + 1, b, null)) if b else 1.0
    return {
        "ratio": (n1 / area1) / (n2 / area2) if n2 else None,
        "ci_low": low / (1 - low) * area2 / area1,
        "ci_high": high / (1 - high) * area2 / area1 if high < 1 else None,
        "p_value": min(1.0, 2 * min(at_least, at_most)),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold the chance of any false claim. Source: Holm 1979, Scand. J. Statist. 6, 65."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def compare(groups: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> list[Row]:
    """Every pair of groups compared (with many groups: each with all others together), p-values after Holm.

    Parameters
    ----------
    groups : mapping of str to (counts, areas)
        Defects and area [nm^2] of each image of a group.

    Returns
    -------
    list of dict
        first, second, ratio, ci_low, ci_high, p_value, p_holm, dispersion.
    """
    names = sorted(groups)
    spread = within_dispersion([groups[name] for name in names])
    total = {name: (float(sum(groups[name][0])), float(sum(groups[name][1]))) for name in names}
    pairs: list[tuple[str, str, tuple[float, float]]]
    if len(names) * (len(names) - 1) // 2 <= MOST_PAIRS:
        pairs = [(a, b, total[b]) for a, b in itertools.combinations(names, 2)]
    else:
        every = np.array(list(total.values())).sum(axis=0)
        pairs = [(a, "all others", (every[0] - total[a][0], every[1] - total[a][1])) for a in names]
    rows: list[Row] = [
        {"first": a, "second": b} | rate_ratio(total[a], other, spread or 1.0) | {"dispersion": spread}
        for a, b, other in pairs
    ]
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows
