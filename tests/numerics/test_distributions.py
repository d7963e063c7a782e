"""Tails by special functions, against scipy.stats."""

import numpy as np
import pytest
from scipy import stats

from oddlattice.numerics import distributions

LEVELS = np.linspace(-6, 30, 73)


@pytest.mark.parametrize("skewness", [0.0, 0.05, 0.3, 0.8])
def test_pearson_3(skewness: float) -> None:
    known = LEVELS[-1.9 / max(skewness, 1e-9) < LEVELS]
    np.testing.assert_allclose(
        distributions.pearson3_sf(known, skewness), stats.pearson3.sf(known, skewness), rtol=1e-8
    )


def test_beyond_its_end_all_of_a_leaning_distribution_lies_above() -> None:
    assert distributions.pearson3_sf(-2.6, 0.8) == 1.0


@pytest.mark.parametrize("freedom", [29, 500, 50_000])
def test_student_and_fisher(freedom: int) -> None:
    np.testing.assert_allclose(distributions.student_sf(LEVELS, freedom), stats.t.sf(LEVELS, freedom), rtol=1e-9)
    squares = LEVELS[12:] ** 2
    np.testing.assert_allclose(distributions.fisher_sf(squares, 2, freedom), stats.f.sf(squares, 2, freedom), rtol=1e-9)


def test_normal_there_and_back() -> None:
    np.testing.assert_allclose(distributions.normal_sf(LEVELS), stats.norm.sf(LEVELS), rtol=1e-12)
    np.testing.assert_allclose(distributions.normal_isf(distributions.normal_sf(LEVELS)), LEVELS, rtol=1e-6, atol=1e-9)


def test_densities_are_those_of_scipy() -> None:
    rng = np.random.default_rng(4)
    off, sigma = rng.normal(0, 3, 50), rng.random(50) + 0.1
    np.testing.assert_allclose(distributions.normal_logpdf(off, sigma), stats.norm.logpdf(off, 0, sigma), rtol=1e-12)
    covariance = np.array([[4.0, 1.0], [1.0, 0.5]])
    for place in rng.normal(0, 3, (10, 2)):
        expected = stats.multivariate_normal.logpdf(place, np.zeros(2), covariance)
        assert distributions.plane_logpdf(place, covariance) == pytest.approx(expected, rel=1e-12)


def test_small_statistics_are_those_of_scipy() -> None:
    assert distributions.clipped_std(2.5) == pytest.approx(stats.truncnorm.std(-2.5, 2.5), rel=1e-12)
    assert distributions.chi2_cdf(5.99, 4) == pytest.approx(stats.chi2.cdf(5.99, 4), rel=1e-12)
    values = np.random.default_rng(5).gamma(2.0, size=1000)
    assert distributions.skewness(values) == pytest.approx(stats.skew(values), rel=1e-12)
