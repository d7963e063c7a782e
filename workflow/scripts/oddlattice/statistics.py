"""The statistics of one image and of many: what the tables are turned into for the report and for others to read."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from oddlattice import densities, polar, randomness, rates
from oddlattice.detect import raw_places
from oddlattice.intervals import poisson_interval

Array = npt.NDArray[np.float64]
Row = dict[str, Any]

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


# ---------------------------------------------------------------- one image


def defect_figures(row: Row, defects: pl.DataFrame, columns: pl.DataFrame) -> Row:
    """Densities by kind and fractions by site of one analysed image.

    Parameters
    ----------
    row : dict
        Of the images table.
    defects, columns : polars.DataFrame
        The image's rows of products.DEFECTS and products.COLUMNS.
    """
    points = point_defects(defects)
    tested = dict(columns.group_by("site").len().iter_rows())
    flagged = [(str(site or ""), kind) for site, kind in zip(points["site"], kinds_of(points), strict=True)]
    return {
        "densities": densities.densities_by_kind(kinds_of(points), [row]) if row["area_nm2"] else [],
        "sites": densities.site_fractions(tested, flagged),
    }


def clustering(
    defects: pl.DataFrame, columns: pl.DataFrame, pixel_nm: Array, cell_nm: float, area_nm2: float, seed: int
) -> Row:
    """Pair correlation of the flagged columns of one image against chance; or `reason` why there is none."""
    key = ["cell_u", "cell_v", "site"]
    points = point_defects(defects).select(key).with_columns(flagged=pl.lit(True)).unique(key)
    marked = columns.join(points, on=key, how="left", maintain_order="left")["flagged"].fill_null(False).to_numpy()
    sites = sorted(set(columns["site"]))
    number = np.array([sites.index(s) for s in columns["site"]], dtype=np.intp)
    places = columns.select("row_px", "col_px").to_numpy().astype(np.float64) * pixel_nm
    edges = randomness.radial_edges(cell_nm, area_nm2)
    found = randomness.pair_correlation(places, number, marked, edges, seed)
    if found is None:
        return {"reason": f"fewer than {randomness.LEAST_DEFECTS} flagged columns", "defects": int(marked.sum())}
    return {
        "defects": found.defects,
        "simulations": found.simulations,
        "p_value": found.p_value,
        "edges_nm": found.edges_nm.tolist(),
        "g": found.g.tolist(),
        "envelope_low": found.low.tolist(),
        "envelope_high": found.high.tolist(),
        "pairs": found.pairs.tolist(),
        "pairs_expected": found.expected.tolist(),
    }


def vector_field(blocks: polar.Blocks, nodes_px: npt.NDArray[np.float32], sigma_pm: float | None) -> Row:
    """A field of displacements as rows of places [px] and vectors [pm]."""
    places = raw_places(nodes_px, blocks.uv) if len(blocks.uv) else np.empty((0, 2))
    u, v = blocks.uv.T if len(blocks.uv) else np.empty((2, 0))
    half = blocks.cells / 2
    corners = [
        raw_places(nodes_px, np.stack([u + half * i, v + half * j], -1))
        for i, j in ((-1, -1), (-1, 1), (1, 1), (1, -1))
    ]
    return {
        "block_cells": blocks.cells,
        "row_px": np.round(places[:, 0], 2).tolist(),
        "col_px": np.round(places[:, 1], 2).tolist(),
        "shift_row_pm": np.round(blocks.shift_pm[:, 0], 3).tolist(),
        "shift_col_pm": np.round(blocks.shift_pm[:, 1], 3).tolist(),
        "cells": blocks.number.tolist(),
        "sigma_pm": None if sigma_pm is None else (sigma_pm / np.sqrt(blocks.number)).round(3).tolist(),
        "corners_px": np.round(np.stack(corners, axis=1), 1).reshape(-1, 8).tolist(),
    }


def polar_figures(found: polar.Polar, nodes_px: npt.NDArray[np.float32]) -> Row:
    """Mean, size and map of the B sites' displacements; `reason` where there is nothing to show."""
    n = len(found.cells)
    if n < 9 or not np.isfinite(found.sigma_pm):
        return {"reason": "too few whole cells to tell their noise", "cells": n}
    mean = found.shift_pm.mean(axis=0)
    error = found.shift_pm.std(axis=0, ddof=1) / np.sqrt(n)
    size = np.hypot(*found.shift_pm.T)
    middle = np.median(found.uv - found.cells, axis=0)
    blocks = polar.in_blocks(found.cells, found.shift_pm, middle.tolist())
    # a block's length against its noise: Rayleigh, if there were no displacement
    block_sigma = found.sigma_pm / np.sqrt(blocks.number)
    beyond = np.hypot(*blocks.shift_pm.T) > block_sigma * np.sqrt(stats.chi2.isf(0.05, 2))
    return {
        "a_site": found.a_site,
        "b_site": found.b_site,
        "cells": n,
        "sigma_pm": found.sigma_pm,
        "mean_row_pm": float(mean[0]),
        "mean_col_pm": float(mean[1]),
        "mean_row_sigma_pm": float(error[0]),
        "mean_col_sigma_pm": float(error[1]),
        "mean_size_pm": float(np.hypot(*mean)),
        "rms_pm": float(np.sqrt((size**2).mean())),
        "median_size_pm": float(np.median(size)),
        "blocks_beyond_noise": float(beyond.mean()),
        "field": vector_field(blocks, nodes_px, found.sigma_pm),
    }


def lattice_figures(cells: npt.NDArray[np.intp], shift_pm: Array, nodes_px: npt.NDArray[np.float32]) -> Row:
    """Size and map of the smooth displacement of the lattice from a perfect one."""
    blocks = polar.in_blocks(cells, shift_pm, (0.5, 0.5), most=20)
    size = np.hypot(*shift_pm.T)
    return {
        "rms_pm": float(np.sqrt((size**2).mean())),
        "largest_pm": float(size.max()),
        "field": vector_field(blocks, nodes_px, None),
    }


# ---------------------------------------------------------------- many images


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
            row |= rates.trend(
                [p["number"] for p in drawn],
                [p["exposure_nm2"] for p in drawn],
                [p["x"] for p in drawn],
                seed_for(f"{name}/{kind}", seed),
            )
            found.append(row | {"points": drawn})
    known = [row for row in found if row["p_value"] is not None]
    for row, p in zip(known, rates.holm([row["p_value"] for row in known]), strict=True):
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
            spread, area = rates.within_dispersion([(n, areas)]), sum(areas)
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
        compared += [{"model": model} | row for row in rates.compare(members)]
    return listed, compared


def _scaled_interval(number: int, dispersion: float) -> tuple[float, float]:
    """Interval of a count that scatters by `dispersion` times what counting does."""
    n = number / dispersion
    low = float(stats.gamma.ppf(0.025, n)) if n else 0.0
    return dispersion * low, dispersion * float(stats.gamma.ppf(0.975, n + 1))
