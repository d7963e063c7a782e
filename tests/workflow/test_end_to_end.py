"""The demo archive from raw files to the report: the defects that were put in are found, and the products add up."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import polars as pl
import pytest
import zarr
from ome_zarr_models.v05.image import Image as OmeImage

from oddlattice import __version__
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.storage import products
from support.shared import demo_archive

ROOT = Path(__file__).parents[2]
NEAR_PX = 4.0

SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory"]

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]


def snakemake(work: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*SNAKEMAKE, str(work), "--cores", "2", *arguments, "--config", "archive=demo_archive"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("demo")
    shared = demo_archive(tmp_path_factory)
    shutil.copytree(shared / "archive", work / "demo_archive")
    shutil.copy(shared / "truth.csv", work / "truth.csv")
    before = {p: p.stat().st_mtime_ns for p in (work / "demo_archive").rglob("*")}
    said = snakemake(work)
    assert "12 files: 9 done, 3 rejected" in said
    assert before == {p: p.stat().st_mtime_ns for p in (work / "demo_archive").rglob("*")}, "the archive was written to"
    return work


def tables(work: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    folder = work / "results/4_defects"
    return pl.read_parquet(folder / "images.parquet"), pl.read_parquet(folder / "defects.parquet")


def truth(work: Path) -> list[dict[str, str]]:
    with open(work / "truth.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def strong(row: dict[str, str]) -> bool:
    """Changes of at least half of a column, an exchanged atom, or 20 pm."""
    moved = np.hypot(float(row["shift_row_pm"]), float(row["shift_col_pm"])) >= 20
    return bool(row["atoms"]) or moved or abs(float(row["factor"]) - 1) >= 0.5


def test_every_file_has_a_state_and_a_reason(demo: Path) -> None:
    inventory = products.read_tsv(demo / "results/0_archive/inventory.tsv", products.INVENTORY)
    assert Counter(inventory["state"]) == {"done": 9, "rejected": 3}
    assert all(inventory.filter(pl.col("state") == "rejected")["reason"])
    images, _ = tables(demo)
    assert Counter(images["state"]) == {"analysed": 10, "no_lattice": 1, "rejected": 4}
    assert all(images.filter(pl.col("state") != "analysed")["reason"])
    assert set(inventory["file_id"]) == set(images["file_id"])


def test_the_defects_put_in_are_found_and_little_else(demo: Path) -> None:
    images, defects = tables(demo)
    missed, matched, wrong_kind = [], set(), []
    found = list(defects.iter_rows(named=True))
    for row in truth(demo):
        near = [
            k
            for k, d in enumerate(found)
            if (d["path"], d["frame"]) == (row["path"], int(row["frame"]))
            and np.hypot(d["row_px"] - float(row["row_px"]), d["col_px"] - float(row["col_px"])) < NEAR_PX
        ]
        matched.update(near)
        if not near and strong(row):
            missed.append(row)
        if near and strong(row) and found[near[0]]["kind"] != row["kind"]:
            wrong_kind.append((row, found[near[0]]["kind"], found[near[0]]["intensity_change"]))
        if near:
            assert found[near[0]]["site"] == row["site"]
    assert not missed
    assert len(wrong_kind) <= 1, wrong_kind
    false = [d for k, d in enumerate(found) if k not in matched]
    tested = images["columns_tested"].sum()
    assert len(false) <= 1e-3 * tested, [(d["image_id"], d["site"], d["kind"], d["z"]) for d in false]
    bulk = images.filter(pl.col("path").str.contains("bulk"))
    assert bulk["defects"].sum() <= 1


def test_change_and_displacement_are_those_put_in(demo: Path) -> None:
    _, defects = tables(demo)
    off_change, off_shift = [], []
    for row in truth(demo):
        near = defects.filter(
            (pl.col("path") == row["path"])
            & (pl.col("frame") == int(row["frame"]))
            & ((pl.col("row_px") - float(row["row_px"])).abs() < NEAR_PX)
            & ((pl.col("col_px") - float(row["col_px"])).abs() < NEAR_PX)
        ).to_dicts()
        if not near:
            continue
        moved = np.array([float(row["shift_row_pm"]), float(row["shift_col_pm"])])
        if moved.any():
            off_shift.append(np.hypot(near[0]["shift_row_pm"] - moved[0], near[0]["shift_col_pm"] - moved[1]))
        elif not row["atoms"]:
            off_change.append(near[0]["intensity_change"] - (float(row["factor"]) - 1))
    assert len(off_change) > 15 and np.median(np.abs(off_change)) < 0.06
    assert len(off_shift) > 8 and np.median(off_shift) < 8.0


def test_counts_and_areas_add_up(demo: Path) -> None:
    images, defects = tables(demo)
    per_image = Counter(defects.filter(~pl.col("kind").is_in(NO_POINTS))["image_id"])
    for row in images.filter(pl.col("state") == "analysed").iter_rows(named=True):
        assert row["defects"] == per_image.get(row["image_id"], 0)
        assert row["density_per_nm2"] == pytest.approx(row["defects"] / row["area_nm2"])
        assert row["density_ci_low"] <= row["density_per_nm2"] <= row["density_ci_high"]
        assert row["area_nm2"] == pytest.approx(row["columns_tested"] / 2 * 0.3905**2, rel=1e-3)
        assert 0 <= row["completeness_vacancy_ci_low"] <= row["completeness_vacancy"] <= 1
    for name in ("images", "defects"):
        table = pl.read_parquet(demo / f"results/4_defects/{name}.parquet")
        text = pl.read_csv(demo / f"results/4_defects/{name}.csv", infer_schema=False)
        assert text.columns == table.columns and len(text) == len(table)


def test_every_table_and_every_store_says_what_version_made_it(demo: Path) -> None:
    results = demo / "results"
    tables = [
        *results.rglob("4_defects/*.parquet"),
        *results.rglob("4_defects/*.csv"),
        *results.rglob("5_report/**/*.csv"),
    ]
    assert len(tables) > 30
    for path in tables:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
        assert set(table["version"]) <= {__version__}, path
    stores = [path for stage in "1234" for path in results.glob(f"{stage}_*/*.zarr")]
    assert len(stores) == 4 * 3
    assert {zarr.open_group(path, mode="r").attrs["version"] for path in stores} == {__version__}


def test_the_header_that_lies_is_reported(demo: Path) -> None:
    images, _ = tables(demo)
    (row,) = images.filter(pl.col("path").str.contains("Acquisition_07")).iter_rows(named=True)
    assert row["pixel_nm"] == pytest.approx(0.016, rel=0.005) and row["pixel_nm_header"] == pytest.approx(
        0.01664, rel=1e-3
    )
    assert "header says 16.64 pm/px" in row["reason"]


def test_maps_lie_over_the_image(demo: Path) -> None:
    """A vacancy's dip is at its raw place, and the maps are valid OME-Zarr with the image's scale."""
    images, defects = tables(demo)
    best = defects.filter(pl.col("kind") == "vacancy-like").sort("z").to_dicts()[0]
    shard = next((demo / "results/4_defects").glob(f"*.zarr/{best['image_id']}")).parent.name
    maps = zarr.open_group(demo / f"results/4_defects/{shard}/{best['image_id']}", mode="r")
    raw = zarr.open_group(demo / f"results/1_images/{shard}/{best['image_id']}", mode="r")
    for name in ("difference", "z"):
        values = maps[name]["0"]
        assert values.shape == raw["0"].shape and values.dtype == np.float32
        OmeImage.from_zarr(maps[name])
        scale = [
            g.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"] for g in (maps[name], raw)
        ]
        assert scale[0] == scale[1]
        row, col = round(best["row_px"]), round(best["col_px"])
        part = values[row - 8 : row + 9, col - 8 : col + 9]
        dip = np.unravel_index(part.argmin(), part.shape)
        assert np.hypot(dip[0] - 8, dip[1] - 8) <= 3 and part.min() < -0.3


def test_statistics_of_every_image(demo: Path) -> None:
    """Counts agree with the tables; a crystal without polarisation shows none beyond its noise."""
    images, defects = tables(demo)
    found: dict[str, dict] = {}
    for path in (demo / "results/4_defects").glob("*.statistics.json"):
        found |= json.loads(path.read_text())
    analysed = images.filter(pl.col("state") == "analysed")
    assert set(found) == set(analysed["image_id"])
    for row in analysed.iter_rows(named=True):
        here = found[row["image_id"]]
        assert next(r for r in here["densities"] if r["kind"] == "all")["number"] == row["defects"]
        assert here["clustering"].get("p_value", 1.0) > 0.001  # the demo's defects are strewn at random
        polar = here["polar"]
        assert (polar["a_site"], polar["b_site"]) == ("Sr", "Ti")
        assert 0.3 < polar["sigma_pm"] < 6 and polar["mean_size_pm"] < 2
    whole = json.loads((demo / "results/4_defects/statistics.json").read_text())
    assert whole["images"] == 10 and whole["images_counted"] == 8
    assert {row["group"] for row in whole["groups"]} == {Path(p).parent.name for p in analysed["path"]}
    assert "statistics.html" in (demo / "results/5_report/index.html").read_text()


def test_the_readme_s_python_works(demo: Path, tmp_path: Path) -> None:
    """The example of the documentation, word for word, in the folder of the demo's results."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/exports.md").read_text(), flags=re.DOTALL)
    (tmp_path / "results").symlink_to(demo / "results")
    check = """
assert "torch" not in sys.modules
assert image.raw.shape == (image.row["rows"], image.row["cols"]) == image.maps["z"].compute().shape
assert results.units["row_px"] == "px" and len(results) == 11
import hyperspy.api as hs
saved = hs.load("image.hspy")
assert [axis.units for axis in saved.axes_manager.signal_axes] == ["nm", "nm"]
assert abs(saved.axes_manager.signal_axes[0].scale - image.pixel_nm[1]) < 1e-12
assert set(saved.metadata.Markers.keys()) == {k.replace("-", "_") for k in image.defects["kind"]}
"""
    code = "import sys, warnings\nsys.path.insert(0, sys.argv[1])\n" + example + check
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "workflow/scripts")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_crate_lists_what_is_there(demo: Path) -> None:
    found = json.loads((demo / "results/ro-crate-metadata.json").read_text())
    parts = next(entity for entity in found["@graph"] if entity["@id"] == "./")["hasPart"]
    assert len(parts) > 20
    for part in parts:
        assert (demo / "results" / unquote(part["@id"])).exists(), part


