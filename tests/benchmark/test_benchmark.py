"""The benchmark: its statistics have known answers, its fields hold what they say, and a tiny one runs to the end."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats

import run_benchmark
import train_published
from oddlattice.benchmark import page as page_module
from oddlattice.benchmark import published
from oddlattice.benchmark.fields import (
    SPACING_CELLS,
    compose_field,
    detection_conditions,
    ideal_per_root_dose,
    varied_conditions,
)
from oddlattice.benchmark.kinds import detection_kinds, partial_kinds, published_kinds
from oddlattice.benchmark.separation import (
    auroc,
    known_signal_scores,
    recall_at,
    recall_of_ideal,
    recall_of_search,
    separation,
)
from oddlattice.benchmark.truth import nearest
from oddlattice.crystal import load_crystal
from oddlattice.numerics.intervals import wilson
from oddlattice.report.charts import Axis, Point, Series, chart
from oddlattice.run.stage_settings import BenchmarkSettings
from oddlattice.simulate.library import load_library
from support.settings import default

SEED, VERSIONS = 5, {"versions": {"oddlattice": "0"}}
ROOT = Path(__file__).parents[2]
CARD, MODEL = ROOT / "models/libraries/srtio3_001.yaml", ROOT / "models/srtio3_001"
LIBRARY, CRYSTAL = load_library(CARD), load_crystal(MODEL / "crystal.yaml")
KINDS = {kind.name: kind for kind in detection_kinds(LIBRARY, CRYSTAL)}
RNG = np.random.default_rng(3)


# ---- kinds


def test_every_defect_of_the_library_is_a_kind_once() -> None:
    assert len(KINDS) == 25
    assert {kind.site for kind in KINDS.values()} == {"Sr", "Ti"}
    assert sorted(k.atoms for k in KINDS.values() if k.family == "vacancy" and k.site == "Sr") == [1, 2, 4, 8, 20]
    assert {k.name for k in KINDS.values() if k.whole} == {"Sr empty", "Ti empty", "Ti on Sr, all", "Sr on Ti, all"}


def test_kinds_know_what_they_are_to_be_called() -> None:
    called = {name: kind.called for name, kind in KINDS.items()}
    assert called["Sr empty"] == called["Ti empty"] == "vacancy-like"
    assert called["Sr 4 missing"] == called["Ti on Sr, all"] == "lighter"
    assert called["Sr on Ti, all"] == called["La on Sr, 4"] == "heavier"
    assert called["Ti moved 10 pm"] == "displaced"


def test_partial_kinds_change_by_what_they_say() -> None:
    found = {kind.name: kind.change for kind in partial_kinds(LIBRARY, CRYSTAL) if kind.family == "partial"}
    assert found["Sr −30 %"] == pytest.approx(-0.3, abs=1e-6)
    assert found["Ti +30 %"] == pytest.approx(0.3, abs=1e-6)
    assert found["Sr −100 %"] == pytest.approx(-1.0, abs=1e-6)


def test_the_published_classes_are_six() -> None:
    found = published_kinds(LIBRARY, CRYSTAL)
    assert len(found) == 6
    assert sum(kind.family == "displaced" for kind in found) == 2


# ---- the ideal observer


def ideal(name: str, **changes: Any) -> float:
    conditions = replace(detection_conditions(LIBRARY, 1.0, 5.0, RNG), rotation_deg=11.0, **changes)
    return 20 * ideal_per_root_dose(LIBRARY, CRYSTAL, conditions, KINDS[name], phases=1)


def test_ideal_dprime_is_what_the_physics_says() -> None:
    one, two, whole = (ideal(name) for name in ("Sr 1 missing", "Sr 2 missing", "Sr empty"))
    assert 1.9 < one < 2.8  # 400 e/px at 12.5 pm
    assert two == pytest.approx(2 * one, rel=0.15)
    assert 25 < whole < 36
    assert ideal("Sr moved 20 pm") == pytest.approx(2 * ideal("Sr moved 10 pm"), rel=0.05)


def test_ideal_dprime_depends_on_electrons_not_on_pixels() -> None:
    finer = ideal("Sr 4 missing", pixel_nm=0.00625)
    assert finer == pytest.approx(2 * ideal("Sr 4 missing"), rel=0.01)  # the same dose on a quarter of the area


# ---- fields


def test_fields_hold_their_defects_where_they_say() -> None:
    conditions = replace(detection_conditions(LIBRARY, 0.0, 0.0, RNG), rotation_deg=20.0)
    kinds = (KINDS["Sr empty"], KINDS["Sr on Ti, all"])
    odd = compose_field(LIBRARY, CRYSTAL, conditions, (512, 480), kinds, 7)
    bulk = compose_field(LIBRARY, CRYSTAL, conditions, (512, 480), (), 7)
    assert len(odd.kinds) == len(odd.places_px) >= 4
    change = odd.scan.expected - bulk.scan.expected
    for kind, place in zip(odd.kinds, odd.places_px, strict=True):
        row, col = np.rint(place).astype(int)
        assert np.sign(change[row, col]) == (1 if kind.change > 0 else -1)
    away = nearest(np.argwhere(np.ones((512, 480))).astype(float), odd.places_px)[0].reshape(512, 480) > 60
    assert np.abs(change[away]).max() < 1e-3 * np.abs(change).max()


def test_defects_are_far_apart_and_dealt_in_turn() -> None:
    conditions = detection_conditions(LIBRARY, 400.0, 5.0, RNG)
    field = compose_field(LIBRARY, CRYSTAL, conditions, (640, 640), tuple(KINDS.values()), 1, first=23)
    names = list(KINDS)
    assert [kind.name for kind in field.kinds] == [names[(23 + k) % 25] for k in range(len(field.kinds))]
    cells = np.array([defect.cell for defect in field.scan.defects])
    apart = np.abs(cells[:, None] - cells[None]).max(-1) + 99 * np.eye(len(cells))
    assert apart.min() == SPACING_CELLS
    assert {round(float(np.hypot(*d.shift_pm)), 6) for d in field.scan.defects} <= {0.0, 5.0, 10.0, 20.0, 40.0}


def test_varied_conditions_stay_inside_the_library() -> None:
    for _ in range(200):
        conditions = varied_conditions(LIBRARY, RNG)
        steepest = 1 + np.abs(conditions.thickness_gradient).sum() / 2
        assert conditions.thickness_nm * steepest <= LIBRARY.thickness_cells[-1] * LIBRARY.cell_nm[2]
        assert conditions.blur_nm >= LIBRARY.probe_rms_nm


# ---- statistics


def test_area_under_the_curve_of_a_counted_example() -> None:
    area, error = auroc(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.5, 3.0]))
    assert area == pytest.approx((2 + 3.5) / 8)
    assert error > 0
    assert auroc(np.zeros(5), np.ones(4))[0] == 1.0
    assert auroc(np.zeros(5), np.zeros(4))[0] == 0.5


@pytest.mark.parametrize("parametric", [True, False])
def test_dprime_of_normals_is_their_distance(parametric: bool) -> None:
    bulk, odd = RNG.normal(0, 2, 20000), RNG.normal(3, 2, 4000)
    found = separation(bulk, odd, parametric)
    assert found.dprime == pytest.approx(1.5, abs=4 * found.dprime_se)
    assert 0.01 < found.dprime_se < 0.05


def test_dprime_is_parametric_where_the_area_saturates() -> None:
    assert separation(RNG.normal(0, 1, 2000), RNG.normal(8, 1, 50)).parametric
    assert not separation(RNG.normal(0, 1, 2000), RNG.normal(1, 1, 50)).parametric


def test_standard_error_of_dprime_covers() -> None:
    inside = []
    for _ in range(200):
        found = separation(RNG.normal(0, 1, 800), RNG.normal(1.5, 1, 40))
        inside.append(abs(found.dprime - 1.5) < 1.96 * found.dprime_se)
    assert 0.89 < np.mean(inside) < 0.99


def test_ties_with_the_threshold_are_not_found() -> None:
    bulk, odd = np.concatenate([np.zeros(990), np.ones(10)]), np.array([0.0, 1.0, 2.0])
    assert recall_at(bulk, odd, 0.01) == (1, 1.0)
    assert recall_at(np.arange(1000.0), np.array([988.0, 990.0, 995.0]), 0.01)[0] == 1


def test_known_signal_scores_are_standard_normal_in_bulk() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 2.0]])
    n = 40000
    shift = RNG.multivariate_normal([0, 0], covariance, n)
    angle = RNG.uniform(0, 2 * np.pi, n)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    every = np.broadcast_to(covariance, (n, 2, 2))
    score = known_signal_scores("displaced", 0.0, np.zeros(n), shift, every, direction)
    assert score.std() == pytest.approx(1.0, abs=0.02)
    moved = known_signal_scores("displaced", 0.0, np.zeros(n), shift + 5 * direction, every, direction)
    best = 5 * np.sqrt(np.einsum("ni,ij,nj->n", direction, np.linalg.inv(covariance), direction))
    assert np.mean(moved - score - best) == pytest.approx(0.0, abs=1e-9)
    assert known_signal_scores("vacancy", -0.2, np.array([-3.0]), shift[:1], every[:1], direction[:1])[0] == 3.0


def test_ideal_recalls() -> None:
    dprime = np.array([0.0, 2.0, 4.0, 8.0])
    known, searching = recall_of_ideal(dprime, 0.01), recall_of_search(dprime, 0.01, 0.5)
    assert known[0] == pytest.approx(0.01)
    assert known[2] == pytest.approx(stats.norm.cdf(4 - stats.norm.isf(0.01)))
    assert (searching[1:3] < known[1:3]).all()
    assert searching[3] > 0.999
    leaning = recall_of_search(dprime, 0.01, 0.1)
    assert (searching[1:3] < leaning[1:3]).all() and (leaning[1:3] < known[1:3]).all()


def test_interval_without_trials_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(5, 10)
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-3)


def test_nearest_of_none_is_infinitely_far() -> None:
    assert np.isinf(nearest(np.zeros((3, 2)), np.empty((0, 2)))[0]).all()


# ---- the published method


def test_published_network_has_the_published_size() -> None:
    assert sum(p.numel() for p in published.PublishedVAE().parameters()) == 774_953


def test_published_prediction_is_of_each_patch_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = published.PublishedVAE().eval()
    patches = RNG.random((3, 64, 64)).astype(np.float32)
    together = published.predict(model, patches)
    alone = published.predict(model, patches[1:2])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    published.save_published(model, tmp_path / "p.safetensors")
    again = published.predict(published.load_published(tmp_path / "p.safetensors"), patches)
    np.testing.assert_allclose(again, together, atol=1e-6)  # loaded weights lie in another order of memory


def test_average_near_maximum_counts() -> None:
    difference = np.zeros((3, 64, 64), dtype=np.float32)
    difference[0, 30, 30] = 0.5
    difference[1, 30, 30], difference[1, 33, 30] = -0.5, 0.19
    difference[2, 0, 0] = 0.4
    np.testing.assert_allclose(published.average_near_maximum(difference), [0.5 / 169, -0.5 / 169, 0.4 / 49])


def test_published_band() -> None:
    band = published.Band.of(np.array([-1.0, 1.0]), 1.5)
    assert band.outside(np.array([0.0, 1.4, -1.6])).tolist() == [False, False, True]


def test_patches_beyond_the_image_are_refused() -> None:
    image = np.zeros((100, 90), dtype=np.float32)
    assert published.patches_at(image, np.array([[2.0, 1.9]])).shape == (1, 64, 64)
    with pytest.raises(ValueError, match="reach beyond an image of 100 x 90 px"):
        published.patches_at(image, np.array([[2.0, 3.0]]))


def test_patches_without_data_are_known() -> None:
    tiles = np.ones((200, 240), dtype=np.float32)
    tiles[:20, :20] = 0
    uv = np.array([[2.5, 2.5], [4.0, 4.0], [1.0, 6.0], [8.3, 10.3], [5.0, 11.0]])
    assert published.whole_patches(tiles, uv).tolist() == [True, True, False, True, False]


def test_published_scale_ignores_single_pixels() -> None:
    tiles = np.tile(1 + np.random.default_rng(0).random((20, 20)), (30, 30)).astype(np.float32)
    before = published.prepared(tiles)
    tiles[100, 100] = 50.0
    after = published.prepared(tiles)
    assert after.max() == 1.0
    np.testing.assert_allclose(np.median(after), np.median(before), rtol=0.005)


def test_published_training_lowers_the_loss() -> None:
    cell = np.clip(np.cos(np.linspace(0, 2 * np.pi * 64 / 23.8, 64)), 0, 1)
    patches = np.tile(np.outer(cell, cell), (16, 1, 1)).astype(np.float32)
    said: list[str] = []
    model = published.train_published(patches, 3, 0, said.append, rate=1e-3)
    first, last = (float(re.findall(r"loss ([\d.]+)", line)[0]) for line in said)
    assert last < first
    assert not model.training


# ---- charts


def test_chart_puts_points_where_they_belong() -> None:
    series = Series("a", "red", [Point(1, 0), Point(10, 1, 0.5, 2.0), Point(np.nan, 1)])
    drawn = chart([series], Axis(1, 100, logarithmic=True), Axis(0, 1), band=(0.25, 0.75))
    (one,) = drawn["series"]
    left, right, top, bottom = (drawn[key] for key in ("left", "right", "top", "bottom"))
    assert one["dots"] == [(left, bottom), ((left + right) / 2, top)]
    assert one["bars"] == [((left + right) / 2, (top + bottom) / 2, top)]
    assert drawn["shaded"]["height"] == pytest.approx((bottom - top) / 2, abs=0.1)
    assert [tick["label"] for tick in drawn["x_ticks"]] == ["1", "10", "100"]


# ---- the whole of it, tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmark")
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    settings = default(BenchmarkSettings, size="tiny", methods=["vae", "template", "published"])
    stages = {
        name: config[name] | ({"device": "cpu"} if name == "infer" else {})
        for name in ("read", "tile", "infer", "defects")
    }
    weights = str(tmp_path_factory.mktemp("published") / "published.safetensors")
    train_published.main(str(CARD), str(MODEL / "crystal.yaml"), weights, settings.size, SEED)
    run_benchmark.main(str(CARD), str(MODEL), weights, str(out), settings, stages, SEED, VERSIONS, 1)
    return out


def test_every_table_of_the_rule_is_written(tiny: Path) -> None:
    rule = (ROOT / "workflow/rules/benchmark.smk").read_text()
    names = re.findall(r'^    "(\w+)",$', rule, flags=re.MULTILINE)
    assert len(names) >= 12
    assert {f"{name}.csv" for name in names} == {path.name for path in tiny.glob("*.csv")}


def test_tiny_fields_are_analysed_and_found(tiny: Path) -> None:
    fields = pl.read_csv(tiny / "fields.csv")
    assert fields["refused"].null_count() + (fields["refused"] == "").sum() == len(fields) == 5
    assert fields["seed"].n_unique() == len(fields)
    detection = pl.read_csv(tiny / "detection.csv")
    ours = detection.filter(pl.col("method").is_in(["vae", "template"]) & (pl.col("dprime_ideal") > 7))
    assert len(ours) >= 2
    assert (ours["recall_at_1pct"] == 1).all()
    assert ours["efficiency"].is_between(0.4, 1.8).all()  # a handful of defects
    theirs = detection.filter(pl.col("method") == "published")
    assert theirs["efficiency"].mean() < ours["efficiency"].mean()  # type: ignore[operator]


def test_tiny_classes_stand_out(tiny: Path) -> None:
    found = pl.read_csv(tiny / "table_1.csv").filter(pl.col("method") == "vae")
    odd, bulk = found.filter(pl.col("kind") != "bulk"), found.filter(pl.col("kind") == "bulk")
    assert len(odd) >= 3
    assert (odd["flagged"] == 1).all()
    assert (odd["outside_band"] == 1).all()
    assert bulk["flagged"][0] < 0.03
    counts = pl.read_csv(tiny / "figure_2.csv").group_by("method", "kind").agg(pl.col("count").sum())
    joined = pl.read_csv(tiny / "table_1.csv").join(counts, on=["method", "kind"])
    assert (joined["count"] == joined["n"]).all()


def test_a_file_went_through_the_pipeline(tiny: Path) -> None:
    (row,) = pl.read_csv(tiny / "files.csv").to_dicts()
    assert row["state"] == "analysed"
    assert row["clear_placed"] >= 1
    assert row["clear_found"] == row["clear_placed"]
    assert row["found"] <= row["defects_placed"]
    assert row["columns_tested"] > 200


def test_rows_of_figure_1_stand_apart() -> None:
    apart = page_module.rows_apart(np.zeros((12, 5, 3), np.uint8), 3)
    gap = page_module.GAP_PX
    assert apart.shape == (12 + 6 * gap, 5, 3)
    dark = np.flatnonzero((apart == 0).all(axis=(1, 2)))
    assert dark.tolist() == [
        k for row in range(3) for k in range(row * (4 + 2 * gap) + gap, row * (4 + 2 * gap) + gap + 4)
    ]


def test_the_page_shows_its_tables_and_pictures(tiny: Path) -> None:
    page = (tiny / "index.html").read_text()
    for name in re.findall(r'(?:href|src)="([^"#]+)"', page):
        assert (tiny / name).is_file(), name
    for title in ("What is reached", "Figure 1", "Figure 2", "Table 1", "Efficiency", "Calibration", "Whole files"):
        assert title in page
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower().split()
    headings = re.findall(r'<h2 id="([^"]+)"', page)
    assert re.findall(r'<a href="#([^"]+)">', page[page.index('aria-label="Contents"') :])[: len(headings)] == headings
    assert page.count('class="rowname"') >= 3 * 4 and ">bulk</text>" in page
    for method, side_px in (("vae", 60), ("template", 60), ("published", 64)):
        with Image.open(tiny / f"figure_1_{method}.webp") as picture:
            assert picture.size[0] == 2 * 3 * side_px
            assert picture.size[1] >= 2 * side_px * 4
    heads = re.findall(r"<th scope=.col.>([^<]*)</th>", page[page.index('id="aims"') :])
    assert heads[:6] == ["Aim", "To reach", "n", "vae", "template", "published"]


def test_nothing_analysed_is_said(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    stages = {name: config[name] for name in ("read", "tile", "infer", "defects")}
    stages["infer"] = stages["infer"] | {"misfit_limit": 1e-6, "device": "cpu"}
    settings = default(BenchmarkSettings, size="tiny", methods=["vae"])
    with pytest.raises(
        ValueError, match="benchmark: found no field that could be analysed .*no model for this crystal"
    ):
        run_benchmark.main(str(CARD), str(MODEL), "", str(tmp_path), settings, stages, SEED, VERSIONS, 1)
    assert not list(tmp_path.iterdir())
