"""Reviews: files of people, read with care; marks matched to defects, densities with and without them, precision."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from oddlattice.archive import inventory
from oddlattice.archive.review_files import Reviews, by_shard, dumped, file_of, read_reviews, review_paths, that_count
from oddlattice.numerics.intervals import poisson_interval, wilson
from oddlattice.run import settings
from oddlattice.statistics.reviews import Reviewed, inside, lay_on, match, near_px, precision, recall, verdict_of
from oddlattice.storage.products import DEFECTS, IMAGES, table

SCHEMA = settings.load_yaml(Path(__file__).parents[2] / "workflow/schemas/review.schema.yaml")
AT = "2026-11-22T10:00:00Z"


def mark(row: float, col: float, verdict: str = "confirmed", **more: Any) -> dict[str, Any]:
    """A mark on a defect, as a page exports it."""
    place = {"row_px": row, "col_px": col, "cell_u": None, "cell_v": None, "site": "Sr", "found_kind": "lighter"}
    return {"verdict": verdict, "kind": "", "note": "", "at": AT} | place | more


def said(reviewer: str = "A. Meier", image_id: str = "a-0123456789", **more: Any) -> dict[str, Any]:
    """What one person said of one image."""
    return {"reviewer": reviewer, "image_id": image_id, "path": "s/a.dm4"} | more


def read(folder: Path, *reviews: dict[str, Any], name: str = "one.json") -> Reviews:
    """Write reviews as one file and read all files of the folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"format": "oddlattice-review-1", "reviews": list(reviews)}))
    return read_reviews(review_paths(folder, folder / "none"), SCHEMA)


# ---------------------------------------------------------------- files


def test_files_of_the_folder_and_beside_the_report_are_read(tmp_path: Path) -> None:
    for place, names in (("review", ["b.json", "x.txt", ".c.json"]), ("5_report", ["review-a.JSON", "index.json"])):
        (tmp_path / place).mkdir()
        for name in names:
            (tmp_path / place / name).touch()
    assert [path.name for path in review_paths(tmp_path / "review", tmp_path / "5_report")] == [
        "b.json",
        "review-a.JSON",
    ]
    assert review_paths(tmp_path / "none", tmp_path / "none") == []


