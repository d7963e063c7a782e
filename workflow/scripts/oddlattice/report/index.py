"""The index as a whole: the figures at its head, a line for each folder, what reviews changed."""

import math
from collections import Counter

import numpy as np
import polars as pl
import yaml

from oddlattice.numerics.intervals import poisson_interval
from oddlattice.report import numbers as n
from oddlattice.report.index_lines import STATES, URGENCY
from oddlattice.report.pages import render
from oddlattice.storage.rows import Row


def sessions(lines: list[Row], rows: list[Row]) -> list[Row]:
    """A line per folder: its images, pooled density with its interval, times, and how many need a person."""
    by_id = {str(row["image_id"]): row for row in rows}
    folders: dict[str, list[Row]] = {}
    for one in lines:
        folders.setdefault(one["folder"], []).append(one)
    found = []
    for folder, members in sorted(folders.items()):
        analysed = [by_id[x["id"]] for x in members if x["state"] == "analysed" and not x["unusable"]]
        number = sum(row["defects_reviewed"] or 0 for row in analysed)
        area = sum(row["area_reviewed_nm2"] for row in analysed if n.usable(row["area_reviewed_nm2"]))
        ends = [x / area for x in (number, *poisson_interval(number))] if area else [None] * 3
        density, between = n.interval(*ends)
        times = sorted(x["acquired"] for x in members if x["acquired"])
        found.append(
            {
                "folder": folder,
                "images": len(members),
                "analysed": len(analysed),
                "urgent": sum(x["urgent"] < URGENCY.index("no_lattice") for x in members),
                "reviewed": sum(x["reviewed"] for x in members),
                "density_text": density,
                "interval_text": between if between != n.NONE else "",
                "from": times[0] if times else "",
                "to": times[-1] if times and times[-1] != times[0] else "",
            }
        )
    return found


def review_summary(said: pl.DataFrame, precise: pl.DataFrame, files: list[Row], rows: list[Row]) -> Row | None:
    """What reviews changed, for the index; None where there is no review file."""
    if not files:
        return None
    analysed = [row for row in rows if row["state"] == "analysed"]
    pairs = [("defects", "area_nm2"), ("defects_reviewed", "area_reviewed_nm2")]
    texts = []
    for number_key, area_key in pairs:
        number, area = (sum(row[key] or 0 for row in analysed) for key in (number_key, area_key))
        ends = [x / area for x in (number, *poisson_interval(int(number)))] if area else [None] * 3
        texts.append((n.count(int(number)), n.significant(area), *n.interval(*ends)))
    precision_rows = [
        row
        | {
            "text": f"{n.percent(row['precision'])}" if row["precision"] is not None else n.NONE,
            "interval": f"{n.percent(row['ci_low'])} to {n.percent(row['ci_high'])}" if n.usable(row["ci_low"]) else "",
        }
        for row in precise.to_dicts()
    ]
    lost = said.filter(pl.col("state") == "unmatched")
    counted, refused = precision_rows[0], sum(file["state"] == "refused" for file in files)
    says = [f"{n.count(counted['reviewed'])} of {n.count(counted['flagged'])} flagged columns reviewed"]
    says += [f"{counted['text']} real ({counted['interval']})"] if counted["interval"] else []
    says += [f"{refused} file{'s' if refused > 1 else ''} refused"] if refused else []
    return {
        "says": ", ".join(says),
        "files": files,
        "before": texts[0],
        "after": texts[1],
        "precision": precision_rows,
        "changed": [row["image_id"] for row in analysed if row["reviewers"]],
        "unmatched": lost.drop("corners_px").to_dicts(),
    }


def axis_top(lines: list[Row]) -> float:
    """Upper end of the common axis of densities: round, and above nearly all intervals [nm^-2]."""
    highs = [x["high"] for x in lines if n.usable(x["high"])]
    if not highs:
        return 1.0
    reach = max(float(np.quantile(highs, 0.95)), max(x["density"] for x in lines if n.usable(x["density"])) * 0.2, 1e-6)
    power = 10.0 ** math.floor(math.log10(reach))
    return float(next(s for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * power >= reach * 0.999) * power)


def summary(lines: list[Row], rows: list[Row], discovered: pl.DataFrame) -> list[Row]:
    """The figures at the head of the index."""
    files = Counter(discovered["state"])
    analysed = [row for row in rows if row["state"] == "analysed"]
    area = sum(row["area_nm2"] for row in analysed if n.usable(row["area_nm2"]))
    defects = sum(row["defects"] or 0 for row in analysed)
    tested = sum(row["columns_tested"] or 0 for row in analysed)
    waiting = f"{n.count(files['waiting'])} waiting" if files["waiting"] else "none waiting"
    urgent = sum(x["urgent"] < URGENCY.index("no_lattice") for x in lines)
    found = [
        ("Files found", n.count(discovered.height), "", waiting),
        ("Images analysed", n.count(len(analysed)), "", f"of {n.count(len(rows))} images and refusals"),
        ("Defects flagged", n.count(defects), "", f"of {n.count(tested)} columns tested"),
        ("Area analysed", n.significant(area), "nm²", "in all images"),
        ("For a person", n.count(urgent), "", "stand first below, with the reason"),
    ]
    return [dict(zip(("label", "value", "unit", "note"), row, strict=True)) for row in found]


def index_numbers(
    lines: list[Row],
    rows: list[Row],
    discovered: pl.DataFrame,
    kinds: Counter[str],
    remarkable: dict[str, float],
    folders: list[Row],
    review: Row | None,
) -> Row:
    """Every number that the index shows, as it lies beside it."""
    states = Counter(str(x["state"]) for x in lines)
    return {
        "figures": summary(lines, rows, discovered),
        "states": dict(sorted(states.items())),
        "kinds": dict(sorted(kinds.items())),
        "remarkable_density_per_nm2": remarkable,
        "sessions": folders,
        "review": review,
        "lines": lines,
    }


def index_page(numbers: Row, provenance: Row, twin: str) -> bytes:
    """The index as a page; `twin` is the name of the file with its numbers."""
    lines, states, config = numbers["lines"], numbers["states"], provenance["config"]
    kinds: Counter[str] = Counter(numbers["kinds"])
    keys, top = list(lines[0]) if lines else [], axis_top(lines)
    known = [{"key": k, "label": STATES[k], "number": n.count(states[k])} for k in STATES if states.get(k)]
    drawn = {
        "keys": keys,
        "rows": [[x[key] for key in keys] for x in lines],
        "states": STATES,
        "top": top,
        "sessions": numbers["sessions"],
        "urgent_below": URGENCY.index("no_lattice"),
    }
    return render(
        "index.html.j2",
        ("dom.js", "review.js", "index.js"),
        drawn,
        figures=numbers["figures"],
        states=known,
        review=numbers["review"],
        fdr_text=n.percent(1 - config["defects"]["fdr"]),
        sessions=len(numbers["sessions"]),
        total=n.count(len(lines)),
        top=n.significant(top, 2),
        kinds=[(kind, n.count(number)) for kind, number in kinds.most_common()],
        archive=str(config["archive"]),
        versions=provenance["versions"],
        config=yaml.safe_dump(config, sort_keys=True, allow_unicode=True),
        twin=twin,
    )
