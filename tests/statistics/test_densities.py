"""Densities and site fractions: hand-computed cases, and intervals that cover what was put in."""

import math

import numpy as np
import pytest

from oddlattice.defects.false_alarms import FalseAlarms
from oddlattice.numerics.intervals import poisson_interval, wilson
from oddlattice.statistics import densities, groups
from oddlattice.statistics.densities import Found

IMAGE = {"area_nm2": 100.0, "defects": 10}
FALSE = {"vacancy-like": FalseAlarms(6, 0.3, 0.25), "heavier": FalseAlarms(4, 1.0, 0.7)}
VACANCY = {"completeness_vacancy": 0.8, "completeness_vacancy_ci_low": 0.711, "completeness_vacancy_ci_high": 0.867}


@pytest.mark.parametrize(("hits", "trials"), [(0, 40), (3, 40), (20, 40), (37, 40), (400, 400), (1397, 1397)])
def test_the_trials_behind_a_wilson_interval_are_recovered(hits: int, trials: int) -> None:
    found = densities.trials_behind(hits / trials, *wilson(hits, trials))
    assert found is not None
    assert found.trials == pytest.approx(trials, rel=1e-6)
    assert found.hits == pytest.approx(hits, rel=1e-6, abs=1e-9)


def test_an_interval_that_does_not_fit_its_value_tells_nothing() -> None:
    assert densities.trials_behind(0.9, 0.95, 1.0) is None
    assert densities.trials_behind(0.5, 0.5, 0.5) is None


def test_with_everything_found_and_nothing_false_the_interval_is_garwoods() -> None:
    # Garwood 1936: 10 counts lie in 4.795 to 18.390
    found = densities.corrected_density(10, 50.0, None)
    assert found == pytest.approx((0.2, 4.795 / 50, 18.390 / 50), abs=1e-4)
    sure = densities.corrected_density(10, 50.0, Found(1e9, 1e9))
    assert sure == pytest.approx(found, rel=1e-6)


def test_half_found_doubles_the_density_and_widens_its_interval() -> None:
    value, low, high = densities.corrected_density(10, 50.0, Found(50, 100))
    plain = poisson_interval(10)
    assert value == pytest.approx(0.4)
    assert low < 2 * plain[0] / 50 and high > 2 * plain[1] / 50
    assert low > 1.9 * plain[0] / 50 * 0.9 and high < 1.2 * 2 * plain[1] / 50


def test_no_defect_has_a_density_of_zero_and_an_upper_limit() -> None:
    value, low, high = densities.corrected_density(0, 50.0, Found(90, 100))
    assert (value, low) == (0.0, 0.0)
    assert high == pytest.approx(3.689 / 50 / 0.9, rel=0.02)  # Garwood: 0 counts lie below 3.689


@pytest.mark.parametrize(
    ("per_nm2", "completeness", "trials"), [(0.02, 0.9, 60), (0.1, 0.5, 40), (0.3, 0.97, 400), (0.05, 0.3, 30)]
)
def test_intervals_cover_the_density_put_in(per_nm2: float, completeness: float, trials: int) -> None:
    """Defects found by chance, false ones added, the completeness measured anew each time: 95 % are covered."""
    rng = np.random.default_rng(7)
    area, fdr, n = 150.0, 0.05, 600
    mean = per_nm2 * area * completeness
    counts = rng.poisson(mean, n) + rng.poisson(mean * fdr / (1 - fdr), n)
    hits = rng.binomial(trials, completeness, n)
    covered, known = 0, {}
    for number, hit in zip(counts.tolist(), hits.tolist(), strict=True):
        if (number, hit) not in known:
            known[number, hit] = densities.corrected_density(number, area / (1 - fdr), Found(hit, trials))
        _, low, high = known[number, hit]
        covered += low <= per_nm2 <= high
    assert 0.93 <= covered / n <= 0.998  # at most two standard errors below 95 %; exact limits are somewhat too wide


def test_defects_of_images_without_an_area_are_counted_and_on_no_density() -> None:
    rows = [{"image_id": name, "area_nm2": area} for name, area in (("a", 50.0), ("b", None), ("c", 0.0))]
    found = groups.pooled(rows, {"a": {"lighter": 3}, "b": {"lighter": 40, "heavier": 2}})
    assert (found["images"], found["defects"]) == (3, 45)
    assert (found["images_with_area"], found["number"], found["density_per_nm2"]) == (1, 3, 0.06)


