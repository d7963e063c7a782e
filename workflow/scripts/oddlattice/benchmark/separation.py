"""How far defects stand out of bulk: areas, distances, recalls, and those of the ideal observer."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from oddlattice.numerics.arrays import Array

SATURATED = 0.01  # of wrongly ordered pairs: with fewer the area under the curve no longer tells d'


def auroc(bulk: Array, odd: Array) -> tuple[float, float]:
    """Area under the receiver operating curve, and its standard error.

    Ties count half. Source: DeLong et al. 1988, doi:10.2307/2531595.

    Parameters
    ----------
    bulk, odd : ndarray of shape (n,) and (m,)
        Scores; higher is odder.
    """
    ranks = stats.rankdata(np.concatenate([bulk, odd]))
    n, m = len(bulk), len(odd)
    of_odd = (ranks[n:] - stats.rankdata(odd)) / n
    of_bulk = 1 - (ranks[:n] - stats.rankdata(bulk)) / m
    error = np.sqrt((np.var(of_odd, ddof=1) / m if m > 1 else 0.25) + (np.var(of_bulk, ddof=1) / n if n > 1 else 0.25))
    return float(of_odd.mean()), float(error)


@dataclass(frozen=True)
class Separation:
    """How far defects of a kind stand out of bulk.

    Attributes
    ----------
    n_defects, n_bulk : int
    auroc, auroc_se : float
    dprime, dprime_se : float
        sqrt(2) times the normal deviate of the area, or, where fewer than SATURATED of the pairs are in the wrong
        order, the difference of the means over the standard deviation of bulk.
    parametric : bool
        Which of the two it is.
    """

    n_defects: int
    n_bulk: int
    auroc: float
    auroc_se: float
    dprime: float
    dprime_se: float
    parametric: bool


def separation(bulk: Array, odd: Array, parametric: bool | None = None) -> Separation:
    """AUROC and d' of scores; `parametric` forces one way of computing d'."""
    area, error = auroc(bulk, odd)
    saturated = 1 - area < SATURATED if parametric is None else parametric
    if saturated:
        spread = float(bulk.std(ddof=1)) + 1e-12
        dprime = float((odd.mean() - bulk.mean()) / spread)
        own = float(odd.var(ddof=1)) / spread**2 if len(odd) > 1 else 1.0
        se = np.sqrt(own / len(odd) + 1 / len(bulk) + dprime**2 / (2 * len(bulk)))
    else:
        deviate = float(stats.norm.ppf(np.clip(area, 1e-6, 1 - 1e-6)))
        dprime = np.sqrt(2) * deviate
        se = np.sqrt(2) * error / max(float(stats.norm.pdf(deviate)), 1e-6)
    return Separation(len(odd), len(bulk), area, error, float(dprime), float(se), bool(saturated))


def recall_at(bulk: Array, odd: Array, rate: float) -> tuple[int, float]:
    """Defects above the threshold that `rate` of bulk exceeds: their number, and the threshold itself.

    Scores tied with the threshold are not found: a method that gives most columns the same score gains nothing.
    """
    threshold = float(np.quantile(bulk, 1 - rate, method="higher"))
    return int((odd > threshold).sum()), threshold


def known_signal_scores(
    family: str, change: float, z_intensity: Array, shift_pm: Array, covariance_pm2: Array, direction: Array
) -> Array:
    """Scores of an observer who knows what to look for, as the ideal one does: sign, or direction of displacement.

    Parameters
    ----------
    z_intensity : ndarray of shape (n,)
    shift_pm : ndarray of shape (n, 2)
    covariance_pm2 : ndarray of shape (n, 2, 2)
    direction : ndarray of shape (n, 2)
        Unit vectors; used for displacements only.
    """
    if family != "displaced":
        return z_intensity * (1.0 if change > 0 else -1.0)
    weight = np.linalg.solve(covariance_pm2, direction[..., None])[..., 0]
    return np.asarray((weight * shift_pm).sum(-1) / np.sqrt((weight * direction).sum(-1)))


def recall_of_ideal(dprime: Array, rate: float) -> Array:
    """Recall of the ideal observer, who knows the signal, when `rate` of bulk is called odd."""
    return np.asarray(stats.norm.sf(stats.norm.isf(rate) - dprime))


def recall_of_search(dprime: Array, rate: float, shift_share: float, samples: int = 100_000, seed: int = 0) -> Array:
    """Recall of an ideal test that is told neither kind nor sign nor direction, for changes of intensity.

    Three independent standard normal estimates, intensity and two of displacement; the smaller p-value counts, of which
    `shift_share` of the false alarms are the displacement's.
    """
    draws = np.random.default_rng(seed).standard_normal((samples, 3))
    shift = -(draws[:, 1:] ** 2).sum(1) / 2 - np.log(2 * shift_share)

    def surprise(lift: float) -> Array:
        return -np.asarray(np.minimum(stats.norm.logsf(np.abs(draws[:, 0] + lift)) - np.log(1 - shift_share), shift))

    threshold = np.quantile(surprise(0.0), 1 - rate)
    return np.array([float((surprise(float(d)) > threshold).mean()) for d in np.ravel(dprime)])
