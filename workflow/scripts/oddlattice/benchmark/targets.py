"""The table of aims: what the detection should reach, and what was measured."""

import numpy as np
import polars as pl

from oddlattice.benchmark.kinds import Kind
from oddlattice.predict.methods import METHODS
from oddlattice.storage.rows import Row

Tables = dict[str, pl.DataFrame]

TARGET_MEAN, TARGET_LOWEST, TARGET_JITTER = 0.93, 0.85, 0.90
RATES = (("1pct", 0.01, "0.01"), ("0p1pct", 0.001, "0.001"))
NOMINAL_FACTOR = 1.5
BELOW = 0.01  # of efficiency: less is no difference that matters


def _aim(aim: str, target: str, method: str, value: float, se: float | None, n: int, ok: bool, note: str = "") -> Row:
    return {
        "aim": aim,
        "target": target,
        "method": method,
        "value": value,
        "se": se,
        "n": n,
        "reached": ok,
        "note": note,
    }


def _binomial_se(part: float, n: int) -> float:
    return float(np.sqrt(part * (1 - part) / n))


def _where(row: Row) -> str:
    return f"{row['dose_e_px']:g} e/px, {row['jitter_pm']:g} pm jitter"


def _recall_aim(row: Row, target: float) -> Row:
    value, n = float(row["recall_at_1pct"]), int(row["n_defects"])
    aim, note = f"{row['kind']}, found at 1 %, {_where(row)}", f"ideal d\u2032 {row['dprime_ideal']:.1f}"
    return _aim(aim, f"{100 * target:.0f} %", row["method"], value, _binomial_se(value, n), n, value >= target, note)


def _recall_aims(detection: pl.DataFrame, kinds: tuple[Kind, ...]) -> list[Row]:
    rows: list[Row] = []
    whole = [kind.name for kind in kinds if kind.whole]
    for _, here in detection.group_by("method", "dose_e_px", "jitter_pm", maintain_order=True):
        first = here.row(0, named=True)
        some = here.filter(pl.col("kind").is_in(whole)).sort("recall_at_1pct")
        if first["dose_e_px"] == 400 and len(some):
            worst, n = some.row(0, named=True), int(some["n_defects"].sum())
            value, note = float(worst["recall_at_1pct"]), f"lowest: {worst['kind']}"
            aim = f"whole columns, found at 1 %, {_where(first)}"
            rows.append(_aim(aim, "100 % of each", first["method"], value, None, n, value == 1.0, note))
        if first["dose_e_px"] == 400:
            four = here.filter((pl.col("atoms_changed") == 4) & (pl.col("dprime_ideal") >= 4.5)).to_dicts()
            rows += [_recall_aim(row, 0.9 if row["dprime_ideal"] >= 7 else 0.6) for row in four]
        if first["dose_e_px"] == 1250:
            moved = here.filter((pl.col("shift_pm") == 10) & (pl.col("site") == kinds[0].site)).to_dicts()
            rows += [_recall_aim(row, 0.8) for row in moved]
    return rows


def _efficiency_aims(efficiency: pl.DataFrame) -> list[Row]:
    rows: list[Row] = []
    wanted = efficiency.filter(pl.col("dose_e_px").is_in([400.0, 1250.0]) & pl.col("jitter_pm").is_in([0.0, 5.0]))
    for row in wanted.to_dicts():
        mean, low, n = row["efficiency_mean"], row["efficiency_lowest"], row["n_defects"]
        target = TARGET_JITTER if row["jitter_pm"] else TARGET_MEAN
        aim, name = f"efficiency, mean over kinds, {_where(row)}", row["method"]
        rows.append(_aim(aim, f"{target:.2f}", name, mean, row["efficiency_mean_se"], n, mean >= target))
        if not row["jitter_pm"]:
            aim, note = f"efficiency, lowest kind, {_where(row)}", f"lowest: {row['lowest_kind']}"
            ok, se = low >= TARGET_LOWEST, row["efficiency_lowest_se"]
            rows.append(_aim(aim, f"{TARGET_LOWEST:.2f}", name, low, se, n, ok, note))
    return rows


