"""Trends and comparisons of rates: hand-computed cases and simulations of known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from oddlattice.statistics import poisson


def test_a_doubling_from_one_image_to_the_next_is_the_slope() -> None:
    # two images of one area: the maximum-likelihood slope is the logarithm of the counts' ratio, exactly
    found = poisson.trend([100, 200], [50.0, 50.0], [0.0, 10.0], seed=1)
    assert found["slope"] == pytest.approx(math.log(2) / 10, rel=1e-6)
    # likelihood ratio of 100 : 200 against 150 : 150, by hand
    ratio = 2 * (100 * math.log(100 / 150) + 200 * math.log(200 / 150))
    assert found["p_poisson"] == pytest.approx(stats.chi2.sf(ratio, 1), rel=1e-6)
    assert found["ci_low"] < found["slope"] < found["ci_high"]
    assert found["dispersion"] is None


def test_exposure_is_no_trend() -> None:
    found = poisson.trend([10, 20, 40, 80], [1.0, 2.0, 4.0, 8.0], [0, 1, 2, 3], seed=1)
    assert found["slope"] == pytest.approx(0.0, abs=1e-9)
    assert found["p_value"] == pytest.approx(1.0)


def test_without_defects_or_with_one_time_there_is_no_trend() -> None:
    assert poisson.trend([0, 0, 0], [1.0] * 3, [0, 1, 2], seed=1)["p_value"] is None
    assert poisson.trend([3, 4], [1.0] * 2, [5, 5], seed=1)["slope"] is None


def test_all_defects_in_the_last_image_bound_the_slope_on_one_side_only() -> None:
    found = poisson.trend([0, 0, 12], [1.0] * 3, [0, 1, 2], seed=1)
    assert found["slope"] is None and found["ci_high"] is None and found["ci_low"] > 0
    assert found["p_value"] < 0.001


@pytest.mark.parametrize(("slope", "spread"), [(0.0, 0.0), (0.15, 0.0), (0.0, 0.5)])
def test_trends_of_known_slope(slope: float, spread: float) -> None:
    """Intervals cover, and chance alone, with images that differ by more than counting noise too, is no trend."""
    rng = np.random.default_rng(3)
    x = np.arange(10.0)
    covered, claimed, n = 0, 0, 200
    for _ in range(n):
        level = 12 * np.exp(slope * (x - 4.5)) * (rng.gamma(1 / spread**2, spread**2, 10) if spread else 1)
        found = poisson.trend(rng.poisson(level).tolist(), [1.0] * 10, x.tolist(), seed=1)
        covered += found["ci_low"] <= slope <= found["ci_high"]
        claimed += found["p_value"] < 0.05
    assert 0.90 <= covered / n <= 0.995
    if slope:
        assert claimed / n > 0.95
    else:
        assert claimed / n <= 0.097  # three standard errors above 5 %


@pytest.mark.parametrize("images", [3, 4, 6, 12])
def test_interval_and_p_value_agree(images: int) -> None:
    """The interval of 95 % leaves out no slope at all exactly where p is below 5 %, few defects or many."""
    rng, apart = np.random.default_rng(images), 0
    for level in (1.0, 3.0, 12.0, 60.0):
        for _ in range(40):
            x = np.sort(rng.uniform(0, 0.6, images))
            counts = rng.poisson(level * np.exp(rng.normal(0, 3) * x) * rng.gamma(8, 1 / 8, images))
            found = poisson.trend(counts.tolist(), rng.uniform(0.5, 2, images).tolist(), x.tolist(), seed=1)
            if found["p_value"] is None:
                continue
            low = -math.inf if found["ci_low"] is None else found["ci_low"]
            high = math.inf if found["ci_high"] is None else found["ci_high"]
            assert (found["p_value"] < 0.05) == (not low <= 0 <= high), (counts, found)
            apart += found["p_value"] < 0.05
    assert apart > 10


def test_few_defects_are_counted_out() -> None:
    # 3 defects in the last of 3 equal images: chance (1/3)^3, the same at the other end: 2/27
    found = poisson.trend([0, 0, 3], [1.0] * 3, [0, 1, 2], seed=5)
    assert found["p_value"] == pytest.approx(2 / 27, abs=0.008)


def test_rate_ratio_by_hand() -> None:
    # 15 of 20 defects on half of the area: binomial tail P(X >= 15 | 20, 1/2) = 0.0206947, doubled
    found = poisson.rate_ratio((15, 100.0), (5, 100.0))
    assert found["ratio"] == pytest.approx(3.0)
    assert found["p_value"] == pytest.approx(2 * 0.0206947, rel=1e-4)
    exact = stats.binomtest(15, 20).proportion_ci(method="exact")
    assert found["ci_low"] == pytest.approx(exact.low / (1 - exact.low))
    assert found["ci_high"] == pytest.approx(exact.high / (1 - exact.high))


def test_rate_ratio_with_nothing_on_one_side() -> None:
    some = poisson.rate_ratio((5, 10.0), (0, 10.0))
    assert (some["ratio"], some["ci_high"]) == (None, None) and some["p_value"] == pytest.approx(2 * 0.5**5)
    assert poisson.rate_ratio((0, 10.0), (0, 10.0))["p_value"] == 1.0
    assert poisson.rate_ratio((0, 10.0), (5, 10.0))["ratio"] == 0.0


def test_rate_ratio_covers_and_does_not_claim() -> None:
    rng = np.random.default_rng(11)
    n, covered, claimed = 1000, 0, 0
    for a, b in rng.poisson([12.0, 18.0], (n, 2)).tolist():
        found = poisson.rate_ratio((a, 200.0), (b, 300.0))
        claimed += found["p_value"] < 0.05
        covered += found["ci_low"] <= 1 <= (found["ci_high"] or math.inf)
    assert covered / n >= 0.94 and claimed / n <= 0.06


def test_dispersion_takes_information_away() -> None:
    plain, spread = poisson.rate_ratio((30, 1.0), (12, 1.0)), poisson.rate_ratio((30, 1.0), (12, 1.0), 4.0)
    assert spread["ratio"] == plain["ratio"]
    assert spread["p_value"] > plain["p_value"]
    assert spread["ci_low"] < plain["ci_low"] and spread["ci_high"] > plain["ci_high"]
    assert poisson.within_dispersion([([10, 10, 10], [1.0] * 3)]) == 0.0
    # (4, 16) about 10: (36 + 36) / 10 each, one degree of freedom a group
    assert poisson.within_dispersion([([4, 16], [1.0, 1.0]), ([4, 16], [1.0, 1.0])]) == pytest.approx(7.2)
    assert poisson.within_dispersion([([4, 16], [1.0, 1.0])]) is None


def test_holm_by_hand() -> None:
    assert poisson.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert poisson.holm([]) == []


def test_groups_are_compared_in_pairs_and_many_with_all_others() -> None:
    three = {"a": ([30, 30], [10.0, 10.0]), "b": ([5, 5], [10.0, 10.0]), "c": ([6, 4], [10.0, 10.0])}
    rows = poisson.compare(three)
    assert [(r["first"], r["second"]) for r in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert rows[0]["ratio"] == 6.0 and rows[0]["p_holm"] < 1e-6 and rows[2]["p_holm"] == 1.0
    many = poisson.compare({f"g{k:02d}": ([3], [1.0]) for k in range(14)})
    assert len(many) == 14 and {r["second"] for r in many} == {"all others"}
    assert poisson.compare({"one": ([3], [1.0])}) == []
