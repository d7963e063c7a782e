"""Statistics of one image and of many, and the page that shows them: from tables of known content."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import compare_images
import write_statistics
from oddlattice.report import methods, statistics, vector_fields
from oddlattice.run.stage_settings import StatisticsSettings
from oddlattice.statistics import across_images, counting, groups, per_image, trends
from oddlattice.storage.products import COLUMNS, DEFECTS, DENSITIES, POPULATIONS, TRENDS, table
from support import report_products as made_up
from support.settings import default
from support.statistics_shard import CONFIG, PROVENANCE, VERSIONS, shard  # noqa: F401 (shard: a fixture)


def row(name: str, path: str = "a/1.dm4", **values: Any) -> dict[str, Any]:
    base = made_up.image_row(name, path, "analysed", model="m", area_nm2=100.0, fdr=0.05, defects=0)
    return base | {"file_id": path, "acquired": ""} | values


# ---------------------------------------------------------------- one image


def test_what_is_counted() -> None:
    rows = [
        {"kind": k, "review": r} for k, r in (("lighter", ""), ("extended", ""), ("heavier", "rejected"), (None, None))
    ]
    points = counting.point_defects(table(rows, DEFECTS))
    assert counting.kinds_of(points) == ["lighter", "unknown"]
    without = table(rows, DEFECTS).with_columns(excluded=pl.lit(True))
    assert counting.point_defects(without).height == 0


def test_clustering_takes_only_columns_that_were_tested() -> None:
    cells = np.argwhere(np.ones((20, 20)))
    columns = table(
        [{"image_id": "i", "grain": 1, "cell_u": int(u), "cell_v": int(v), "column": 0, "site": "Sr",
          "row_px": 20.0 * u, "col_px": 20.0 * v}
         for u, v in cells], COLUMNS)  # fmt: skip
    flagged = [
        {"image_id": "i", "grain": 1, "cell_u": int(u), "cell_v": 3, "column": 0, "site": "Sr", "kind": "lighter"}
        for u in range(0, 18, 2)
    ]
    between = [{"image_id": "i", "grain": 1, "cell_u": 4, "cell_v": 4, "site": "", "kind": "extra"}]
    found = per_image.clustering(table(flagged + between, DEFECTS), columns, np.array([0.02, 0.02]), 0.4, 64.0, seed=1)
    assert found["defects"] == 9 and 0 < found["p_value"] <= 1
    # nine on a line, 0.8 nm apart: 8 pairs at 0.8 nm, 7 at 1.6 nm
    at = {round(a, 2): n for a, n in zip(found["edges_nm"], found["pairs"], strict=False)}
    assert at[0.44] == 8.0
    few = per_image.clustering(table(between, DEFECTS), columns, np.array([0.02, 0.02]), 0.4, 64.0, seed=1)
    assert "fewer than 8" in few["reason"]


# ---------------------------------------------------------------- many images


def test_times_in_hours_and_those_that_cannot_be_compared() -> None:
    texts = ["2026-03-17T10:00:00", "2026-03-17T08:30:00", "2026-03-17", "", "2026-03-17T10:00:00+01:00"]
    points, without = trends.timed([row(str(k), acquired=t) for k, t in enumerate(texts)])
    assert [(x, r["image_id"]) for x, r in points] == [(0.0, "1"), (1.5, "0")]
    assert without == 3


def test_a_damaged_session_shows_a_slope_and_a_quiet_one_does_not() -> None:
    rows, counts = [], {}
    for k in range(6):
        for folder, number in (("beam", 5 + 6 * k), ("calm", 12)):
            name = f"{folder}{k}"
            rows.append(row(name, f"{folder}/{k}.dm4", acquired=f"2026-03-17T1{k}:00:00"))
            counts[name] = Counter({"vacancy-like": number})
    beam, _, calm, _ = trends.trends_of_series(rows, counts, seed=1)
    assert (beam["series"], beam["kind"], beam["unit"], beam["images"]) == ("beam", "all", "h", 6)
    assert beam["p_holm"] < 1e-6 and beam["slope"] == pytest.approx(0.35, abs=0.1)
    assert calm["p_value"] > 0.9 and calm["slope"] == pytest.approx(0.0, abs=1e-6)
    assert [p["x"] for p in beam["points"]] == [0, 1, 2, 3, 4, 5]


def test_three_images_in_36_minutes_are_no_trend() -> None:
    """How much images of the sample differ is not known from three."""
    rows, counts = [], {}
    for k, number in enumerate((4, 14, 40)):
        rows.append(row(f"i{k}", f"a/{k}.dm4", acquired=f"2026-03-17T10:{18 * k:02d}:00"))
        counts[f"i{k}"] = Counter({"lighter": number})
    found = trends.trends_of_series(rows, counts, seed=1)[0]
    seen = statistics.trend_view(found, {})
    assert found["p_holm"] < 1e-3 and not seen["claim"] and seen["few"]
    assert seen["change"].startswith("×") and " over 0.60 h (95 % interval ×" in seen["change"]


def test_frames_of_a_stack_are_a_series_and_one_image_of_their_session() -> None:
    rows = [row(f"s-f{k:04d}", "a/stack.emd", frame=k, acquired="2026-03-17T10:00:00") for k in range(4)]
    rows += [row("x", "a/x.emd", acquired="2026-03-17T11:00:00"), row("y", "a/y.emd", acquired="2026-03-17T12:00:00")]
    found = trends.series_of(rows)
    assert [(name, unit, len(points)) for name, unit, points, _ in found] == [
        ("a", "h", 3),
        ("a/stack.emd · HAADF", "frame", 4),
    ]
    assert [r["image_id"] for r in counting.one_of_each_stack(rows)] == ["s-f0000", "x", "y"]


def test_groups_by_folder_column_and_metadata() -> None:
    one = row("1", "a/b/1.dm4", signal="HAADF")
    assert groups.group_name(one, {}, "folder") == "a/b"
    assert groups.group_name(one, {}, "signal") == "HAADF"
    assert groups.group_name(one, {"Microscope": {"HT_V": 200000}}, "Microscope/HT_V") == "200000"
    assert groups.group_name(one, {}, "Microscope/HT_V") == "not told"


def test_what_people_excluded_is_taken_out() -> None:
    rows = [row("1", unusable=True), row("2") | {"area_reviewed_nm2": 40.0}, row("3"), row("4") | {"state": "rejected"}]
    assert [(r["image_id"], r["area_nm2"]) for r in counting.as_reviewed(rows)] == [("2", 40.0), ("3", 100.0)]


# ---------------------------------------------------------------- drawings and pages


def test_a_field_is_drawn_to_scale() -> None:
    field = {"row_px": [50.0], "col_px": [100.0], "shift_row_pm": [0.0], "shift_col_pm": [10.0],
             "corners_px": [[40, 90, 40, 110, 60, 110, 60, 90]]}  # fmt: skip
    drawn = vector_fields.drawing(field, (100, 200), (0.02, 0.02))
    assert drawn is not None
    assert (drawn["width"], drawn["height"], drawn["top_text"]) == (640.0, 320.0, "10 pm")
    assert drawn["blocks"][0]["path"] == "M288.0 128.0L352.0 128.0L352.0 192.0L288.0 192.0Z"
    # a displacement along +col points to the right, its middle at the block's place
    tail, tip = re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn["arrows"])[:2]
    assert float(tail[0]) < 320 < float(tip[0]) and float(tail[0]) + float(tip[0]) == pytest.approx(640)
    assert tail[1] == tip[1] == "160.0"
    assert drawn["bar"] == {"width": 80.0, "text": "0.5 nm"}
    assert vector_fields.drawing({"row_px": []}, (10, 10), None) is None


@pytest.mark.parametrize(("value", "rounded"), [(0.7, 1.0), (1.0, 1.0), (2.1, 3.0), (34.0, 50.0), (0.0, 1.0)])
def test_round_up(value: float, rounded: float) -> None:
    assert vector_fields.round_up(value) == rounded


def test_counts_add_up_over_images(shard: tuple[made_up.Made, Path, Path]) -> None:
    paths, out, _ = shard
    found = json.loads((out / "statistics.json").read_text())
    defects = pl.read_parquet(paths.defects)
    every = next(r for r in found["densities"] if r["kind"] == "all")
    assert every["number"] == defects.height == sum(r["number"] for r in found["groups"])
    assert every["number"] == sum(r["number"] for r in found["densities"] if r["kind"] != "all")
    area = pl.read_parquet(paths.images)["area_nm2"].sum()
    assert every["area_nm2"] == pytest.approx(area)
    tested = pl.read_parquet(paths.columns).height
    assert sum(r["columns_tested"] for r in found["sites"] if r["kind"] == "any") == tested
    assert [(r["group"], r["images"]) for r in found["groups"]] == [("day 2", 1), ("day <1>", 3)]
    assert [(r["series"], r["unit"]) for r in found["trends"] if r["kind"] == "all"] == [("day <1>", "h")]
    assert len(found["comparisons"]) == 1


def test_tables_have_their_columns(shard: tuple[made_up.Made, Path, Path]) -> None:
    _, out, _ = shard
    assert pl.read_csv(out / "densities.csv").columns == [*DENSITIES, "version"]
    assert pl.read_csv(out / "trends.csv").columns == [*TRENDS, "version"]
    populations = pl.read_parquet(out / "populations.parquet")
    assert populations.columns == pl.read_csv(out / "populations.csv").columns == [*POPULATIONS, "version"]
    assert set(populations["image_id"]) == {"i0", "i1", "i2", "i3"} and (populations["component"] == 0).sum() >= 4


def test_a_metadata_field_names_groups(shard: tuple[made_up.Made, Path, Path], tmp_path: Path) -> None:
    paths, out, _ = shard
    tables = {name: tmp_path / f"{name}.csv" for name in compare_images.CSV}
    settings = default(StatisticsSettings, group_by="Microscope/Name")
    compare_images.main(
        paths.images,
        paths.defects,
        str(paths.grains),
        [],
        [str(paths.images_zarr)],
        made_up.no_series(),
        tmp_path / "s.json",
        tables,
        tmp_path / "p.parquet",
        made_up.series_in(tmp_path),
        settings,
        1,
    )
    (group,) = json.loads((tmp_path / "s.json").read_text())["groups"]
    assert (group["group"], group["images"]) == ("Titan", 4)


def test_the_page_escapes_names_and_shows_the_numbers(shard: tuple[made_up.Made, Path, Path]) -> None:
    _, out, page = shard
    text = page.read_text(encoding="utf-8")
    assert "day <1>" not in text and "day &lt;1&gt;" in text
    found = json.loads((out / "statistics.json").read_text())
    trend = statistics.trend_view(found["trends"][0], {})
    assert trend["change"].replace("×", "") in text.replace("×", "")
    assert "default-src &#39;none&#39;" in text


def test_methods_name_every_parameter_and_number_their_references() -> None:
    rows = [
        row(
            "1",
            pixel_nm=0.016,
            cells_analysed=900,
            cells_masked=0,
            columns_tested=1800,
            defects=7,
            smallest_loss_90=0.2,
        )
    ]
    found = across_images.compare(rows, {"1": {"lighter": 7}}, {}, {"1": "folder"}, {}, 1) | {"group_by": "folder"}
    found = methods.paragraphs(rows, found, CONFIG, VERSIONS)
    text = methods.markdown(found)
    for part in ("oddlattice 0.1.0", "HyperSpy 2.5.0", "16.0 pm", "900 unit cells (100 nm²)", "1800 atomic columns",
                 "5.0 %", "7 point defects", "20.0 %", "1 image was", str(CONFIG["seed"])):  # fmt: skip
        assert part in text, part
    cited = sorted({int(k) for group in re.findall(r"\[([\d, ]+)\]", text) for k in group.split(", ")})
    assert cited == list(range(1, len(found["references"]) + 1))
    in_order = [int(k) for group in re.findall(r"\[([\d, ]+)\]", text) for k in group.split(", ")]
    assert list(dict.fromkeys(in_order)) == cited


def test_methods_say_how_images_without_a_model_were_predicted() -> None:
    usual = {"area_nm2": 100.0, "cells_analysed": 900, "cells_masked": 0, "columns_tested": 1800, "pixel_nm": 0.016}
    usual |= {"smallest_loss_90": 0.2}
    rows = [row("1", **usual), row("2", **usual | {"model": "own", "pixel_nm": 0.02})]
    found = across_images.compare(rows, {}, {}, {"1": "folder", "2": "folder"}, {}, 1) | {"group_by": "folder"}
    both = " ".join(methods.paragraphs(rows, found, CONFIG, VERSIONS)["paragraphs"])
    assert "The pixel size of 1 image, 16.0 pm, comes from" in both and "(model m; adapted" in both
    assert "1 image was laid on the unit cell that the image itself shows" in both
    assert "The bulk of images without a model was predicted by the image's own median unit cell, bent" in both
    alone = " ".join(methods.paragraphs(rows[1:], found, CONFIG, VERSIONS)["paragraphs"])
    assert "(model" not in alone and "pm, comes from" not in alone and "1 image was laid on" in alone


def test_populations_are_told_in_words() -> None:
    bulk = {"component": 0, "n": 900, "fraction": 0.9, "fraction_low_95": 0.88, "fraction_high_95": 0.92}
    bulk |= {"mean_intensity": 1.0, "scatter": 0.031}
    order = {"unlike": 100, "alpha": -0.12, "p_value": 0.001}
    site = {"site": "Sr", "columns": 1000, "reason": "", "histogram": {"edges": [0.8, 1.0, 1.4], "counts": [800, 200]}}
    (view,) = statistics.population_views([site | {"populations": [bulk], "order": order}])
    assert view["rows"] == [
        {
            "name": "bulk",
            "n": "900",
            "fraction": "90.0 %",
            "interval": "88.0 to 92.0 %",
            "mean": "1.00",
            "scatter": "0.031",
        }
    ]
    assert "avoid each other (Warren-Cowley parameter −0.12, p = 0.001, 100 columns" in view["order"]
    assert "no departure" in statistics.order_words(order | {"p_value": 0.3})
    assert "cluster" in statistics.order_words(order | {"alpha": 0.2})
    assert statistics.order_words({}) == "" and view["plot"]["series"]


def test_an_empty_archive_has_a_page(tmp_path: Path) -> None:
    empty = across_images.compare([], {}, {}, {}, {}, 1) | {"group_by": "folder", "populations": []}
    (tmp_path / "statistics.json").write_text(json.dumps(empty))
    made = made_up.Shard(tmp_path / "none").write()
    write_statistics.main(
        tmp_path / "statistics.json", made.images, [], tmp_path / "s.html", tmp_path / "m.md", PROVENANCE
    )
    assert "No image has been analysed yet" in (tmp_path / "s.html").read_text()
