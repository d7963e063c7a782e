"""Rule write_index: the archive at a glance, a line per image and per file without one; what needs a person first."""

import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from oddlattice.numerics.intervals import poisson_interval
from oddlattice.process.logs import log_to
from oddlattice.report import numbers as n
from oddlattice.report.image_facts import sentence
from oddlattice.report.pages import render
from oddlattice.storage.atomic import whole_file
from oddlattice.storage.json_text import json_lines
from oddlattice.storage.products import INVENTORY, PRECISION, read_tsv
from oddlattice.storage.rows import Row

SAFE_ID = re.compile(r"[a-z0-9][a-z0-9-]*")
STATES = {
    "analysed": "Analysed",
    "no_model": "No model",
    "no_lattice": "No lattice",
    "rejected": "Rejected",
    "waiting": "Waiting",
    "ready": "Not yet analysed",
}
ENOUGH_IMAGES = 5  # below this number of analysed images of a model no density is called remarkable
#: How much a line needs a person, the most urgent first; rejected files of a kind that never is an image come last.
URGENCY = ("conflict", "density", "no_model", "warning", "rejected", "no_lattice", "")


def find_pages(page_dirs: list[Path]) -> dict[str, Path]:
    """Folder of each page by image id.

    Raises
    ------
    ValueError
        If a page's name could not stand in an address as it is.
    """
    found = {}
    for folder in page_dirs:
        for name in os.listdir(folder):
            if name.endswith(".html"):
                if not SAFE_ID.fullmatch(name[:-5]):
                    raise ValueError(f"{folder / name}: a page's name may hold a to z, 0 to 9 and -, nothing else")
                found[name[:-5]] = folder
    return found


def remarkable_densities(rows: list[Row], times: float) -> dict[str, float]:
    """Density above which an image stands out [nm^-2]: `times` the median of its model, if it has enough images."""
    by_model: dict[str, list[float]] = {}
    for row in rows:
        if row["state"] == "analysed" and n.usable(row["density_per_nm2"]):
            by_model.setdefault(str(row["model"]), []).append(row["density_per_nm2"])
    return {model: times * float(np.median(found)) for model, found in by_model.items() if len(found) >= ENOUGH_IMAGES}


def urgency(row: Row, remarkable: dict[str, float], read: set[str]) -> tuple[str, str]:
    """Why a line needs a person (a name of URGENCY, empty when it does not) and the sentence that says so.

    An image stands out when the interval of its density lies above `remarkable` of its model [nm^-2]. A refusal is
    no news when another image of its file was read: `read` holds these files' ids.
    """
    state, reason = str(row["state"]), sentence(row["reason"])
    conflicts = row.get("review_conflicts")
    if conflicts:
        others = urgency(row | {"review_conflicts": 0}, remarkable, read)[1]
        return "conflict", f"People disagree about {n.count(conflicts)} of its defects. {others}".strip()
    if row.get("unusable"):
        return "", reason
    if state == "analysed":
        limit = remarkable.get(str(row["model"]))
        if limit is not None and n.usable(row["density_ci_low"]) and row["density_ci_low"] > limit:
            says = f"Density stands out: its interval lies above {n.significant(limit, 2)} nm⁻²."
            return "density", f"{says} {reason}".strip()
        return ("warning", reason) if reason else ("", "")
    if state == "rejected" and row.get("file_id") in read:
        return "", reason
    return (state, reason) if state in URGENCY else ("", reason)


def lines_of_files(discovered: pl.DataFrame, known: set[str]) -> list[Row]:
    """Lines for the files that left no image: refused by the scan, waiting, or not analysed yet."""
    return [
        {"image_id": row["file_id"], "path": row["path"], "state": row["state"], "reason": row["reason"]}
        for row in discovered.iter_rows(named=True)
        if row["file_id"] not in known and row["state"] != "done"
    ]


def _signal(row: Row) -> str:
    parts = [str(row.get("signal") or "")]
    if row.get("frame") == -1:
        parts.append("sum of frames")
    elif re.search(r"-f\d{4,}$", str(row["image_id"])):
        parts.append(f"frame {row['frame']}")
    return " · ".join(part for part in parts if part)


def line(row: Row, pages: dict[str, Path], home: Path, remarkable: dict[str, float], read: set[str]) -> Row:
    """One line of the index: what it shows, and what it is sorted and found by."""
    folder, _, name = str(row["path"]).rpartition("/")
    why, says = urgency(row, remarkable, read)
    page = pages.get(str(row["image_id"]))
    base = os.path.relpath(page, home).replace(os.sep, "/") if page is not None else ""
    analysed = row["state"] == "analysed"
    density, between = n.interval(*(row.get(k) for k in ("density_per_nm2", "density_ci_low", "density_ci_high")))
    return {
        "id": row["image_id"],
        "base": base,
        "folder": folder,
        "name": name,
        "signal": _signal(row),
        "state": row["state"],
        "urgent": URGENCY.index(why),
        "why": says,
        "density": row.get("density_per_nm2") if analysed else None,
        "low": row.get("density_ci_low") if analysed else None,
        "high": row.get("density_ci_high") if analysed else None,
        "density_text": density if analysed else "",
        "interval_text": between if analysed and between != n.NONE else "",
        "defects": row.get("defects") if analysed else None,
        "defects_text": n.count(row["defects"]) if analysed else "",
        "tested_text": f"of {n.count(row['columns_tested'])}" if analysed else "",
        "loss": row.get("smallest_loss_90") if analysed else None,
        "loss_text": n.percent(row["smallest_loss_90"]) if analysed else "",
        "pixel_text": f"{n.significant(1000 * row['pixel_nm'], 3)} pm/px" if n.usable(row.get("pixel_nm")) else "",
        "model": row.get("model") or "",
        "acquired": str(row.get("acquired") or "")[:16].replace("T", " "),
        "review": review_text(row),
        "reviewed": bool(row.get("reviewers")),
        "unusable": bool(row.get("unusable")),
        "conflicts": row.get("review_conflicts") or 0,
    }


