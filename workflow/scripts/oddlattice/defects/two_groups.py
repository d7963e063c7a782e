"""How many of the listed columns are false, and which: the two-groups model of all tested columns.

Most tested columns are bulk, and their p-values are uniform; the others changed, and theirs crowd near 0. That a list
has a false-discovery rate of 5 % does not say how many of it are false: where each image's own few defects set its
threshold, some 0.05 x (defects + 1) are, image by image, not 0.05 x listed. The posterior of each column's group says
it for any list. Source: Efron 2008, doi:10.1214/07-STS236.

By hand and not by a library: statsmodels 0.15's `local_fdr` bends a polynomial through a histogram of all z values, for
which few defects are too few (of 1,500 columns 3 changed: 0.5 false expected beyond |z| = 3.6, where there were 2; of
180,000 columns 250: 31 and 47), knows neither kinds, images nor intervals, and weighs 65 MB. What changed is a mixture
of folded normals here, as in "adaptive shrinkage" (Stephens 2017, doi:10.1093/biostatistics/kxw041), none narrower than
the null: so the odds grow with z.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, ndtr

from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Bools, Index
from oddlattice.numerics.compiled import compiled
from oddlattice.storage.rows import Row

CANDIDATE = 2.0  # |z| from which a column is looked at by itself; the others are counted
BULK_BELOW = float(2 * ndtr(CANDIDATE) - 1)  # part of bulk whose |z| is smaller
SIZES = 2.0 * 1.25 ** np.arange(13)  # |z| that changes have on average, 2 to 29
SPREAD = 0.15  # of |z| about each of them, as a part of it, beside the null's own
PARTS = np.geomspace(1e-5, 0.3, 12)  # of an image's columns that changed: means of beta distributions
LIKENESS = 2.0  # their first parameter: they are about as wide as 0.7 of their means
UNLIKENESS = LIKENESS / PARTS - LIKENESS  # their second
PART_NORMS = betaln(LIKENESS, UNLIKENESS)
WARM_UP, DRAWS = 150, 400
SWEEPS, MANY = 1, 100_000  # between two draws where candidates are few; so many candidates are looked at in all of them
#: ASSUME: so many changed columns of each kind, alike in number at all SIZES, are taken as seen before any is: of a
#: size that others are of there may be none yet.
FORESEEN = 2.0
LEVELS = (0.68, 0.95)


@dataclass(frozen=True)
class Count:
    """A number that is not known exactly: its expectation, and intervals that hold it with 68 and 95 %."""

    expected: float
    low_68: float
    high_68: float
    low_95: float
    high_95: float


@dataclass(frozen=True)
class TwoGroups:
    """What the model says.

    Attributes
    ----------
    probability_real : ndarray of shape (n,)
        That a column changed.
    listed : ndarray of shape (m,), int
        Columns that are listed.
    false : ndarray of shape (draws, m), bool
        Whether a listed column is bulk after all, in draws from the posterior.
    """

    probability_real: Array
    listed: Index
    false: Bools

    @property
    def false_dispersion(self) -> float:
        """Variance of the number of false ones listed, over that of independent ones of these probabilities; from 1."""
        chance = self.probability_real[self.listed]
        independent = float((chance * (1 - chance)).sum())
        return max(float(self.false.sum(axis=1).var()) / independent, 1.0) if independent > 0 else 1.0

    def expected_false(self, chosen: Bools) -> Count:
        """How many of the listed ones among the `chosen` columns (n,) are false."""
        which = chosen[self.listed]
        number = self.false[:, which].sum(axis=1)
        tails = [tail for level in LEVELS for tail in ((1 - level) / 2, (1 + level) / 2)]
        bounds = [float(np.quantile(number, tail, method="lower" if tail < 0.5 else "higher")) for tail in tails]
        return Count(float((1 - self.probability_real[self.listed[which]]).sum()), *bounds)


class _Candidates(NamedTuple):
    """Columns looked at by themselves, and the numbers of the others; in the order in which `_sweep` takes them.

    Attributes
    ----------
    density : ndarray of shape (j, sizes)
        Of |z| for each size of change.
    null : ndarray of shape (j,)
        Density of |z| and kind of bulk.
    kind, image : ndarray of shape (j,), int
    others : ndarray of shape (images, kinds), int
    hidden : ndarray of shape (sizes,)
        Part of the changed columns of each size that is among the others.
    bulk_share : ndarray of shape (kinds,)
        Part of bulk of each kind.
    """

    density: Array
    null: Array
    kind: Index
    image: Index
    others: Index
    hidden: Array
    bulk_share: Array

    @classmethod
    def of(cls, size: Array, kind: Index, image: Index, of_bulk: Array) -> "_Candidates":
        """Of |z| (n,), kinds and images (n,) counted from 0; `of_bulk` (kinds,) as in `_sample`."""
        seen = size > CANDIDATE
        others = np.zeros((image.max() + 1, kind.max() + 1), dtype=np.int64)
        np.add.at(others, (image[~seen], kind[~seen]), 1)
        share = (others.sum(axis=0) + 0.5) / (others.sum() + 0.5 * others.shape[1])
        told = np.flatnonzero(np.isfinite(of_bulk))
        share[told] = of_bulk[told] / of_bulk[told].sum() * share[told].sum()
        null = bulk_density(size[seen]) * share[kind[seen]]
        return cls(changed_density(size[seen]), null, kind[seen], image[seen], others, changed_below(CANDIDATE), share)


class _Drawn(NamedTuple):
    """What the sweeps are filled into; in the order in which `_sweep` takes it.

    Attributes
    ----------
    chance : ndarray of shape (j,)
        That each candidate changed.
    false : ndarray of shape (draws, m), bool
        Which of the listed ones did not, in each draw.
    weights : ndarray of shape (kinds, sizes)
        On average; where the first sweep begins, on entry.
    parts : ndarray of shape (images,)
        Share of changed columns, on average.
    """

    chance: Array
    false: Bools
    weights: Array
    parts: Array


def bulk_density(size: Array) -> Array:
    """Density of |z| (n,) of bulk."""
    return np.asarray(2 * np.exp(distributions.normal_logpdf(size, 1.0)))


def changed_density(size: Array) -> Array:
    """Density of |z| (n,) of changed columns, for each of SIZES: folded normals; shape (n, sizes)."""
    width = np.hypot(1.0, SPREAD * SIZES)
    both = (np.exp(distributions.normal_logpdf(size[:, None] - sign * SIZES, width)) for sign in (1.0, -1.0))
    return np.asarray(sum(both))


def changed_below(level: float) -> Array:
    """Part of the changed columns of each of SIZES whose |z| is below a level; shape (sizes,)."""
    width = np.hypot(1.0, SPREAD * SIZES)
    return np.asarray(ndtr((level - SIZES) / width) - ndtr((-level - SIZES) / width))


def two_groups(
    p_value: Array,
    kind: npt.NDArray[np.generic],
    image: npt.NDArray[np.generic],
    listed: Bools,
    seed: int = 0,
    of_bulk: Mapping[str, float] | None = None,
) -> TwoGroups:
    """Which of all tested columns changed, by Gibbs sampling of the groups, the sizes of changes and their share.

    Every image has a share of its own, drawn from one distribution over the images; kinds have sizes of their own.
    One image alone will do: then little is known, and the intervals say so.

    Parameters
    ----------
    p_value : ndarray of shape (n,)
        Of every tested column, listed or not; uniform for bulk.
    kind : ndarray of shape (n,)
        What each column would be if it had changed (lighter, heavier, displaced); any labels.
    image : ndarray of shape (n,)
        Which image it is in; any labels.
    listed : ndarray of shape (n,), bool
    of_bulk : mapping, optional
        Shares of false alarms allowed to kinds; of other kinds they are counted where z is small.

    Returns
    -------
    TwoGroups
    """
    which = np.flatnonzero(listed)
    if not len(p_value):
        return TwoGroups(np.empty(0), which, np.empty((DRAWS, 0), dtype=np.bool_))
    size = distributions.normal_isf(np.clip(p_value, 1e-300, 1.0) / 2)
    names, of_kind = np.unique(kind, return_inverse=True)
    of_image = np.unique(image, return_inverse=True)[1]
    shares = np.array([(of_bulk or {}).get(str(name), np.nan) for name in names])
    order = np.lexsort((size, of_kind, of_image))  # that of the rows does not show
    place = np.argsort(order)
    chance, false = _sample(size[order], of_kind[order], of_image[order], place[which], shares, seed)
    return TwoGroups(chance[place], which, false)


@compiled(
    "void(npy_rng, int64, float64, int64[::1], int64[::1], float64[:, ::1], float64[::1], int64[::1], int64[::1], "
    "int64[:, ::1], float64[::1], float64[::1], float64[::1], boolean[:, ::1], float64[:, ::1], float64[::1])"
)
def _sweep(
    rng: np.random.Generator,
    sweeps: int,
    foreseen: float,
    listed: Index,
    columns: Index,
    density: Array,
    null: Array,
    kind: Index,
    image: Index,
    others: Index,
    hidden: Array,
    bulk_share: Array,
    mean_chance: Array,
    false: Bools,
    mean_weights: Array,
    mean_parts: Array,
) -> None:
    """Gibbs sampling of who changed, of the sizes of changes of each kind and of each image's share; fills `_Drawn`.

    Parameters
    ----------
    sweeps : int
        Between two draws.
    foreseen : float
        Changed columns of each kind and size that are taken as seen.
    listed : ndarray of shape (m,), int
        Which candidate each listed column is; -1: none.
    columns, density, null, kind, image, others, hidden, bulk_share : ndarray
        Columns (images,) of each image; the others of `_Candidates`.
    """
    weights, parts = mean_weights.copy(), np.full(len(columns), 0.01)
    prior, rounds = np.full(len(PARTS), 1 / len(PARTS)), len(false) * sweeps
    real, below = np.zeros(len(null), np.bool_), np.empty(density.shape[1])
    mean_weights[:] = 0
    for sweep in range(-WARM_UP, rounds):
        counts, changed = np.zeros(weights.shape), np.zeros(len(columns), np.int64)
        for j in range(len(null)):
            total = 0.0
            for size in range(len(below)):
                total += density[j, size] * weights[kind[j], size]
                below[size] = total
            odds = total * parts[image[j]] / ((1 - parts[image[j]]) * null[j])
            chance = odds / (1 + odds)
            real[j] = rng.random() < chance
            if real[j]:
                changed[image[j]] += 1
                size = min(int(np.searchsorted(below, rng.random() * total)), len(below) - 1)
                counts[kind[j], size] += 1
            if sweep >= 0:
                mean_chance[j] += chance / rounds
        if sweep >= 0:
            for k in range(len(listed)):
                false[sweep // sweeps, k] = listed[k] < 0 or not real[listed[k]]
            mean_weights += weights / rounds
            mean_parts += parts / rounds
        for k in range(len(weights)):  # of the others, which are looked at together
            _count_hidden(rng, others[:, k], parts, weights[k] * hidden, bulk_share[k] * BULK_BELOW, counts[k], changed)
        _draw_weights(rng, counts, foreseen, weights)
        _draw_parts(rng, changed, columns, prior, parts)


@compiled("void(npy_rng, int64[:], float64[::1], float64[::1], float64, float64[::1], int64[::1])")
def _count_hidden(
    rng: np.random.Generator, others: Index, parts: Array, hidden: Array, bulk: float, counts: Array, changed: Index
) -> None:
    """Changed columns drawn among the others of a kind: added to `counts` (sizes,) and to `changed` (images,)."""
    whole, left = hidden.sum(), 0
    for i in range(len(others)):
        odds = parts[i] * whole / ((1 - parts[i]) * bulk)
        number = rng.binomial(others[i], odds / (1 + odds))
        changed[i] += number
        left += number
    rest = whole
    for size in range(len(hidden)):  # a multinomial, one size after the other
        here = left if size == len(hidden) - 1 else rng.binomial(left, min(hidden[size] / max(rest, 1e-300), 1.0))
        counts[size] += here
        left, rest = left - here, rest - hidden[size]


@compiled("void(npy_rng, float64[:, ::1], float64, float64[:, ::1])")
def _draw_weights(rng: np.random.Generator, counts: Array, foreseen: float, weights: Array) -> None:
    """Fill the weights (kinds, sizes) of kinds and sizes, drawn by how many changed columns have them: Dirichlet's."""
    for k in range(weights.shape[0]):
        for size in range(weights.shape[1]):
            weights[k, size] = rng.standard_gamma(counts[k, size] + foreseen) + 1e-300
    weights /= weights.sum()


