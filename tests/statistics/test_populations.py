"""Populations of simulated sites: their number, their shares and intervals, the bulk; and no list of a broad one."""

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from oddlattice.defects.populations import find_populations
from oddlattice.statistics.crystals_of_run import brought_into_line
from oddlattice.statistics.populations import (
    folder_populations,
    population_rows,
    population_table,
    site_populations,
)
from oddlattice.storage.products import COLUMNS, FOLDER_POPULATIONS, GRAINS, IMAGES, POPULATIONS, table

Array = npt.NDArray[np.float64]
ERROR = 0.04
DOPED = ([0.9, 0.1], [1.0, 1.3], [0.03, 0.04])
ALLOY = ([0.6, 0.3, 0.1], [1.0, 0.6, 1.4], [0.03, 0.04, 0.03])


def columns(
    seed: int, n: int, shares: list[float], means: list[float], scatters: list[float]
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Intensities as measured, their errors, and which population each column is of."""
    rng = np.random.default_rng(seed)
    which = rng.choice(len(shares), n, p=shares)
    error = ERROR * rng.uniform(0.7, 1.4, n)
    true = np.array(means)[which] + np.array(scatters)[which] * rng.standard_normal(n)
    return true + error * rng.standard_normal(n), error, which


@pytest.mark.parametrize("case", [([1.0], [1.0], [0.03]), ([0.99, 0.01], [1.0, 1.4], [0.03, 0.02]), DOPED, ALLOY])
def test_the_number_of_populations_is_told_by_the_data(case: tuple[list[float], list[float], list[float]]) -> None:
    shares, means, scatters = case
    intensity, error, which = columns(1, 2000, *case)
    found = find_populations(intensity, error)
    assert len(found.components) == len(shares) and found.has_bulk and not found.reason
    for k, one in enumerate(found.components):
        assert one.mean == pytest.approx(means[k], abs=0.02)
        assert one.scatter == pytest.approx(scatters[k], abs=0.015), "measurement errors are not taken out"
        assert one.n == (found.component == k).sum()
    assert (found.component == which).mean() > 0.985


@pytest.mark.parametrize(
    ("case", "n"), [(DOPED, 300), (DOPED, 1500), (ALLOY, 600), (([0.5, 0.5], [1, 1.4], [0.03, 0.03]), 400)]
)
def test_intervals_of_shares_hold(case: tuple[list[float], list[float], list[float]], n: int) -> None:
    shares, means, _ = case
    inside_68, inside_95, total = 0, 0, 0
    for seed in range(20):
        found = find_populations(*columns(seed, n, *case)[:2])
        assert len(found.components) == len(shares)
        for one in found.components:
            truth = shares[int(np.abs(np.array(means) - one.mean).argmin())]
            inside_68 += one.interval_68[0] <= truth <= one.interval_68[1]
            inside_95 += one.interval_95[0] <= truth <= one.interval_95[1]
            total += 1
    # shares of one site are 1 together: a site counts once
    sigma_68, sigma_95 = np.sqrt(0.68 * 0.32 / 20), np.sqrt(0.95 * 0.05 / 20)
    assert inside_68 / total > 0.68 - 2.5 * sigma_68
    assert inside_95 / total > 0.95 - 2.5 * sigma_95


def test_one_broad_population_is_no_list() -> None:
    """Columns of 25 atoms, a tenth of them dopants 30 % brighter: 2.5 +- 1.5 of them everywhere."""
    rng = np.random.default_rng(2)
    true = 1 + 0.3 * rng.binomial(25, 0.1, 2000) / 25
    error = np.full(2000, 0.02)
    found = find_populations(true + 0.02 * rng.standard_normal(2000), error)
    assert len(found.components) == 1 and found.components[0].fraction > 0.99
    assert found.components[0].scatter == pytest.approx(0.3 * 1.5 / 25, rel=0.15)


def test_single_odd_columns_are_no_population() -> None:
    intensity, error, _ = columns(3, 1000, [1.0], [1.0], [0.03])
    intensity[:6] = [0.0, 0.3, 0.55, 1.5, 1.7, 0.2]
    found = find_populations(intensity, error)
    assert len(found.components) == 1 and (found.component[:6] == -1).all()
    assert (found.component[6:] == 0).mean() > 0.99


def test_no_bulk_is_said() -> None:
    intensity, error, _ = columns(4, 1000, [0.5, 0.5], [1.0, 1.4], [0.03, 0.03])
    found = find_populations(intensity, error)
    assert not found.has_bulk and found.reason.startswith("no population has more than half: the largest 5")
    assert [row["component"] for row in population_rows(found)] == [1, 2]
    few = find_populations(intensity[:20], error[:20])
    assert not few.components and few.reason == "20 columns; at least 30 tell a distribution"


def test_rows_are_in_units_of_the_bulk() -> None:
    intensity, error, _ = columns(5, 1500, *DOPED)
    rows = population_rows(find_populations(7 * intensity, 7 * error))
    assert [row["component"] for row in rows] == [0, 1]
    assert rows[0]["mean_intensity"] == 1.0 and rows[1]["mean_intensity"] == pytest.approx(1.3, abs=0.02)
    assert rows[1]["fraction_low_95"] < rows[1]["fraction_low_68"] < rows[1]["fraction"] < rows[1]["fraction_high_68"]


def test_images_of_a_folder_tell_a_population_together() -> None:
    """Seven images of 150 columns, 2 % of them brighter: one population of the folder; a site without bulk is none."""
    parts, truth = [], 0
    for k in range(8):
        intensity, error, which = columns(100 + k, 150, [0.98, 0.02], [1.0, 1.4], [0.03, 0.02])
        truth += int(which.sum()) if k < 7 else 0
        for column, (site, p) in enumerate((("Sr", 0.5), ("Ti", None))):
            about = {"image_id": f"i{k}", "grain": 1, "column": column, "site": site, "p_value": p}
            changes = zip(intensity - 1, error, strict=True)
            parts += [about | {"intensity_change": y, "intensity_noise": e} for y, e in changes]
    images = [{"image_id": f"i{k}", "path": f"{'ab'[k == 7]}/{k}.dm4", "model": "m"} for k in range(8)]
    rows = folder_populations([table(parts, COLUMNS)], images, brought_into_line(table([], GRAINS), table([], IMAGES)))
    keys = ("folder", "site", "images", "component")
    assert [tuple(row[key] for key in keys) for row in rows[:2]] == [("a", "Sr", 7, 0), ("a", "Sr", 7, 1)]
    assert {row["site"] for row in rows} == {"Sr"}
    assert rows[1]["fraction_low_95"] < truth / 1050 < rows[1]["fraction_high_95"] and abs(rows[1]["n"] - truth) < 8
    table(rows, FOLDER_POPULATIONS)


def test_the_answer_does_not_depend_on_the_order() -> None:
    intensity, error, _ = columns(6, 800, *ALLOY)
    turned = np.random.default_rng(0).permutation(800)
    one, other = find_populations(intensity, error), find_populations(intensity[turned], error[turned])
    assert (one.component[turned] == other.component).all()
    assert one.components[1].fraction == pytest.approx(other.components[1].fraction, abs=1e-6)


def test_an_image_is_told_site_by_site() -> None:
    """Doped in clusters: two populations, their part, their order and rows of the table; a site of few columns."""
    side = 30
    index = np.argwhere(np.ones((side, side)))
    near = np.hypot(*(index - 15).T) < 6
    intensity, _, _ = columns(7, side**2, [1.0], [1.0], [0.03])
    rows = [
        {"image_id": "i", "grain": 1, "cell_u": int(u), "cell_v": int(v), "column": 0, "site": "Sr", "row_px": 20.0 * u,
         "col_px": 20.0 * v, "intensity_change": float(y - 1 + 0.4 * odd), "intensity_noise": ERROR, "p_value": 0.5}
        for (u, v), y, odd in zip(index, intensity, near, strict=True)
    ]  # fmt: skip
    rows += [row | {"site": "Ti", "column": 1} for row in rows[:12]]
    strontium, titanium = site_populations(table(rows, COLUMNS), np.array([0.02, 0.02]), seed=1)
    assert (strontium["site"], strontium["columns"], strontium["reason"]) == ("Sr", side**2, "")
    assert sum(strontium["histogram"]["counts"]) == side**2
    assert strontium["order"]["alpha"] > 0.5 and strontium["order"]["p_value"] == 0.001
    assert titanium["reason"].startswith("12 columns") and titanium["populations"] == [] and titanium["order"] == {}
    found = table(population_table("i", [strontium, titanium]), POPULATIONS)
    assert found["component"].to_list() == [0, 1] and found["site"].unique().to_list() == ["Sr"]
    part = found.filter(pl.col("component") == 1).row(0, named=True)
    assert part["fraction_low_95"] < near.mean() < part["fraction_high_95"]
    assert part["mean_intensity"] == pytest.approx(1.4, abs=0.02) and part["n"] == pytest.approx(near.sum(), abs=3)