def review_text(row: Row) -> str:
    """What people said of an image, in one line; empty where nobody did."""
    if not row.get("reviewers"):
        return ""
    words = [("review_confirmed", "confirmed"), ("review_rejected", "rejected"), ("review_other", "of another kind")]
    said = [f"{n.count(row[key])} {word}" for key, word in words if row[key]]
    said += [f"disagreement on {n.count(row['review_conflicts'])}"] if row["review_conflicts"] else []
    said += ["unusable"] if row["unusable"] else []
    excluded = row["excluded_area_nm2"]
    said += [f"{n.significant(excluded, 2)} nm² excluded"] if excluded and not row["unusable"] else []
    changed = row["state"] == "analysed" and row["density_reviewed_per_nm2"] != row["density_per_nm2"]
    if changed and not row["unusable"]:
        after, between = n.interval(*(row[f"density_reviewed_{end}"] for end in ("per_nm2", "ci_low", "ci_high")))
        said.append(f"density {after} ({between}) nm⁻²")
    return f"{row['reviewers']}: {', '.join(said) or 'note'}"


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


def main(
    images_parquet: str | Path,
    defects_parquet: str | Path,
    reviews_parquet: str | Path,
    precision_csv: str | Path,
    reviews_json: str | Path,
    discovered_tsv: str | Path,
    page_dirs: list[str],
    out_html: str | Path,
    settings: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write the index of all images and files, and its numbers beside it as JSON.

    Parameters
    ----------
    images_parquet, defects_parquet, reviews_parquet, precision_csv : path
        The gathered tables.
    reviews_json : path
        The review files that were found, see `oddlattice.archive.review_files`.
    discovered_tsv : path
        Every file found under the archive.
    page_dirs : list of path
        Folders written by write_pages; the index links to the pages in them.
    out_html : path
        The index; the folders of pages lie beside it. The JSON takes its name.
    settings : dict
        ``density_stands_out``: how many times the median density of its model's images is remarkable.
    provenance : dict
        ``config``: the merged configuration; ``versions``: of this program and its packages. Shown as they are.
    """
    home = Path(out_html).parent
    rows = pl.read_parquet(images_parquet).to_dicts()
    discovered = read_tsv(discovered_tsv, INVENTORY)
    pages = find_pages([Path(folder) for folder in page_dirs])
    remarkable = remarkable_densities(rows, settings["density_stands_out"])
    unread = lines_of_files(discovered, {str(row["file_id"]) for row in rows})
    read = {str(row["file_id"]) for row in rows if row["state"] != "rejected"}
    lines = [line(row, pages, home, remarkable, read) for row in [*rows, *unread]]
    lines.sort(key=lambda x: (x["urgent"], x["folder"], x["name"], x["id"]))
    files = json.loads(Path(reviews_json).read_text(encoding="ascii"))["files"]
    said, precise = pl.read_parquet(reviews_parquet), pl.read_csv(precision_csv, schema=PRECISION)
    reviewed, folders = review_summary(said, precise, files, rows), sessions(lines, rows)
    states = Counter(str(x["state"]) for x in lines)
    kinds = Counter(pl.read_parquet(defects_parquet, columns=["kind"])["kind"].fill_null("unknown"))
    known = [
        {"key": key, "label": label, "number": n.count(states[key])} for key, label in STATES.items() if states[key]
    ]
    figures, top = summary(lines, rows, discovered), axis_top(lines)
    twin = {
        "figures": figures,
        "states": dict(sorted(states.items())),
        "kinds": dict(sorted(kinds.items())),
        "remarkable_density_per_nm2": remarkable,
        "sessions": folders,
        "review": reviewed,
        "lines": lines,
        "provenance": provenance,
    }
    keys = list(lines[0]) if lines else []
    page = render(
        "index.html.j2",
        ("dom.js", "review.js", "index.js"),
        {
            "keys": keys,
            "rows": [[x[key] for key in keys] for x in lines],
            "states": STATES,
            "top": top,
            "sessions": folders,
            "urgent_below": URGENCY.index("no_lattice"),
        },
        figures=figures,
        states=known,
        review=reviewed,
        fdr_text=n.percent(1 - provenance["config"]["defects"]["fdr"]),
        sessions=len(folders),
        total=n.count(len(lines)),
        top=n.significant(top, 2),
        kinds=[(kind, n.count(number)) for kind, number in kinds.most_common()],
        archive=str(provenance["config"]["archive"]),
        versions=provenance["versions"],
        config=yaml.safe_dump(provenance["config"], sort_keys=True, allow_unicode=True),
        twin=Path(out_html).with_suffix(".json").name,
    )
    with whole_file(Path(out_html).with_suffix(".json")) as part:
        part.write_text(json_lines(twin), encoding="ascii")
    with whole_file(out_html) as part:
        part.write_bytes(page)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.images_parquet,
        snakemake.input.defects_parquet,
        snakemake.input.reviews_parquet,
        snakemake.input.precision_csv,
        snakemake.input.reviews_json,
        snakemake.input.discovered_tsv,
        list(snakemake.input.page_dirs),
        snakemake.output.index_html,
        dict(snakemake.params.settings),
        dict(snakemake.params.provenance),
    )
