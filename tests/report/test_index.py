"""One number, computed once: the index, the page of statistics and the methods paragraph say the same."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import write_index
import write_statistics
from oddlattice.report.index_lines import line, with_later_frames
from oddlattice.run.settings import load_yaml
from oddlattice.run.stage_settings import ReportSettings
from oddlattice.storage.products import INVENTORY, table, write_tsv
from support import report_products as made_up
from support.settings import ROOT, default

AT = "2026-11-22T10:00:00Z"
VERSIONS = {"oddlattice": "0.1.0", "hyperspy": "2.5.0", "numpy": "2.4", "scipy": "1.17"}


def rejected(shard: made_up.Shard, image_id: str) -> dict[str, Any]:
    """A statement that the first defect of an image is none."""
    defect = next(row for row in shard.defects if row["image_id"] == image_id)
    about = {key: defect[key] for key in ("row_px", "col_px", "cell_u", "cell_v", "site")}
    head = {"image_id": image_id, "path": "", "reviewer": "A. Meier", "file": "r.json", "at": AT, "what": "defect"}
    return head | about | {"verdict": "rejected", "kind": "", "found_kind": defect["kind"], "note": ""}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two images and a stack of three frames in one folder, an image in another; one defect rejected by a person."""
    folder = tmp_path_factory.mktemp("index")
    shard = made_up.Shard(folder / "products")
    images = [("a", "day 1/a.dm4", 0), ("b", "day 1/b.dm4", 0), ("c", "day 2/c.dm4", 0)]
    images += [(f"s-f000{k}", "day 1/s.dm4", k) for k in range(3)]
    for seed, (name, path, frame) in enumerate(images):
        scan = made_up.scan_of((300, 320), 12, seed=seed)
        shard.analysed(name, path, scan, seed=seed, file_id=path, frame=frame)
    shard.statements.append(rejected(shard, "a"))
    shard.files.append({"file": "r.json", "state": "taken", "reason": "", "reviewers": ["A. Meier"], "statements": 1})
    gathered = shard.gathered(folder / "4_defects")
    (folder / "5_report").mkdir()
    statistics = gathered["statistics_json"]
    provenance = {"config": load_yaml(ROOT / "config.yaml"), "versions": VERSIONS}
    write_tsv(table([], INVENTORY), folder / "discovered.tsv")
    parquets = [gathered[f"{name}_parquet"] for name in ("images", "defects", "reviews")]
    write_index.main(
        *parquets, gathered["precision_csv"], shard.paths.reviews_json, folder / "discovered.tsv", statistics, [],
        folder / "5_report/index.html", default(ReportSettings), provenance,
    )  # fmt: skip
    write_statistics.main(
        statistics, gathered["images_parquet"], [], folder / "5_report/statistics.html", folder / "m.md", provenance
    )
    return {
        "statistics": json.loads(Path(statistics).read_text()),
        "index": json.loads((folder / "5_report/index.json").read_text()),
        "page": (folder / "5_report/statistics.html").read_text(),
        "methods": (folder / "m.md").read_text(),
        "images": pl.read_parquet(gathered["images_parquet"]),
    }


def figure(found: dict[str, Any], label: str) -> dict[str, Any]:
    """A figure at the head of the index."""
    return next(one for one in found["index"]["figures"] if one["label"] == label)


def test_frames_of_a_stack_are_one_area(found: dict[str, Any]) -> None:
    images = found["images"].filter(~pl.col("image_id").is_in(["s-f0001", "s-f0002"]))
    assert images.equals(found["images"].filter("counted"))
    total = found["statistics"]["totals"]["reviewed"]
    assert total["area_nm2"] == pytest.approx(images["area_nm2"].sum())
    assert total["number"] == images["defects_reviewed"].sum()
    assert found["statistics"]["totals"]["flagged"]["number"] == total["number"] + 1


def test_a_folder_has_one_density(found: dict[str, Any]) -> None:
    groups = {row["group"]: row for row in found["statistics"]["groups"]}
    for folder, one in zip(["day 1", "day 2"], found["index"]["sessions"], strict=True):
        low, high = groups[folder]["ci_low_per_nm2"], groups[folder]["ci_high_per_nm2"]
        assert one["density_per_nm2"] == groups[folder]["density_per_nm2"]
        assert (one["ci_low_per_nm2"], one["ci_high_per_nm2"]) == (low, high)
        assert one["density_text"] in found["page"] and one["interval_text"] in found["page"]


def test_defects_are_counted_once(found: dict[str, Any]) -> None:
    every = next(row for row in found["statistics"]["densities"] if row["kind"] == "all")
    number = str(every["number"])
    assert figure(found, "Defects")["value"] == number
    assert f"{number} point defects" in found["methods"]
    assert sum(row["number"] for row in found["statistics"]["groups"]) == every["number"]
    assert sum(found["index"]["kinds"].values()) == every["number"]
    before, after = found["index"]["review"]["before"], found["index"]["review"]["after"]
    assert (before[0], after[0]) == (str(every["number"] + 1), number)


def test_one_folder_of_one_model_is_as_sure_as_the_model(found: dict[str, Any]) -> None:
    """Scatter between images widens the interval of a model's density as it widens a group's."""
    every = next(row for row in found["statistics"]["densities"] if row["kind"] == "all")
    assert every["ci_high_per_nm2"] == found["statistics"]["totals"]["reviewed"]["ci_high_per_nm2"]


def test_a_stack_is_one_line_unless_a_frame_needs_a_person() -> None:
    pages = {"s": "x/s.html"}
    rows = [
        {"image_id": f"s-f000{k}", "path": "s.dm4", "signal": "", "frame": k, "state": state, "reason": ""}
        for k, state in enumerate(["no_lattice", "rejected", "rejected"])
    ]
    lines = with_later_frames([line(row, pages, {}, set()) for row in [*rows, rows[0] | {"image_id": "b"}]])
    assert [(one["series"] != "", one["later"]) for one in lines] == [
        (True, False),
        (True, True),
        (True, True),
        (False, False),
    ]
    lines[2]["state"] = "analysed"
    assert [one["later"] for one in with_later_frames(lines)] == [True, True, False, False]
