"""Many images together: counted as people reviewed them, trends within sessions and stacks, groups compared."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import zarr

from oddlattice.numerics.intervals import poisson_interval
from oddlattice.statistics import densities, poisson
from oddlattice.storage.groups import group_of, listed_in, said_of
from oddlattice.storage.rows import Row

LEAST_KIND = 10  # a kind of fewer defects has no trend of its own
REVIEWED_AWAY = ("rejected",)  # defects that a person said are none


def point_defects(defects: pl.DataFrame) -> pl.DataFrame:
    """Defects that are counted: extended regions have an area instead, rejected and excluded ones are none."""
    kept = defects.filter(pl.col("kind").fill_null("unknown") != "extended")
    if "excluded" in kept.columns:
        kept = kept.filter(~pl.col("excluded").fill_null(False))
    return kept.filter(~pl.col("review").fill_null("").is_in(REVIEWED_AWAY))


def kinds_of(defects: pl.DataFrame) -> list[str]:
    """Kind of each defect, `unknown` where the table has none."""
    return [str(kind) for kind in defects["kind"].fill_null("unknown")]


def seed_for(name: str, seed: int) -> int:
    """A seed of its own for each image or series: what it draws does not depend on its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def moment(text: str | None) -> datetime | None:
    """Acquisition time of a row; None where it tells no time of day."""
    if not text or "T" not in text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def timed(rows: Sequence[Row]) -> tuple[list[tuple[float, Row]], int]:
    """Rows with hours since the first, in order, and how many have no comparable time.

    Times with and without a zone cannot be compared: the more frequent of the two is kept.
    """
    known = [(time, row) for row in rows if (time := moment(row["acquired"])) is not None]
    aware = [(time.astimezone(UTC), row) for time, row in known if time.tzinfo]
    naive = [(time, row) for time, row in known if not time.tzinfo]
    kept = aware if len(aware) > len(naive) else naive
    if not kept:
        return [], len(rows)
    first = min(time for time, _ in kept)
    hours = [((time - first).total_seconds() / 3600, row) for time, row in kept]
    return sorted(hours, key=lambda item: (item[0], str(item[1]["image_id"]))), len(rows) - len(kept)


def as_reviewed(rows: Sequence[Row]) -> list[Row]:
    """Analysed images without those that a person called unusable, and without the area a person excluded."""
    kept = [row for row in rows if row["state"] == "analysed" and not row.get("unusable")]
    areas = [row.get("area_reviewed_nm2") for row in kept]
    return [row | ({} if area is None else {"area_nm2": area}) for row, area in zip(kept, areas, strict=True)]


def one_of_each_stack(rows: Sequence[Row]) -> list[Row]:
    """Images without the later frames of stacks: they show the same place again and are no further evidence."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (str(row["file_id"]), str(row["signal"]))
        if key not in first or row["frame"] < first[key]["frame"]:
            first[key] = row
    kept = {row["image_id"] for row in first.values()}
    return [row for row in rows if row["image_id"] in kept]


def folder_of(row: Mapping[str, Any]) -> str:
    """Folder of an image's file, below the archive."""
    return str(row["path"]).rpartition("/")[0] or "."


def series_of(rows: Sequence[Row]) -> list[tuple[str, str, list[tuple[float, Row]], int]]:
    """What may show a trend: the images of a folder in time, the frames of a stack in order.

    Returns
    -------
    list of (name, unit, points, images without a time)
        `points` hold at least three different places along the axis.
    """
    found = []
    each = one_of_each_stack(rows)
    for (folder, model), group in _grouped(each, lambda row: (folder_of(row), str(row["model"]))).items():
        points, without = timed(group)
        name = folder if len({str(r["model"]) for r in rows if folder_of(r) == folder}) < 2 else f"{folder} · {model}"
        found.append((name, "h", points, without))
    for (path, signal, _), group in _grouped(
        rows, lambda row: (str(row["path"]), str(row["signal"]), str(row["model"]))
    ).items():
        frames = sorted(((float(row["frame"]), row) for row in group if row["frame"] >= 0), key=lambda item: item[0])
        found.append((f"{path} · {signal}" if signal else path, "frame", frames, 0))
    return [series for series in found if len({x for x, _ in series[2]}) >= 3]


def _grouped(rows: Iterable[Row], key: Any) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return dict(sorted(found.items()))


def trends(rows: Sequence[Row], counts: Mapping[str, Mapping[str, int]], seed: int) -> list[Row]:
    """Trend of every series: of all point defects, and of each frequent kind.

    Parameters
    ----------
    rows : sequence of dict
        Analysed images (products.IMAGES).
    counts : mapping
        image_id -> kind -> point defects.
    seed : int

    Returns
    -------
    list of dict
        As `rates.trend`, with `series`, `unit` of x, `kind`, `p_holm` over all of them, and `points`.
    """
    found = []
    for name, unit, points, without in series_of([row for row in rows if row["area_nm2"]]):
        number = {kind for _, row in points for kind in counts.get(row["image_id"], {})}
        total = {k: sum(counts.get(row["image_id"], {}).get(k, 0) for _, row in points) for k in sorted(number)}
        for kind in ["all", *(k for k in total if total[k] >= LEAST_KIND)]:
            drawn = [
                _point(x, row, sum(n for k, n in counts.get(row["image_id"], {}).items() if kind in ("all", k)), kind)
                for x, row in points
            ]
            row = {
                "series": name,
                "unit": unit,
                "kind": kind,
                "images": len(drawn),
                "images_without_time": without,
                "defects": sum(p["number"] for p in drawn),
            }
            row |= poisson.trend(
                [p["number"] for p in drawn],
                [p["exposure_nm2"] for p in drawn],
                [p["x"] for p in drawn],
                seed_for(f"{name}/{kind}", seed),
            )
            found.append(row | {"points": drawn})
    known = [row for row in found if row["p_value"] is not None]
    for row, p in zip(known, poisson.holm([row["p_value"] for row in known]), strict=True):
        row["p_holm"] = p
    return [{"p_holm": None} | row for row in found]


