"""What people said, laid on what was found: marks matched to defects, densities with and without them, and precision.

What is said of a scan holds for the scan, in whatever file it lies; a file of an older version names the image alone.
A mark is matched to a defect of its class by its place, one to one, within a part of the distance between columns: rows
and cells are numbered anew by every run and never count. What matches nothing is kept and listed.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.spatial import cKDTree
from skimage import measure

from oddlattice.archive.review_files import latest_marks
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.intervals import poisson_interval, wilson
from oddlattice.storage.products import REVIEWS, table
from oddlattice.storage.rows import Row

NEAR = 0.3  # a mark belongs to a defect within this part of the distance between columns
NEAR_PX = 3.0  # the same where no column was tested
CHANGED = "the file holds another scan now"
BLANK: Row = {"review": "", "review_kind": "", "review_by": "", "review_note": "", "excluded": False}
VERDICTS = {"image": "unusable", "looked": "looked at", "missed": "missed"}
MEANS = {"confirmed": True, "other": True, "rejected": False}  # whether a verdict says that the defect is there


@dataclass(frozen=True)
class Reviewed:
    """Defects and images with what people said of them, every statement with what became of it, and marks by defect."""

    defects: pl.DataFrame
    images: pl.DataFrame
    statements: pl.DataFrame
    marks: list[list[Row]]  # of each row of `defects`


def class_of(kind: str | None) -> str:
    """What a defect is, whatever its kind is called: a column of the crystal, an extra one, a region or a boundary."""
    return {"extended": "region", "extra": "extra", "boundary": "boundary"}.get(kind or "", "column")


def near_px(columns_px: Array) -> float:
    """How far a defect may stand from a mark that is about it, by the places (n, 2) of the tested columns [px]."""
    if len(columns_px) < 2:
        return NEAR_PX
    away = np.asarray(cKDTree(columns_px).query(columns_px, k=2)[0])
    return NEAR * float(np.median(away[:, 1]))


def match(marks: Sequence[Row], defects: Sequence[Row], reach_px: float) -> list[int | None]:
    """Find the defect that each mark of one person is about: of its class, one to one, the nearest pairs first.

    Parameters
    ----------
    marks : sequence of dict
        ``row_px, col_px, found_kind`` of what was marked.
    defects : sequence of dict
        Rows of products.DEFECTS of the same image.
    reach_px : float
        How far a defect may stand from a mark [px]; a region, within its own size.

    Returns
    -------
    list of int or None
        Index into `defects`.
    """
    places = np.array([[d["row_px"], d["col_px"]] for d in defects]).reshape(-1, 2)
    classes = np.array([class_of(d["kind"]) for d in defects])
    reach = np.array([max(reach_px, d.get("radius_px") or 0.0) for d in defects])
    pairs = []
    for k, mark in enumerate(marks):
        away = np.hypot(*(places - [mark["row_px"], mark["col_px"]]).T)
        fit = np.flatnonzero((classes == class_of(mark["found_kind"])) & (away <= reach))
        pairs += [(float(away[at]), mark["row_px"], mark["col_px"], k, int(at)) for at in fit]
    found: list[int | None] = [None] * len(marks)
    taken: set[int] = set()
    for *_, k, at in sorted(pairs):
        if found[k] is None and at not in taken:
            found[k] = at
            taken.add(at)
    return found


def verdict_of(marks: Sequence[Row]) -> Row:
    """What the marks of different people on one defect come to, as columns of products.DEFECTS."""
    judged = [mark for mark in marks if mark["verdict"] in MEANS]
    says = {(mark["verdict"], mark["kind"] if mark["verdict"] == "other" else "") for mark in judged}
    means = {MEANS[verdict] for verdict, _ in says}
    kinds = {kind for verdict, kind in says if verdict == "other"}
    review = "conflict" if len(says) > 1 else next(iter(says))[0] if says else ""
    if len(says) > 1 and means == {True} and len(kinds) == 1 and all(v == "other" for v, _ in says):
        review = "other"
    return {
        "review": review,
        "review_kind": next(iter(kinds)) if review == "other" else "",
        "review_by": "; ".join(f"{m['reviewer']}: {_words(m)}" for m in marks),
        "review_note": "\n".join(f"{m['reviewer']}: {m['note']}" for m in marks if m["note"]),
    }


def _words(mark: Row) -> str:
    if mark["verdict"] == "other":
        return f"other kind ({mark['kind'] or 'not named'})"
    return "note" if mark["verdict"] == "none" else str(mark["verdict"])


def inside(places_px: Array, regions: Sequence[Sequence[Sequence[float]]]) -> npt.NDArray[np.bool_]:
    """Whether places (n, 2) [px] lie in any of the regions, each given by its corners [px]."""
    found = np.zeros(len(places_px), dtype=bool)
    for corners in regions:
        if len(places_px):
            found |= _in_polygon(places_px, np.asarray(corners, dtype=np.float64))
    return found


def _in_polygon(places_px: Array, corners_px: Array) -> npt.NDArray[np.bool_]:
    return np.asarray(measure.points_in_poly(places_px, corners_px), dtype=np.bool_)  # type: ignore[no-untyped-call]


def density_columns(number: int, area_nm2: float | None) -> Row:
    """Number, area and density with its interval, as a review leaves them."""
    row: Row = {"defects_reviewed": number, "area_reviewed_nm2": area_nm2}
    if not area_nm2 or area_nm2 <= 0:
        return row
    low, high = (x / area_nm2 for x in poisson_interval(number))
    density = {"density_reviewed_per_nm2": number / area_nm2}
    return row | density | {"density_reviewed_ci_low": low, "density_reviewed_ci_high": high}


def lay_on(
    defects: pl.DataFrame,
    images: pl.DataFrame,
    columns_of: Callable[[str], Array],
    said: Sequence[Row],
) -> Reviewed:
    """Lay statements on the tables of defects and images.

    Parameters
    ----------
    defects, images : polars.DataFrame
        products.DEFECTS and products.IMAGES; the columns of the review are filled, nothing else changes.
    columns_of : callable
        Places (n, 2) [px] of the tested columns of an image; asked only where a region is excluded. The area of a
        region is the share of the tested columns in it.
    said : sequence of dict
        Statements, see `oddlattice.archive.review_files`.
    """
    by_image, lost = by_image_of(images, said)
    rows = defects.with_row_index("at").filter(pl.col("image_id").is_in(list(by_image)))
    of_image = {str(key[0]): part.to_dicts() for key, part in rows.group_by("image_id")}
    filled: dict[int, Row] = {}
    spoken: dict[int, list[Row]] = {}
    told: list[Row] = []
    about: list[Row] = []
    for image in images.iter_rows(named=True):
        name = str(image["image_id"])
        found = of_image.get(name, [])
        statements = by_image.get(name, [])
        row, marks, listed = _one_image(image, found, columns_of, statements)
        for defect, (filling, words) in zip(found, marks, strict=True):
            filled[defect["at"]], spoken[defect["at"]] = filling, words
        about.append(row)
        told += listed
    told += [_listed(statement, None, "unmatched", reason) for statement, reason in lost]
    told.sort(key=lambda row: (row["image_id"], row["reviewer"], row["what"], row["at"], row.get("row_px") or 0.0))
    of_row = [filled.get(k, BLANK) for k in range(defects.height)]
    new = {key: pl.Series(key, [m[key] for m in of_row], dtype=defects.schema[key]) for key in BLANK}
    return Reviewed(
        defects.with_columns(**new),
        images.with_columns(**_series(about, images)),
        table(told, REVIEWS),
        [spoken.get(k, []) for k in range(defects.height)],
    )


def by_image_of(images: pl.DataFrame, said: Sequence[Row]) -> tuple[dict[str, list[Row]], list[tuple[Row, str]]]:
    """Statements by the images they hold for, and those that hold for none with the reason.

    A statement that names its scan holds for every image with that scan; one that does not, for the image it names.
    """
    scans = images["scan_id"] if "scan_id" in images.columns else pl.Series([""] * images.height)
    scan_of = dict(zip(images["image_id"], scans.fill_null(""), strict=True))
    with_scan: dict[str, list[str]] = defaultdict(list)
    for name, scan in scan_of.items():
        if scan:
            with_scan[scan].append(name)
    found: dict[str, list[Row]] = defaultdict(list)
    lost = []
    for statement in said:
        scan, name = statement.get("scan_id") or "", statement["image_id"]
        by_name = [name] if name in scan_of and not (scan and scan_of[name]) else []
        holds_for = with_scan.get(scan) or by_name
        for image in holds_for:
            found[image].append(statement)
        if not holds_for:
            changed = name in scan_of
            lost.append((statement, CHANGED if changed else "this image is not among the results"))
    return found, lost


_OF_IMAGE = (
    "reviewers unusable looked_at review_confirmed review_rejected review_other review_conflicts review_missed "
    "excluded_area_nm2 defects_reviewed area_reviewed_nm2 density_reviewed_per_nm2 density_reviewed_ci_low "
    "density_reviewed_ci_high"
).split()


def _series(rows: list[Row], images: pl.DataFrame) -> dict[str, pl.Series]:
    return {key: pl.Series(key, [row.get(key) for row in rows], dtype=images.schema[key]) for key in _OF_IMAGE}


def _untouched(image: Row) -> Row:
    """Review columns of an image nobody said anything about: its densities are what they are."""
    row: Row = {"reviewers": "", "unusable": False, "looked_at": False}
    if image["state"] != "analysed":
        return row
    row |= dict.fromkeys(
        ("review_confirmed", "review_rejected", "review_other", "review_conflicts", "review_missed"), 0
    )
    row |= {"excluded_area_nm2": 0.0, "defects_reviewed": image["defects"], "area_reviewed_nm2": image["area_nm2"]}
    return row | {f"density_reviewed_{end}": image[f"density_{end}"] for end in ("per_nm2", "ci_low", "ci_high")}


def _one_image(
    image: Row, defects: list[Row], columns_of: Callable[[str], Array], said: list[Row]
) -> tuple[Row, list[tuple[Row, list[Row]]], list[Row]]:
    """Review columns of one image; those of each of its defects and its marks; statements with what became of them."""
    if not said:
        return _untouched(image), [(BLANK, [])] * len(defects), []
    pixel_nm = image["pixel_nm"] or image["pixel_nm_header"]
    for defect in defects:
        known = defect["kind"] == "extended" and defect["area_nm2"] and pixel_nm
        defect["radius_px"] = float(np.sqrt(defect["area_nm2"] / np.pi)) / pixel_nm if known else None
    placed = any(s["what"] in ("defect", "missed") for s in said)
    reach = near_px(columns_of(str(image["image_id"]))) if placed else NEAR_PX
    words, listed = _marks_on(image, defects, said, reach)
    missed, more = _missed(image, defects, said, reach)
    whole = [s for s in said if s["what"] not in ("defect", "missed")]
    listed += more + [_listed(s, image, "taken", "") for s in whole]
    regions = [s["corners_px"] for s in whole if s["what"] == "region"]
    unusable = any(s["what"] == "image" for s in whole)
    places = np.array([[d["row_px"], d["col_px"]] for d in defects]).reshape(-1, 2)
    out = inside(places, regions) | unusable
    of_defect = [verdict_of(words[k]) | {"excluded": bool(out[k])} for k in range(len(defects))]
    row: Row = {"reviewers": "; ".join(sorted({s["reviewer"] for s in said})), "unusable": unusable}
    row["looked_at"] = any(s["what"] == "looked" for s in whole)
    if image["state"] == "analysed":
        number = Counter(m["review"] for m in of_defect)
        row |= {f"review_{v}": number[v] for v in ("confirmed", "rejected", "other")}
        row |= {"review_conflicts": number["conflict"], "review_missed": missed}
        row |= _area_and_density(image, defects, of_defect, regions, columns_of, unusable)
    return row, list(zip(of_defect, words, strict=True)), listed


def _marks_on(image: Row, defects: list[Row], said: list[Row], reach_px: float) -> tuple[list[list[Row]], list[Row]]:
    """Marks on each defect, by person; every mark with what became of it."""
    words: list[list[Row]] = [[] for _ in defects]
    listed = []
    for who in sorted({s["reviewer"] for s in said}):
        marks = latest_marks(s for s in said if s["what"] == "defect" and s["reviewer"] == who)
        for mark, at in zip(marks, match(marks, defects, reach_px), strict=True):
            if at is None:
                listed.append(_listed(mark, image, "unmatched", "no defect is flagged at this place now"))
            else:
                words[at].append(mark)
                listed.append(_listed(mark, image, "taken", ""))
    return words, listed


def _missed(image: Row, defects: list[Row], said: list[Row], reach_px: float) -> tuple[int, list[Row]]:
    """How many defects people added that are not flagged, two people's at one place once; statements on them."""
    added: list[Row] = []
    listed = []
    for mark in (s for s in said if s["what"] == "missed"):
        flagged = _any_near(mark, defects, reach_px)
        listed.append(_listed(mark, image, "taken", "it is flagged now" if flagged else ""))
        if not flagged and not _any_near(mark, added, reach_px):
            added.append(mark)
    return len(added), listed


