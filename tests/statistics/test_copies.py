"""The same scan in several files is counted once."""

from pathlib import Path

import polars as pl

from oddlattice.archive.entries import Entry, inventory_text, read_entries
from oddlattice.archive.shards import File
from oddlattice.archive.verdicts import refresh_inventory
from oddlattice.statistics.copies import same_scans, with_copies, with_words
from oddlattice.statistics.counting import one_of_each_stack
from oddlattice.storage.products import IMAGES, table, write_parquet
from oddlattice.storage.rows import Row


def image(name: str, scan_id: str, path: str = "", **more: object) -> Row:
    known = {"image_id": name, "file_id": name, "scan_id": scan_id, "path": path or f"{name}.dm4", "signal": "HAADF"}
    return known | {"frame": 0, "state": "analysed", "reason": ""} | more


def no_maps(image_id: str) -> None:
    """No image has maps."""


ROWS = [
    image("a", "s1", "x/a.dm4"),
    image("b", "s1", "x/a - Copy.dm4"),
    image("c", "s2"),
    image("d", "s1", "backup of x/a.emd"),
    image("e", "", state="rejected"),
    image("f", "", state="rejected"),
    image("g-f0", "s3", "g.dm4", file_id="g"),
    image("g-f1", "s3", "g.dm4", file_id="g", frame=1),  # a frame that was stored twice is no copy of a file
]


def test_the_shortest_path_is_counted() -> None:
    assert same_scans(ROWS) == {"b": "a", "d": "a"}


def test_copies_are_no_further_places_of_the_sample() -> None:
    rows = with_copies(table(ROWS, IMAGES), no_maps).filter(pl.col("state") == "analysed").to_dicts()
    assert [row["image_id"] for row in one_of_each_stack(rows)] == ["a", "c", "g-f0"]


def test_a_page_says_that_its_image_is_not_counted() -> None:
    told = with_words(table(ROWS, IMAGES), no_maps)
    said = {row["image_id"]: row["not_counted"] for row in told.iter_rows(named=True) if row["not_counted"]}
    assert said == dict.fromkeys("bd", "Not counted: same content as x/a.dm4")


def test_the_inventory_names_what_a_copy_is_of(tmp_path: Path) -> None:
    (tmp_path / "0_archive").mkdir()
    files = {row["file_id"]: row["path"] for row in ROWS}
    entries = [Entry(File(name, path, 1, 1), "ready", "", "top-00000000") for name, path in files.items()]
    (tmp_path / "0_archive/discovered.tsv").write_text(inventory_text(entries))
    write_parquet(table(ROWS, IMAGES), tmp_path / "4_defects/top-00000000.images.parquet")

    def reasons() -> dict[str, str]:
        assert refresh_inventory(tmp_path) == {"done": 5, "rejected": 2}
        return {
            e.file.file_id: e.reason for e in read_entries(tmp_path / "0_archive/inventory.tsv") if e.state == "done"
        }

    assert set(reasons().values()) == {""}, "before the tables are gathered nobody can know"
    write_parquet(with_copies(table(ROWS, IMAGES), no_maps), tmp_path / "4_defects/images.parquet")
    same = "same content as x/a.dm4, which is counted"
    for _ in range(2):  # said again when nothing has changed
        assert reasons() == {"a": "", "b": same, "c": "", "d": same, "g": ""}
