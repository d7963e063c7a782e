"""What was found in an image, as rows of the products."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from oddlattice.defects.false_alarms import FalseAlarms
from oddlattice.defects.injection import (
    Curves,
    corrected_count,
    loss_curves,
    pooled_curves,
    pooled_rows,
    shift_curves,
    smallest_loss,
    trial_rows,
)
from oddlattice.defects.listing import Defect, Judged
from oddlattice.defects.null import change_error, shift_error_pm
from oddlattice.defects.registered import Registered
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.pixel_size import header_nm, mean_nm
from oddlattice.lattice.subareas import Part
from oddlattice.model.known_defects import Trial
from oddlattice.numerics.arrays import Array, Mask
from oddlattice.numerics.intervals import poisson_interval, wilson
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.storage.products import COLUMN_KEY, COLUMNS, table
from oddlattice.storage.rows import Row

NOISE_MODEL = "the image's own residuals: per pixel of the cell, slowly varying level, correlated"


def column_rows(image_id: str, grain: int, judged: Judged, coordinates: Coordinates) -> pl.DataFrame:
    """Every tested column of a grain as rows of products.COLUMNS, cells counted from the arrays' first."""
    frames, start = [], 0
    for tested in judged.kinds:
        v, n = tested.verdict, len(tested.cells)
        tests = {
            "z": v.z,
            "p_value": v.p_value,
            "q_value": judged.q[start : start + n],
            "probability_real": judged.probability_real[start : start + n],
            "z_intensity": v.z_intensity,
            "z_shift": v.z_shift,
        }
        place = coordinates.seen_px(tested.cells + np.array([tested.shape.u, tested.shape.v]))
        frames.append(
            pl.DataFrame(
                {
                    "image_id": [image_id] * n,
                    "grain": [grain] * n,
                    "cell_u": tested.cells[:, 0],
                    "cell_v": tested.cells[:, 1],
                    "column": [tested.shape.column] * n,
                    "site": [tested.shape.site] * n,
                    "row_px": place[:, 0],
                    "col_px": place[:, 1],
                    **(dict.fromkeys(tests) if tested.reason else tests),
                    "anm": tested.anm,
                    # without a bulk: against the mean column
                    "intensity_change": tested.found[:, 0] if tested.reason else v.change,
                    "intensity_change_sigma": change_error(v.change_sigma, v.change),
                    "intensity_plain": tested.plain if len(tested.plain) else [None] * n,
                    "intensity_noise": tested.level * tested.factor[:, 0] * math.sqrt(tested.kernel.covariance[0, 0]),
                    "shift_row_pm": v.shift_pm[:, 0],
                    "shift_col_pm": v.shift_pm[:, 1],
                    "population": [None] * n,
                    "in_region": [None] * n,
                    "shift_sigma_pm": shift_error_pm(np.linalg.det(v.shift_covariance_pm2) ** 0.25, v.shift_pm),
                },
                schema=COLUMNS,
            )
        )
        start += n
    return pl.concat(frames) if frames else table([], COLUMNS)


def _number(value: float) -> float | None:
    return None if not math.isfinite(value) else float(value)


def defect_row(about: Row, grain: int, defect: Defect, image: Registered, cell_nm2: float) -> Row:
    """A defect as a row of products.DEFECTS."""
    place = image.coordinates.seen_px(np.array(defect.uv))
    extended = defect.kind == "extended"
    return {
        **{key: about[key] for key in ("image_id", "path", "signal", "frame")},
        "row_px": float(place[0]),
        "col_px": float(place[1]),
        "row_nm": float(place[0] * image.pixel_nm[0]),
        "col_nm": float(place[1] * image.pixel_nm[1]),
        "grain": grain,
        "cell_u": int(math.floor(defect.uv[0])) + image.first[0],
        "cell_v": int(math.floor(defect.uv[1])) + image.first[1],
        "column": defect.column,
        "site": defect.site,
        "kind": defect.kind,
        "kind_probability": _number(defect.probability),
        "probability_real": _number(defect.probability_real),
        "z": _number(defect.z),
        "p_value": _number(defect.p),
        "q_value": _number(defect.q),
        "anm": _number(defect.anm),
        "intensity_change": _number(defect.change),
        "intensity_change_sigma": _number(defect.change_sigma),
        "shift_row_pm": _number(defect.shift_pm[0]),
        "shift_col_pm": _number(defect.shift_pm[1]),
        "shift_sigma_pm": _number(defect.shift_sigma_pm),
        "area_px2": defect.cells * cell_nm2 / float(np.prod(image.pixel_nm)) if extended else None,
        "area_nm2": defect.cells * cell_nm2 if extended else None,
        "in_region": defect.in_region,
        "review": "",
    }


