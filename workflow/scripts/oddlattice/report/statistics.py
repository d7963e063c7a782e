"""Statistics as the report says them: the numbers of 4_defects/*.statistics.json become texts and drawings."""

import itertools
import math
from collections.abc import Mapping

from oddlattice.crystal import OWN
from oddlattice.report import numbers as n
from oddlattice.report import vector_fields
from oddlattice.report.charts import Axis, Point, Series, at_x, at_y, chart
from oddlattice.report.image_facts import expected_false, series_name, series_title
from oddlattice.report.plots import ticks
from oddlattice.storage.rows import Row

BLUE, ORANGE = "#1f78c8", "#d07a1c"
CLAIM = 0.05
LEAST_IMAGES = 5  # of a series: fewer do not tell how much images of a sample differ, whatever their defects say
RATES = ("change_rate", "change_rate_low_95", "change_rate_high_95")
SECTIONS = ("cross_section_barn", "cross_section_low_95_barn", "cross_section_high_95_barn")
FOREST = ("ci_low_per_nm2", "density_per_nm2", "ci_high_per_nm2")


def density_rows(found: list[Row]) -> list[Row]:
    """Lines of the table of densities: number, density with interval, corrected density with interval."""
    rows = []
    for row in found:
        density, between = n.interval(row["density_per_nm2"], row["ci_low_per_nm2"], row["ci_high_per_nm2"])
        corrected, around = n.interval(
            row["corrected_per_nm2"], row["corrected_ci_low_per_nm2"], row["corrected_ci_high_per_nm2"]
        )
        rows.append(
            {
                "name": "all kinds" if row["kind"] == "all" else row["kind"],
                "number": n.count(row["number"]),
                "false": expected_false(row) or n.NONE,
                "density": density,
                "interval": between,
                "completeness": n.percent(row["completeness"], 1) if n.usable(row["completeness"]) else n.NONE,
                "corrected": corrected,
                "corrected_interval": around,
                "why": row["not_corrected"],
            }
        )
    return rows


def site_rows(found: list[Row]) -> list[Row]:
    """Lines of the table of sites: part of the tested columns that is flagged, with its interval."""
    rows = []
    for row in found:
        part, between = n.interval(100 * row["fraction"], 100 * row["ci_low"], 100 * row["ci_high"])
        rows.append(
            {
                "site": row["site"],
                "kind": "any kind" if row["kind"] == "any" else row["kind"],
                "whole": row["kind"] == "any",
                "number": f"{n.count(row['number'])} of {n.count(row['columns_tested'])}",
                "fraction": f"{part} %",
                "interval": f"{between} %",
            }
        )
    return rows


def clustering_view(found: Row) -> Row:
    """Drawing of g(r) with its envelope and a sentence on the test; or the reason why there is none."""
    if "g" not in found:
        return {"plot": None, "reason": f"Not tested: {found.get('reason', 'nothing is flagged')}."}
    edges, g = found["edges_nm"], found["g"]
    middle = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    known = [k for k, value in enumerate(g) if n.usable(value)]
    if not known:
        return {"plot": None, "reason": "Not tested: the field is too small for pairs of columns."}
    highs = [found["envelope_high"][k] for k in known]
    top = max(*(g[k] for k in known), *highs, 1.5) * 1.05
    x, y = Axis(0.0, edges[-1]), Axis(0.0, min(top, 4 * max(highs)))
    drawn = chart([Series("g(r)", BLUE, [Point(middle[k], g[k]) for k in known])], x, y)
    low = [(at_x(x, middle[k]), at_y(y, found["envelope_low"][k])) for k in known]
    high = [(at_x(x, middle[k]), at_y(y, found["envelope_high"][k])) for k in reversed(known)]
    drawn["envelope"] = " ".join(f"{a},{b}" for a, b in [*low, *high])
    drawn["one"] = at_y(y, 1.0)
    p = found["p_value"]
    close = [k for k in known if g[k] > found["envelope_high"][k]]
    if p > CLAIM:
        says = "no departure from chance is seen"
    elif close:
        says = f"defects are clustered: more pairs than chance makes at about {n.significant(middle[close[0]], 2)} nm"
    else:
        says = "defects keep apart: fewer pairs than chance makes"
    return {
        "plot": drawn,
        "reason": "",
        "says": says,
        "p_text": n.probability(p),
        "defects": n.count(found["defects"]),
        "simulations": n.count(found["simulations"]),
        "nearest": n.significant(edges[0], 2),
    }


