"""The scatter of displacements told by all kinds of columns together."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from defects.test_kernels import SR, TI, VECTORS_PM, noise_map
from oddlattice.defects.noise import estimate_noise
from oddlattice.defects.null import SiteColumns, judge_columns
from oddlattice.defects.shared_scatter import LEAST_DOUBT, prior_of, with_shared_scatter

SIDE = 12


def two_kinds(seed: int) -> list[SiteColumns]:
    """Two kinds of some hundred columns each, in one noise."""
    tiles, mask = noise_map(seed), np.zeros((40, 40), np.uint8)
    mask[:SIDE, :SIDE] = 1
    noise = estimate_noise(tiles, mask)
    made = [judge_columns(tiles, mask, noise, s, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles)) for s in (SR, TI)]
    return [site for site in made if site is not None]


def test_kinds_that_agree_tell_each_other_and_those_that_do_not_are_left_alone() -> None:
    freedom = np.full(6, 70.0)
    mean, shared = prior_of(np.array([0.0, 0.01, -0.01, 0.0, 0.02, -0.02]), freedom, 0)
    # five others, each known to 1 / 280 and LEAST_DOUBT
    others = (1 / 280 + LEAST_DOUBT**2) / 5
    assert mean == pytest.approx(0.0, abs=0.01) and shared == pytest.approx(1 / (4 * (LEAST_DOUBT**2 + others)))
    _, apart = prior_of(np.array([0.0, 0.5, -0.5, 0.3, -0.3, 0.4]), freedom, 0)
    assert apart < 3


def test_few_columns_of_each_kind_are_judged_by_the_scatter_of_all() -> None:
    alone = two_kinds(1)
    together = with_shared_scatter(alone)
    for one, both in zip(alone, together, strict=True):
        assert both.null.shift_freedom > 1.5 * one.null.shift_freedom
        assert abs(np.log(both.null.shift_spread / one.null.shift_spread)) < 0.06
        np.testing.assert_array_equal(both.verdict.change, one.verdict.change)
        # what moved is surer to have moved
        found = one.found.copy()
        found[0, 1] += 8 * one.null.shift_spread
        p = [site.null.judge(found, site.level, site.doubt).z_shift for site in (one, both)]
        assert p[1][0] > p[0][0] + 0.2
    assert with_shared_scatter(alone[:1]) == alone[:1]


def test_a_kind_that_scatters_otherwise_keeps_its_scatter() -> None:
    alone = two_kinds(2)
    found = alone[1].found.copy()
    found[:, 1:3] *= 2.0
    wide = alone[1].judged_by(found, np.ones(len(found), dtype=bool), 0.5)
    both = with_shared_scatter([alone[0], wide])
    for one, other in zip([alone[0], wide], both, strict=True):
        assert other.null.shift_spread == pytest.approx(one.null.shift_spread, rel=0.04)


def test_p_values_of_bulk_hold() -> None:
    below = total = 0
    for seed in range(15):
        for site in with_shared_scatter(two_kinds(100 + seed)):
            p = np.exp(-(_chi2(site)) / 2)
            below, total = below + int((p < 0.01).sum()), total + len(p)
    assert below == pytest.approx(0.01 * total, abs=3.5 * np.sqrt(0.01 * total))


def _chi2(site: SiteColumns) -> np.ndarray:
    """Of displacements alone."""
    null = replace(site.null, moved=None)
    p = 2 * stats.norm.sf(null.judge(site.found, site.level, site.doubt).z_shift)
    return -2 * np.log(p)