def test_every_image_has_a_page_and_its_numbers(demo: Path) -> None:
    images, _ = tables(demo)
    report = demo / "results/5_report"
    pages = {p.stem: p for p in report.glob("*/*.html")}
    (stack,) = pl.read_parquet(demo / "results/4_defects/series.parquet")["first_image_id"]
    assert set(pages) == {*images.filter(pl.col("state") != "rejected")["image_id"], stack.removesuffix("-f0000")}
    for name, page in pages.items():
        json.loads(page.with_suffix(".json").read_text())
        assert name in (report / "index.html").read_text()


def test_a_second_run_does_nothing(demo: Path) -> None:
    said = snakemake(demo)
    assert "Nothing to be done" in said
    assert not list(demo.rglob("*.part"))


def test_one_core_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    """Products of a shard computed again on one core are the same files, byte for byte."""
    shutil.copytree(demo / "results/0_archive", tmp_path / "results/0_archive", copy_function=shutil.copy2)
    shard = sorted(p.stem for p in (demo / "results/4_defects").glob("checks-*.zarr"))[0]
    done = subprocess.run(
        [
            *SNAKEMAKE,
            str(tmp_path),
            "--cores",
            "1",
            f"results/5_report/{shard}",
            "--config",
            f"archive={demo}/demo_archive",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    def files(work: Path) -> dict[str, bytes]:
        folder = work / "results"
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for stage in ("1_images", "2_tiles", "3_differences", "4_defects", "5_report")
            for p in sorted((folder / stage).rglob("*"))
            if p.is_file() and shard in str(p) and p.name != ".snakemake_timestamp"
        }

    one, two = files(tmp_path), files(demo)
    assert len(one) > 30 and one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