def polar_view(found: Row, shape_px: tuple[int, int], pixel_nm: tuple[float, float] | None) -> Row:
    """Map of the B sites' displacements with its texts; or the reason why there is none."""
    if "field" not in found:
        return {"plot": None, "reason": found.get("reason", "")}
    block, sigma = found["field"]["block_cells"], found["sigma_pm"]
    smallest = min(found["field"]["sigma_pm"], default=sigma)
    return {
        "plot": vector_fields.drawing(found["field"], shape_px, pixel_nm),
        "reason": "",
        "a": found["a_site"],
        "b": found["b_site"],
        "cells": n.count(found["cells"]),
        "block": f"{block} × {block} cells" if block > 1 else "one cell",
        "sigma": n.significant(sigma, 2),
        "block_sigma": n.significant(smallest, 2),
        "mean_row": n.with_error(found["mean_row_pm"], found["mean_row_sigma_pm"], "pm"),
        "mean_col": n.with_error(found["mean_col_pm"], found["mean_col_sigma_pm"], "pm"),
        "rms": n.significant(found["rms_pm"], 2),
        "expected_rms": n.significant(sigma * math.sqrt(2), 2),
        "beyond": n.percent(found["blocks_beyond_noise"]),
    }


def population_views(found: list[Row]) -> list[Row]:
    """Histogram, lines of the table and a sentence for every site's populations."""
    views = []
    for site in found:
        edges, counts = site["histogram"]["edges"], site["histogram"]["counts"]
        points = [Point(x, k) for ends, k in zip(itertools.pairwise(edges), counts, strict=True) for x in ends]
        x = Axis(edges[0], edges[-1], at=tuple(ticks(edges[0], edges[-1])))
        drawn = chart([Series("columns", BLUE, points, marked=False)], x, Axis(0.0, 1.05 * max(counts)))
        rows = []
        for one in site["populations"]:
            part, between = n.interval(*(100 * one[key] for key in ("fraction", "fraction_low_95", "fraction_high_95")))
            rows.append(
                {
                    "name": "bulk" if one["component"] == 0 else f"population {one['component']}",
                    "n": n.count(one["n"]),
                    "fraction": f"{part} %",
                    "interval": f"{between} %",
                    "mean": n.significant(one["mean_intensity"], 3),
                    "scatter": n.significant(one["scatter"], 2),
                }
            )
        views.append(
            {"site": site["site"], "columns": n.count(site["columns"]), "reason": site["reason"], "plot": drawn}
            | {"rows": rows, "order": order_words(site["order"])}
        )
    return views


def named(row: Row) -> str:
    """The crystal of a row as a reader is told it."""
    return str(row["crystal"] if row["model"] == OWN and row["crystal"] else row["model"])


def folder_rows(found: list[Row]) -> list[Row]:
    """Lines of the table of the populations of folders; sites with a bulk alone are left out."""
    of_site = ("folder", "model", "crystal", "site")
    several = {tuple(row[key] for key in of_site) for row in found if row["component"] > 0}
    rows = []
    for one in found:
        if tuple(one[key] for key in of_site) not in several:
            continue
        part, between = n.interval(*(100 * one[key] for key in ("fraction", "fraction_low_95", "fraction_high_95")))
        about = {"folder": one["folder"], "model": named(one), "site": one["site"]}
        rows.append(
            about
            | {"name": "bulk" if one["component"] == 0 else f"population {one['component']}"}
            | {"images": n.count(one["images"]), "n": n.count(one["n"]), "fraction": f"{part} %"}
            | {"interval": f"{between} %", "mean": n.significant(one["mean_intensity"], 3)}
        )
    return rows


