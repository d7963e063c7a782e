"""How many listed defects are false: sums, intervals that hold, and probabilities that are what they say."""

import numpy as np
import pytest

from oddlattice.defects.false_alarms import FalseAlarms
from oddlattice.defects.null import null_of
from oddlattice.numerics.intervals import count_interval
from reliability import LEAST, WITHIN, drawn_image, false_by_kind, reliability


def test_counted_by_hand() -> None:
    one = FalseAlarms.among(np.array([0.9, 0.5, 1.0]))
    assert (one.listed, one.expected, one.variance) == (3, pytest.approx(0.6), pytest.approx(0.34))
    two = one + FalseAlarms.among(np.array([0.0]), 2.0)
    assert (two.listed, two.expected, two.share) == (4, pytest.approx(1.6), pytest.approx(0.4))
    assert FalseAlarms().row() == {"expected_false": 0.0, "expected_false_ci_low": 0.0, "expected_false_ci_high": 0.0}
    assert FalseAlarms.among(np.array([np.nan, 0.5])).row()["expected_false"] is None


@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_intervals_of_counts_hold(spread: float) -> None:
    """The number of false ones among defects whose probabilities are known, or known together only so well."""
    rng, inside, trials = np.random.default_rng(14), 0, 2000
    for _ in range(trials):
        p = rng.beta(0.4, 4, int(rng.integers(1, 60)))
        factor = rng.gamma(1 / spread**2, spread**2) if spread else 1.0
        false = int((rng.random(len(p)) < p * min(factor, 1 / p.max())).sum())
        variance = float((p * (1 - p)).sum() + spread**2 * p.sum() ** 2)
        low, high = count_interval(float(p.sum()), variance, len(p))
        inside += low <= false <= high
    assert inside / trials > 0.94
    assert count_interval(0.0, 0.0, 5) == (0, 0)
    assert count_interval(3.0, 3.0, 3) == (0, 3)


def test_p_values_of_bulk_hold_for_few_columns_of_each_kind() -> None:
    """Sites of 100 columns: outliers were cut away to know their scatter, which must not make tails thinner."""
    rng, columns, least = np.random.default_rng(3), 0, {"lighter": 0, "heavier": 0, "displaced": 0}
    for _ in range(500):
        found = rng.standard_normal((100, 3))
        verdict = null_of(found, np.ones((100, 2)), 0.2).judge(found, np.ones(100))
        columns += 100
        for kind in least:
            least[kind] += int(((verdict.p_value < 1e-3) & (verdict.odd_as == kind)).sum())
    share = {"lighter": 0.4, "heavier": 0.4, "displaced": 0.2}
    assert sum(least.values()) < 1.45 * 1e-3 * columns
    for kind, number in least.items():
        expected = 1e-3 * columns * share[kind]
        assert number < 1.7 * expected + 3 * np.sqrt(expected), (kind, number, expected)


def test_probabilities_are_what_they_say() -> None:
    """Made-up images, each judged alone; of what stands in the tenths with enough columns so many are real."""
    seen = [drawn_image(5000 + seed) for seed in range(16)]
    tested = 0
    for low, n, says, part, least, most in reliability(seen):
        if n >= LEAST // 2:
            tested += 1
            assert least - WITHIN < says < most + WITHIN, (low, n, says, part)
    assert tested >= 2
    _, listed, false, expected = next(iter(false_by_kind(seen)))
    assert abs(false - expected) < 0.4 * expected + 3 * np.sqrt(expected), (listed, false, expected)