def test_every_statement_becomes_a_row(tmp_path: Path) -> None:
    region = {"id": "r1", "corners_px": [[0, 0], [0, 9], [9, 9]], "withdrawn": False, "at": AT}
    everything = {
        "defects": [mark(1, 2), mark(5, 6, "none", note=" a\nb\u202ec ")],
        "regions": [region],
        "unusable": {"is": True, "at": AT},
        "note": {"text": "tip change", "at": AT},
    }
    found = read(tmp_path, said(**everything))
    assert found.files == [
        {"file": "one.json", "state": "taken", "reason": "", "reviewers": ["A. Meier"], "statements": 5}
    ]
    assert [row["what"] for row in found.statements] == ["defect", "defect", "image", "note", "region"]
    assert found.statements[1]["note"] == "a\nb c"  # a direction override is no text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "found no JSON"),
        (b"\xff\xfe", "found no JSON"),
        (b"[" * 100_000, "found no JSON"),
        (b"[]", "found list"),
        (b"{}", "format: found nothing; needed oddlattice-review-1"),
        (b'{"format": "oddlattice-review-1", "reviews": [{"reviewer": " ", "image_id": "a"}]}', "reviewer: found"),
        (b'{"format": "oddlattice-review-1", "reviews": [{"reviewer": "A", "image_id": "../a"}]}', "image_id: found"),
        (b'{"format": "oddlattice-review-1", "reviews": [], "x": 1}', "x: unknown key"),
        (
            (
                b'{"format": "oddlattice-review-1", "reviews": [{"reviewer": "A", "image_id": "a", "defects": '
                b'[{"verdict": "confirmed", "row_px": NaN, "col_px": 1, "at": "2026-11-22T10:00:00Z"}]}]}'
            ),
            "row_px: found nan; needed a finite number",
        ),
        (
            (
                b'{"format": "oddlattice-review-1", "reviews": [{"reviewer": "A", "image_id": "a", "defects": '
                b'[{"verdict": "maybe\\u202e", "row_px": 1, "col_px": 1, "at": "2026-11-22T10:00:00Z"}]}]}'
            ),
            r'verdict: found "maybe\xe2\x80\xae"',
        ),
    ],
)
def test_a_bad_file_is_listed_and_the_others_count(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    found = read(tmp_path, said(defects=[mark(1, 2)]))
    assert [file["state"] for file in found.files] == ["refused", "taken"]
    assert reason in found.files[0]["reason"]
    assert "\n" not in found.files[0]["reason"]
    assert len(found.statements) == 1


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    found = read_reviews(review_paths(tmp_path, tmp_path / "none"), SCHEMA)
    assert [file["state"] for file in found.files] == ["refused"] * 3


def test_the_latest_of_one_person_counts_and_all_of_different_ones(tmp_path: Path) -> None:
    later = "2026-11-22T10:00:00.5Z"
    read(tmp_path, said(defects=[mark(1, 2, "rejected", at=later), mark(9, 9, "none", at=later)]), name="z.json")
    found = read(tmp_path, said(defects=[mark(1.2, 2), mark(9, 9)]), said("B. Li", defects=[mark(1, 2)]), name="a.json")
    assert [(row["reviewer"], row["verdict"]) for row in found.statements] == [
        ("A. Meier", "rejected"),  # the mark on (9, 9) was taken back
        ("B. Li", "confirmed"),
    ]


def test_names_are_equal_when_they_look_equal(tmp_path: Path) -> None:
    found = read(tmp_path, said("Jo\u0308rg ", defects=[mark(1, 2)]), said("J\u00f6rg", defects=[mark(1, 2)]))
    assert {row["reviewer"] for row in found.statements} == {"J\u00f6rg"}


@given(st.permutations(range(6)))
def test_the_order_of_files_does_not_matter(order: list[int]) -> None:
    rows = [
        {
            "file": f"{k}.json",
            "reviewer": "AB"[k % 2],
            "image_id": "i",
            "what": "image",
            "is": k < 3,
            "at": AT,
            "path": "",
        }
        for k in range(6)
    ]
    dropped = [{k: v for k, v in row.items() if k != "file"} for row in that_count(rows)]
    assert [{k: v for k, v in r.items() if k != "file"} for r in that_count([rows[k] for k in order])] == dropped


@pytest.mark.parametrize(
    "image_id", ["a-b-0123456789", "a-b-0123456789-s1", "a-b-0123456789-f0003", "a-b-0123456789-s2-f12345"]
)
def test_an_image_belongs_to_its_file(image_id: str) -> None:
    assert file_of(image_id) == "a-b-0123456789"


def test_only_shards_a_review_is_about_are_rewritten(tmp_path: Path) -> None:
    home = tmp_path / "0_archive"
    home.mkdir()
    files = {"s-00000001": "a-0123456789", "s-00000002": "b-0123456789"}
    for shard, file in files.items():
        (home / f"{shard}.tsv").write_text(f"file_id\tpath\tsize_bytes\tmtime_ns\n{file}\tx.dm4\t1\t1\n")
    inventory.write_reviews(tmp_path, Reviews([], []))
    before = {path.name: path.stat().st_mtime_ns for path in home.glob("*.json")}
    assert len(before) == 3
    found = read(tmp_path / "review", said(image_id="b-0123456789-s1", defects=[mark(1, 2)]))
    inventory.write_reviews(tmp_path, found)
    after = {path.name: path.stat().st_mtime_ns for path in home.glob("*.json")}
    assert {name for name in before if before[name] != after[name]} == {"reviews.json", "s-00000002.reviews.json"}
    renamed = read(tmp_path / "review", name="two.json")
    (tmp_path / "review/one.json").rename(tmp_path / "review/three.json")
    inventory.write_reviews(tmp_path, read_reviews(review_paths(tmp_path / "review", tmp_path), SCHEMA))
    assert (home / "s-00000002.reviews.json").stat().st_mtime_ns == after["s-00000002.reviews.json"]
    assert by_shard(renamed.statements, {}, {}) == {}
    assert dumped({"b": 1, "a": 2}) == dumped({"a": 2, "b": 1})


def test_what_is_said_of_a_scan_goes_to_every_shard_that_holds_it(tmp_path: Path) -> None:
    home = tmp_path / "0_archive"
    home.mkdir()
    files = {"s-00000001": "a-0123456789", "s-00000002": "moved-0123456789", "s-00000003": "c-0123456789"}
    for shard, file in files.items():
        (home / f"{shard}.tsv").write_text(f"file_id\tpath\tsize_bytes\tmtime_ns\n{file}\tx.dm4\t1\t1\n")
    # the file a holds another scan now; the one that was judged lies in a file of another name
    for shard, scan in (("s-00000001", "f" * 64), ("s-00000002", "e" * 64)):
        store = zarr.open_group(tmp_path / f"1_images/{shard}.zarr", mode="w", zarr_format=3)
        store.attrs["images"] = [{"image_id": files[shard], "scan_id": scan}, {"image_id": "refused", "scan_id": ""}]
    about = said(image_id="a-0123456789", scan_id="e" * 64, defects=[mark(1, 2)])
    not_read = said(image_id="c-0123456789", scan_id="d" * 64, defects=[mark(3, 4)])
    inventory.write_reviews(tmp_path, read(tmp_path / "review", about, not_read))
    told = {
        shard: [s["row_px"] for s in json.loads((home / f"{shard}.reviews.json").read_text())["statements"]]
        for shard in files
    }
    assert told == {"s-00000001": [], "s-00000002": [1], "s-00000003": [3]}


# ---------------------------------------------------------------- matching


def defect(row: float, col: float, **more: Any) -> dict[str, Any]:
    """A row of the table of defects."""
    head = {"image_id": "a-0123456789", "path": "s/a.dm4", "signal": "", "frame": 0, "row_px": row, "col_px": col}
    return head | {"cell_u": 0, "cell_v": 0, "site": "Sr", "kind": "lighter", "review": ""} | more


def test_marks_find_defects_of_their_class_by_place_whatever_the_cells_are_called() -> None:
    found = [defect(100, 100, cell_u=3, cell_v=4), defect(110, 110, site="Ti"), defect(101, 101, kind="extra")]
    marks = [
        mark(102, 102, cell_u=77, cell_v=77),  # the cells are numbered otherwise now
        mark(100.5, 100.5, found_kind="extra"),
        mark(111, 109, cell_u=3, cell_v=4, found_kind="heavier"),  # the kind is called otherwise now
        mark(100, 100, found_kind="extended"),
        mark(106, 106, cell_u=3, cell_v=4),  # too far, though the cell is called the same
    ]
    assert match(marks, found, reach_px=3.0) == [0, 2, 1, None, None]


def test_marks_and_defects_are_matched_one_to_one() -> None:
    found = [defect(100, 100), defect(100, 104)]
    assert match([mark(100, 101.9), mark(100, 101)], found, reach_px=3.0) == [1, 0]
    assert match([mark(100, 99), mark(100, 98)], found, reach_px=3.0) == [0, None]


def test_the_reach_is_a_part_of_the_distance_between_columns() -> None:
    places = np.stack(np.meshgrid(np.arange(5) * 12.0, np.arange(5) * 30.0), -1).reshape(-1, 2)
    assert near_px(places) == pytest.approx(3.6)
    assert near_px(places[:1]) == 3.0


def test_a_region_is_found_within_its_own_size() -> None:
    found = [defect(100, 100, kind="extended", site="", radius_px=40.0), defect(100, 101)]
    assert match([mark(120, 120, found_kind="extended"), mark(100, 101)], found, reach_px=6.0) == [0, 1]
    assert match([mark(1, 1)], [], reach_px=6.0) == [None]


@given(st.permutations(range(30)), st.floats(0, 1.4), st.floats(0, 2 * math.pi))
def test_the_order_of_rows_never_counts(order: list[int], away: float, turn: float) -> None:
    places = [(20.0 * (k // 6), 20.0 * (k % 6)) for k in range(30)]
    rows = [defect(*places[k], cell_u=k) for k in order]
    marks = [mark(r + away * math.cos(turn), c + away * math.sin(turn)) for r, c in places]
    assert [order[index] for index in match(marks, rows, reach_px=6.0) if index is not None] == list(range(30))


# ---------------------------------------------------------------- what it comes to


@pytest.mark.parametrize(
    ("marks", "review", "kind"),
    [
        ([], "", ""),
        ([("A", "confirmed", "")], "confirmed", ""),
        ([("A", "confirmed", ""), ("B", "confirmed", "")], "confirmed", ""),
        ([("A", "confirmed", ""), ("B", "rejected", "")], "conflict", ""),
        ([("A", "other", "heavier"), ("B", "other", "heavier")], "other", "heavier"),
        ([("A", "other", "heavier"), ("B", "other", "extra")], "conflict", ""),
        ([("A", "confirmed", ""), ("B", "other", "extra")], "conflict", ""),
        ([("A", "none", ""), ("B", "rejected", "")], "rejected", ""),
    ],
)
def test_verdicts_of_several_people(marks: list[tuple[str, str, str]], review: str, kind: str) -> None:
    rows = [{"reviewer": who, "verdict": verdict, "kind": k, "note": ""} for who, verdict, k in marks]
    found = verdict_of(rows)
    assert (found["review"], found["review_kind"]) == (review, kind)
    assert all(who in found["review_by"] for who, _, _ in marks)


def test_inside_a_polygon() -> None:
    places = np.array([[5.0, 5.0], [15.0, 5.0], [9.0, 1.0]])
    square, corner = [[0, 0], [0, 10], [10, 10], [10, 0]], [[0, 0], [0, 10], [10, 10]]
    assert inside(places, [square]).tolist() == [True, False, True]
    assert inside(places, [corner]).tolist() == [True, False, False] or inside(places, [corner]).sum() <= 2
    assert not inside(places, []).any()


@pytest.fixture
def laid(tmp_path: Path) -> Any:
    """Lay statements on an image of 100 nm2 with ten point defects and one region, and on one without a model."""
    rows = [defect(20.0 * k, 50.0, cell_u=k) for k in range(10)]
    rows.append(defect(100.0, 100.0, kind="extended", site="", area_nm2=1.0))
    low, high = poisson_interval(10)
    image = {
        "image_id": "a-0123456789", "file_id": "a-0123456789", "path": "s/a.dm4", "state": "analysed", "a_px": 20.0,
        "b_px": 20.0, "pixel_nm": 0.02, "defects": 10, "area_nm2": 100.0, "density_per_nm2": 0.1,
        "density_ci_low": low / 100, "density_ci_high": high / 100, "columns_tested": 400,
    }  # fmt: skip
    other = {"image_id": "b-0123456789", "path": "s/b.dm4", "state": "no_model"}
    columns = np.stack(np.meshgrid(np.arange(20) * 10.0, np.arange(20) * 10.0), -1).reshape(-1, 2)

    def lay(*reviews: dict[str, Any]) -> Reviewed:
        statements = read(tmp_path / "review", *reviews).statements
        return lay_on(table(rows, DEFECTS), table([image, other], IMAGES), lambda name: columns, statements)

    return lay


def test_without_reviews_nothing_changes(laid: Any) -> None:
    found = laid()
    image = found.images.row(0, named=True)
    assert found.defects["review"].to_list() == [""] * 11
    for end in ("per_nm2", "ci_low", "ci_high"):
        assert image[f"density_reviewed_{end}"] == image[f"density_{end}"]
    assert (image["defects_reviewed"], image["area_reviewed_nm2"], image["unusable"]) == (10, 100.0, False)
    assert found.statements.height == 0


def test_rejected_defects_leave_the_density(laid: Any) -> None:
    marks = [mark(20.0 * k, 50.0, v, cell_u=k, cell_v=0) for k, v in enumerate(["rejected"] * 3 + ["confirmed"])]
    marks.append(mark(80.0, 50.0, "other", kind="heavier", cell_u=4, cell_v=0))
    found = laid(said(defects=marks))
    image = found.images.row(0, named=True)
    assert (image["review_rejected"], image["review_confirmed"], image["review_other"]) == (3, 1, 1)
    assert (image["defects"], image["defects_reviewed"]) == (10, 7)
    low, high = poisson_interval(7)
    assert [image[f"density_reviewed_{end}"] for end in ("per_nm2", "ci_low", "ci_high")] == pytest.approx(
        [0.07, low / 100, high / 100]
    )
    assert image["density_per_nm2"] == 0.1  # the density as flagged stays
    assert found.defects["review"].to_list()[:6] == ["rejected"] * 3 + ["confirmed", "other", ""]
    assert found.defects["review_kind"][4] == "heavier"
    assert [row["state"] for row in found.statements.to_dicts()] == ["taken"] * 5


def test_an_excluded_region_takes_its_area_and_defects_along(laid: Any) -> None:
    corners = [[-5, -5], [-5, 95], [95, 95], [95, -5]]  # a quarter of the tested columns
    region = {"id": "r", "corners_px": corners, "withdrawn": False, "at": AT}
    image = laid(said(regions=[region])).images.row(0, named=True)
    assert image["excluded_area_nm2"] == pytest.approx(25.0)
    assert image["area_reviewed_nm2"] == pytest.approx(75.0)
    assert image["defects_reviewed"] == 5
    assert image["density_reviewed_per_nm2"] == pytest.approx(5 / 75)


def test_an_unusable_image_has_no_density_after_review(laid: Any) -> None:
    found = laid(said(unusable={"is": True, "at": AT}), said(image_id="b-0123456789", unusable={"is": True, "at": AT}))
    image = found.images.row(0, named=True)
    assert (image["unusable"], image["defects_reviewed"], image["area_reviewed_nm2"]) == (True, 0, 0.0)
    assert image["density_reviewed_per_nm2"] is None
    assert found.defects["excluded"].all()
    assert found.images["unusable"].to_list() == [True, True]


def test_what_matches_nothing_is_kept_and_listed(laid: Any) -> None:
    found = laid(said(defects=[mark(7, 7), mark(0, 50)]), said(image_id="gone-0123456789", defects=[mark(1, 1)]))
    rows = found.statements.to_dicts()
    assert [(row["state"], row["reason"]) for row in rows] == [
        ("taken", ""),
        ("unmatched", "no defect is flagged at this place now"),
        ("unmatched", "this image is not among the results"),
    ]


def test_people_who_disagree_are_both_kept(laid: Any) -> None:
    found = laid(said(defects=[mark(0, 50, cell_u=0, cell_v=0)]), said("B. Li", defects=[mark(0, 50, "rejected")]))
    row = found.defects.row(0, named=True)
    assert row["review"] == "conflict"
    assert row["review_by"] == "A. Meier: confirmed; B. Li: rejected"
    assert found.images["review_conflicts"][0] == 1
    assert found.images["defects_reviewed"][0] == 10  # it counts until they agree
    assert [m["reviewer"] for m in found.marks[0]] == ["A. Meier", "B. Li"]


def test_precision_counts_what_people_judged(laid: Any) -> None:
    marks = [mark(20.0 * k, 50.0, "rejected" if k < 2 else "confirmed", cell_u=k, cell_v=0) for k in range(8)]
    found = laid(said(defects=marks), said("B. Li", defects=[mark(140, 50, "rejected", cell_u=7, cell_v=0)]))
    rows = {row["group"]: row for row in precision(found.defects)}
    assert (rows["all columns"]["flagged"], rows["all columns"]["reviewed"]) == (10, 8)
    assert (rows["all columns"]["real"], rows["all columns"]["rejected"], rows["all columns"]["conflicts"]) == (5, 2, 1)
    assert (rows["all columns"]["ci_low"], rows["all columns"]["ci_high"]) == pytest.approx(wilson(5, 7))
    assert "in images reviewed in full" not in rows
    everything = [mark(20.0 * k, 50.0, "confirmed", cell_u=k, cell_v=0) for k in range(10)]
    full = {row["group"]: row for row in precision(laid(said(defects=everything)).defects)}
    assert full["in images reviewed in full"]["precision"] == 1.0
    assert precision(laid().defects)[0]["precision"] is None


def test_a_stricter_threshold_loses_no_mark(laid: Any) -> None:
    marks = [mark(20.0 * k, 50.0, "rejected", cell_u=k, cell_v=0) for k in range(10)]
    found = laid(said(defects=marks))
    kept = found.defects.filter(pl.col("cell_u") % 2 == 0)
    again = lay_on(
        kept, found.images, lambda name: np.empty((0, 2)), [{**m, **said(), "what": "defect"} for m in marks]
    )
    assert again.defects.filter(pl.col("kind") != "extended")["review"].to_list() == ["rejected"] * 5
    assert sorted(again.statements["state"]) == ["taken"] * 5 + ["unmatched"] * 5


# ---------------------------------------------------------------- scans, looking, adding

SCAN = "5c" * 32


def with_scans(*scans: str) -> pl.DataFrame:
    """Images a, b, c ... with these scans."""
    rows = [{"image_id": f"{name}-0123456789", "path": f"{name}.dm4", "state": "analysed", "area_nm2": 100.0,
             "defects": 1} for name, _ in zip("abc", scans, strict=False)]  # fmt: skip
    return table(rows, IMAGES).with_columns(scan_id=pl.Series(list(scans)))


def lay_on_scans(images: pl.DataFrame, statements: list[dict[str, Any]]) -> Reviewed:
    """Every image has one defect at (100, 100) among columns 10 px apart."""
    defects = table([defect(100, 100, image_id=name) for name in images["image_id"]], DEFECTS)
    columns = np.stack(np.meshgrid(np.arange(20) * 10.0, np.arange(20) * 10.0), -1).reshape(-1, 2)
    return lay_on(defects, images, lambda name: columns, statements)


def test_a_review_follows_its_scan_into_another_file(tmp_path: Path) -> None:
    statements = read(tmp_path, said(image_id="old-0123456789", scan_id=SCAN, defects=[mark(100, 101)])).statements
    found = lay_on_scans(with_scans(SCAN, "7e" * 32), statements)
    assert found.defects["review"].to_list() == ["confirmed", ""]
    assert found.statements["image_id"].to_list() == ["a-0123456789"]


def test_a_review_does_not_follow_a_file_with_another_scan(tmp_path: Path) -> None:
    statements = read(tmp_path, said(image_id="a-0123456789", scan_id=SCAN, defects=[mark(100, 101)])).statements
    found = lay_on_scans(with_scans("7e" * 32), statements)
    assert found.defects["review"].to_list() == [""]
    assert found.statements["reason"].to_list() == ["the file holds another scan now"]


@pytest.mark.parametrize("scans", [("",), (SCAN,)])
def test_an_old_review_file_still_applies(tmp_path: Path, scans: tuple[str, ...]) -> None:
    """As version 0.1.0 exported it: no scan, cells counted from the corner of the grid."""
    old = {
        "format": "oddlattice-review-1",
        "reviews": [{
            "reviewer": "A. Meier", "image_id": "a-0123456789", "path": "s/a.dm4",
            "defects": [{"verdict": "rejected", "kind": "", "found_kind": "lighter", "site": "Sr", "cell_u": 41,
                         "cell_v": 7, "row_px": 100.4, "col_px": 99.7, "note": "tip", "at": AT}],
            "note": {"text": "good", "at": AT},
        }],
    }  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(old))
    statements = read_reviews([tmp_path / "old.json"], SCHEMA).statements
    found = lay_on_scans(with_scans(*scans), statements)
    assert found.defects["review"].to_list() == ["rejected"]
    assert found.statements["state"].to_list() == ["taken", "taken"]


def test_an_old_and_a_new_mark_of_one_person_are_one(tmp_path: Path) -> None:
    later = "2026-11-22T11:00:00Z"
    old = said(defects=[mark(100, 101)])
    new = said(scan_id=SCAN, defects=[mark(100.5, 100.5, "rejected", at=later)])
    found = lay_on_scans(with_scans(SCAN), read(tmp_path, old, new).statements)
    assert found.defects["review"].to_list() == ["rejected"]


def test_looking_at_an_image_and_adding_what_was_missed_measures_recall(tmp_path: Path) -> None:
    missed = [{"id": f"m{k}", "row_px": place, "col_px": 50.0, "withdrawn": k == 2, "at": AT}
              for k, place in enumerate([20.0, 150.0, 180.0])]  # fmt: skip
    near = [{"id": "n", "row_px": 101.0, "col_px": 100.0, "withdrawn": False, "at": AT}]
    look = {"is": True, "at": AT}
    statements = read(
        tmp_path,
        said(defects=[mark(100, 100)], missed=missed, looked=look),
        said("B. Li", missed=[{**missed[0], "row_px": 21.0}, *near]),
    ).statements
    found = lay_on_scans(with_scans(SCAN, ""), statements)
    image = found.images.row(0, named=True)
    assert (image["looked_at"], image["review_missed"], image["review_confirmed"]) == (True, 2, 1)
    assert found.images["looked_at"].to_list() == [True, False]
    assert "it is flagged now" in found.statements["reason"].to_list()
    row = recall(found.images)
    assert (row["images"], row["found"], row["missed"]) == (1, 1, 2)
    assert (row["ci_low"], row["ci_high"]) == wilson(1, 3)
