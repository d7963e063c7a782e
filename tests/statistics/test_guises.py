"""One scan in several guises is known by its noise or by the places of its columns, and counted once."""

import numpy as np
import polars as pl
import pytest
from scipy import ndimage

from oddlattice.statistics.copies import with_copies
from oddlattice.statistics.counting import one_of_each_stack
from oddlattice.statistics.guises import Maps, find_guises, pairs, same_scan
from oddlattice.storage.products import IMAGES, table
from oddlattice.storage.rows import Row

SHAPE = (160, 200)
CELL_PX = 20.0


def lattice(at: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    rows, cols = np.indices(SHAPE)
    return np.cos(2 * np.pi * (rows - at[0]) / CELL_PX) + np.cos(2 * np.pi * (cols - at[1]) / CELL_PX) + 0.01


def scan(seed: int, at: tuple[float, float] = (0.0, 0.0), left: float = 0.3) -> Maps:
    """White noise with something of the lattice `left` in it, and an emptied column."""
    noise = np.random.default_rng(seed).normal(0, 1, SHAPE) + left * lattice(at)
    noise[60:70, 80:90] -= 8
    return Maps(noise.astype(np.float32), lattice(at).astype(np.float32))


def exported(maps: Maps) -> Maps:
    """As 256 levels, without a scale."""
    return Maps(np.round(maps.difference * 20) * 1.7 + 0.3, 34 * maps.prediction)


def filtered(maps: Maps, blur_px: float = 1.5) -> Maps:
    return Maps(ndimage.gaussian_filter(maps.difference, blur_px), maps.prediction)


@pytest.mark.parametrize("change", [exported, filtered])
def test_the_noise_tells_an_export_and_a_filtered_copy(change) -> None:
    assert same_scan(scan(1), change(scan(1)), False).startswith("same noise")


@pytest.mark.parametrize("at", [(0.0, 0.0), (3.0, 7.0)])
def test_another_scan_of_the_same_crystal_is_none(at: tuple[float, float]) -> None:
    """Not even where its lattice lies at the same pixels and the same column is empty."""
    assert same_scan(scan(1), scan(2, at), False) == ""


def test_detectors_of_one_scan_see_every_column_at_the_same_pixels() -> None:
    other = scan(2)
    assert same_scan(scan(1), other, True) == "same time and places of columns"
    assert same_scan(scan(1), Maps(other.difference, -other.prediction), True), "bright field"
    assert same_scan(scan(1), scan(2, (3.0, 7.0)), True) == "", "two scans that began in one second"


def test_too_little_that_was_analysed_in_both_tells_nothing() -> None:
    empty = np.zeros(SHAPE, np.float32)
    empty[:40] = scan(1).difference[:40]
    assert same_scan(scan(1), Maps(empty, scan(1).prediction), False) == ""


def image(path: str, acquired: str = "", **more: object) -> Row:
    name = path.replace("/", "-")
    about = {"image_id": name, "file_id": name, "path": path, "signal": "HAADF", "frame": 0, "state": "analysed"}
    size = {"rows": SHAPE[0], "cols": SHAPE[1], "acquired": acquired, "density_per_nm2": 0.1, "pixel_nm_header": 0.02}
    return about | size | {"scan_id": "", "reason": ""} | more


def named(rows: list[Row]) -> set[tuple[str, str, bool]]:
    return {(one["path"], other["path"], at_once) for one, other, at_once in pairs(rows)}


def test_whom_to_compare_is_told_by_size_name_and_time() -> None:
    at = "2026-03-01T10:20:30"
    assert named([image("a/1059.dm4"), image("a/1059_8bit.tif"), image("a/1059 filtered.dm4", rows=99)]) == {
        ("a/1059.dm4", "a/1059_8bit.tif", False)
    }
    assert named([image("raw/7 HAADF.dm4"), image("tif/7 ABSF.tif")]) == {("raw/7 HAADF.dm4", "tif/7 ABSF.tif", False)}
    assert named([image("a/scan 1.dm4"), image("a/scan 2.dm4"), image("b/c/scan 1.dm4")]) == set()
    assert named([image("a/x.dm4", at), image("a/y.dm4", at)]) == {("a/x.dm4", "a/y.dm4", True)}
    assert named([image("a/x.tif", at), image("a/y.tif", at)]) == set(), "the time of an export"
    assert named([image(f"a{n}/1.tif") for n in range(9)]) == set(), "a name that all folders have tells nothing"


ROWS = [
    image("s/5_8bit.tif", pixel_nm_header=None),
    image("s/5.dm4"),
    image("s/5 wiener.dm4", density_per_nm2=None),
    image("s/6.emd", file_id="six", image_id="six-s0", signal="BF"),
    image("s/6.emd", file_id="six", image_id="six-s1"),
    image("s/7.dm4", file_id="seven", image_id="seven-f0"),
    image("s/7.dm4", file_id="seven", image_id="seven-f1", frame=1),
    image("s/7 export.tif", file_id="export", image_id="export-f0"),
    image("s/7 export.tif", file_id="export", image_id="export-f1", frame=1),
    image("s/8.dm4", scan_id="eight"),
    image("s/8.emd", scan_id="eight", density_per_nm2=None),
    image("s/8 bright.dm4", image_id="s-8-bright"),
]
MAPS = {
    "s-5_8bit.tif": exported(scan(5)),
    "s-5.dm4": scan(5),
    "s-5 wiener.dm4": filtered(scan(5)),
    "six-s0": scan(60),
    "six-s1": scan(61),
    "seven-f0": scan(7),
    "export-f0": exported(scan(7)),
    "s-8.dm4": scan(8),
}


def test_each_scan_is_counted_once_by_its_best_guise() -> None:
    told = with_copies(table(ROWS, IMAGES), MAPS.get)
    same = {row["image_id"]: (row["same_scan_as"], row["same_scan_how"]) for row in told.iter_rows(named=True)}
    noise = {name: how.partition(" (")[0] for name, (_, how) in same.items() if how}
    assert {name: counted for name, (counted, _) in same.items() if counted} == {
        "s-5_8bit.tif": "s-5.dm4",
        "s-5 wiener.dm4": "s-5.dm4",
        "six-s0": "six-s1",
        "export-f0": "seven-f0",
        "export-f1": "seven-f1",
        "s-8.emd": "s-8.dm4",
    }
    assert noise["s-5_8bit.tif"] == noise["export-f1"] == "same noise"
    assert noise["six-s0"] == "same time and places of columns" and noise["s-8.emd"] == "same content"
    counted = [row["image_id"] for row in one_of_each_stack(told.to_dicts())]
    assert counted == ["s-5.dm4", "six-s1", "seven-f0", "s-8.dm4", "s-8-bright"]
    assert told.filter(pl.col("same_scan_as") == "")["same_scan_how"].unique().to_list() == [""]


def test_a_copy_of_a_guise_is_counted_by_what_the_guise_is_counted_by() -> None:
    rows = [image("s/5.dm4"), image("s/5_8bit.tif", scan_id="x"), image("s/copy/5_8bit.tif", scan_id="x")]
    told = with_copies(table(rows, IMAGES), MAPS.get)
    assert told["same_scan_as"].to_list() == ["", "s-5.dm4", "s-5.dm4"]


def test_the_finding_does_not_depend_on_the_order() -> None:
    some = [row for row in ROWS if row["frame"] == 0 and not row["scan_id"]]
    assert find_guises(some, MAPS.get) == find_guises(some[::-1], MAPS.get)
