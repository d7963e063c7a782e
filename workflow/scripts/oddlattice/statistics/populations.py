"""Populations of a site: the intensities of its columns as a mixture, the number of components told by the data.

A doped, alloyed or reduced crystal has sites of several kinds in good number. Each component is a normal of its own
mean and scatter, widened by every column's own measurement error; a uniform background takes what belongs to none
(single defects). Components that overlap are one broad population: nothing can be said of a single column of it.

By hand and not by a library: scikit-learn's mixtures (51 MB) know no errors of single points and no background.
Source: Bovy et al. 2011, doi:10.1214/10-AOAS439 (errors); Fraley and Raftery 2002, doi:10.1198/016214502760047131
(background, number of components by BIC).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import betaincinv

from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.statistics.short_range_order import neighbours, short_range_order
from oddlattice.storage.rows import Row

MOST = 5  # components
FEWEST = 30  # columns: fewer tell no distribution
SAMPLE = 3000  # columns, evenly taken, by which the number of components is told
APART = 2.5  # least distance of neighbouring means, over the root mean square of their widths (Ashman's D)
BETTER = 6.0  # of BIC, for one more component
STARTS, TRIALS = 24, 3  # places of a further component; how many of them are tried
LEAST_WORTH = 0.125  # of a column, for the share of populations that are apart
PARTS = (0.002, 0.02, 0.2)  # its share at first
TRIAL_STEPS, STEPS, LAST_STEPS = 15, 300, 30
BINS = 60  # of the histogram of a site
SHELL = (0.6, 1.25)  # nearest neighbours, of the usual distance of the nearest
HALF = 0.5  # the bulk has more than this part of the columns
LEVELS = (0.68, 0.95)


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
    now, floor = start, 1e-3 * float(errors.mean()) + 1e-9
    for _ in range(steps):
        parts = now.parts(values, errors)
        total = parts.sum(axis=1)
        log_likelihood = float(np.log(np.maximum(total, 1e-300)).sum())
        member = parts / np.maximum(total, 1e-300)[:, None]
        number = np.maximum(member[:, :-1].sum(axis=0), 1e-9)
        variance = now.scatters**2 / (now.scatters**2 + errors[:, None] ** 2)
        true = now.means + variance * (values[:, None] - now.means)
        means = (member[:, :-1] * true).sum(axis=0) / number
        left = (true - means) ** 2 + variance * errors[:, None] ** 2
        scatters = np.maximum(np.sqrt((member[:, :-1] * left).sum(axis=0) / number), floor)
        rests = abs(log_likelihood - now.log_likelihood) < 1e-5 * abs(log_likelihood) + 1e-3
        now = _Mixture(member.mean(axis=0), means, scatters, now.height, log_likelihood)
        if rests:
            break
    return now


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


def _best(values: Array, errors: Array) -> _Mixture:
    """The mixture that BIC prefers among those whose components are apart."""
    # of what a single odd column may show: nothing to twice the usual, or all that is seen
    height = 1 / max(float(np.ptp(values)), 2 * abs(float(np.median(values))), 1e-12)
    now = _Mixture(np.array([1.0]), np.empty(0), np.empty(0), height, -np.inf)
    chosen, least, before = now, np.inf, np.inf
    for number in range(1, MOST + 1):
        now = _with_one_more(values, errors, now)
        bic = 3 * number * np.log(len(values)) - 2 * now.log_likelihood
        if bic > before - BETTER:
            break
        if number == 1 or (_is_apart(now, float(np.median(errors))) and bic < least - BETTER):
            chosen, least = now, bic
        before = bic
    return chosen


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
    found = _fitted(intensity, error, _best(intensity[some], error[some]), LAST_STEPS)
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


def population_rows(found: Populations) -> list[Row]:
    """Rows of products.POPULATIONS, without the keys of image, grain and site.

    Component 0 is the bulk; where there is none, components begin with 1. Means and scatters are parts of the bulk's
    mean, or of the given unit where there is none.
    """
    unit = found.components[0].mean if found.has_bulk else 1.0
    return [
        {
            "component": k if found.has_bulk else k + 1,
            "fraction": one.fraction,
            "fraction_low_68": one.interval_68[0],
            "fraction_high_68": one.interval_68[1],
            "fraction_low_95": one.interval_95[0],
            "fraction_high_95": one.interval_95[1],
            "mean_intensity": one.mean / unit,
            "scatter": one.scatter / unit,
            "n": one.n,
        }
        for k, one in enumerate(found.components)
    ]


def site_populations(columns: pl.DataFrame, pixel_nm: Array, seed: int) -> list[Row]:
    """The populations of every site of an image, their histogram, and whether unlike neighbours seek each other.

    Parameters
    ----------
    columns : polars.DataFrame
        The image's rows of products.COLUMNS.
    pixel_nm : ndarray of shape (2,)
        Along row and col.

    Returns
    -------
    list of dict
        ``grain, site, columns, reason, histogram, order`` and ``populations``: see `population_rows`.
    """
    rows: list[Row] = []
    for (grain, site), own in columns.drop_nulls("intensity_change").group_by("grain", "site", maintain_order=True):
        change, noise = (own[name].fill_null(0.0).to_numpy() for name in ("intensity_change", "intensity_noise"))
        intensity = np.asarray(1 + change, dtype=np.float64)
        found = find_populations(intensity, np.maximum(noise, 1e-6))
        unit = found.components[0].mean if found.has_bulk else 1.0
        low, high = np.quantile(intensity, [0.0005, 0.9995])
        counts, edges = np.histogram(np.clip(intensity, low, high) / unit, BINS, (low / unit, high / unit + 1e-9))
        places = own.select("row_px", "col_px").to_numpy().astype(np.float64) * pixel_nm
        row = {"grain": grain, "site": site, "columns": own.height, "reason": found.reason}
        row |= {"histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}
        row |= {"order": nearest_order(places, found.component != 0, seed) if found.has_bulk else {}}
        rows.append(row | {"populations": population_rows(found)})
    return rows


def population_table(image_id: str, sites: list[Row]) -> list[Row]:
    """Rows of products.POPULATIONS of an image, from `site_populations`."""
    return [
        {"image_id": image_id, "grain": site["grain"], "site": site["site"], **one}
        for site in sites
        for one in site["populations"]
    ]


def nearest_order(places_nm: Array, unlike: Bools, seed: int) -> Row:
    """Order of the columns that are not bulk over nearest neighbours of their site; empty where there are too few."""
    from scipy.spatial import cKDTree  # here, not above: few processes ask

    if len(places_nm) < FEWEST:
        return {}
    away = np.asarray(cKDTree(places_nm).query(places_nm, k=2)[0])
    usual = float(np.median(away[:, 1]))
    found = short_range_order(neighbours(places_nm, SHELL[0] * usual, SHELL[1] * usual), unlike, seed)
    return {} if found is None else {"unlike": int(unlike.sum()), **vars(found)}
