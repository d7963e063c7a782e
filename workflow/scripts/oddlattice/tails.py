"""Tails of distributions, by the special functions themselves: `scipy.stats` asks and checks a hundred times longer."""

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]


def normal_sf(level: Array | float) -> Array:
    """Part of a standard normal above `level`."""
    return np.asarray(special.ndtr(-np.asarray(level)))


def normal_isf(part: Array | float) -> Array:
    """Level with `part` of a standard normal above it."""
    return np.asarray(-special.ndtri(part))


def student_sf(level: Array | float, freedom: float) -> Array:
    """Part of Student's t above `level`."""
    return np.asarray(special.stdtr(freedom, -np.asarray(level)))


def fisher_sf(level: Array | float, above: float, below: float) -> Array:
    """Part of F with (`above`, `below`) degrees of freedom above `level`."""
    return np.asarray(special.fdtrc(above, below, level))


def pearson3_sf(level: Array | float, skewness: float) -> Array:
    """Part of Pearson's type III, mean 0, standard deviation 1, above `level`.

    A gamma distribution of shape 4 / skewness^2, moved and scaled; the normal where there is no skewness.
    """
    if skewness < 1e-5:
        return normal_sf(level)
    shape = 4 / skewness**2
    return np.asarray(special.gammaincc(shape, np.maximum(shape + np.sqrt(shape) * np.asarray(level), 0.0)))
