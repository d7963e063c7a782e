"""A line of the index for each image and each file without one: what it says, and whether it needs a person."""

import numpy as np
import polars as pl

from oddlattice.crystal import OWN
from oddlattice.report import numbers as n
from oddlattice.report.image_facts import sentence, series_name
from oddlattice.statistics.counting import one_of_each_stack
from oddlattice.storage.rows import Row

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


def remarkable_densities(rows: list[Row], times: float) -> dict[str, float]:
    """Density above which an image stands out [nm^-2]: `times` the median of its model, if it has enough images."""
    by_model: dict[str, list[float]] = {}
    for row in one_of_each_stack([row for row in rows if row["state"] == "analysed"]):
        if n.usable(row["density_per_nm2"]):
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
    elif series_name(str(row["image_id"])):
        parts.append(f"frame {row['frame']}")
    return " · ".join(part for part in parts if part)


def line(row: Row, pages: dict[str, str], remarkable: dict[str, float], read: set[str]) -> Row:
    """One line of the index: what it shows, and what it is sorted and found by."""
    folder, _, name = str(row["path"]).rpartition("/")
    why, says = urgency(row, remarkable, read)
    analysed = row["state"] == "analysed"
    density, between = n.interval(*(row.get(k) for k in ("density_per_nm2", "density_ci_low", "density_ci_high")))
    return {
        "id": row["image_id"],
        "base": pages.get(str(row["image_id"]), "").rpartition("/")[0],
        "folder": folder,
        "name": name,
        "signal": _signal(row),
        "series": pages.get(series_name(str(row["image_id"])), ""),
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
        "quality_text": quality_text(row) if analysed else "",
        "pixel_text": f"{n.significant(1000 * row['pixel_nm'], 3)} pm/px" if n.usable(row.get("pixel_nm")) else "",
        "model": model_words(row),
        "grains_text": f"{row['grains']} grains" if (row.get("grains") or 1) > 1 else "",
        "acquired": str(row.get("acquired") or "")[:16].replace("T", " "),
        "review": review_text(row),
        "reviewed": bool(row.get("reviewers")),
        "flagged": (row["defects"] or 0) + (row["extended_regions"] or 0) if analysed else 0,
        "done": reviewed_in_full(row),
        "unusable": bool(row.get("unusable")),
        "conflicts": row.get("review_conflicts") or 0,
    }


def with_later_frames(lines: list[Row]) -> list[Row]:
    """Lines with ``later``: whether another one stands for their stack, its first frame that was analysed."""
    first: dict[str, str] = {}
    for one in sorted(lines, key=lambda x: (x["state"] != "analysed", str(x["id"]))):
        first.setdefault(one["series"], str(one["id"]))
    return [one | {"later": bool(one["series"]) and first[one["series"]] != str(one["id"])} for one in lines]


def with_same_scans(lines: list[Row], rows: list[Row]) -> list[Row]:
    """Lines with ``same``: why an image is not counted, where another one shows its scan; empty for what counts."""
    path_of = {row["image_id"]: row["path"] for row in rows}
    same = {
        row["image_id"]: f"Not counted: {row['same_scan_how']} as {path_of[row['same_scan_as']]}."
        for row in rows
        if row.get("same_scan_as")
    }
    return [one | {"same": same.get(one["id"], "")} for one in lines]


def reviewed_in_full(row: Row) -> bool:
    """Whether nothing is left to say of an image: looked at as a whole, or every defect judged, or unusable."""
    if row["state"] != "analysed" or row.get("unusable") or row.get("looked_at"):
        return True
    judged = sum(row.get(f"review_{word}") or 0 for word in ("confirmed", "rejected", "other", "conflicts"))
    flagged = (row["defects"] or 0) + (row["extended_regions"] or 0)
    return 0 < flagged <= judged


def quality_text(row: Row) -> str:
    """Signal to noise and width of columns of an image, in one line."""
    said = []
    if n.usable(row.get("signal_to_noise")):
        said.append(f"S/N {n.significant(row['signal_to_noise'], 2)}")
    for unit in ("pm", "px"):
        if n.usable(row.get(f"column_fwhm_{unit}")):
            return " · ".join([*said, f"{n.significant(row[f'column_fwhm_{unit}'], 2)} {unit}"])
    return " · ".join(said)


def model_words(row: Row) -> str:
    """The model of an image, or the crystal that it shows itself."""
    if row.get("model") != OWN:
        return row.get("model") or ""
    return row.get("crystal") or "a crystal without a name"


def review_text(row: Row) -> str:
    """What people said of an image, in one line; empty where nobody did."""
    if not row.get("reviewers"):
        return ""
    words = [("review_confirmed", "confirmed"), ("review_rejected", "rejected"), ("review_other", "of another kind")]
    said = [f"{n.count(row[key])} {word}" for key, word in words if row[key]]
    said += [f"disagreement on {n.count(row['review_conflicts'])}"] if row["review_conflicts"] else []
    said += [f"{n.count(row['review_missed'])} missed"] if row["review_missed"] else []
    said += ["looked at"] if row["looked_at"] else []
    said += ["unusable"] if row["unusable"] else []
    excluded = row["excluded_area_nm2"]
    said += [f"{n.significant(excluded, 2)} nm² excluded"] if excluded and not row["unusable"] else []
    changed = row["state"] == "analysed" and row["density_reviewed_per_nm2"] != row["density_per_nm2"]
    if changed and not row["unusable"]:
        after, between = n.interval(*(row[f"density_reviewed_{end}"] for end in ("per_nm2", "ci_low", "ci_high")))
        said.append(f"density {after} ({between}) nm⁻²")
    return f"{row['reviewers']}: {', '.join(said) or 'note'}"
