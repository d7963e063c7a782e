"""Populations of a site: the intensities of its columns as a mixture, the number of components told by the data.

A doped, alloyed or reduced crystal has sites of several kinds in good number. Each component is a normal of its own
mean and scatter, widened by every column's own measurement error; a uniform background takes what belongs to none
(single defects). Components that overlap are one broad population: nothing can be said of a single column of it.

By hand and not by a library: scikit-learn's mixtures (51 MB) know no errors of single points and no background.
Source: Bovy et al. 2011, doi:10.1214/10-AOAS439 (errors); Fraley and Raftery 2002, doi:10.1198/016214502760047131
(background, number of components by BIC).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy.special import betaincinv

from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.numerics.compiled import compiled

MOST = 5  # components
FEWEST = 30  # columns: fewer tell no distribution
SAMPLE = 3000  # columns, evenly taken, by which the number of components is told
APART = 2.5  # least distance of neighbouring means, over the root mean square of their widths (Ashman's D)
BETTER = 6.0  # of BIC, for one more component
SUSPECT, LESS = 0.3, (0.6, 0.36, 0.2)  # scatter that leaves errors in doubt; parts of them that are tried
STARTS, TRIALS = 24, 3  # places of a further component; how many of them are tried
LEAST_WORTH = 0.125  # of a column, for the share of populations that are apart
PARTS = (0.002, 0.02, 0.2)  # its share at first
TRIAL_STEPS, STEPS, LAST_STEPS = 15, 300, 30
UNLIKE, FAR, FEW_FAR = 1.6, 4.0, 0.004  # what is no more than one population: distance, deviates, part beyond them
HALF = 0.5  # the bulk has more than this part of the columns
LEVELS = (0.68, 0.95)
ROOT_2_PI = float(np.sqrt(2 * np.pi))


@dataclass(frozen=True)
class Component:
    """One population.

    Attributes
    ----------
    fraction : float
        Of the site's columns.
    interval_68, interval_95 : tuple of float
        Of the fraction.
    mean, scatter : float
        Of the intensities, measurement errors taken out.
    n : int
        Columns that most probably belong to it.
    """

    fraction: float
    interval_68: tuple[float, float]
    interval_95: tuple[float, float]
    mean: float
    scatter: float
    n: int


@dataclass(frozen=True)
class Populations:
    """The populations of one site, the bulk first where there is one, then by share.

    Attributes
    ----------
    components : list of Component
    component : ndarray of shape (n,), int
        Population of every column: its place in `components`, -1 for none.
    has_bulk : bool
        Whether the first one has more than half of the columns, its 95 % interval too.
    reason : str
        Why there is none or no bulk, "" otherwise.
    """

    components: list[Component]
    component: Index
    has_bulk: bool
    reason: str


@dataclass(frozen=True)
class _Mixture:
    """Weights (k + 1,), the background's last; means and scatters (k,); height of the background; log-likelihood."""

    weights: Array
    means: Array
    scatters: Array
    height: float
    log_likelihood: float

    def parts(self, values: Array, errors: Array) -> Array:
        """Weighted densities (n, k + 1) at values of known errors."""
        width = np.hypot(self.scatters, errors[:, None])
        normal = np.exp(distributions.normal_logpdf(values[:, None] - self.means, width))
        return np.asarray(self.weights * np.column_stack([normal, np.full(len(values), self.height)]))


def _fitted(values: Array, errors: Array, start: _Mixture, steps: int) -> _Mixture:
    """Expectation-maximisation from a start until the likelihood rests."""
    weights, means, scatters = start.weights.copy(), start.means.copy(), start.scatters.copy()
    floor = 1e-3 * float(errors.mean()) + 1e-9
    values, errors = (np.ascontiguousarray(some, dtype=np.float64) for some in (values, errors))
    likelihood = _climb(values, errors, weights, means, scatters, start.height, floor, steps, start.log_likelihood)
    return _Mixture(weights, means, scatters, start.height, likelihood)


@compiled(
    "float64(float64[::1], float64[::1], float64[::1], float64[::1], float64[::1], float64, float64, int64, float64)"
)
def _climb(
    values: Array,
    errors: Array,
    weights: Array,
    means: Array,
    scatters: Array,
    height: float,
    floor: float,
    steps: int,
    last: float,
) -> float:
    """Steps of expectation-maximisation, in place: weights (k + 1,), means and scatters (k,); the log-likelihood."""
    number, n = len(means), len(values)
    part = np.empty(number)
    for _ in range(steps):
        total, member, first, second = 0.0, np.zeros(number + 1), np.zeros(number), np.zeros(number)
        for i in range(n):
            everything = weights[number] * height
            for k in range(number):
                width = np.sqrt(scatters[k] ** 2 + errors[i] ** 2)
                part[k] = weights[k] * np.exp(-0.5 * ((values[i] - means[k]) / width) ** 2) / (width * ROOT_2_PI)
                everything += part[k]
            everything = max(everything, 1e-300)
            total += np.log(everything)
            member[number] += weights[number] * height / everything
            for k in range(number):
                its = part[k] / everything
                kept = scatters[k] ** 2 / (scatters[k] ** 2 + errors[i] ** 2)
                moved = kept * (values[i] - means[k])  # of the true value, from the mean
                member[k] += its
                first[k] += its * moved
                second[k] += its * (moved**2 + kept * errors[i] ** 2)
        for k in range(number):
            mean = first[k] / max(member[k], 1e-9)
            means[k] += mean
            scatters[k] = max(np.sqrt(max(second[k] / max(member[k], 1e-9) - mean**2, 0.0)), floor)
        weights[:] = member / n
        rests = abs(total - last) < 1e-5 * abs(total) + 1e-3
        last = total
        if rests:
            break
    return last