def order_words(order: Row) -> str:
    """What is said of unlike neighbours; "" where there are too few."""
    if not order:
        return ""
    p, alpha = n.probability(order["p_value"]), n.significant(order["alpha"], 2)
    shown = f"Warren-Cowley parameter {alpha}, p = {p}, {n.count(order['unlike'])} columns that are not bulk"
    if order["p_value"] > CLAIM:
        return f"Nearest neighbours: no departure from chance is seen ({shown})"
    kept = "unlike columns cluster" if order["alpha"] > 0 else "unlike columns avoid each other"
    return f"Nearest neighbours: {kept} ({shown})"


def lattice_view(found: Row, shape_px: tuple[int, int], pixel_nm: tuple[float, float] | None) -> Row:
    """Map of the lattice's displacement with its texts; no map where there is none."""
    if "field" not in found:
        return {"plot": None}
    return {
        "plot": vector_fields.drawing(found["field"], shape_px, pixel_nm),
        "rms": n.significant(found["rms_pm"], 2),
        "largest": n.significant(found["largest_pm"], 2),
    }


def image_view(found: Row, shape_px: tuple[int, int], pixel_nm: tuple[float, float] | None) -> Row | None:
    """All that an image's page says of its statistics; None for an image without."""
    if not found:
        return None
    if "failed" in found:
        return {"failed": found["failed"]}
    return {
        "failed": "",
        "densities": density_rows(found["densities"]),
        "sites": site_rows(found["sites"]),
        "clustering": clustering_view(found["clustering"]),
        "populations": population_views(found.get("populations", [])),
        "polar": polar_view(found["polar"], shape_px, pixel_nm),
        "lattice": lattice_view(found["lattice"], shape_px, pixel_nm),
    }


# ---------------------------------------------------------------- all images


def trend_view(row: Row, pages: dict[str, str]) -> Row:
    """A series as a chart of densities with its fitted trend, and a sentence."""
    points = [Point(p["x"], p["density_per_nm2"], p["ci_low_per_nm2"], p["ci_high_per_nm2"]) for p in row["points"]]
    last = max(p.x for p in points)
    first = min(p.x for p in points)
    margin = 0.04 * (last - first)
    x = Axis(first - margin, last + margin, at=tuple(ticks(first, last)))
    y = Axis(0.0, max(*(p.high for p in points), 1e-9) * 1.05)
    series = [Series("images", BLUE, points, joined=False)]
    slope = row["slope"]
    if n.usable(slope):
        area = sum(p["exposure_nm2"] * math.exp(slope * (p["x"] - first)) for p in row["points"])
        steps = [first + (last - first) * k / 40 for k in range(41)]
        line = [Point(t, row["defects"] / area * math.exp(slope * (t - first))) for t in steps]
        series.append(Series("trend", ORANGE, line, marked=False))
    return {
        "name": row["series"],
        "kind": "all kinds" if row["kind"] == "all" else row["kind"],
        "plot": chart(series, x, y),
        "x_label": "hours since the first image" if row["unit"] == "h" else "frame",
        "images": n.count(row["images"]),
        "defects": n.count(row["defects"]),
        "without": n.count(row["images_without_time"]) if row["images_without_time"] else "",
        "change": _change(row, last - first),
        "p": n.probability(row["p_value"]),
        "p_holm": n.probability(row["p_holm"]),
        "p_poisson": n.probability(row["p_poisson"]),
        "dispersion": n.fixed(row["dispersion"], 2),
        "claim": n.usable(row["p_holm"]) and row["p_holm"] < CLAIM and row["images"] >= LEAST_IMAGES,
        "few": row["images"] < LEAST_IMAGES,
        "links": [(p["image_id"], pages.get(p["image_id"], "")) for p in row["points"]],
    }


