"""The same scan in several files, such as copies in a share: counted once, and said."""

from collections.abc import Callable, Sequence

import polars as pl

from oddlattice.statistics.counting import one_of_each_stack
from oddlattice.statistics.guises import Maps, Same, find_guises
from oddlattice.storage.rows import Row

SAME_PIXELS = "same content"


def with_copies(images: pl.DataFrame, maps_of: Callable[[str], Maps | None]) -> pl.DataFrame:
    """The table of images with `same_scan_as`, the image that is counted in place of one, and `same_scan_how`.

    Both are empty for what counts.
    """
    counted = counted_scans(images.to_dicts(), maps_of)
    named = [counted.get(image_id, Same("", "")) for image_id in images["image_id"]]
    return images.with_columns(
        pl.Series("same_scan_as", [one.counted for one in named], pl.String),
        pl.Series("same_scan_how", [one.how for one in named], pl.String),
    )


def with_words(images: pl.DataFrame, maps_of: Callable[[str], Maps | None]) -> pl.DataFrame:
    """The images of a shard with `not_counted`: why one is not, where another one of them shows its scan."""
    found = with_copies(images, maps_of)
    path_of = dict(zip(found["image_id"].to_list(), found["path"].to_list(), strict=True))
    same = found.select("same_scan_as", "same_scan_how").iter_rows()
    words = [f"Not counted: {how} as {path_of[other]}" if other else "" for other, how in same]
    return images.with_columns(pl.Series("not_counted", words, pl.String))


def counted_scans(rows: Sequence[Row], maps_of: Callable[[str], Maps | None]) -> dict[str, Same]:
    """The image that is counted for each that shows a scan again: copies, and scans in other guises."""
    copies = same_scans(rows)
    kept = [row for row in rows if row["state"] == "analysed" and row["image_id"] not in copies]
    by_id = {row["image_id"]: row for row in kept}
    frames: dict[tuple[str, str], dict[int, str]] = {}
    for row in kept:
        frames.setdefault(_series(row), {})[row["frame"]] = row["image_id"]
    found: dict[str, Same] = {}
    for image_id, same in find_guises(one_of_each_stack(kept), maps_of).items():
        counted = frames[_series(by_id[same.counted])]
        for frame, guise in frames[_series(by_id[image_id])].items():
            found[guise] = Same(counted.get(frame, same.counted), same.how)
    last = {image_id: found[first].counted if first in found else first for image_id, first in copies.items()}
    return found | {image_id: Same(first, SAME_PIXELS) for image_id, first in last.items()}


def _series(row: Row) -> tuple[str, str]:
    return str(row["file_id"]), str(row["signal"])


def same_scans(rows: Sequence[Row]) -> dict[str, str]:
    """The image that is counted for each image whose pixels another file holds too: that of the shortest path.

    Frames of one file are no copies of each other.
    """
    of_scan: dict[str, list[Row]] = {}
    for row in rows:
        if row["scan_id"] and row["state"] != "rejected":
            of_scan.setdefault(row["scan_id"], []).append(row)
    counted: dict[str, str] = {}
    for alike in of_scan.values():
        first = min(alike, key=lambda row: (len(row["path"]), row["path"], row["image_id"]))
        others = [row["image_id"] for row in alike if row["file_id"] != first["file_id"]]
        counted |= dict.fromkeys(others, first["image_id"])
    return counted