def _with_one_more(values: Array, errors: Array, now: _Mixture) -> _Mixture:
    """The best mixture with a further component, begun where it explains the most."""
    width = np.hypot(now.scatters.min(initial=np.std(values) / 2), errors)[:, None]
    even, crowded = (
        np.linspace(values.min(), values.max(), STARTS),
        np.quantile(values, np.linspace(0.01, 0.99, STARTS)),
    )
    places = np.unique(np.concatenate([even, crowded]))
    known = np.maximum(now.parts(values, errors).sum(axis=1, keepdims=True), 1e-300)
    ratio = np.exp(distributions.normal_logpdf(values[:, None] - places, width)) / known - 1
    gain = np.stack([np.log1p(part * ratio).sum(axis=0) for part in PARTS])
    tried = []
    for k in np.argsort(gain.max(axis=0))[-TRIALS:]:
        part = PARTS[int(gain[:, k].argmax())]
        weights = np.concatenate([(1 - part) * now.weights[:-1], [part, (1 - part) * now.weights[-1]]])
        scatters = np.append(now.scatters, now.scatters.min(initial=np.std(values) / 2))
        start = _Mixture(weights, np.append(now.means, places[k]), scatters, now.height, -np.inf)
        tried.append(_fitted(values, errors, start, TRIAL_STEPS))
    best: _Mixture = max(tried, key=lambda found: found.log_likelihood)
    return _fitted(values, errors, best, STEPS)


def _is_apart(found: _Mixture, error: float) -> bool:
    """Whether neighbouring components can be told from each other."""
    order = np.argsort(found.means)
    means, widths = found.means[order], np.hypot(found.scatters[order], error)
    return bool((np.diff(means) > APART * np.sqrt((widths[1:] ** 2 + widths[:-1] ** 2) / 2)).all())


def _best(values: Array, errors: Array) -> tuple[_Mixture, float]:
    """The mixture that BIC prefers among those whose components are apart, and its BIC."""
    # of what a single odd column may show: nothing to twice the usual, or all that is seen
    height = 1 / max(float(np.ptp(values)), 2 * abs(float(np.median(values))), 1e-12)
    now = _Mixture(np.array([1.0]), np.empty(0), np.empty(0), height, -np.inf)
    chosen, least, before = now, np.inf, np.inf
    for number in range(1, (1 if _looks_like_one(values) else MOST) + 1):
        now = _with_one_more(values, errors, now)
        bic = 3 * number * np.log(len(values)) - 2 * now.log_likelihood
        if bic > before - BETTER:
            break
        if number == 1 or (_is_apart(now, float(np.median(errors))) and bic < least - BETTER):
            chosen, least = now, bic
        before = bic
    return chosen, least


def _with_noise(values: Array, errors: Array) -> tuple[_Mixture, float]:
    """The best mixture, and the part of the errors that noise is: where many columns are changed, less than told.

    Errors are doubted where a population scatters by no more than they say, or one population is none to the eye.
    """
    (found, bic), part = _best(values, errors), 1.0
    narrow = found.scatters.min() < SUSPECT * float(np.median(errors))
    hidden = len(found.means) == 1 and not _looks_like_one(values)
    for less in LESS if hidden or (narrow and len(found.means) > 1) else ():
        other, better = _best(values, less * errors)
        if better < bic - BETTER:
            found, bic, part = other, better, less
        elif not hidden:
            break
    return found, part


def _spread_of_weights(values: Array, errors: Array, found: _Mixture) -> Array:
    """Standard errors (k,) of the weights, means and scatters being unknown too: from the scores of all columns."""
    parts = found.parts(values, errors)
    total = np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    density = parts / np.maximum(found.weights, 1e-12)
    by_weight = (density[:, :-1] - density[:, -1:]) / total
    variance = found.scatters**2 + errors[:, None] ** 2
    off = values[:, None] - found.means
    by_mean = parts[:, :-1] / total * off / variance
    by_scatter = parts[:, :-1] / total * (off**2 / variance - 1) * found.scatters / variance
    scores = np.concatenate([by_weight, by_mean, by_scatter], axis=1)
    scale = np.sqrt((scores**2).sum(axis=0)) + 1e-12
    information = (scores / scale).T @ (scores / scale) + 1e-6 * np.eye(scores.shape[1])
    # a background without columns tells no score; that the weights of all others are 1 together then, to a column, does
    k, n = len(found.means), len(values)
    lone = max(0.0, 1 - n * float(found.weights[-1])) * n**2
    information[:k, :k] += lone / (scale[:k, None] * scale[:k])
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(information)))[: len(found.means)] / scale[: len(found.means)])