def numbered(rows: list[Row]) -> list[Row]:
    """Defects of one grain; those that are no column get their number within their kind, from the top of the image."""
    seen: Counter[str] = Counter()
    numbers: dict[int, int] = {}
    for k in sorted(range(len(rows)), key=lambda k: (rows[k]["row_px"], rows[k]["col_px"])):
        if rows[k]["column"] is None:
            seen[rows[k]["kind"]] += 1
            numbers[k] = seen[rows[k]["kind"]]
    return [row | {"number": numbers.get(k)} for k, row in enumerate(rows)]


def of_population(defects: list[Row], columns: pl.DataFrame) -> list[Row]:
    """Rows of products.DEFECTS with the population that each column belongs to, as `columns` (products.COLUMNS) say."""
    known = dict(zip(columns.select(COLUMN_KEY).iter_rows(), columns["population"], strict=True))
    return [row | {"population": known.get(tuple(row[key] for key in COLUMN_KEY))} for row in defects]


@dataclass(frozen=True)
class Piece:
    """A part of an image that was judged, and what its rows need.

    Attributes
    ----------
    part : Part
    judged : Judged
    coordinates : Coordinates
        Of the part with its neighbourhood.
    cell : ndarray of shape (n_u, n_v)
        Its mean cell.
    """

    part: Part
    judged: Judged
    coordinates: Coordinates
    cell: Array


@dataclass
class Tally:
    """What was found in an image, put together from its parts.

    Attributes
    ----------
    known : list of Trial
        Defects that are put in, for completeness.
    defects : list of Defect
        Places in cells of the whole image.
    columns : list of DataFrame
        Rows of products.COLUMNS.
    anm : list of ndarray
        Published score of every column.
    flagged : list of ndarray
        Which columns were flagged.
    losses, shifts : dict
        Recovered against lost intensity, and against displacement, by site.
    trials : list of dict
        Rows of products.COMPLETENESS.
    false_dispersion : float
        Of the number of false alarms, see `TwoGroups`.
    taken : ndarray of shape (U, V), bool
        Cells of regions and of their rims.
    regions : ndarray of shape (U, V), int
        Number of the region of each cell, in the order of the defects that are regions; 0 in none.
    reasons : dict of str to None
        Why sites are not tested, in order.
    """

    known: list[Trial]
    defects: list[Defect] = field(default_factory=list)
    columns: list[pl.DataFrame] = field(default_factory=list)
    anm: list[Array] = field(default_factory=list)
    flagged: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    losses: Curves = field(default_factory=dict)
    shifts: Curves = field(default_factory=dict)
    trials: list[Row] = field(default_factory=list)
    false_dispersion: float = 1.0
    taken: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    regions: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.intp))
    reasons: dict[str, None] = field(default_factory=dict)

    def add(self, image_id: str, grain: int, piece: Piece) -> None:
        """Take in the columns and defects that are a part's own; those around it are another's."""
        judged, low = piece.judged, [s.start for s in piece.part.wide]
        own, noise = judged.own, judged.noise
        rows = column_rows(image_id, grain, judged, piece.coordinates).filter(pl.Series(judged.told))
        self.reasons |= dict.fromkeys(judged.reasons)
        self.columns.append(rows.with_columns(pl.col("cell_u") + low[0], pl.col("cell_v") + low[1]))
        self.anm.append(np.concatenate([np.empty(0), *(t.anm for t in judged.kinds)])[own])
        self.flagged.append(judged.flagged[own])
        self.defects += [replace(d, uv=(d.uv[0] + low[0], d.uv[1] + low[1])) for d in judged.defects]
        self.losses = pooled_curves(self.losses, loss_curves(judged, noise, piece.cell))
        self.shifts = pooled_curves(self.shifts, shift_curves(judged, judged.vectors_pm))
        self.trials = pooled_rows(self.trials, trial_rows(judged, noise, piece.cell, judged.vectors_pm, self.known))
        self.false_dispersion = judged.false_dispersion

    def take(self, regions: npt.NDArray[np.bool_]) -> None:
        """Let the cells of `regions` (U, V) be taken, and the columns in them say so."""
        self.taken = regions
        for k, rows in enumerate(self.columns):
            cells = rows.select("cell_u", "cell_v").to_numpy()
            u, v = (np.clip(cells[:, axis], 0, side - 1) for axis, side in enumerate(regions.shape))
            self.columns[k] = rows.with_columns(in_region=pl.Series(regions[u, v], dtype=pl.Boolean))

    def area_nm2(self, cell_nm2: float) -> float:
        """Area tested outside of regions: that of a cell for each of its columns, on average over their kinds."""
        told = pl.concat([table([], COLUMNS), *self.columns])
        at = told.select("cell_u", "cell_v").to_numpy()
        outside = ~self.taken[tuple(at.T)] if self.taken.size else np.ones(len(at), dtype=bool)
        each = told.filter(pl.Series(outside)).group_by("column").len()["len"]
        return float(each.sum()) / max(told["column"].n_unique(), 1) * cell_nm2