def test_densities_by_kind_of_one_image_by_hand() -> None:
    kinds = ["vacancy-like"] * 6 + ["heavier"] * 4
    vacancy, heavier, every = densities.densities_by_kind([kinds], [IMAGE | VACANCY], [FALSE])
    assert (vacancy["kind"], vacancy["number"], vacancy["density_per_nm2"]) == ("vacancy-like", 6, 0.06)
    # 6 flagged, 0.3 of them false, 80 % found: 6 * 0.95 / 0.8 / 100
    assert vacancy["corrected_per_nm2"] == pytest.approx(0.07125, rel=1e-3)
    assert (vacancy["expected_false"], heavier["expected_false"]) == (0.3, 1.0)
    assert every["expected_false"] == pytest.approx(1.3)
    assert (every["expected_false_ci_low"], every["expected_false_ci_high"]) == (0, 3)
    assert vacancy["corrected_ci_low_per_nm2"] < 0.07125 < vacancy["corrected_ci_high_per_nm2"]
    assert (heavier["corrected_per_nm2"], heavier["not_corrected"]) == (
        None,
        "completeness is not measured for this kind",
    )
    assert (every["kind"], every["number"], every["density_per_nm2"]) == ("all", 10, 0.1)
    low, high = poisson_interval(10)
    assert (every["ci_low_per_nm2"], every["ci_high_per_nm2"]) == pytest.approx((low / 100, high / 100))


def test_any_completeness_column_there_is_is_taken() -> None:
    row = IMAGE | {f"completeness_heavier{end}": v for end, v in (("", 0.5), ("_ci_low", 0.4), ("_ci_high", 0.6))}
    assert densities.densities_by_kind([["heavier"]], [row], [FALSE])[0]["corrected_per_nm2"] == pytest.approx(
        0.015, rel=1e-3
    )
    without = densities.completeness_of(row | {"completeness_heavier": None}, "heavier")
    assert without is None


def test_all_kinds_of_one_image_take_the_image_tables_correction() -> None:
    row = IMAGE | {f"density_corrected_{end}": v for end, v in (("per_nm2", 0.2), ("ci_low", 0.1), ("ci_high", 0.4))}
    every = densities.densities_by_kind([["heavier"]], [row], [{}])[-1]
    ends = [every[f"corrected_{end}per_nm2"] for end in ("", "ci_low_", "ci_high_")]
    assert (ends, every["not_corrected"]) == ([0.2, 0.1, 0.4], "")
    assert densities.densities_by_kind([["heavier"], []], [row, row], [{}, {}])[-1]["corrected_per_nm2"] is None


def test_images_pool_by_area() -> None:
    found = densities.pooled([Found(90, 100), Found(30, 100)], [300.0, 100.0])
    assert (found.part, found.trials) == (pytest.approx(0.75), 200)


def test_too_low_a_completeness_is_not_divided_by() -> None:
    low = {"completeness_vacancy": 0.02, "completeness_vacancy_ci_low": 0.0055, "completeness_vacancy_ci_high": 0.07}
    row = densities.densities_by_kind([["vacancy-like"]], [IMAGE | low], [{}])[0]
    assert row["corrected_per_nm2"] is None and "too low" in row["not_corrected"]


def test_site_fractions_by_hand() -> None:
    flagged = [("Sr", "vacancy-like")] * 3 + [("Sr", "heavier")] + [("", "extra")]
    rows = densities.site_fractions({"Sr": 400, "Ti": 200}, flagged)
    assert [(r["site"], r["kind"], r["number"], r["columns_tested"]) for r in rows] == [
        ("Sr", "any", 4, 400),
        ("Sr", "heavier", 1, 400),
        ("Sr", "vacancy-like", 3, 400),
        ("Ti", "any", 0, 200),
    ]
    assert rows[0]["fraction"] == 0.01
    assert (rows[0]["ci_low"], rows[0]["ci_high"]) == wilson(4, 400)
    assert math.isclose(rows[3]["ci_high"], 3.841459 / (200 + 3.841459), rel_tol=1e-6)  # z^2 / (n + z^2)


def test_defects_of_an_image_without_a_pixel_size_are_on_no_area() -> None:
    images = [IMAGE, IMAGE | {"area_nm2": None, "defects": 50}]
    *_, every = densities.densities_by_kind([["lighter"] * 10, ["lighter"] * 50], images, [{}, {}])
    assert (every["number"], every["area_nm2"], every["density_per_nm2"]) == (10, 100.0, 0.1)