def _interval(fraction: float, sigma: float, n: int, level: float) -> tuple[float, float]:
    """Interval of a fraction: beta, of as many columns as its standard error is worth, with Jeffreys' prior."""
    worth = float(np.clip(fraction * (1 - fraction) / max(sigma, 1e-9) ** 2, LEAST_WORTH * n, n))
    more, rest = worth * fraction + 0.5, worth * (1 - fraction) + 0.5
    low, high = (float(betaincinv(more, rest, tail)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return low, 1.0 if (1 - fraction) * n < 0.5 else high


def find_populations(intensity: Array, error: Array) -> Populations:
    """Decompose the intensities of one site's columns.

    Parameters
    ----------
    intensity, error : ndarray of shape (n,)
        Of every column, and its standard error by noise alone, in the same unit.
    """
    nothing = np.full(len(intensity), -1, dtype=np.int64)
    if len(intensity) < FEWEST:
        return Populations([], nothing, False, f"{len(intensity)} columns; at least {FEWEST} tell a distribution")
    some = slice(None, None, max(1, -(-len(intensity) // SAMPLE)))
    start, part = _with_noise(intensity[some], error[some])
    error = part * error
    found = _fitted(intensity, error, start, LAST_STEPS)
    sigma = _spread_of_weights(intensity, error, found)
    member = found.parts(intensity, error).argmax(axis=1)
    order = [int(k) for k in np.argsort(found.weights[:-1])[::-1]]
    components = []
    for k in order:
        fraction = float(found.weights[k])
        narrow, wide = (_interval(fraction, float(sigma[k]), len(intensity), level) for level in LEVELS)
        mean, scatter, n = float(found.means[k]), float(found.scatters[k]), int((member == k).sum())
        components.append(Component(fraction, narrow, wide, mean, scatter, n))
    place = np.append(np.argsort(order), -1)
    has_bulk = components[0].interval_95[0] > HALF
    reason = "" if has_bulk else f"no population has more than half: the largest {100 * components[0].fraction:.0f} %"
    return Populations(components, place[member], has_bulk, reason)


@dataclass(frozen=True)
class Bulk:
    """Which columns of a site are its bulk, by which the others are judged.

    Attributes
    ----------
    columns : ndarray of shape (n,), bool
        Of the largest population where there are several; else all of them.
    reason : str
        Why they are no bulk, "" where they are.
    """

    columns: Bools
    reason: str = ""


def bulk_of(intensity: Array, error: Array) -> Bulk:
    """The bulk of a site's columns, of intensities (n,) and their errors by noise (n,)."""
    everything = Bulk(np.ones(len(intensity), dtype=np.bool_))
    if len(intensity) < FEWEST:
        return everything
    found = find_populations(intensity, error)
    return everything if len(found.components) < 2 else Bulk(found.component == 0, found.reason)


def _looks_like_one(intensity: Array) -> bool:
    """Whether intensities (n,) are close to one normal distribution, but for a few: asked first, as it costs little."""
    centre = float(np.median(intensity))
    spread = 1.4826 * float(np.median(np.abs(intensity - centre))) + 1e-12
    off = np.sort((intensity - centre) / spread)
    n = len(off)
    below = 1 - distributions.normal_sf(off)
    away = float(np.abs(below - (np.arange(n) + 0.5) / n).max())  # Kolmogorov and Smirnov's
    return away < UNLIKE / np.sqrt(n) and int((np.abs(off) > FAR).sum()) <= FEW_FAR * n


def populations_by_site(columns: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, Populations]]:
    """The rows of products.COLUMNS of each site of each grain of an image, and its populations.

    Whether a site has a bulk was decided when its columns were tested: it has p-values then.
    """
    known = columns.filter(pl.col("intensity_change").is_not_null())
    for _, own in known.group_by("grain", "site", maintain_order=True):
        change, noise = (own[name].fill_null(0.0).to_numpy() for name in ("intensity_change", "intensity_noise"))
        found = find_populations(np.asarray(1 + change, dtype=np.float64), np.maximum(noise, 1e-6))
        has_bulk = bool(own["p_value"].is_not_null().any() and found.components)
        yield own, replace(found, has_bulk=has_bulk, reason="" if has_bulk else found.reason)


def with_population(columns: pl.DataFrame) -> pl.DataFrame:
    """Rows of products.COLUMNS of an image with the `population` of each: 0 the bulk, null where it is of none."""
    key = ["grain", "cell_u", "cell_v", "column"]
    told = [columns.head(0).select(key).with_columns(population=pl.lit(None, pl.Int64))]
    for own, found in populations_by_site(columns):
        number = found.component + (0 if found.has_bulk else 1)
        known = pl.Series("population", np.where(found.component < 0, -1, number), dtype=pl.Int64)
        told.append(own.select(key).with_columns(known.replace(-1, None)))
    return columns.drop("population", strict=False).join(pl.concat(told), on=key, how="left", maintain_order="left")