@compiled("void(npy_rng, int64[::1], int64[::1], float64[::1], float64[::1])")
def _draw_parts(rng: np.random.Generator, changed: Index, columns: Index, prior: Array, parts: Array) -> None:
    """Fill each image's share of changed columns (images,), and the mixture of PARTS that images have it from."""
    chosen, below = np.zeros(len(PARTS)), np.empty(len(PARTS))
    for i in range(len(parts)):
        more, least = changed[i] + LIKENESS, columns[i] - changed[i]
        for k in range(len(PARTS)):
            rest = least + UNLIKENESS[k]
            both = math.lgamma(more) + math.lgamma(rest) - math.lgamma(more + rest)
            below[k] = both - PART_NORMS[k] + np.log(prior[k])
        below = np.exp(below - below.max()).cumsum()
        k = min(int(np.searchsorted(below, rng.random() * below[-1])), len(PARTS) - 1)
        chosen[k] += 1
        parts[i] = min(max(rng.beta(more, least + UNLIKENESS[k]), 1e-9), 0.9)
    for k in range(len(prior)):
        prior[k] = rng.standard_gamma(chosen[k] + 1 / len(PARTS)) + 1e-300
    prior /= prior.sum()
    prior[:] = np.maximum(prior, 1e-12)


def _sample(size: Array, kind: Index, image: Index, listed: Index, of_bulk: Array, seed: int) -> tuple[Array, Bools]:
    """Chance (n,) that each column changed, and draws (draws, m) of which of the listed ones did not.

    `of_bulk` (kinds,): what part of bulk's most striking columns is of each kind; nan where it is to be counted.
    """
    seen, rng = _Candidates.of(size, kind, image, of_bulk), np.random.default_rng(seed)
    index, columns = np.flatnonzero(size > CANDIDATE), np.bincount(image)
    sweeps = int(np.clip(MANY // max(len(index), 1), 1, SWEEPS))
    at = np.full(len(size), -1)
    at[index] = np.arange(len(index))
    weights = np.full((len(seen.bulk_share), len(SIZES)), 1 / (len(seen.bulk_share) * len(SIZES)))
    drawn = _Drawn(
        np.zeros(len(index)), np.empty((DRAWS, len(listed)), dtype=np.bool_), weights, np.zeros(len(columns))
    )
    _sweep(rng, sweeps, FORESEEN / len(SIZES), at[listed], columns, *seen, *drawn)
    chance = np.zeros(len(size))
    chance[index] = drawn.chance
    rest = np.flatnonzero(size <= CANDIDATE)
    few = (changed_density(size[rest]) * drawn.weights[kind[rest]]).sum(axis=1) * drawn.parts[image[rest]]
    bulk = bulk_density(size[rest]) * seen.bulk_share[kind[rest]] * (1 - drawn.parts[image[rest]])
    chance[rest] = few / (few + bulk)
    return chance, drawn.false


def false_rows(found: TwoGroups, kind: npt.NDArray[np.str_], image: npt.NDArray[np.str_]) -> list[Row]:
    """Listed and expected false columns of each kind, of each image, and of all.

    Returns
    -------
    list of dict
        ``image_id`` and ``kind`` ("" for all of them), ``listed``, ``expected_false`` and its intervals.
    """
    everything = np.ones(len(kind), dtype=np.bool_)
    groups = [("", "", everything)]
    groups += [("", str(k), kind == k) for k in np.unique(kind[found.listed])]
    groups += [(str(i), "", image == i) for i in np.unique(image[found.listed])]
    rows: list[Row] = []
    for of_image, of_kind, chosen in groups:
        count = found.expected_false(chosen)
        rows.append(
            {"image_id": of_image, "kind": of_kind, "listed": int(chosen[found.listed].sum())}
            | {"expected_false": count.expected}
            | {f"expected_false_{name}": getattr(count, name) for name in ("low_68", "high_68", "low_95", "high_95")}
        )
    return rows
