"""What a field's tested columns and listed defects are in truth."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.spatial import cKDTree

from oddlattice.benchmark.fields import NEAR_CELLS, Field
from oddlattice.benchmark.tables import BULK, NEAR
from oddlattice.defects.listing import Judged
from oddlattice.defects.null import change_error
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.numerics.arrays import Array

TESTED_CELLS, SAME_CELLS, LISTED_CELLS = 0.3, 0.2, 0.45  # how near a place is to count as tested, as it, as listed
CLEAR_ATOMS, CLEAR_SHIFT_PM = 8, 20.0  # defects that any image should show

DEFECT_COLUMNS = {
    "kind": pl.String,
    "called": pl.String,
    "found": pl.String,
    "probability": pl.Float64,
    "change": pl.Float64,
    "change_sigma": pl.Float64,
    "shift_row_pm": pl.Float64,
    "shift_col_pm": pl.Float64,
    "shift_sigma_pm": pl.Float64,
    "true_change": pl.Float64,
    "true_row_pm": pl.Float64,
    "true_col_pm": pl.Float64,
}


def period_px(field: Field) -> float:
    """Side of a cell [px]."""
    return float(np.sqrt(abs(np.linalg.det(field.scan.vectors_px))))


def nearest(places: Array, of: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """Distance from each of `places` (n, 2) to the nearest of `of` (m, 2), and which it is; infinite where m = 0."""
    if not len(of):
        return np.full(len(places), np.inf), np.zeros(len(places), dtype=np.intp)
    distance, which = cKDTree(of).query(places.reshape(-1, 2))
    return np.asarray(distance, dtype=np.float64), np.asarray(which, dtype=np.intp)


def truth_of(field: Field, coordinates: Coordinates, uv: Array) -> npt.NDArray[np.int64]:
    """Number of the defect at each place (n, 2) [cells]; BULK far from all of them, NEAR otherwise."""
    distance, which = nearest(coordinates.straight_px(uv), field.places_px)
    period = period_px(field)
    far = np.where(distance > NEAR_CELLS * period, BULK, NEAR)
    return np.where(distance < SAME_CELLS * period, which, far)


def column_table(field: Field, coordinates: Coordinates, judged: Judged) -> pl.DataFrame:
    """Every tested column with its truth."""
    frames, start = [], 0
    for tested in judged.kinds:
        v, n = tested.verdict, len(tested.cells)
        truth = truth_of(field, coordinates, tested.cells + np.array([tested.shape.u, tested.shape.v]))
        of_site = np.array([truth[k] < 0 or field.kinds[truth[k]].site == tested.shape.site for k in range(n)])
        truth = np.where(of_site, truth, NEAR)
        put = [field.scan.defects[k] if k >= 0 else None for k in truth]
        frames.append(
            pl.DataFrame(
                {
                    "site": [tested.shape.site] * n,
                    "truth": truth,
                    "kind": [field.kinds[k].name if k >= 0 else "" for k in truth],
                    "cell_u": tested.cells[:, 0],
                    "cell_v": tested.cells[:, 1],
                    "z": v.z,
                    "p_value": v.p_value,
                    "z_intensity": v.z_intensity,
                    "change": v.change,
                    "change_sigma": change_error(v.change_sigma, v.change),
                    "shift_row_pm": v.shift_pm[:, 0],
                    "shift_col_pm": v.shift_pm[:, 1],
                    "cov_row_pm2": v.shift_covariance_pm2[:, 0, 0],
                    "cov_both_pm2": v.shift_covariance_pm2[:, 0, 1],
                    "cov_col_pm2": v.shift_covariance_pm2[:, 1, 1],
                    "true_row_pm": [d.shift_pm[0] if d else 0.0 for d in put],
                    "true_col_pm": [d.shift_pm[1] if d else 0.0 for d in put],
                    "true_change": [field.kinds[k].change if k >= 0 else 0.0 for k in truth],
                    "anm": tested.anm,
                    "flagged": judged.flagged[start : start + n],
                }
            )
        )
        start += n
    return pl.concat(frames) if frames else pl.DataFrame()


def defect_table(field: Field, coordinates: Coordinates, judged: Judged) -> pl.DataFrame:
    """Every defect placed with what was listed at its column, and every listed one that is none ("" as its kind)."""
    uv = np.array([d.uv for d in judged.defects]).reshape(-1, 2)
    listed = coordinates.straight_px(uv) if len(uv) else np.empty((0, 2))
    # placed where columns are tested: the rest of the image is not analysed
    inside = _tested_places(field, coordinates, judged)
    distance, which = nearest(listed, field.places_px)
    at = np.where(distance < LISTED_CELLS * period_px(field), which, -1)
    rows: list[dict[str, Any]] = []
    for k, kind in enumerate(field.kinds):
        if not inside[k]:
            continue
        hits = np.flatnonzero(at == k)
        row: dict[str, Any] = {"kind": kind.name, "called": kind.called, "found": ""}
        if len(hits):
            best = judged.defects[int(hits[0])]
            defect = field.scan.defects[k]
            row |= {
                "found": best.kind,
                "probability": best.probability,
                "change": best.change,
                "change_sigma": best.change_sigma,
                "shift_row_pm": best.shift_pm[0],
                "shift_col_pm": best.shift_pm[1],
                "shift_sigma_pm": best.shift_sigma_pm,
                "true_change": kind.change,
                "true_row_pm": defect.shift_pm[0],
                "true_col_pm": defect.shift_pm[1],
            }
        rows.append(row)
    seen: set[int] = set()
    for number, defect_number in enumerate(at):
        if defect_number < 0 or int(defect_number) in seen:
            rows.append({"kind": "", "called": "", "found": judged.defects[number].kind})
        seen.add(int(defect_number))
    return pl.DataFrame(rows, schema=DEFECT_COLUMNS)


def _tested_places(field: Field, coordinates: Coordinates, judged: Judged) -> npt.NDArray[np.bool_]:
    uv = [t.cells + np.array([t.shape.u, t.shape.v]) for t in judged.kinds]
    tested = coordinates.straight_px(np.concatenate(uv)) if uv else np.empty((0, 2))
    return np.asarray(nearest(field.places_px, tested)[0] < TESTED_CELLS * period_px(field))


def file_row(
    field: Field, about: dict[str, Any], defects: pl.DataFrame, images: pl.DataFrame, columns: pl.DataFrame
) -> dict[str, Any]:
    """Truth against what was listed, for one file."""
    tested = columns.select("row_px", "col_px").to_numpy()
    listed = defects.filter(pl.col("kind") != "extended").select("row_px", "col_px").to_numpy()
    period = period_px(field)
    inside = np.asarray(nearest(field.places_px, tested)[0] < TESTED_CELLS * period)
    distance, which = nearest(listed, field.places_px)
    near = distance < LISTED_CELLS * period
    hit = np.zeros(len(field.kinds), dtype=bool)
    hit[which[near]] = True
    hit &= inside
    conditions = field.conditions
    found, false = int(hit.sum()), int((~near).sum())
    clear = inside & np.array([k.whole or k.atoms >= CLEAR_ATOMS or k.shift_pm >= CLEAR_SHIFT_PM for k in field.kinds])
    precision = found / max(found + false, 1)
    recall = found / max(int(inside.sum()), 1)
    return {
        "file": about["path"],
        "state": images["state"][0],
        "reason": images["reason"][0],
        "dose_e_px": conditions.dose_e_px,
        "jitter_pm": conditions.jitter_pm,
        "pixel_pm": 1000 * conditions.pixel_nm,
        "columns_tested": len(columns),
        "defects_placed": int(inside.sum()),
        "found": found,
        "false_alarms": false,
        "regions": int((defects["kind"] == "extended").sum()),
        "clear_placed": int(clear.sum()),
        "clear_found": int((hit & clear).sum()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "false_alarms_per_1000_columns": 1000 * false / max(len(columns), 1),
    }
