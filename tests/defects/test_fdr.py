"""One false-discovery rate for an image, in however many parts it is judged."""

import numpy as np
import pytest
from scipy import stats

from oddlattice.defects.fdr import EXTRA_SHARE, decide, q_values


def false_share(parts: int, together: bool, trials: int = 400) -> tuple[float, float]:
    """Mean share of false ones among those listed, and part of bulk images with an alarm; 10 defects among 26,000."""
    rng = np.random.default_rng(4)
    shares, alarms = [], []
    for _ in range(trials):
        p = rng.random(26_000)
        alarms.append(listed(p, parts, together).any())
        p[:10] = stats.norm.sf(rng.normal(7.0, 1.0, 10))
        found = listed(p, parts, together)
        shares.append(found[10:].sum() / max(found.sum(), 1))
    return float(np.mean(shares)), float(np.mean(alarms))


def listed(p: np.ndarray, parts: int, together: bool) -> np.ndarray:
    pieces = [p] if together else np.split(p, parts)
    return np.concatenate([decide(piece, np.empty(0), 0, 0.05).q <= 0.05 for piece in pieces])


def test_the_rate_is_that_of_the_image_and_not_of_its_parts() -> None:
    share, alarms = false_share(26, together=True)
    assert share < 0.07 and alarms < 0.09
    share, alarms = false_share(26, together=False, trials=100)
    assert share > 0.1 and alarms > 0.5  # the test could fail


def test_extra_columns_have_their_share_of_the_false_alarms() -> None:
    rng, false = np.random.default_rng(2), np.zeros(2)
    for _ in range(3000):
        p, extra = rng.random(400), rng.random(200)
        p[:20] = 1e-12  # what is there
        found = decide(p, extra[extra < 0.05], 200, 0.2)
        false += (found.q[20:] <= 0.2).sum(), (found.q_extra <= 0.2).sum()
    assert false[1] / false.sum() == pytest.approx(EXTRA_SHARE, abs=0.03)
    assert false.sum() / (false.sum() + 3000 * 20) == pytest.approx(0.2, abs=0.02)


def test_hypotheses_that_are_not_listed_count() -> None:
    p = np.array([1e-4, 0.01, 0.03])
    full = np.concatenate([p, np.ones(97)])
    np.testing.assert_allclose(q_values(p, 100), q_values(full)[:3])


def test_the_cut_is_what_a_further_defect_would_need() -> None:
    found = decide(np.concatenate([[1e-9], np.full(99, 0.5)]), np.empty(0), 0, 0.05)
    assert found.cut == pytest.approx(0.05 * 2 / 100)
    one_more = decide(np.concatenate([[1e-9, 0.99 * found.cut], np.full(98, 0.5)]), np.empty(0), 0, 0.05)
    assert (one_more.q <= 0.05).sum() == 2
