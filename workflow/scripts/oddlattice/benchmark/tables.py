"""Tables of the benchmark, made from every tested column of every field: what is found, how surely, under what name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import polars as pl

from oddlattice.benchmark.kinds import Kind
from oddlattice.benchmark.published import Band
from oddlattice.benchmark.separation import (
    known_signal_scores,
    recall_at,
    recall_of_ideal,
    recall_of_search,
    separation,
)
from oddlattice.benchmark.targets import targets_table
from oddlattice.defects.null import shift_error_pm
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.intervals import wilson
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.simulate.columnwise import Conditions
from oddlattice.storage.rows import Row

Tables = dict[str, pl.DataFrame]

BULK, NEAR = -1, -2  # instead of the number of a defect
GOLDEN_ANGLE = 2.399963  # bulk columns are given directions, evenly spread
RATES = ((0.01, "1pct"), (0.001, "0p1pct"))
BINS = 60  # of figure 2
SURE = 0.1  # the lowest efficiency is looked for among kinds whose own is known as well as this


class Analysed(Protocol):
    """One field with its results, as run_benchmark makes it."""

    @property
    def job(self) -> Any: ...  # noqa: D102
    @property
    def columns(self) -> dict[str, pl.DataFrame]: ...  # noqa: D102
    @property
    def defects(self) -> dict[str, pl.DataFrame]: ...  # noqa: D102
    @property
    def refused(self) -> dict[str, str]: ...  # noqa: D102
    @property
    def crops(self) -> dict[str, dict[str, Any]]: ...  # noqa: D102


def _of_field(rows: pl.DataFrame, conditions: Conditions, number: int) -> pl.DataFrame:
    return rows.with_columns(
        pl.lit(number, pl.Int32).alias("field"),
        pl.lit(conditions.dose_e_px).alias("dose_e_px"),
        pl.lit(conditions.jitter_pm).alias("jitter_pm"),
    )


def _small(columns: pl.DataFrame) -> pl.DataFrame:
    floats = [name for name, kind in columns.schema.items() if kind == pl.Float64 and name != "p_value"]
    return columns.drop("cell_u", "cell_v", strict=False).with_columns(
        pl.col(floats).cast(pl.Float32), pl.col("truth").cast(pl.Int32)
    )


@dataclass
class Findings:
    """What the fields gave, collected.

    Attributes
    ----------
    methods : tuple of str
    columns, defects : dict of (experiment, method) to list of DataFrame
    fields : list of dict
        One row a field: its conditions, and why it was refused.
    crops : dict of str to dict
        By method, for figure 1.
    """

    methods: tuple[str, ...]
    columns: dict[tuple[str, str], list[pl.DataFrame]] = field(default_factory=dict)
    defects: dict[tuple[str, str], list[pl.DataFrame]] = field(default_factory=dict)
    fields: list[Row] = field(default_factory=list)
    crops: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, outcome: Analysed) -> None:
        """Take in one field."""
        job = outcome.job
        c = job.conditions
        for method, columns in outcome.columns.items():
            here = _of_field(_small(columns), c, job.number)
            self.columns.setdefault((job.experiment, method), []).append(here)
        for method, defects in outcome.defects.items():
            here = _of_field(defects, c, job.number)
            self.defects.setdefault((job.experiment, method), []).append(here)
        for method, crops in outcome.crops.items():
            self.crops.setdefault(method, crops)
        self.fields.append(
            {
                "field": job.number,
                "experiment": job.experiment,
                "kinds": job.kinds,
                "seed": job.seed,
                "rows": job.shape[0],
                "cols": job.shape[1],
                "dose_e_px": c.dose_e_px,
                "jitter_pm": c.jitter_pm,
                "pixel_pm": 1000 * c.pixel_nm,
                "thickness_nm": c.thickness_nm,
                "thickness_slope": float(np.hypot(*c.thickness_gradient)),
                "rotation_deg": c.rotation_deg,
                "blur_pm": 1000 * c.blur_nm,
                "refused": "; ".join(f"{m or 'all'}: {why}" for m, why in sorted(outcome.refused.items())),
            }
        )

    def of(self, experiment: str, method: str) -> pl.DataFrame:
        """All columns of an experiment by a method; empty without any."""
        found = self.columns.get((experiment, method), [])
        return pl.concat(found) if found else pl.DataFrame()

    def listed(self, experiment: str, method: str) -> pl.DataFrame:
        """All defects of an experiment by a method; empty without any."""
        found = self.defects.get((experiment, method), [])
        return pl.concat(found) if found else pl.DataFrame()


# ---------------------------------------------------------------- detection


def _directions(columns: pl.DataFrame) -> Array:
    """Unit vectors of the true displacements; evenly spread ones where there is none."""
    true = columns.select("true_row_pm", "true_col_pm").to_numpy().astype(np.float64)
    angle = GOLDEN_ANGLE * np.arange(len(true))
    size = np.hypot(*true.T)
    spread = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.where(size[:, None] > 0, true / np.maximum(size, 1e-9)[:, None], spread)


def _known(columns: pl.DataFrame, kind: Kind) -> Array:
    """Scores of the observer who knows the signal (benchmark.known_signal_scores)."""
    covariance = _numbers(columns, "cov_row_pm2", "cov_both_pm2", "cov_both_pm2", "cov_col_pm2").reshape(-1, 2, 2)
    shift = _numbers(columns, "shift_row_pm", "shift_col_pm")
    intensity = _numbers(columns, "z_intensity")[:, 0]
    return known_signal_scores(kind.family, kind.change, intensity, shift, covariance, _directions(columns))


def _numbers(columns: pl.DataFrame, *names: str) -> Array:
    """Columns of a table side by side, (n, len(names)), float64."""
    return np.stack([columns[name].to_numpy().astype(np.float64) for name in names], axis=-1)


def _surprise(columns: pl.DataFrame, centre: float) -> Array:
    """Scores of the test as it is used: minus log10 p, or, of a method without one, the published score's distance."""
    if "p_value" in columns.columns:
        return np.asarray(-np.log10(_numbers(columns, "p_value")[:, 0]))
    return np.asarray(np.abs(_numbers(columns, "anm")[:, 0] - centre))