def _any_near(mark: Row, others: Sequence[Row], reach_px: float) -> bool:
    return any(math.hypot(o["row_px"] - mark["row_px"], o["col_px"] - mark["col_px"]) <= reach_px for o in others)


def _area_and_density(
    image: Row,
    defects: list[Row],
    marks: list[Row],
    regions: list[Any],
    columns_of: Callable[[str], Array],
    unusable: bool,
) -> Row:
    area = image["area_nm2"]
    share = 0.0
    if regions:
        columns = columns_of(str(image["image_id"]))
        share = float(inside(columns, regions).mean()) if len(columns) else 0.0
    share = 1.0 if unusable else share
    counted = sum(
        d["kind"] not in NO_POINTS and not d.get("in_region") and m["review"] != "rejected" and not m["excluded"]
        for d, m in zip(defects, marks, strict=True)
    )
    if area is None:
        return {"excluded_area_nm2": None, "defects_reviewed": counted}
    return {"excluded_area_nm2": share * area} | density_columns(counted, (1 - share) * area)


def _listed(statement: Row, image: Row | None, state: str, reason: str) -> Row:
    row = {key: statement.get(key) for key in REVIEWS if key in statement}
    row |= {"path": image["path"] if image else statement["path"], "state": state, "reason": reason}
    row |= {"image_id": image["image_id"]} if image else {}
    row |= {"file": statement.get("file", ""), "thing": statement.get("id", "")}
    if statement["what"] == "region":
        row["corners_px"] = json.dumps(statement["corners_px"], separators=(",", ":"))
        row["row_px"], row["col_px"] = (float(np.mean([c[k] for c in statement["corners_px"]])) for k in (0, 1))
        row["verdict"] = "excluded"
    elif statement["what"] in VERDICTS:
        row["verdict"] = VERDICTS[statement["what"]]
    return row


