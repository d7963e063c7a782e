"""The page of the benchmark: its tables as text, its charts, and the pictures of figure 1 beside it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from oddlattice.benchmark.plans import Plan
from oddlattice.predict.methods import METHODS
from oddlattice.report import numbers as n
from oddlattice.report.charts import OTHERS, Axis, Point, Series, chart
from oddlattice.report.pages import render
from oddlattice.report.pictures import save_webp, sheet
from oddlattice.storage.atomic import whole_file
from oddlattice.storage.rows import Row

Tables = dict[str, pl.DataFrame]
PICTURE_SCALE = 2  # screen pixels for a pixel of the lattice frame
GAP_PX, LABEL_PX = 3, 150  # above and below a row of figure 1; for its name, beside it
FALLBACK, PUBLISHED_COLOUR = "#69727c", "#b0498f"
MISSED = "(no)"


def _colour(method: str) -> str:
    return METHODS[method].colour if method in METHODS else PUBLISHED_COLOUR


def _rate(row: Row, key: str, decimals: int = 1) -> str:
    """A rate with its interval in per cent."""
    value, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
    if value is None:
        return n.NONE
    return f"{n.percent(value, decimals)} ({n.fixed(100 * low, decimals)}–{n.fixed(100 * high, decimals)})"


def aims_rows(aims: pl.DataFrame) -> tuple[list[str], list[Row]]:
    """Methods, and a row for every aim: what each method measured, as text; n and note are the first method's."""
    methods = aims["method"].unique(maintain_order=True).to_list()
    rows = []
    for _, here in aims.group_by("aim", "target", maintain_order=True):
        found = {row["method"]: row for row in here.to_dicts()}
        first = next(found[method] for method in methods if method in found)
        rows.append(
            {
                "aim": first["aim"],
                "target": first["target"],
                "n": n.count(first["n"]),
                "note": first["note"],
                "cells": [_measured(found.get(method)) for method in methods],
            }
        )
    return methods, rows


def _measured(row: Row | None) -> str:
    """What a method reached of an aim; with a "no" where that is too little."""
    if row is None:
        return n.NONE
    decimals = 3 if row["value"] is not None and abs(row["value"]) < 2 else 1
    value = n.with_error(row["value"], row["se"]) if row["se"] else n.fixed(row["value"], decimals)
    return f"{value} {MISSED}" if row["reached"] is False else value


def table_1(tables: Tables) -> tuple[list[str], list[Row]]:
    """Methods, and a row for every kind: part outside the published band, part flagged by our test.

    n is the first method's; where another's differs it stands beside its part.
    """
    found = tables["table_1"]
    if not len(found):
        return [], []
    methods = found["method"].unique(maintain_order=True).to_list()
    rows = []
    for kind in found["kind"].unique(maintain_order=True).to_list():
        of_kind = {row["method"]: row for row in found.filter(pl.col("kind") == kind).to_dicts()}
        number = next(iter(of_kind.values()))["n"]
        cells = []
        for method in methods:
            here = of_kind.get(method)
            outside, flagged = (_rate(here, key) if here else n.NONE for key in ("outside_band", "flagged"))
            other = f", n {n.count(here['n'])}" if here and here["n"] != number else ""
            cells.append((outside + other, flagged))
        rows.append({"kind": kind, "n": n.count(number), "cells": cells})
    return methods, rows


def figure_2(tables: Tables, width: float) -> list[Row]:
    """A histogram of the published score for every method."""
    found, listed = tables["figure_2"], tables["table_1"]
    plots = []
    for method in found["method"].unique(maintain_order=True).to_list() if len(found) else []:
        here = found.filter(pl.col("method") == method)
        band = listed.filter(pl.col("method") == method).row(0, named=True)
        series = []
        for k, kind in enumerate(here["kind"].unique(maintain_order=True).to_list()):
            rows = here.filter(pl.col("kind") == kind).to_dicts()
            total = sum(r["count"] for r in rows)
            points = [Point((r["score_low"] + r["score_high"]) / 2, max(r["count"] / total, 5e-5)) for r in rows]
            colour = FALLBACK if kind == "bulk" else OTHERS[(k - 1) % len(OTHERS)]
            series.append(Series(kind, colour, points, marked=False, dash="4 3" if kind == "bulk" else ""))
        reach = float(here["score_high"].max())  # type: ignore[arg-type]
        x = Axis(-reach, reach)
        drawn = chart(series, x, Axis(5e-5, 1.0, logarithmic=True))
        low, high = (band["band_mean"] + s * width * band["band_std"] for s in (-1, 1))
        left, right = (drawn["left"] + x.part(v) * (drawn["right"] - drawn["left"]) for v in (low, high))
        drawn["band_x"] = {"x": round(left, 1), "width": round(max(right - left, 1.0), 1)}
        plots.append({"method": method, "plot": drawn, "n": n.count(int(here["count"].sum()))})
    return plots


