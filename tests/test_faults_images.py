"""A stage that fails on one image: that image is rejected with the reason, and the rest of its shard is finished."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zarr

import cut_tiles
import find_defects
import infer_differences
import measure_images
import read_images
import write_pages
from fault_runs import CRYSTAL, ROOT, write_scan
from oddlattice.archive import refresh_inventory, scan_archive
from oddlattice.settings import load_yaml
from raw_files import shard_of

CONFIG = load_yaml(ROOT / "config.yaml")
SETTINGS = {name: CONFIG[name] | {"seed": CONFIG["seed"]} for name in ("infer", "defects")}
REPORT = CONFIG["report"] | {"published_band_std": 1.5, "config": {"models": CONFIG["models"]}}
GOOD, BAD = "f0000", "f0001"


class Shard:
    """The products of one shard in a folder, and its stages one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name)

    def tile(self) -> None:
        cut_tiles.main(self.images, [CRYSTAL], self.tiles, CONFIG["tile"], threads=2)

    def infer(self) -> None:
        infer_differences.main(self.tiles, [str(CRYSTAL.parent)], self.differences, SETTINGS["infer"], 1)

    def find(self) -> None:
        found = (self.images, self.tiles, self.differences)
        find_defects.main(
            *found, self.defects, self.table, self.columns, self.completeness, self.maps, SETTINGS["defects"]
        )

    def measure(self) -> None:
        stores, tables = (self.images, self.tiles, self.differences), (self.defects, self.table, self.columns)
        measure_images.main(*stores, [str(CRYSTAL)], *tables, self.statistics, self.places, {"seed": 1})

    def report(self) -> None:
        stores = (self.images, self.tiles, self.differences, self.maps)
        said = self.folder / "reviews.json"
        said.write_text('{"statements": []}')
        write_pages.main(*stores, self.defects, self.table, self.columns, self.statistics, said, self.pages, REPORT)

    def after(self, stage: str) -> None:
        """Run the stages that follow."""
        stages = ["tile", "infer", "find", "measure", "report"]
        for name in stages[stages.index(stage) + 1 :]:
            getattr(self, name)()

    def states(self) -> dict[str, str]:
        return dict(pl.read_parquet(self.table).select("image_id", "state").iter_rows())

    def reason(self) -> str:
        return str(pl.read_parquet(self.table).filter(pl.col("image_id") == BAD)["reason"].item())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """A shard of two images, worked through."""
    folder = tmp_path_factory.mktemp("whole")
    for number, name in enumerate(("a.emd", "b.dm4")):
        write_scan(folder / "archive" / name, seed=number)
    shard_of(folder / "archive", folder / "shard.tsv")
    read = CONFIG["read"]
    shard = Shard(folder)
    read_images.main(shard.folder / "shard.tsv", folder / "archive", shard.images, read, log=folder / "log", threads=2)
    shard.tile()
    shard.after("tile")
    assert shard.states() == {GOOD: "analysed", BAD: "analysed"}
    return shard


@pytest.fixture
def shard(whole: Shard, tmp_path: Path) -> Shard:
    """The same to go on with: what was made of it lies beside, what a test makes anew replaces it."""
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    return Shard(tmp_path)


def bytes_of(folder: str, name: str) -> dict[str, bytes]:
    root = Path(folder) / name
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("failing", "by a fault of the program: ZeroDivisionError: <b>nothing</b> to divide by"),
        ("crashing", r"its process died \(SIGSEGV\)"),
        ("killed", r"its process died \(SIGKILL\)"),
    ],
)
def test_tiling_that_fails(
    whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], how: str, says: str
) -> None:
    monkeypatch.setattr(cut_tiles, "CALL", f"hostile_stages:tile_{how}")
    shard.tile()
    if how == "failing":
        assert "hostile_stages.py" in capfd.readouterr().out, "the traceback is in the log"
    states = {row["image_id"]: row["state"] for row in zarr.open_group(shard.tiles, mode="r").attrs["images"]}
    assert states == {GOOD: "tiled", BAD: "rejected"}
    assert bytes_of(shard.tiles, GOOD) == bytes_of(whole.tiles, GOOD)
    assert not list((shard.folder / "tiles" / BAD).rglob("c"))
    check_the_rest(whole, shard, "tile", says)


def check_the_rest(whole: Shard, shard: Shard, stage: str, says: str) -> None:
    shard.after(stage)
    assert shard.states() == {GOOD: "analysed", BAD: "rejected"}
    assert pl.Series([shard.reason()]).str.contains(says).item(), shard.reason()
    assert {p.name for p in Path(shard.pages).glob("*.html")} == {f"{GOOD}.html"}
    found, expected = (pl.read_parquet(s.columns).filter(pl.col("image_id") == GOOD) for s in (shard, whole))
    assert found.equals(expected) and len(found)
    assert not pl.read_parquet(shard.columns)["image_id"].eq(BAD).any()
    assert {p.name for p in Path(shard.maps).iterdir() if p.is_dir()} == {GOOD}


