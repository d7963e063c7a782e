"""Trends within sessions and stacks."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from oddlattice.numerics.intervals import poisson_interval
from oddlattice.statistics import densities, poisson
from oddlattice.statistics.counting import folder_of, grouped, one_of_each_stack, seed_for
from oddlattice.storage.rows import Row

LEAST_KIND = 10  # a kind of fewer defects has no trend of its own


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


def series_of(rows: Sequence[Row]) -> list[tuple[str, str, list[tuple[float, Row]], int]]:
    """What may show a trend: the images of a folder in time, the frames of a stack in order.

    Returns
    -------
    list of (name, unit, points, images without a time)
        `points` hold at least three different places along the axis.
    """
    found = []
    each = one_of_each_stack(rows)
    for (folder, model), group in grouped(each, lambda row: (folder_of(row), str(row["model"]))).items():
        points, without = timed(group)
        name = folder if len({str(r["model"]) for r in rows if folder_of(r) == folder}) < 2 else f"{folder} · {model}"
        found.append((name, "h", points, without))
    for (path, signal, _), group in grouped(
        rows, lambda row: (str(row["path"]), str(row["signal"]), str(row["model"]))
    ).items():
        frames = sorted(((float(row["frame"]), row) for row in group if row["frame"] >= 0), key=lambda item: item[0])
        found.append((f"{path} · {signal}" if signal else path, "frame", frames, 0))
    return [series for series in found if len({x for x, _ in series[2]}) >= 3]


def trends_of_series(rows: Sequence[Row], counts: Mapping[str, Mapping[str, int]], seed: int) -> list[Row]:
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