def efficiency_plots(tables: Tables) -> list[Row]:
    """Efficiency against the ideal d', a chart for every condition."""
    plots = []
    for (dose, jitter), here in tables["detection"].group_by("dose_e_px", "jitter_pm", maintain_order=True):
        series = []
        for (method,), part in here.group_by("method", maintain_order=True):
            points = [
                Point(
                    r["dprime_ideal"],
                    r["efficiency"],
                    r["efficiency"] - 1.96 * r["efficiency_se"],
                    r["efficiency"] + 1.96 * r["efficiency_se"],
                )
                for r in part.sort("dprime_ideal").to_dicts()
            ]
            series.append(Series(str(method), _colour(str(method)), points, joined=False))
        name = f"{dose:g} e/px, {jitter:g} pm jitter"
        drawn = chart(series, Axis(1.0, 50.0, True, (1, 2, 5, 10, 20, 50)), Axis(0.0, 1.3))
        plots.append({"name": name, "plot": drawn})
    return plots


def recall_plots(tables: Tables) -> list[Row]:
    """Recall at 1 % and 0.1 % false positives against the ideal d': all kinds and conditions, and the limits."""
    plots = []
    curve = tables["ideal"].to_dicts()
    for rate, title in (("1pct", "1 %"), ("0p1pct", "0.1 %")):
        limits = [
            Series(
                "ideal observer",
                "currentColor",
                [Point(r["dprime_ideal"], r[f"ideal_at_{rate}"]) for r in curve],
                marked=False,
            ),
            Series(
                "ideal test that must search",
                "currentColor",
                [Point(r["dprime_ideal"], r[f"search_at_{rate}"]) for r in curve],
                marked=False,
                dash="5 4",
            ),
        ]
        dots = [
            Series(
                str(method),
                _colour(str(method)),
                [Point(r["dprime_ideal"], r[f"recall_at_{rate}"]) for r in part.to_dicts()],
                joined=False,
            )
            for (method,), part in tables["detection"].group_by("method", maintain_order=True)
        ]
        plots.append(
            {"name": f"{title} false positives per column", "plot": chart([*limits, *dots], Axis(0, 10), Axis(0, 1))}
        )
    return plots


def _recall_against(x: str, kinds: pl.DataFrame, axis: Axis, title: str) -> Row:
    series = []
    for (method,), part in kinds.group_by("method", maintain_order=True):
        points = [
            Point(r[x], r["recall_at_1pct"], r["recall_at_1pct_low"], r["recall_at_1pct_high"])
            for r in part.sort(x).to_dicts()
        ]
        series.append(Series(str(method), _colour(str(method)), points))
    first = kinds.filter(pl.col("method") == kinds["method"][0]).sort(x).to_dicts()
    series.append(
        Series(
            "ideal observer",
            "currentColor",
            [Point(r[x], r["recall_at_1pct_ideal"]) for r in first],
            marked=False,
            dash="5 4",
        )
    )
    return {"name": title, "plot": chart(series, axis, Axis(0, 1))}