def test_a_tiling_that_was_killed_once_is_tried_again(
    whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut_tiles, "CALL", "hostile_stages:tile_killed_once")
    shard.tile()
    assert bytes_of(shard.folder, "tiles") == bytes_of(whole.folder, "tiles")


def test_a_full_disk_is_no_fault_of_an_image(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_tiles, "CALL", "hostile_stages:tile_on_full_disk")
    before = bytes_of(shard.folder, "tiles")
    with pytest.raises(OSError, match="No space left"):
        shard.tile()
    assert bytes_of(shard.folder, "tiles") == before
    assert not list(shard.folder.glob(".*.part"))


def fails_on_bad(function: Callable[..., Any], error: Exception, name_of: Callable[..., str]) -> Callable[..., Any]:
    """The function, which on the one image does its work and then fails."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        found = function(*arguments, **keywords)
        if BAD in name_of(*arguments):
            raise error
        return found

    return call


def test_inference_that_fails(whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    error = FloatingPointError("underflow")
    bad = fails_on_bad(infer_differences.infer_image, error, lambda source, *others: source.name)
    monkeypatch.setattr(infer_differences, "infer_image", bad)
    shard.infer()
    assert bytes_of(shard.differences, GOOD) == bytes_of(whole.differences, GOOD)
    assert not list((shard.folder / "differences" / BAD).rglob("c"))
    check_the_rest(whole, shard, "infer", "by a fault of the program: FloatingPointError: underflow")


def test_finding_that_fails(whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = fails_on_bad(find_defects.analyse, IndexError("out of bounds"), lambda row, *others: row["image_id"])
    monkeypatch.setattr(find_defects, "analyse", bad)
    shard.find()
    check_the_rest(whole, shard, "find", "by a fault of the program: IndexError: out of bounds")


def test_products_that_cannot_be_read_are_no_fault_of_an_image(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = fails_on_bad(find_defects.analyse, OSError(5, "Input/output error"), lambda row, *others: row["image_id"])
    monkeypatch.setattr(find_defects, "analyse", bad)
    with pytest.raises(OSError, match="Input/output"):
        shard.find()


def test_measuring_that_fails_leaves_the_results(whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = fails_on_bad(measure_images.measure, ZeroDivisionError("no area"), lambda row, *others: row["image_id"])
    monkeypatch.setattr(measure_images, "measure", bad)
    shard.measure()
    found, expected = (json.loads(Path(one.statistics).read_text()) for one in (shard, whole))
    assert found == {GOOD: expected[GOOD], BAD: {"failed": "ZeroDivisionError: no area"}}
    shard.report()
    assert {p.name for p in Path(shard.pages).glob("*.html")} == {f"{GOOD}.html", f"{BAD}.html"}
    page = (shard.folder / "pages" / f"{BAD}.html").read_text()
    assert "by a fault of the program: <bdi>ZeroDivisionError: no area</bdi>" in page
    assert "could not be drawn" not in page


def test_a_page_that_fails_says_so_and_leaves_the_results(
    whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = fails_on_bad(
        write_pages.write_raw, ValueError("no <i>picture</i>"), lambda image, *others: image.row["image_id"]
    )
    monkeypatch.setattr(write_pages, "write_raw", bad)
    shard.report()
    page = (shard.folder / "pages" / f"{BAD}.html").read_text()
    assert "by a fault of the program: <bdi>ValueError: no &lt;i&gt;picture&lt;/i&gt;</bdi>" in page
    names = {p.name for p in Path(shard.pages).iterdir()}
    good = {p.name for p in Path(whole.pages).iterdir() if p.name.startswith(GOOD)}
    assert names == good | {f"{BAD}.html"}
    assert shard.states()[BAD] == "analysed"


def test_measuring_that_fails_costs_the_statistics_of_one_image(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = fails_on_bad(measure_images.measure, IndexError("no <b>"), lambda row, *others: row["image_id"])
    monkeypatch.setattr(measure_images, "measure", bad)
    shard.measure()
    shard.report()
    pages = {name: (shard.folder / "pages" / f"{name}.html").read_text() for name in (GOOD, BAD)}
    assert "None, by a fault of the program: <bdi>IndexError: no &lt;b&gt;</bdi>" in pages[BAD]
    assert "pair correlation" in pages[GOOD].lower()


def test_a_rejected_image_makes_a_rejected_file(whole: Shard, tmp_path: Path) -> None:
    """By the inventory: a file whose only image failed in a later stage."""
    results = tmp_path / "results"
    archive = whole.folder / "archive"
    [name] = scan_archive(archive, results, ["**"], [], 0, 32, 1000, now_ns=4 * 10**18).shards
    ids = [line.split("\t")[0] for line in (results / f"0_archive/{name}.tsv").read_text().splitlines()[1:]]
    table = pl.read_parquet(whole.table).with_columns(
        pl.Series("file_id", ids), pl.Series("state", ["analysed", "rejected"]), pl.Series("reason", ["", "by a fault"])
    )
    (results / "4_defects").mkdir()
    table.write_parquet(results / f"4_defects/{name}.images.parquet")
    assert refresh_inventory(results) == {"done": 1, "rejected": 1}