def detection_row(columns: pl.DataFrame, kind: Kind, ideal: float) -> Row | None:
    """One kind by one method under one condition; None where none was placed.

    Efficiency is the d' of the score that knows the signal, as the ideal observer does, over the ideal observer's;
    recall and AUROC are those of the test as it is used, which knows nothing.
    """
    here = columns.filter(pl.col("site") == kind.site)
    bulk, odd = here.filter(pl.col("truth") == BULK), here.filter(pl.col("kind") == kind.name)
    if len(odd) < 2 or len(bulk) < 50:
        return None
    tested = "p_value" in columns.columns
    centre = float(_numbers(bulk, "anm").mean())
    of_bulk, of_odd = _surprise(bulk, centre), _surprise(odd, centre)
    blind = separation(of_bulk, of_odd, parametric=False)
    known = separation(_known(bulk, kind), _known(odd, kind)) if tested else blind
    row: Row = {
        "kind": kind.name,
        "site": kind.site,
        "family": kind.family,
        "atoms_changed": kind.atoms,
        "shift_pm": kind.shift_pm,
        "n_defects": blind.n_defects,
        "n_bulk": blind.n_bulk,
        "dprime_ideal": ideal,
        "dprime": known.dprime,
        "dprime_se": known.dprime_se,
        "dprime_from": "means over bulk's standard deviation" if known.parametric else "area",
        "efficiency": known.dprime / ideal,
        "efficiency_se": known.dprime_se / ideal,
        "auroc_known_signal": known.auroc,
        "auroc": blind.auroc,
        "auroc_se": blind.auroc_se,
    }
    for rate, name in RATES:
        hits, _ = recall_at(of_bulk, of_odd, rate)
        low, high = wilson(hits, len(of_odd))
        row |= {f"recall_at_{name}": hits / len(of_odd), f"recall_at_{name}_low": low, f"recall_at_{name}_high": high}
        row[f"recall_at_{name}_ideal"] = float(recall_of_ideal(np.array(ideal), rate))
    return row


def detection_table(findings: Findings, kinds: tuple[Kind, ...], ideal: dict[str, float]) -> pl.DataFrame:
    """Every kind by every method under every condition."""
    rows: list[Row] = []
    for method in findings.methods:
        columns = findings.of("detection", method)
        if not len(columns):
            continue
        conditions = columns.select("dose_e_px", "jitter_pm").unique().sort("dose_e_px", "jitter_pm")
        for dose, jitter in conditions.iter_rows():
            here = columns.filter((pl.col("dose_e_px") == dose) & (pl.col("jitter_pm") == jitter))
            for kind in kinds:
                row = detection_row(here, kind, ideal[kind.name] * float(np.sqrt(dose)))
                if row is not None:
                    rows.append({"method": method, "dose_e_px": dose, "jitter_pm": jitter} | row)
    return pl.DataFrame(rows, infer_schema_length=None)


