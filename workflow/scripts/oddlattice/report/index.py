"""The index as a whole: the figures at its head, a line for each folder, what reviews changed."""

import math
from collections import Counter

import numpy as np
import polars as pl
import yaml

from oddlattice.report import numbers as n
from oddlattice.report.image_facts import expected_false
from oddlattice.report.index_lines import STATES, URGENCY
from oddlattice.report.pages import render
from oddlattice.statistics.reviews import recall
from oddlattice.storage.rows import Row


def sessions(lines: list[Row], folders: list[Row]) -> list[Row]:
    """A line per folder: its images, density with its interval, times, and how many need a person.

    `folders` are those of statistics.json: the density of a folder is computed there, and shown here and there.
    """
    density_of = {row["folder"]: row for row in folders}
    members: dict[str, list[Row]] = {}
    for one in lines:
        members.setdefault(one["folder"], []).append(one)
    return [_session(name, some, density_of.get(name or ".", {})) for name, some in sorted(members.items())]


def _session(folder: str, lines: list[Row], density: Row) -> Row:
    ends = {key: density.get(key) for key in ("density_per_nm2", "ci_low_per_nm2", "ci_high_per_nm2")}
    text, between = n.interval(*ends.values())
    times = sorted(x["acquired"] for x in lines if x["acquired"])
    return ends | {
        "folder": folder,
        "images": len(lines),
        "analysed": sum(x["state"] == "analysed" and not x["unusable"] for x in lines),
        "urgent": sum(x["urgent"] < URGENCY.index("no_lattice") for x in lines),
        "reviewed": sum(x["done"] for x in lines if x["state"] == "analysed"),
        "density_text": text,
        "interval_text": between if between != n.NONE else "",
        "from": times[0] if times else "",
        "to": times[-1] if times and times[-1] != times[0] else "",
    }


def review_summary(
    said: pl.DataFrame, precise: pl.DataFrame, files: list[Row], images: pl.DataFrame, totals: Row
) -> Row | None:
    """What reviews changed, for the index; None where there is no review file."""
    if not files:
        return None
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
        "before": _density_texts(totals["flagged"]),
        "after": _density_texts(totals["reviewed"]),
        "precision": precision_rows,
        "recall": _recall_text(recall(images)),
        "changed": images.filter((pl.col("state") == "analysed") & (pl.col("reviewers") != ""))["image_id"].to_list(),
        "unmatched": lost.drop("corners_px").to_dicts(),
    }


def _recall_text(found: Row) -> Row:
    """Recall by review with its text; empty where no image was looked at as a whole."""
    if found["recall"] is None:
        return found | {"text": ""}
    images = f"{n.count(found['images'])} image{'s' if found['images'] > 1 else ''}"
    between = f"{n.percent(found['ci_low'])} to {n.percent(found['ci_high'])}"
    text = (
        f"Recall {n.percent(found['recall'])} ({between}): in {images} looked at as a whole, people see "
        f"{n.count(found['found'])} of the flagged defects as real and added {n.count(found['missed'])} missed ones."
    )
    return found | {"text": text}


def _density_texts(total: Row) -> list[str]:
    """Number, area, density and interval of images together."""
    ends = (total[key] for key in ("density_per_nm2", "ci_low_per_nm2", "ci_high_per_nm2"))
    return [n.count(total["number"]), n.significant(total["area_nm2"]), *n.interval(*ends)]


def axis_top(lines: list[Row]) -> float:
    """Upper end of the common axis of densities: round, and above nearly all intervals [nm^-2]."""
    highs = [x["high"] for x in lines if n.usable(x["high"])]
    if not highs:
        return 1.0
    reach = max(float(np.quantile(highs, 0.95)), max(x["density"] for x in lines if n.usable(x["density"])) * 0.2, 1e-6)
    power = 10.0 ** math.floor(math.log10(reach))
    return float(next(s for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * power >= reach * 0.999) * power)


def summary(lines: list[Row], rows: list[Row], discovered: pl.DataFrame, totals: Row) -> list[Row]:
    """The figures at the head of the index; `totals` are those of statistics.json."""
    files = Counter(discovered["state"])
    analysed = sum(row["state"] == "analysed" for row in rows)
    counted, flagged = totals["reviewed"], totals["flagged"]["defects"]
    waiting = f"{n.count(files['waiting'])} waiting" if files["waiting"] else "none waiting"
    urgent = sum(x["urgent"] < URGENCY.index("no_lattice") for x in lines)
    before = f"; {n.count(flagged)} before review" if flagged != counted["defects"] else ""
    once = ", of a stack its first frame" if counted["images"] < analysed else ""
    states = f"{n.count(len(rows))} images, {n.count(len(rows) - analysed)} refused"
    false = expected_false(counted)
    sure = f"; expected to be false: {false}" if counted["defects"] and false else ""
    tested = f"of {n.count(counted['columns_tested'])} columns tested{before}{sure}"
    found = [
        ("Files found", n.count(discovered.height), "", waiting),
        ("Images analysed", n.count(analysed), "", states),
        ("Defects", n.count(counted["defects"]), "", tested),
        ("Area tested", n.significant(counted["area_nm2"]), "nm²", f"in {_where_area_is_known(counted)}{once}"),
        ("Needs attention", n.count(urgent), "", "listed first below, with the reason"),
    ]
    return [dict(zip(("label", "value", "unit", "note"), row, strict=True)) for row in found]


def _where_area_is_known(counted: Row) -> str:
    """How many images the area is that of, and how many have none."""
    known, without = counted["images_with_area"], counted["images"] - counted["images_with_area"]
    rest = f"; {n.count(without)} without a pixel size" if without else ""
    return f"{n.count(known)} {'image' if known == 1 else 'images'}{rest}"


def index_numbers(
    lines: list[Row],
    rows: list[Row],
    discovered: pl.DataFrame,
    totals: Row,
    remarkable: dict[str, float],
    folders: list[Row],
    review: Row | None,
) -> Row:
    """Every number that the index shows, as it lies beside it."""
    states = Counter(str(x["state"]) for x in lines)
    return {
        "figures": summary(lines, rows, discovered, totals),
        "states": dict(sorted(states.items())),
        "totals": totals,
        "kinds": totals["reviewed"]["kinds"],
        "remarkable_density_per_nm2": remarkable,
        "sessions": folders,
        "review": review,
        "lines": lines,
    }


def _expected_real(flagged: Row) -> str:
    """Part of the flagged defects that is expected to be real; "" where it is not known."""
    false = flagged.get("expected_false")
    return n.percent(1 - false / flagged["defects"]) if n.usable(false) and flagged["defects"] >= max(false, 1) else ""


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
        expected_real=_expected_real(numbers["totals"]["flagged"]),
        sessions=len(numbers["sessions"]),
        series=any(x["later"] for x in lines),
        total=n.count(len(lines)),
        top=n.significant(top, 2),
        kinds=[(kind, n.count(number)) for kind, number in kinds.most_common()],
        archive=str(config["archive"]),
        versions=provenance["versions"],
        config=yaml.safe_dump(config, sort_keys=True, allow_unicode=True),
        twin=twin,
    )
