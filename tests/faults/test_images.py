"""A stage that fails on one image: that image is rejected with the reason, and the rest of its shard is finished."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import zarr

import read_images
from oddlattice.archive.inventory import scan_archive
from oddlattice.archive.verdicts import refresh_inventory
from oddlattice.lattice import tile_shard
from oddlattice.run.stage_settings import ReadSettings
from support.fault_runs import ROOT, write_scan
from support.fault_shard import BAD, CONFIG, GOOD, Shard, after_bad
from support.raw_files import shard_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """A shard of two images, worked through."""
    folder = tmp_path_factory.mktemp("whole")
    for number, name in enumerate(("a.emd", "b.dm4")):
        write_scan(folder / "archive" / name, seed=number)
    shard_of(folder / "archive", folder / "shard.tsv")
    read = ReadSettings.of(CONFIG["read"])
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
    monkeypatch.setattr(tile_shard, "TILE", f"support.hostile_stages:tile_{how}")
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
    assert {p.name for p in Path(shard.maps).iterdir() if p.is_dir()} == {GOOD, "OME"}


def test_a_tiling_that_was_killed_once_is_tried_again(
    whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_shard, "TILE", "support.hostile_stages:tile_killed_once")
    shard.tile()
    assert bytes_of(shard.folder, "tiles") == bytes_of(whole.folder, "tiles")


def test_a_full_disk_is_no_fault_of_an_image(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_shard, "TILE", "support.hostile_stages:tile_on_full_disk")
    before = bytes_of(shard.folder, "tiles")
    with pytest.raises(OSError, match="No space left"):
        shard.tile()
    assert bytes_of(shard.folder, "tiles") == before
    assert not list(shard.folder.glob(".*.part"))


def fail_on_bad(monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception) -> None:
    """Have a stage do its work on the one image and then fail."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(*after_bad(stage, fail))


def test_inference_that_fails(whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_bad(monkeypatch, "infer", FloatingPointError("underflow"))
    shard.infer()
    assert bytes_of(shard.differences, GOOD) == bytes_of(whole.differences, GOOD)
    assert not list((shard.folder / "differences" / BAD).rglob("c"))
    check_the_rest(whole, shard, "infer", "by a fault of the program: FloatingPointError: underflow")


def test_finding_that_fails(whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_bad(monkeypatch, "find", IndexError("out of bounds"))
    shard.find()
    check_the_rest(whole, shard, "find", "by a fault of the program: IndexError: out of bounds")


def test_products_that_cannot_be_read_are_no_fault_of_an_image(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_bad(monkeypatch, "find", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        shard.find()


def test_measuring_that_fails_leaves_the_results(whole: Shard, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_bad(monkeypatch, "measure", ZeroDivisionError("no area"))
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
    fail_on_bad(monkeypatch, "report", ValueError("no <i>picture</i>"))
    shard.report()
    page = (shard.folder / "pages" / f"{BAD}.html").read_text()
    assert "by a fault of the program: <bdi>ValueError: no &lt;i&gt;picture&lt;/i&gt;</bdi>" in page
    names = {p.name for p in Path(shard.pages).iterdir()}
    good = {p.name for p in Path(whole.pages).iterdir() if p.name.startswith(GOOD)}
    assert names == good | {f"{BAD}.html"}
    assert shard.states()[BAD] == "analysed"


def test_measuring_that_fails_costs_the_statistics_of_one_image(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_bad(monkeypatch, "measure", IndexError("no <b>"))
    shard.measure()
    shard.report()
    pages = {name: (shard.folder / "pages" / f"{name}.html").read_text() for name in (GOOD, BAD)}
    assert "None, by a fault of the program: <bdi>IndexError: no &lt;b&gt;</bdi>" in pages[BAD]
    assert "pair correlation" in pages[GOOD].lower()


def crash(shard: Shard, stage: str) -> None:
    """Do a stage as a job does; its process crashes at the one image."""
    program = [sys.executable, str(Path(__file__).parents[1] / "support/fault_shard.py"), str(shard.folder), stage]
    paths = os.pathsep.join([str(ROOT / "workflow/scripts"), str(ROOT / "tests")])
    done = subprocess.run(program, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    again = ": its process died (SIGSEGV)\nthe shard is gone through again"
    assert done.stdout.count(again) == 2 and f"{BAD}{again}" in done.stdout, done.stdout


def test_inference_that_crashes(whole: Shard, shard: Shard) -> None:
    crash(shard, "infer")
    assert bytes_of(shard.differences, GOOD) == bytes_of(whole.differences, GOOD)
    assert not list((shard.folder / "differences" / BAD).rglob("c"))
    check_the_rest(whole, shard, "infer", r"by a fault of the program: its process died \(SIGSEGV\)")


def test_finding_that_crashes(whole: Shard, shard: Shard) -> None:
    crash(shard, "find")
    assert bytes_of(shard.maps, GOOD) == bytes_of(whole.maps, GOOD)
    check_the_rest(whole, shard, "find", r"by a fault of the program: its process died \(SIGSEGV\)")


def test_measuring_that_crashes_costs_the_statistics_of_one_image(whole: Shard, shard: Shard) -> None:
    crash(shard, "measure")
    found, expected = (json.loads(Path(one.statistics).read_text()) for one in (shard, whole))
    assert found == {GOOD: expected[GOOD], BAD: {"failed": "its process died (SIGSEGV)"}}


def test_a_page_that_crashes_says_so_and_the_others_are_written(whole: Shard, shard: Shard) -> None:
    crash(shard, "report")
    page = (shard.folder / "pages" / f"{BAD}.html").read_text()
    assert "by a fault of the program: <bdi>its process died (SIGSEGV)</bdi>" in page
    good = {p.name for p in Path(whole.pages).iterdir() if p.name.startswith(GOOD)}
    assert {p.name for p in Path(shard.pages).iterdir()} == good | {f"{BAD}.html"}
    assert bytes_of(shard.pages, GOOD) == bytes_of(whole.pages, GOOD)


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