def _change(row: Row, span: float) -> str:
    """Change of the density over the time or the frames seen: an hour that was not seen tells nothing."""
    if row["p_value"] is None:
        return "nothing is flagged"
    texts = [
        "unbounded" if row[key] is None else f"×{n.significant(math.exp(min(row[key] * span, 600.0)), 3)}"
        for key in ("slope", "ci_low", "ci_high")
    ]
    over = f"{n.significant(span, 2)} h" if row["unit"] == "h" else f"{n.count(int(span))} frames"
    return f"{texts[0]} over {over} (95 % interval {texts[1]} to {texts[2]})"


def series_line(row: Row, pages: Mapping[str, str]) -> Row:
    """A line of the table of stacks; `pages` are addresses of pages by name."""
    line: Row = {"name": series_title(row), "reason": row["reason"]}
    line |= {"page": pages.get(series_name(row["first_image_id"]), ""), "followed": row["state"] == "followed"}
    line |= {"frames": f"{n.count(row['frames_used'])} of {n.count(row['frames'])}"}
    line |= {key: n.count(row[key]) if line["followed"] else n.NONE for key in ("tracks", "changes", "returns", "hops")}
    rate = (None if row[key] is None else 1e3 * row[key] for key in RATES)
    line["rate"], line["rate_interval"] = n.interval(*rate)
    line["section"], line["section_interval"] = n.interval(*(row[key] for key in SECTIONS))
    return line


def group_rows(found: list[Row]) -> list[Row]:
    """Lines of the table of groups; on one scale, where the interval and the density lie [% of its width]."""
    rows, top = [], max((row["ci_high_per_nm2"] for row in found), default=1.0)
    for row in found:
        density, between = n.interval(row["density_per_nm2"], row["ci_low_per_nm2"], row["ci_high_per_nm2"])
        rows.append(
            {
                "group": row["group"],
                "model": named(row),
                "images": n.count(row["images"]),
                "number": n.count(row["number"]),
                "area": f"{n.significant(row['area_nm2'])} nm²",
                "density": density,
                "interval": between,
                "forest": [round(100 * row[key] / top, 2) for key in FOREST],
                "dispersion": n.fixed(row["dispersion"], 2),
            }
        )
    return rows


def comparison_rows(found: list[Row]) -> list[Row]:
    """Lines of the table of comparisons, the clearest differences first."""
    rows = []
    for row in sorted(found, key=lambda row: (row["p_value"], row["first"], row["second"])):
        low, high = (n.significant(row[k], 2) if row[k] is not None else "∞" for k in ("ci_low", "ci_high"))
        rows.append(
            {
                "first": row["first"],
                "second": row["second"],
                "ratio": n.significant(row["ratio"], 3) if row["ratio"] is not None else n.NONE,
                "interval": f"{low} to {high}" if row["ci_low"] is not None else n.NONE,
                "p": n.probability(row["p_value"]),
                "p_holm": n.probability(row["p_holm"]),
                "claim": row["p_holm"] < CLAIM,
            }
        )
    return rows


def many_view(found: Row, pages: dict[str, str]) -> Row:
    """All that the page of statistics says; `pages` are addresses of the pages of images and stacks by their names."""
    models = sorted({named(row) for row in found["densities"]})
    return {
        "images": n.count(found["images"]),
        "counted": n.count(found["images_counted"]),
        "fewer": found["images_counted"] < found["images"],
        "group_by": found["group_by"],
        "models": [
            {
                "name": model,
                "densities": density_rows([r for r in found["densities"] if named(r) == model]),
                "sites": site_rows([r for r in found["sites"] if named(r) == model]),
            }
            for model in models
        ],
        "groups": group_rows(found["groups"]),
        "comparisons": comparison_rows(found["comparisons"]),
        "trends": [trend_view(row, pages) for row in found["trends"]],
        "populations": folder_rows(found["populations"]),
        "series": [series_line(row, pages) for row in found.get("series", [])],
        "top": n.significant(max((row["ci_high_per_nm2"] for row in found["groups"]), default=0.0), 2),
    }