def _against_baselines(detection: pl.DataFrame) -> list[Row]:
    """The VAE against each baseline on the same fields: kinds in which it is below, and the mean difference."""
    rows: list[Row] = []
    vae = detection.filter(pl.col("method") == "vae")
    for other in sorted(METHODS.keys() - {"vae"}, reverse=True):
        theirs = detection.filter(pl.col("method") == other)
        both = vae.join(theirs, on=["kind", "dose_e_px", "jitter_pm"], suffix="_other")
        if not len(both):
            continue
        difference = (both["efficiency"] - both["efficiency_other"]).to_numpy()
        below = both.filter(pl.Series(difference < -BELOW))
        note = ", ".join(f"{r['kind']} at {r['dose_e_px']:g} e/px" for r in below.to_dicts()[:4])
        aim = f"kinds and conditions in which the VAE is below {other} by more than {BELOW:g}"
        rows.append(_aim(aim, "0", "vae", float(len(below)), None, len(both), not len(below), note))
        mean, se = float(difference.mean()), float(difference.std() / np.sqrt(len(difference)))
        rows.append(_aim(f"efficiency of the VAE less that of {other}", "≥ 0", "vae", mean, se, len(both), mean >= 0))
    return rows


def _calibration_aims(tables: Tables) -> list[Row]:
    rows: list[Row] = []
    for row in tables["calibration"].to_dicts():
        if row["group"] != "all":
            continue
        for key, rate, name in RATES:
            ratio, se = row[f"ratio_{key}"], row[f"below_{key}_se"] / rate
            ok = 1 / NOMINAL_FACTOR <= ratio <= NOMINAL_FACTOR
            aim = f"bulk with p < {name}, over nominal"
            rows.append(_aim(aim, "0.67 to 1.5", row["method"], ratio, se, row["n_bulk"], ok))
    for row in tables["discovery"].to_dicts():
        rate_found, n = row["false_discovery_rate"], row["fields_with_defects"]
        if rate_found is not None:
            aim, se = f"false-discovery rate at q = 0.05, {row['experiment']} fields", row["false_discovery_rate_se"]
            rows.append(_aim(aim, "at most 0.06", row["method"], rate_found, se, n, rate_found <= 0.06))
    intervals = tables["intervals"]
    groups = intervals.group_by("method", "quantity", "of", maintain_order=True) if len(intervals) else ()
    for (method, quantity, of), here in groups:
        n = int(here["n"].sum())
        covered = float((here["covered_by_68pct"] * here["n"]).sum()) / n
        aim, ok = f"coverage of 68 % intervals: {quantity}, {of}", 0.60 <= covered <= 0.76
        rows.append(_aim(aim, "60 to 76 %", str(method), covered, _binomial_se(covered, n), n, ok))
    return rows


def _naming_aims(confusion: pl.DataFrame, kinds: tuple[Kind, ...]) -> list[Row]:
    whole = [kind.name for kind in kinds if kind.whole]
    found = confusion.filter(pl.col("kind").is_in(whole) & (pl.col("found") != "missed"))
    rows: list[Row] = []
    for (method,), part in found.group_by("method", maintain_order=True):
        n = int(part["n"].sum())
        right = int(part.filter(pl.col("called") == pl.col("found"))["n"].sum()) / n
        rows.append(
            _aim("kind right, whole columns", "97 %", str(method), right, _binomial_se(right, n), n, right >= 0.97)
        )
    return rows


def targets_table(tables: Tables, kinds: tuple[Kind, ...]) -> pl.DataFrame:
    """The aims that the plan measured, for every method.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Of scores.summarise.
    kinds : tuple of Kind
        Of the detection experiment.
    """
    rows = _recall_aims(tables["detection"], kinds) + _efficiency_aims(tables["efficiency"])
    rows += _against_baselines(tables["detection"]) + _calibration_aims(tables)
    rows += _naming_aims(tables["kinds"], kinds) if len(tables["kinds"]) else []
    return pl.DataFrame(rows, infer_schema_length=None)