def series_plots(tables: Tables) -> list[Row]:
    """Recall against the number of missing atoms, by site; and against dose, of four missing atoms."""
    plots = []
    detection = tables["detection"]
    vacancies = detection.filter(pl.col("family") == "vacancy")
    for (site, dose, jitter), here in vacancies.group_by("site", "dose_e_px", "jitter_pm", maintain_order=True):
        if dose == 400 and len(here) > 1:
            axis = Axis(1, 20, True, (1, 2, 4, 8, 20))
            plots.append(
                _recall_against(
                    "atoms_changed",
                    here,
                    axis,
                    f"{site} atoms missing of 20; {dose:g} e/px, {jitter:g} pm jitter",
                )
            )
    for (kind, jitter), here in detection.filter(pl.col("atoms_changed") == 4).group_by(
        "kind", "jitter_pm", maintain_order=True
    ):
        doses = sorted(here["dose_e_px"].unique().to_list())
        if len(doses) > 2:
            axis = Axis(doses[0] / 1.2, doses[-1] * 1.2, True, tuple(doses))
            plots.append(_recall_against("dose_e_px", here, axis, f"{kind}, {jitter:g} pm jitter"))
    return plots


def calibration_plot(tables: Tables) -> dict[str, Any] | None:
    """Part of bulk below p = 0.01 and 0.001 over nominal, by group of conditions, of the first method measured."""
    found = tables["calibration"]
    if not len(found):
        return None
    here = found.filter(pl.col("method") == found["method"][0]).to_dicts()
    series = [
        Series(
            name,
            OTHERS[k],
            [
                Point(
                    i + 0.85 + 0.3 * k,
                    max(r[f"ratio_{key}"], 0.1),
                    max(r[f"ratio_{key}_low"], 0.1),
                    r[f"ratio_{key}_high"],
                )
                for i, r in enumerate(here)
            ],
            joined=False,
        )
        for k, (key, name) in enumerate((("1pct", "p < 0.01"), ("0p1pct", "p < 0.001")))
    ]
    axis = Axis(0.5, len(here) + 0.5, at=tuple(range(1, len(here) + 1)))
    drawn = chart(series, axis, Axis(0.1, 10, True, (0.1, 0.5, 1, 2, 5, 10)), band=(1 / 1.5, 1.5))
    return {"plot": drawn, "method": here[0]["method"], "groups": [r["group"].replace("_", " ") for r in here]}


