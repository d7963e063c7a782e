"""Where a site has populations, its bulk is the null: many changed columns are found, and a broad site is no list."""

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from oddlattice.defects.fdr import decide
from oddlattice.defects.null import null_of
from oddlattice.defects.populations import bulk_of, with_population
from oddlattice.defects.tables import column_rows
from support import doped_fields

Array = npt.NDArray[np.float64]
NOISE = 0.04


def site(rng: np.random.Generator, n: int, share: float, apart: float) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Estimates (n, 3) of a site of which a share is `apart` standard deviations brighter, and which."""
    real = rng.permutation(n) < round(share * n)
    found = rng.standard_normal((n, 3)) * [NOISE, 5.0, 5.0]
    found[real, 0] += apart * NOISE
    return found, real


def listed(found: Array) -> tuple[npt.NDArray[np.bool_], str]:
    """What is listed at a false-discovery rate of 5 %, and why nothing is."""
    bulk = bulk_of(found[:, 0], np.full(len(found), NOISE))
    verdict = null_of(found[bulk.columns], np.ones((int(bulk.columns.sum()), 2)), 0.2).judge(found, np.ones(len(found)))
    return decide(verdict.p_value, np.empty(0), 0, 0.05).q <= 0.05, bulk.reason


@pytest.mark.parametrize("apart", [8.0, -8.0, 14.0])
@pytest.mark.parametrize(("share", "n"), [(0.01, 1500), (0.1, 400), (0.3, 400), (0.4, 600)])
def test_changed_columns_are_found_from_one_to_forty_per_cent(share: float, n: int, apart: float) -> None:
    both, told, there = 0, 0, 0
    for seed in range(max(4, int(320 / (n * share))) if apart == 8 else 2):
        found, real = site(np.random.default_rng([seed, n, 14]), n, share, apart)
        flagged, reason = listed(found)
        assert not reason
        both, told, there = both + (flagged & real).sum(), told + flagged.sum(), there + real.sum()
    assert told - both <= 0.05 * told + 3 * np.sqrt(0.05 * told), (both, told, there)
    assert share <= 0.01 or 2 * both / (told + there) >= 0.96, (both, told, there)
    assert both / there > 0.985


def test_without_a_bulk_nothing_is_listed() -> None:
    found, _ = site(np.random.default_rng(1), 600, 0.5, 9.0)
    bulk = bulk_of(found[:, 0], np.full(600, NOISE))
    assert "no population has more than half" in bulk.reason


@pytest.mark.parametrize(("share", "has_bulk"), [(0.4, True), (0.5, False)])
def test_noise_told_too_large_hides_no_population(share: float, has_bulk: bool) -> None:
    """Many changed columns are in the noise map too: it may be several times what a column's noise is."""
    for seed in range(4):
        found, real = site(np.random.default_rng([seed, 14, 3]), 270, share, 9.0)
        bulk = bulk_of(found[:, 0], np.full(270, 3.5 * NOISE))
        assert bool(bulk.reason) != has_bulk, bulk.reason
        assert has_bulk is False or (bulk.columns == ~real).mean() > 0.98


def test_a_broad_site_is_no_list() -> None:
    """Columns of 25 atoms with a tenth of dopants: 2.5 +- 1.5 of them everywhere."""
    rng, number = np.random.default_rng(2), 0
    for _ in range(4):
        found = rng.standard_normal((800, 3)) * [0.02, 5.0, 5.0]
        found[:, 0] += 0.5 * rng.binomial(25, 0.1, 800) / 25
        flagged, reason = listed(found)
        assert not reason
        number += int(flagged.sum())
    assert number <= 6


def test_quiet_sites_are_not_decomposed() -> None:
    """Bulk alone, a few odd columns, a site of few columns: every column that may be bulk is."""
    rng = np.random.default_rng(3)
    quiet = NOISE * rng.standard_normal(500)
    quiet[:4] = -1.0
    assert bulk_of(quiet, np.full(500, NOISE)).columns[4:].all()
    assert bulk_of(quiet[:20], np.full(20, NOISE)).columns.all()


def test_an_image_without_a_bulk_tells_populations() -> None:
    """Half of Sr changed: nothing of Sr is listed and no p-value told, Ti is tested; the reason is a sentence."""
    image, judged = doped_fields.judged(doped_fields.doped_scan(0.5, 1.3, 21, side_px=400))
    rows = with_population(column_rows("i", 1, judged, image.coordinates).filter(pl.Series(judged.told)))
    strontium, titanium = (rows.filter(pl.col("site") == site) for site in ("Sr", "Ti"))
    assert strontium["p_value"].is_null().all() and titanium["p_value"].is_not_null().all()
    assert strontium["population"].drop_nulls().unique().sort().to_list() == [1, 2]
    assert not [d for d in judged.defects if d.site == "Sr"]
    (reason,) = judged.reasons
    assert reason.startswith("Sr: no population has more than half: the largest ")
