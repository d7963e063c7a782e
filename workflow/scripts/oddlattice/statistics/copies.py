"""The same scan in several files, such as copies in a share: counted once, and said."""

from collections.abc import Sequence

import polars as pl

from oddlattice.storage.rows import Row


def with_copies(images: pl.DataFrame) -> pl.DataFrame:
    """The table of images with `same_scan_as`: the image that is counted in place of a copy, empty for what counts."""
    counted = same_scans(images.to_dicts())
    named = [counted.get(image_id, "") for image_id in images["image_id"]]
    return images.with_columns(pl.Series("same_scan_as", named, pl.String))


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