def precision(defects: pl.DataFrame) -> list[Row]:
    """Share of the reviewed defects that people found to be there, with its Wilson interval: overall and by kind.

    ``in images reviewed in full`` leaves out images of which only some defects were looked at, which may be the odd
    ones. Extended regions stand for themselves; where people disagree, the defect counts for neither side.
    """
    counted = defects.filter(~pl.col("excluded").fill_null(False))
    points = counted.filter(~pl.col("kind").fill_null("unknown").is_in(NO_POINTS))
    open_images = points.filter(pl.col("review").fill_null("") == "")["image_id"].unique()
    full = points.filter(~pl.col("image_id").is_in(open_images.implode()))
    groups = [("all columns", points), ("in images reviewed in full", full)]
    groups += [
        (str(kind), counted.filter(pl.col("kind") == kind)) for kind in sorted(set(counted["kind"].drop_nulls()))
    ]
    return [row for name, part in groups if (row := _precision_row(name, part))["reviewed"] or name == "all columns"]


def recall(images: pl.DataFrame) -> Row:
    """Share of the defects that people see which the program flagged, in images looked at as a whole."""
    looked = images.filter(pl.col("looked_at").fill_null(False) & ~pl.col("unusable").fill_null(False))
    found, missed = (int(looked[key].fill_null(0).sum()) for key in ("review_confirmed", "review_missed"))
    found += int(looked["review_other"].fill_null(0).sum())
    row: Row = {
        "images": looked.height,
        "found": found,
        "missed": missed,
        "recall": None,
        "ci_low": None,
        "ci_high": None,
    }
    if found + missed:
        low, high = wilson(found, found + missed)
        row |= {"recall": found / (found + missed), "ci_low": low, "ci_high": high}
    return row


def _precision_row(name: str, part: pl.DataFrame) -> Row:
    review = part["review"].fill_null("")
    real = int(review.is_in(["confirmed", "other"]).sum())
    false = int((review == "rejected").sum())
    conflicts = int((review == "conflict").sum())
    row: Row = {"group": name, "flagged": part.height, "reviewed": real + false + conflicts, "real": real}
    row |= {"rejected": false, "conflicts": conflicts, "precision": None, "ci_low": None, "ci_high": None}
    if real + false:
        low, high = wilson(real, real + false)
        row |= {"precision": real / (real + false), "ci_low": low, "ci_high": high}
    return row