def efficiency_table(detection: pl.DataFrame) -> pl.DataFrame:
    """Mean efficiency over the kinds, and the lowest of those known to SURE, for every method and condition."""
    rows: list[Row] = []
    for (method, dose, jitter), here in detection.group_by("method", "dose_e_px", "jitter_pm", maintain_order=True):
        sure = here.filter(pl.col("efficiency_se") <= SURE)
        lowest = (sure if len(sure) else here).sort("efficiency").row(0, named=True)
        rows.append(
            {
                "method": method,
                "dose_e_px": dose,
                "jitter_pm": jitter,
                "kinds": len(here),
                "n_defects": int(here["n_defects"].sum()),
                "efficiency_mean": float(_numbers(here, "efficiency").mean()),
                "efficiency_mean_se": float(np.sqrt((here["efficiency_se"].to_numpy() ** 2).sum()) / len(here)),
                "efficiency_lowest": lowest["efficiency"],
                "efficiency_lowest_se": lowest["efficiency_se"],
                "lowest_kind": lowest["kind"],
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def ideal_curve(shift_share: float) -> pl.DataFrame:
    """Recall against the ideal d': of the ideal observer, and of an ideal test that must search."""
    dprime = np.linspace(0, 10, 41)
    columns: dict[str, Array] = {"dprime_ideal": dprime}
    for rate, name in RATES:
        columns |= {
            f"ideal_at_{name}": recall_of_ideal(dprime, rate),
            f"search_at_{name}": recall_of_search(dprime, rate, shift_share),
        }
    return pl.DataFrame(columns)


# ---------------------------------------------------------------- the published classes: figure 2 and table 1


def class_tables(findings: Findings, kinds: tuple[Kind, ...], width: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Table 1, and figure 2 as histograms of the published score."""
    rows: list[Row] = []
    bins: list[Row] = []
    for method in findings.methods:
        columns = findings.of("classes", method)
        if not len(columns):
            continue
        anm = columns["anm"].to_numpy().astype(np.float64)
        truth, name = columns["truth"].to_numpy(), columns["kind"].to_numpy()
        band = Band.of(anm[truth == BULK], width)
        reach = max(float(np.abs(anm).max()), 0.05)
        edges = np.linspace(-reach, reach, BINS + 1)
        for label in ("", *(kind.name for kind in kinds)):
            here = (truth == BULK) if not label else (name == label)
            n = int(here.sum())
            if not n:
                continue
            hits = int(band.outside(anm[here]).sum())
            low, high = wilson(hits, n)
            row: Row = {"method": method, "kind": label or "bulk", "n": n, "band_mean": band.mean, "band_std": band.std}
            row |= {"outside_band": hits / n, "outside_band_low": low, "outside_band_high": high}
            row |= {"flagged": None, "flagged_low": None, "flagged_high": None}
            if "flagged" in columns.columns:
                found = int(columns["flagged"].to_numpy()[here].sum())
                low, high = wilson(found, n)
                row |= {"flagged": found / n, "flagged_low": low, "flagged_high": high}
            rows.append(row)
            counts, _ = np.histogram(anm[here], edges)
            bins += [
                {
                    "method": method,
                    "kind": label or "bulk",
                    "score_low": edges[k],
                    "score_high": edges[k + 1],
                    "count": int(c),
                }
                for k, c in enumerate(counts)
            ]
    return pl.DataFrame(rows, infer_schema_length=None), pl.DataFrame(bins, infer_schema_length=None)


# ---------------------------------------------------------------- calibration


def _groups(fields: pl.DataFrame) -> Iterator[tuple[str, list[int]]]:
    yield "all", fields["field"].to_list()
    cuts = {
        "dose_e_px": (50, 250, 1000, 5001),
        "jitter_pm": (0, 3, 6, 9),
        "pixel_pm": (8, 12, 16, 20.1),
        "thickness_slope": (0, 0.1, 0.3),
    }
    for name, edges in cuts.items():
        for low, high in pairwise(edges):
            part = fields.filter((pl.col(name) >= low) & (pl.col(name) < high))["field"].to_list()
            if part:
                yield f"{name} {low:g} to {high:g}", part


def calibration_table(findings: Findings) -> pl.DataFrame:
    """Part of bulk columns with small p-values; intervals from the scatter between fields."""
    fields = pl.DataFrame(findings.fields, infer_schema_length=None).filter(pl.col("experiment") == "calibration")
    rows: list[Row] = []
    for method in findings.methods:
        columns = findings.of("calibration", method)
        if not len(columns) or "p_value" not in columns.columns:
            continue
        bulk = columns.filter(pl.col("truth") == BULK)
        per_field = bulk.group_by("field").agg(
            pl.len().alias("n"),
            *((pl.col("p_value") < rate).mean().alias(f"below_{name}") for rate, name in RATES),
        )
        for group, numbers in _groups(fields):
            here = per_field.filter(pl.col("field").is_in(numbers))
            if not len(here):
                continue
            row: Row = {"method": method, "group": group, "fields": len(here), "n_bulk": int(here["n"].sum())}
            weight = here["n"].to_numpy() / here["n"].sum()
            for rate, name in RATES:
                part = here[f"below_{name}"].to_numpy()
                mean = float((weight * part).sum())
                between = float(np.sqrt((weight**2 * (part - mean) ** 2).sum()))
                se = max(between, float(np.sqrt(rate / row["n_bulk"])))
                row |= {
                    f"below_{name}": mean,
                    f"below_{name}_se": se,
                    f"ratio_{name}": mean / rate,
                    f"ratio_{name}_low": max(mean - 1.96 * se, 0) / rate,
                    f"ratio_{name}_high": (mean + 1.96 * se) / rate,
                }
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def discovery_table(findings: Findings) -> pl.DataFrame:
    """False discoveries among the flagged columns, averaged over fields with defects; and bulk fields with an alarm."""
    fields = pl.DataFrame(findings.fields, infer_schema_length=None)
    rows: list[Row] = []
    for (experiment, method), parts in findings.columns.items():
        columns = pl.concat(parts)
        if "flagged" not in columns.columns:
            continue
        per_field = columns.group_by("field").agg(
            pl.col("flagged").sum().alias("flagged"),
            (pl.col("flagged") & (pl.col("truth") < 0)).sum().alias("false"),
            (pl.col("flagged") & (pl.col("truth") == NEAR)).sum().alias("beside"),
            pl.len().alias("n"),
        )
        with_defects = fields.filter((pl.col("experiment") == experiment) & (pl.col("kinds") != ""))["field"].to_list()
        here = per_field.filter(pl.col("field").is_in(with_defects))
        bare = per_field.filter(~pl.col("field").is_in(with_defects))
        part = here["false"].to_numpy() / np.maximum(here["flagged"].to_numpy(), 1)
        alarms = int((bare["flagged"] > 0).sum())
        low, high = wilson(alarms, len(bare))
        rows.append(
            {
                "method": method,
                "experiment": experiment,
                "fields_with_defects": len(here),
                "flagged": int(here["flagged"].sum()),
                "false": int(here["false"].sum()),
                "false_beside_a_defect": int(here["beside"].sum()),
                "false_discovery_rate": float(part.mean()) if len(part) else None,
                "false_discovery_rate_se": float(part.std(ddof=1) / np.sqrt(len(part))) if len(part) > 1 else None,
                "false_alarms_per_1000_columns": 1000 * int(here["false"].sum()) / max(int(here["n"].sum()), 1),
                "bulk_fields": len(bare),
                "bulk_fields_with_alarm": alarms / len(bare) if len(bare) else None,
                "bulk_fields_with_alarm_low": low if len(bare) else None,
                "bulk_fields_with_alarm_high": high if len(bare) else None,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _covered(error: Array, sigma: Array) -> Row:
    n, inside = len(error), int((np.abs(error) < sigma).sum())
    low, high = wilson(inside, n)
    return {
        "n": n,
        "covered_by_68pct": inside / n if n else None,
        "covered_low": low,
        "covered_high": high,
        "bias": float(error.mean()) if n else None,
        "rms_error": float(np.sqrt((error**2).mean())) if n else None,
        "sigma_median": float(np.median(sigma)) if n else None,
    }


def _shift_errors(columns: pl.DataFrame, shift_pm: float) -> Row:
    """Errors of both components; the bias is along the true displacement: negative where it comes out too small."""
    error = _numbers(columns, "shift_row_pm", "shift_col_pm") - _numbers(columns, "true_row_pm", "true_col_pm")
    if "cov_row_pm2" in columns.columns:
        bulk = np.sqrt(_numbers(columns, "cov_row_pm2", "cov_col_pm2"))
        sigma = shift_error_pm(bulk, _numbers(columns, "shift_row_pm", "shift_col_pm")[:, None])
    else:
        sigma = _numbers(columns, "shift_sigma_pm", "shift_sigma_pm")
    towards = (error * _numbers(columns, "true_row_pm", "true_col_pm")).sum(axis=1) / shift_pm
    return _covered(error.ravel(), sigma.ravel()) | {"bias": float(towards.mean())}


def interval_table(findings: Findings, kinds: tuple[Kind, ...]) -> pl.DataFrame:
    """Errors and coverage of intensity change and displacement: of all placed columns, and of the listed defects.

    A defect that is listed as a region has neither.
    """
    rows: list[Row] = []
    for method in findings.methods:
        columns, listed = findings.of("calibration", method), findings.listed("calibration", method)
        if not len(columns) or "change" not in columns.columns:
            continue
        for kind in kinds:
            for which, found in (("every column placed", columns), ("listed defects", listed)):
                here = found.filter(pl.col("kind") == kind.name).filter(pl.col("change").is_finite())
                if not len(here):
                    continue
                about: Row = {"method": method, "kind": kind.name, "family": kind.family, "of": which}
                if kind.family == "displaced":
                    rows.append(about | {"quantity": "displacement", "unit": "pm"} | _shift_errors(here, kind.shift_pm))
                else:
                    found_change, truth, sigma = _numbers(here, "change", "true_change", "change_sigma").T
                    errors = _covered(found_change - truth, sigma)
                    rows.append(about | {"quantity": "change", "unit": "of a column"} | errors)
    return pl.DataFrame(rows, infer_schema_length=None)


def confusion_table(findings: Findings) -> pl.DataFrame:
    """What the defects placed were called; "missed" where none was listed, kind "none" for false alarms."""
    parts = []
    for (experiment, method), found in findings.defects.items():
        counted = (
            pl.concat(found)
            .with_columns(
                pl.when(pl.col("found") == "").then(pl.lit("missed")).otherwise(pl.col("found")).alias("found"),
                pl.when(pl.col("kind") == "").then(pl.lit("none")).otherwise(pl.col("kind")).alias("kind"),
                pl.when(pl.col("called") == "").then(pl.lit("none")).otherwise(pl.col("called")).alias("called"),
            )
            .group_by("kind", "called", "found")
            .agg(pl.len().alias("n"))
            .with_columns(pl.lit(experiment).alias("experiment"), pl.lit(method).alias("method"))
        )
        parts.append(counted)
    if not parts:
        return pl.DataFrame()
    found_all = pl.concat(parts).select("method", "experiment", "kind", "called", "found", "n")
    return found_all.sort("method", "experiment", "called", "kind", "found")


def summarise(
    findings: Findings,
    kinds: dict[str, tuple[Kind, ...]],
    ideal: dict[str, float],
    files: pl.DataFrame,
    defects: DefectSettings,
) -> Tables:
    """All tables, by the name of their file; `defects` are the settings of that stage.

    Raises
    ------
    ValueError
        If no field could be analysed; the message says why.
    """
    detection = detection_table(findings, kinds["detection"], ideal)
    if not len(detection):
        reasons = sorted({row["refused"] for row in findings.fields if row["refused"]})
        raise ValueError(f"benchmark: found no field that could be analysed ({'; '.join(reasons)}); needed some")
    table_1, figure_2 = class_tables(findings, kinds["classes"], float(defects.published_band_std))
    tables: Tables = {
        "detection": detection,
        "efficiency": efficiency_table(detection),
        "ideal": ideal_curve(float(defects.shift_share)),
        "table_1": table_1,
        "figure_2": figure_2,
        "calibration": calibration_table(findings),
        "discovery": discovery_table(findings),
        "intervals": interval_table(findings, kinds["calibration"]),
        "kinds": confusion_table(findings),
        "files": files,
        "fields": pl.DataFrame(findings.fields, infer_schema_length=None),
    }
    return {"aims": targets_table(tables, kinds["detection"])} | tables
