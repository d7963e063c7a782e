"""How probable each kind of defect is for a changed column."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from oddlattice.defects.noise import Noise
from oddlattice.lattice.columns import (
    ColumnShape,
    peak_at,
    window_of_cell,
    window_offsets,
)
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array

CORE_BELOW, LEAST_TAIL = -0.4, 0.02  # where the core is asked too; a weaker tail cannot be told from it
EMPTY_BELOW = -0.8  # a column that lost more than this is vacancy-like: Ti in place of Sr takes away about 0.65
CERTAIN = 0.6  # a kind less probable than this is unknown
PRIOR_CHANGE, PRIOR_SHIFT_PM = 0.5, 40.0  # ASSUME: spread of the changes that defects make
PRIOR_MODELS = (0.5, 0.4, 0.1)  # ASSUME: intensity only, displacement only, both


def kind_probabilities(
    change: float, change_sigma: float, shift_pm: Array, covariance_pm2: Array, far: bool = False
) -> dict[str, float]:
    """Probability of each kind, from the evidence of three models: intensity changed, column moved, both.

    Each model's parameters have a normal prior; the evidence is that of normal estimates. An intensity change is split
    at EMPTY_BELOW and 0 by its posterior. What has done both is told by its intensity; if it moved `far`, to a place
    between two sites, by that.
    """
    s2 = change_sigma**2
    wide = covariance_pm2 + PRIOR_SHIFT_PM**2 * np.eye(2)
    log_change = (
        distributions.normal_logpdf(change, change_sigma),
        distributions.normal_logpdf(change, np.hypot(change_sigma, PRIOR_CHANGE)),
    )
    log_shift = tuple(distributions.plane_logpdf(shift_pm, c) for c in (covariance_pm2, wide))
    log_models = np.log(PRIOR_MODELS) + np.array(
        [log_change[1] + log_shift[0], log_change[0] + log_shift[1], log_change[1] + log_shift[1]]
    )
    models = np.exp(log_models - log_models.max())
    models /= models.sum()
    shrink = PRIOR_CHANGE**2 / (PRIOR_CHANGE**2 + s2)
    below = distributions.normal_sf((shrink * change - np.array([EMPTY_BELOW, 0.0])) / np.sqrt(shrink * s2))
    by_intensity = float(models[0] + (0.0 if far else models[2]))
    return {
        "vacancy-like": by_intensity * float(below[0]),
        "lighter": by_intensity * float(below[1] - below[0]),
        "heavier": by_intensity * float(1 - below[1]),
        "displaced": float(models[1] + (models[2] if far else 0.0)),
    }


def core_change(
    window: Array, valid: npt.NDArray[np.bool_], shape: ColumnShape, noise: Noise, response: float
) -> tuple[float, float]:
    """Change of a column's core alone, its tail being left free, and its error over that of the whole column's change.

    Real images have more under a column than its own tail; a column is empty when its core is gone.
    """
    sigma = np.where(valid, window_of_cell(noise.sigma, shape), np.inf)
    du, dv = window_offsets(shape)
    core = peak_at(replace(shape, tail_weight=0.0), du, dv)
    both = np.stack([core, peak_at(shape, du, dv) - core]).reshape(2, -1) / sigma.ravel()
    normal = both @ both.T
    found = np.linalg.solve(normal, both @ (window / response / sigma).ravel())
    return float(found[0]), float(np.sqrt(np.linalg.inv(normal)[0, 0] * normal.sum()))


def count_as_empty(chances: dict[str, float], empty: float) -> None:
    """Let what is counted as lighter be vacancy-like as far as the column's core is gone."""
    lost = chances["vacancy-like"] + chances["lighter"]
    chances["vacancy-like"] = max(chances["vacancy-like"], empty * lost)
    chances["lighter"] = lost - chances["vacancy-like"]
