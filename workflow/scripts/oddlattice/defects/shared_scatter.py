"""How bulk's places scatter, told by all kinds of columns of an image together.

What moves columns about (noise as the kernels know it, jitter of the scan) is common to all of them. So the scatter of
a kind is drawn to what its kernel and the other kinds say, by as much as the kinds agree beyond their sampling errors.
Source: random effects, DerSimonian and Laird 1986, doi:10.1016/0197-2456(86)90046-2; the weighted mean of covariances
is that of an inverse Wishart prior (Gelman et al., Bayesian Data Analysis, 3rd ed., sec. 3.6).
"""

from dataclasses import replace

import numpy as np

from oddlattice.defects.null import SiteColumns
from oddlattice.numerics.arrays import Array

LEAST_DOUBT = 0.03  # ASSUME: rms of ln(scatter over that by the kernel) between kinds of columns, at least


def with_shared_scatter(sites: list[SiteColumns]) -> list[SiteColumns]:
    """The same columns, judged with the scatter of displacements that all kinds tell together."""
    if len(sites) < 2:
        return sites
    freedom = np.array([site.null.shift_freedom for site in sites])
    shapes: list[Array] = [np.asarray(np.linalg.cholesky(site.kernel.covariance[1:, 1:])) for site in sites]
    over = np.array([_over(site.null.covariance, shape) for site, shape in zip(sites, shapes, strict=True)])
    return [_drawn(k, sites[k], shapes[k], freedom, over) for k in range(len(sites))]


def _over(covariance: Array, shape: Array) -> Array:
    """A covariance (2, 2) over that of which `shape` is the Cholesky factor."""
    inverse = np.linalg.inv(shape)
    return np.asarray(inverse @ covariance @ inverse.T)


def prior_of(values: Array, freedom: Array, own: int) -> tuple[float, float]:
    """What the others' `values` (n,), logarithms of a scatter, say of one: mean and degrees of freedom.

    A logarithm of the scatter in two dimensions that is known by f degrees of freedom has the variance 1 / (4 f).
    """
    sampled = 1 / (4 * freedom)
    weight = 1 / sampled
    heterogeneity = (weight * (values - np.average(values, weights=weight)) ** 2).sum() - (len(values) - 1)
    between = heterogeneity / (weight.sum() - (weight**2).sum() / weight.sum())
    between = max(float(between), LEAST_DOUBT**2)
    others = np.delete(np.arange(len(values)), own)
    weight = 1 / (sampled[others] + between)
    return float(np.average(values[others], weights=weight)), float(1 / (4 * (between + 1 / weight.sum())))


def _drawn(own: int, site: SiteColumns, shape: Array, freedom: Array, over: Array) -> SiteColumns:
    """One kind of columns judged by its own scatter and the others' together."""
    logs = np.log(np.linalg.det(over)) / 4
    mean, shared = prior_of(logs, freedom, own)
    others = np.delete(np.arange(len(logs)), own)
    direction = np.average(over[others] / np.sqrt(np.linalg.det(over[others]))[:, None, None], axis=0)
    direction /= np.sqrt(np.linalg.det(direction))
    told = np.exp(2 * mean) * shape @ direction @ shape.T
    null = site.null
    covariance = (freedom[own] * null.covariance + shared * told) / (freedom[own] + shared)
    return site.judged_in(replace(null, covariance=covariance, shared_freedom=shared))
