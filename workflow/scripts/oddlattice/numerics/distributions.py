"""Distributions, by the special functions themselves.

`scipy.stats` asks and checks a hundred times longer, and takes half a second of every job to load.
"""

import numpy as np
from scipy import special

from oddlattice.numerics.arrays import Array


def normal_sf(level: Array | float) -> Array:
    """Part of a standard normal above `level`."""
    return np.asarray(special.ndtr(-np.asarray(level)))


def normal_isf(part: Array | float) -> Array:
    """Level with `part` of a standard normal above it."""
    return np.asarray(-special.ndtri(part))


def normal_logpdf(off: Array | float, sigma: Array | float) -> Array:
    """Logarithm of the density of a normal of standard deviation `sigma`, `off` its middle."""
    return np.asarray(-0.5 * (np.asarray(off) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi))


def plane_logpdf(off: Array, covariance: Array) -> float:
    """Logarithm of the density of a normal in two dimensions, `off` (2,) its middle."""
    square = float(off @ np.linalg.solve(covariance, off))
    return -0.5 * square - 0.5 * float(np.linalg.slogdet(covariance)[1]) - float(np.log(2 * np.pi))


def clipped_std(cut: float) -> float:
    """Standard deviation of what is left of a standard normal between -cut and cut."""
    density = np.exp(-0.5 * cut**2) / np.sqrt(2 * np.pi)
    return float(np.sqrt(1 - 2 * cut * density / (2 * special.ndtr(cut) - 1)))


def chi2_cdf(level: float, freedom: float) -> float:
    """Part of chi-square with so many degrees of freedom below `level`."""
    return float(special.chdtr(freedom, level))


def skewness(values: Array) -> float:
    """Third central moment over the 3/2th power of the second."""
    off = values - values.mean()
    return float((off**3).mean() / (off**2).mean() ** 1.5)


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
    if abs(skewness) < 1e-5:
        return normal_sf(level)
    shape = 4 / skewness**2
    beyond = special.gammaincc if skewness > 0 else special.gammainc
    return np.asarray(beyond(shape, np.maximum(shape + np.sign(skewness) * np.sqrt(shape) * np.asarray(level), 0.0)))