def pooled(tallies: list[Tally]) -> Tally:
    """What was found in all grains of an image; cells of regions are each grain's own and not among it."""
    whole = Tally([])
    for one in tallies:
        whole.known += one.known
        whole.defects += one.defects
        whole.columns += one.columns
        whole.anm += one.anm
        whole.flagged += one.flagged
        whole.losses = pooled_curves(whole.losses, one.losses)
        whole.shifts = pooled_curves(whole.shifts, one.shifts)
        whole.trials = pooled_rows(whole.trials, one.trials)
        whole.false_dispersion = one.false_dispersion
        whole.reasons |= one.reasons
    return whole


def published_figures(tally: Tally, band_std: float) -> Row:
    """Mean and standard deviation of the published score over bulk columns, and how many columns its rule flags."""
    score = np.concatenate([np.empty(0), *tally.anm])
    bulk = score[~np.concatenate([np.empty(0, bool), *tally.flagged])]
    if not len(bulk):
        return {}
    mean, std = float(bulk.mean()), float(bulk.std())
    return {
        "published_mean": mean,
        "published_std": std,
        "published_flagged": int((np.abs(score - mean) > band_std * std).sum()),
    }


def image_figures(tally: Tally, area: float, extended_nm2: float, settings: DefectSettings) -> Row:
    """Figures of an image, for products.IMAGES.

    Densities are of the point defects outside extended regions, over the `area` analysed outside of them [nm^2]; there
    are none where a site has no bulk to test it by.
    """
    points = [d for d in tally.defects if d.kind != "extended" and not d.in_region]
    regions = [d for d in tally.defects if d.kind == "extended"]
    area = 0.0 if tally.reasons else area  # where a site is not tested, defects are on no area that is known
    low, high = poisson_interval(len(points))
    corrected, left_out = corrected_count(points, tally.losses, tally.shifts)
    ends = [value / area if area else None for value in corrected]
    false = FalseAlarms.among(np.array([d.probability_real for d in points]), tally.false_dispersion)
    emptied = [rows[-1] for rows in tally.losses.values()]
    n, hits = sum(int(r["n"]) for r in emptied), sum(round(r["n"] * r["recovered"]) for r in emptied)
    figures: Row = {
        "columns_tested": sum(map(len, tally.anm)),
        "defects": len(points),
        "extended_regions": len(regions),
        "extended_area_nm2": extended_nm2,
        "density_per_nm2": len(points) / area if area else None,
        "density_ci_low": low / area if area else None,
        "density_ci_high": high / area if area else None,
        **dict(zip((f"density_corrected_{end}" for end in ("per_nm2", "ci_low", "ci_high")), ends, strict=True)),
        "density_corrected_left_out": left_out,
        **false.row(),
        "false_dispersion": tally.false_dispersion,
        "area_nm2": None if tally.reasons else area,
        "fdr": settings.fdr,
        "noise_model": NOISE_MODEL,
        "smallest_loss_90": smallest_loss(tally.losses),
        **published_figures(tally, settings.published_band_std),
    }
    if n:
        figures |= dict(
            zip(("completeness_vacancy_ci_low", "completeness_vacancy_ci_high"), wilson(hits, n), strict=True)
        )
        figures["completeness_vacancy"] = hits / n
    return figures


def dose_counts_per_nm2(
    local_mean: npt.NDArray[np.floating], mask: Mask | npt.NDArray[np.bool_], pixel_nm: Array
) -> float:
    """Mean counts per area of the analysed cells, of a local mean (U, V) [counts]."""
    return float(local_mean[mask.astype(bool)].mean() / np.prod(pixel_nm))


def crystal_figures(lattice: Row) -> Row:
    """What crystal an image shows: as the library recognises it, or as its model says."""
    who = lattice.get("identity")
    if who is None:
        return {"crystal": (lattice.get("crystal") or "") if "own_crystal" not in lattice else ""}
    listed = [f"{one['crystal']} {one['axis']} {one['probability']:.2f}" for one in who["candidates"]]
    named = who["kind"] in ("crystal", "class")
    return {
        "crystal": who["name"] if named else "",
        "crystal_probability": who["probability"] if named else None,
        "crystal_candidates": "; ".join(listed),
    }


def lattice_figures(source: Row, lattice: Row) -> Row:
    """What is known of an image before it is analysed, for products.IMAGES."""
    header = header_nm(source)
    row: Row = {
        "rows": source["rows"],
        "cols": source["cols"],
        "acquired": source.get("acquired", ""),
        "pixel_nm_header": mean_nm(header) if header else None,
        "a_nm": lattice.get("a_nm_header"),
        "b_nm": lattice.get("b_nm_header"),
    }
    for key in ("pixel_nm", "gamma_deg", "rotation_deg", "cells_analysed", "cells_masked"):
        row[key] = lattice.get(key)
    row |= crystal_figures(lattice)
    row["lattice_rms_px"] = lattice.get("lattice_rms_px")
    for name in ("a", "b"):
        vector = lattice.get(f"{name}_px")
        row[f"{name}_px"] = math.hypot(*vector) if vector else None
    return row
