"""Review files: what people said about images and defects, read, checked and sorted by shard. No other file is read.

A review is exported by the report's pages and dropped into the review folder, or beside the report. A file that
cannot be used is listed with a reason and never stops a run. What is left of all files lies in ``results/0_archive/``:

- ``reviews.json``: every file with its state, and every statement that counts;
- ``{shard}.reviews.json``: the statements on images of a shard. Rewritten only when they change, so that a review
  makes only the pages of its images' shards again.

Of what one person said about one thing the latest counts; what different people said is all kept.
Plain Python on purpose: this runs while the workflow is parsed.
"""

import json
import math
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddlattice.archive.names import escape
from oddlattice.run.settings import SettingsError, checked
from oddlattice.storage.rows import Row

LARGEST_BYTES = 32_000_000
#: What is said of an image as a whole, and what such a statement is called.
OF_IMAGE = {"unusable": "image", "looked": "looked"}
SAME_PX = 2.5  # two marks of one person that stand nearer to each other are about one defect; columns stand wider apart
#: An image's id is its file's id, which ends with ten hex digits, and for some images signal and frame.
_IMAGE_ID = re.compile(r"(.+?-[0-9a-f]{10})(?:-s\d+)?(?:-f\d+)?")


@dataclass(frozen=True)
class Reviews:
    """What the review files say.

    Attributes
    ----------
    files : list of dict
        ``file``, ``state`` (taken or refused), ``reason``, ``reviewers``, ``statements`` (their number).
    statements : list of dict
        ``file, reviewer, at, image_id, scan_id, path, what`` (defect, missed, image, looked, region or note) and
        what was said.
    """

    files: list[Row]
    statements: list[Row]


def review_paths(folder: Path, report: Path) -> list[Path]:
    """Files of the review folder and those beside the report that begin with ``review``, in order of name."""
    found = []
    for place, beginning in ((folder, ""), (report, "review")):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        found += [place / n for n in names if n.startswith(beginning) and n.lower().endswith(".json") and n[0] != "."]
    return sorted(found, key=lambda path: (path.name, str(path)))


def read_review(path: Path, schema: Mapping[str, Any]) -> list[Row]:
    """Read the reviews of a file.

    Raises
    ------
    SettingsError
        If it is no plain file, too large, no JSON, or not as the schema wants it; the message is one sentence.
    """
    name = escape(path.name)
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            raise SettingsError(f"{name}: found a link or something that is no file; needed a plain file")
        if about.st_size > LARGEST_BYTES:
            raise SettingsError(f"{name}: found {about.st_size} bytes; needed at most {LARGEST_BYTES}")
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{name}: found {error.strerror}; needed a readable file") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, SettingsError):
            raise
        problem = " ".join(str(error).split())[:200]
        raise SettingsError(f"{name}: found no JSON ({problem}); needed a review as the report exports it") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{name}: found {type(content).__name__}; needed a review as the report exports it")
    try:
        reviews: list[Row] = checked(content, schema, [(name, content)])["reviews"]
    except RecursionError:
        raise SettingsError(f"{name}: found values nested too deeply; needed a review") from None
    return reviews


def statements_of(reviews: Iterable[Row], file: str) -> list[Row]:
    """Every statement of a file as a row of its own; texts are normalised, so that equal names are equal."""
    found: list[Row] = []
    for review in reviews:
        head = {
            "file": file,
            "reviewer": _text(review["reviewer"]),
            "image_id": review["image_id"],
            "scan_id": review.get("scan_id", ""),  # files of older versions name the image alone
            "path": escape(review.get("path", "")),
        }
        for mark in review.get("defects", []):
            about = {"kind": "", "found_kind": "", "site": "", "cell_u": None, "cell_v": None, "note": ""}
            row = head | {"what": "defect"} | about | mark
            found.append(row | {"note": _text(row["note"]), "site": _text(row["site"])})
        found += [head | {"what": "region"} | r | {"id": _text(r["id"])} for r in review.get("regions", [])]
        for mark in review.get("missed", []):
            row = head | {"what": "missed", "kind": "", "note": ""} | mark
            found.append(row | {"note": _text(row["note"]), "id": _text(row["id"])})
        found += [head | {"what": what} | review[key] for key, what in OF_IMAGE.items() if key in review]
        if "note" in review:
            found.append(head | {"what": "note", "note": _text(review["note"]["text"]), "at": review["note"]["at"]})
    return found


def _text(text: str) -> str:
    """A text as it is kept: composed characters, no control or direction characters but line ends."""
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").split("\n")
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines).strip()


