"""What counts: point defects as people reviewed them, and each place of the sample once."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from oddlattice.defects.false_alarms import FalseAlarms
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.storage.rows import Row

REVIEWED_AWAY = ("rejected",)  # defects that a person said are none
REVIEWED_REAL = ("confirmed", "other")  # and those that a person said are there


def point_defects(defects: pl.DataFrame) -> pl.DataFrame:
    """Defects that are counted: no boundaries, no regions nor what is in them; rejected and excluded are none."""
    kept = defects.filter(~pl.col("kind").fill_null("unknown").is_in(NO_POINTS))
    if "in_region" in kept.columns:
        kept = kept.filter(~pl.col("in_region").fill_null(False))
    if "excluded" in kept.columns:
        kept = kept.filter(~pl.col("excluded").fill_null(False))
    return kept.filter(~pl.col("review").fill_null("").is_in(REVIEWED_AWAY))


def kinds_of(defects: pl.DataFrame) -> list[str]:
    """Kind of each defect, `unknown` where the table has none."""
    return [str(kind) for kind in defects["kind"].fill_null("unknown")]


def counts_by_kind(defects: pl.DataFrame) -> dict[str, Counter[str]]:
    """Point defects of each kind in each image."""
    points = point_defects(defects)
    found: dict[str, Counter[str]] = {}
    for image, kind in zip(points["image_id"], kinds_of(points), strict=True):
        found.setdefault(image, Counter())[kind] += 1
    return found


def false_by_kind(defects: pl.DataFrame, dispersion: Mapping[str, float | None]) -> dict[str, dict[str, FalseAlarms]]:
    """False alarms expected among the point defects of each kind in each image; what a person confirmed is none.

    `dispersion` is that of each image, see `TwoGroups`.
    """
    points = point_defects(defects).with_columns(kind=pl.col("kind").fill_null("unknown"))
    confirmed = pl.col("review").fill_null("").is_in(REVIEWED_REAL)
    points = points.with_columns(real=pl.when(confirmed).then(1.0).otherwise(pl.col("probability_real")))
    found: dict[str, dict[str, FalseAlarms]] = {}
    for (image, kind), some in points.group_by("image_id", "kind", maintain_order=True):
        real = some["real"].fill_null(float("nan")).to_numpy()
        spread = dispersion.get(str(image)) or 1.0
        found.setdefault(str(image), {})[str(kind)] = FalseAlarms.among(real, spread)
    return found


def together(images: Iterable[Mapping[str, FalseAlarms]], kind: str | None = None) -> FalseAlarms:
    """False alarms of a kind (None: of all) in images together."""
    parts = (some for image in images for name, some in image.items() if kind in (None, name))
    return sum(parts, FalseAlarms())


def as_reviewed(rows: Sequence[Row]) -> list[Row]:
    """Analysed images without those that a person called unusable, and without the area a person excluded."""
    kept = [row for row in rows if row["state"] == "analysed" and not row.get("unusable")]
    areas = [row.get("area_reviewed_nm2") for row in kept]
    return [row | ({} if area is None else {"area_nm2": area}) for row, area in zip(kept, areas, strict=True)]


def one_of_each_stack(rows: Sequence[Row]) -> list[Row]:
    """Images without the later frames of stacks, and without copies: they show a place again, which is no evidence."""
    rows = [row for row in rows if not row.get("same_scan_as")]
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (str(row["file_id"]), str(row["signal"]))
        if key not in first or row["frame"] < first[key]["frame"]:
            first[key] = row
    kept = {row["image_id"] for row in first.values()}
    return [row for row in rows if row["image_id"] in kept]


def with_counted(images: pl.DataFrame, defects: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both tables as gathered, with `counted`: whether an image, or the image of a defect, is counted in densities."""
    kept = [row["image_id"] for row in one_of_each_stack(as_reviewed(images.to_dicts()))]
    told = pl.col("image_id").is_in(kept).alias("counted")
    return images.with_columns(told), defects.with_columns(told)


def crystal_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Model and crystal of an image: figures of one crystal belong together, whatever image shows it."""
    return str(row["model"]), str(row.get("crystal_in_run") or "")


def folder_of(row: Mapping[str, Any]) -> str:
    """Folder of an image's file, below the archive."""
    return str(row["path"]).rpartition("/")[0] or "."


def seed_for(name: str, seed: int) -> int:
    """A seed of its own for each image or series: what it draws does not depend on its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by their key, in its order."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return dict(sorted(found.items()))