def _point(x: float, row: Row, number: int, kind: str) -> Row:
    """One image of a series; where its completeness for the kind is known, the area counts by so much."""
    complete = densities.completeness_of(row, kind)
    part = complete.part if complete is not None and complete.part > 0 else 1.0
    low, high = poisson_interval(number)
    exposure = row["area_nm2"] * part
    return {
        "image_id": row["image_id"],
        "x": x,
        "number": number,
        "exposure_nm2": exposure,
        "density_per_nm2": number / exposure,
        "ci_low_per_nm2": low / exposure,
        "ci_high_per_nm2": high / exposure,
    }


def group_name(row: Mapping[str, Any], source: Mapping[str, Any], group_by: str) -> str:
    """Name of the group an image belongs to: its folder, a column of the images table, or a field of its metadata.

    Parameters
    ----------
    row : mapping
        Of the images table.
    source : mapping
        The file's own metadata.
    group_by : str
        "folder", the name of a column, or keys of the metadata joined by "/".
    """
    if group_by == "folder":
        return folder_of(row)
    found: Any = row.get(group_by) if group_by in row else source
    if group_by not in row:
        for key in group_by.split("/"):
            found = found.get(key) if isinstance(found, Mapping) else None
    return "not told" if found is None or found == "" or isinstance(found, Mapping | list) else str(found)


def groups(
    rows: Sequence[Row], counts: Mapping[str, Mapping[str, int]], names: Mapping[str, str]
) -> tuple[list[Row], list[Row]]:
    """Density of each group of images, and every pair of groups compared; images of one model at a time.

    Returns
    -------
    groups : list of dict
        model, group, images, number, area_nm2, density_per_nm2, ci_low_per_nm2, ci_high_per_nm2, dispersion.
    comparisons : list of dict
        As `rates.compare`, with `model`.
    """
    listed, compared = [], []
    for model, images in _grouped([r for r in rows if r["area_nm2"]], lambda row: str(row["model"])).items():
        members: dict[str, tuple[list[int], list[float]]] = {}
        for row in images:
            n, areas = members.setdefault(names[row["image_id"]], ([], []))
            n.append(sum(counts.get(row["image_id"], {}).values()))
            areas.append(float(row["area_nm2"]))
        for name, (n, areas) in sorted(members.items()):
            spread, area = poisson.within_dispersion([(n, areas)]), sum(areas)
            scale = max(spread or 1.0, 1.0)
            low, high = _scaled_interval(sum(n), scale)
            listed.append(
                {
                    "model": model,
                    "group": name,
                    "images": len(n),
                    "number": sum(n),
                    "area_nm2": area,
                    "density_per_nm2": sum(n) / area,
                    "ci_low_per_nm2": low / area,
                    "ci_high_per_nm2": high / area,
                    "dispersion": spread,
                }
            )
        compared += [{"model": model} | row for row in poisson.compare(members)]
    return listed, compared


def _scaled_interval(number: int, dispersion: float) -> tuple[float, float]:
    """Interval of a count that scatters by `dispersion` times what counting does."""
    low, high = poisson_interval(number / dispersion)
    return dispersion * low, dispersion * high


def counts_by_kind(defects: pl.DataFrame) -> dict[str, Counter[str]]:
    """Point defects of each kind in each image."""
    points = point_defects(defects)
    found: dict[str, Counter[str]] = {}
    for image, kind in zip(points["image_id"], kinds_of(points), strict=True):
        found.setdefault(image, Counter())[kind] += 1
    return found


def metadata_of(images_zarr: list[str], wanted: set[str]) -> dict[str, Row]:
    """The files' own metadata of the images named, by image id."""
    found: dict[str, Row] = {}
    for path in images_zarr:
        root = zarr.open_group(path, mode="r")
        for name in (str(row["image_id"]) for row in listed_in(root)):
            if name in wanted:
                found[name] = said_of(group_of(root, name)).get("original_metadata") or {}
    return found


def by_model(rows: list[Row], counts: dict[str, Counter[str]], sites: dict[str, list[Row]]) -> tuple[Any, ...]:
    """Densities and site fractions over all images of each model."""
    kinds, fractions = [], []
    for model in sorted({str(row["model"]) for row in rows}):
        images = [row for row in rows if str(row["model"]) == model]
        total: Counter[str] = sum((counts.get(row["image_id"], Counter()) for row in images), Counter())
        kinds += [{"model": model} | row for row in densities.densities_by_kind(list(total.elements()), images)]
        tested: Counter[str] = Counter()
        flagged: list[tuple[str, str]] = []
        for row in images:
            for part in sites.get(row["image_id"], []):
                if part["kind"] == "any":
                    tested[part["site"]] += part["columns_tested"]
                else:
                    flagged += [(part["site"], part["kind"])] * part["number"]
        fractions += [{"model": model} | row for row in densities.site_fractions(tested, flagged)]
    return kinds, fractions