def thing(row: Row) -> tuple[Any, ...]:
    """What a statement is about: a second one by the same person about the same thing replaces it."""
    head = (row["reviewer"], row.get("scan_id") or row["image_id"], row["what"])
    return (*head, row["id"]) if row["what"] in ("region", "missed") else head


def latest_marks(marks: Iterable[Row]) -> list[Row]:
    """Of the marks that one person set on defects of one image, the latest on each place.

    Places are compared, not cells: cells are numbered anew by every run. Kinds are not compared either: what was
    `lighter` may be `vacancy-like` in the next run.
    """
    kept: dict[tuple[bool, int, int], list[Row]] = defaultdict(list)
    for mark in sorted(marks, key=_order, reverse=True):
        region = mark["found_kind"] in ("extended", "boundary")
        row, col = round(mark["row_px"] / SAME_PX), round(mark["col_px"] / SAME_PX)
        around = [m for r in (-1, 0, 1) for c in (-1, 0, 1) for m in kept.get((region, row + r, col + c), [])]
        if all(math.hypot(m["row_px"] - mark["row_px"], m["col_px"] - mark["col_px"]) > SAME_PX for m in around):
            kept[region, row, col].append(mark)
    return [mark for some in kept.values() for mark in some]


def _order(row: Row) -> tuple[str, str, str]:
    """Time, then the statement itself: what counts must not hang on the order of files."""
    at = row["at"].removesuffix("Z")
    return (
        at if "." in at else f"{at}.",
        json.dumps({k: row[k] for k in row if k != "file"}, sort_keys=True),
        row.get("file", ""),
    )


def that_count(statements: Iterable[Row]) -> list[Row]:
    """Of what one person said about one thing the latest, unless it takes back what was said; sorted."""
    latest: dict[tuple[Any, ...], Row] = {}
    marks: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in statements:
        key = thing(row)
        if row["what"] == "defect":
            marks[key].append(row)
        elif key not in latest or _order(row) > _order(latest[key]):
            latest[key] = row
    rows = [*latest.values(), *(mark for some in marks.values() for mark in latest_marks(some))]
    kept = [row for row in rows if _says(row)]
    return sorted(kept, key=lambda row: (row["image_id"], row["reviewer"], row["what"], _order(row)))


def _says(row: Row) -> bool:
    if row["what"] == "defect":
        return bool(row["verdict"] != "none" or row["note"])
    if row["what"] in ("region", "missed"):
        return not row["withdrawn"]
    return bool(row["is"]) if row["what"] in OF_IMAGE.values() else bool(row["note"])


def read_reviews(paths: Sequence[Path], schema: Mapping[str, Any]) -> Reviews:
    """Read review files; one that cannot be used is listed with the reason."""
    files: list[Row] = []
    statements: list[Row] = []
    for path in paths:
        name = escape(path.name)
        try:
            said = statements_of(read_review(path, schema), name)
        except SettingsError as error:
            reason = escape(" ".join(str(error).removeprefix(f"{name}: ").split()))[:400]
            files.append({"file": name, "state": "refused", "reason": reason, "reviewers": [], "statements": 0})
            continue
        people = sorted({row["reviewer"] for row in said})
        files.append({"file": name, "state": "taken", "reason": "", "reviewers": people, "statements": len(said)})
        statements += said
    return Reviews(files, that_count(statements))


def file_of(image_id: str) -> str:
    """The id of the file that an image is from."""
    found = _IMAGE_ID.fullmatch(image_id)
    return found[1] if found else image_id


def by_shard(
    statements: Iterable[Row], shard_of: Mapping[str, str], shards_with: Mapping[str, Sequence[str]]
) -> dict[str, list[Row]]:
    """Statements by the shards they concern, without the names of files; those on other images are left out.

    Parameters
    ----------
    statements : iterable of dict
    shard_of : mapping
        The shard of each file, by its id.
    shards_with : mapping
        The shards in which a scan was read, by its id: what is said of a scan goes with it, whatever its file is called
        now. Of a scan that was not read, and in files of older versions, the image alone says where.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    for row in statements:
        by_name = shard_of.get(row["image_id"]) or shard_of.get(file_of(row["image_id"]))
        for shard in shards_with.get(row.get("scan_id") or "", [by_name] if by_name else []):
            found[shard].append({key: value for key, value in row.items() if key != "file"})
    return dict(found)


def dumped(content: Any) -> str:
    """JSON, the same text for the same content."""
    return json.dumps(content, indent=0, sort_keys=True, ensure_ascii=True) + "\n"