def text_rows(found: pl.DataFrame, columns: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """A table as text: heads, and rows; `columns` names what is shown and its head."""
    shown = [name for name in columns if name in found.columns]

    def cell(value: Any) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return n.NONE
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return n.count(value)
        return n.significant(value) if isinstance(value, float) else str(value)

    return [columns[name] for name in shown], [[cell(v) for v in row] for row in found.select(shown).rows()]


TEXT_TABLES = {
    "efficiency": {
        "method": "Method",
        "dose_e_px": "Dose, e/px",
        "jitter_pm": "Jitter, pm",
        "n_defects": "Defects",
        "efficiency_mean": "Mean over kinds",
        "efficiency_mean_se": "± s.e.",
        "efficiency_lowest": "Lowest kind",
        "lowest_kind": "which",
    },
    "calibration": {
        "method": "Method",
        "group": "Fields",
        "fields": "n",
        "n_bulk": "Bulk columns",
        "below_1pct": "p < 0.01",
        "below_1pct_se": "± s.e.",
        "below_0p1pct": "p < 0.001",
        "below_0p1pct_se": "± s.e.",
    },
    "discovery": {
        "method": "Method",
        "experiment": "Fields",
        "fields_with_defects": "n",
        "flagged": "Flagged",
        "false": "of it false",
        "false_beside_a_defect": "beside a defect",
        "false_discovery_rate": "False-discovery rate",
        "false_discovery_rate_se": "± s.e.",
        "bulk_fields": "Bulk fields",
        "bulk_fields_with_alarm": "with an alarm",
    },
    "intervals": {
        "method": "Method",
        "kind": "Kind",
        "of": "Of",
        "quantity": "Quantity",
        "unit": "Unit",
        "n": "n",
        "bias": "Bias",
        "rms_error": "rms error",
        "sigma_median": "Stated s.e.",
        "covered_by_68pct": "Covered",
        "covered_low": "from",
        "covered_high": "to",
    },
    "files": {
        "file": "File",
        "state": "State",
        "dose_e_px": "Dose, e/px",
        "jitter_pm": "Jitter, pm",
        "pixel_pm": "Pixel, pm",
        "columns_tested": "Columns",
        "defects_placed": "Defects",
        "found": "Found",
        "false_alarms": "False",
        "clear_placed": "Clear ones",
        "clear_found": "found",
        "precision": "Precision",
        "recall": "Recall",
        "f1": "F1",
        "false_alarms_per_1000_columns": "False per 1,000",
    },
}


def confusion(tables: Tables) -> list[Row]:
    """The confusion matrix of kinds of every method, over all experiments."""
    found = tables["kinds"]
    plots = []
    for (method,), here in found.group_by("method", maintain_order=True) if len(found) else ():
        heads = sorted(here["found"].unique().to_list(), key=lambda name: (name == "missed", name))
        rows = []
        for called in sorted(here["called"].unique().to_list(), key=lambda name: (name == "none", name)):
            of = here.filter(pl.col("called") == called)
            counts = [int(of.filter(pl.col("found") == name)["n"].sum()) for name in heads]
            rows.append({"called": "no defect" if called == "none" else called, "counts": [n.count(c) for c in counts]})
        plots.append({"method": method, "heads": heads, "rows": rows})
    return plots


def rows_apart(picture: npt.NDArray[np.uint8], rows: int) -> npt.NDArray[np.uint8]:
    """Put a gap in the page's ground above and below each of the rows of a picture (rows * s, M, 3)."""
    each = picture.reshape(rows, -1, *picture.shape[1:])
    apart = np.pad(each, ((0, 0), (GAP_PX, GAP_PX), (0, 0), (0, 0)), constant_values=255)
    return apart.reshape(-1, *picture.shape[1:])


def write_pictures(out: Path, crops: dict[str, dict[str, Any]]) -> list[Row]:
    """Figure 1: for every method a picture with a row each for bulk and every kind; input, prediction, difference."""
    shown = []
    for method, found in crops.items():
        names = sorted(found, key=lambda name: (name != "", name))
        if not names:
            continue
        triples = np.stack([found[name] for name in names])
        low, high = (float(v) for v in np.percentile(triples[:, 0], [1, 99.7]))
        picture = sheet(triples, low, high, [0.6 * (high - low)] * len(triples))
        picture = rows_apart(picture.repeat(PICTURE_SCALE, 0).repeat(PICTURE_SCALE, 1), len(triples))
        name = f"figure_1_{method}.webp"
        with whole_file(out / name) as part:
            save_webp(picture, part)
        shown.append(
            {
                "method": method,
                "file": name,
                "kinds": [label or "bulk" for label in names],
                "rows": picture.shape[0],
                "cols": picture.shape[1],
            }
        )
    return shown


def write_page(out: Path, tables: Tables, crops: dict[str, dict[str, Any]], plan: Plan, about: dict[str, Any]) -> None:
    """Write index.html and its pictures into `out`, beside the tables.

    Parameters
    ----------
    tables : dict of str to DataFrame
        By the name of the file, as scores.summarise makes them.
    crops : dict
        Of every method, for figure 1.
    about : dict
        size, seed, hashes, versions, published_band_std.
    """
    pictures = write_pictures(out, crops)
    methods, first_table = table_1(tables)
    judged, aims = aims_rows(tables["aims"])
    known = [row for row in aims if row["cells"][0] != n.NONE]
    page = render(
        "benchmark.html.j2",
        (),
        {},
        versions=about["versions"],
        about=about,
        plan=vars(plan),
        aims={"methods": judged, "rows": aims},
        reached=(len([row for row in known if MISSED not in row["cells"][0]]), len(known)),
        pictures=pictures,
        label_px=LABEL_PX,
        table_1={"methods": methods, "rows": first_table},
        figure_2=figure_2(tables, float(about["published_band_std"])),
        efficiency=efficiency_plots(tables),
        recall=recall_plots(tables),
        curves=series_plots(tables),
        calibration=calibration_plot(tables),
        texts={name: text_rows(tables[name], columns) for name, columns in TEXT_TABLES.items()},
        confusion=confusion(tables),
        refused=[r for r in tables["fields"].to_dicts() if r["refused"]],
        fields=len(tables["fields"]),
        files=[f"{name}.csv" for name in tables],
    )
    with whole_file(out / "index.html") as part:
        part.write_bytes(page)
