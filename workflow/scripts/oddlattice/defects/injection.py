"""What could have been found: known defects put into an image's own bulk columns, and judged as the image's own are."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.defects.kernels import moved_peak
from oddlattice.defects.listing import Defect, Judged
from oddlattice.defects.noise import Noise
from oddlattice.defects.null import SiteColumns
from oddlattice.lattice.columns import peak_at, window_of_cell, window_offsets
from oddlattice.model.known_defects import Trial
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.intervals import weighted_poisson_interval, wilson

Curves = dict[str, list[dict[str, Any]]]

LOSSES = tuple(round(0.05 * k, 2) for k in range(1, 21))  # trial losses of intensity
SHIFTS_PM = (2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0)  # trial displacements
COLUMNS = 500  # bulk columns of a kind that trials are made in, evenly taken
DIRECTIONS = 8  # of displacements
COUNTED_FROM = 0.5  # defects of which fewer than this part would be found are not counted in the corrected density


def own_share(tested: SiteColumns, noise: Noise, mean_cell: Array) -> float:
    """Part of the variance of a column's intensity estimate that comes from counting the column's own electrons.

    By each pixel's part in the estimate, with counting noise throughout.
    """
    shape = tested.shape
    part = (tested.kernel.weights[0].reshape(window_of_cell(noise.sigma, shape).shape)) ** 2
    part = part * window_of_cell(noise.sigma, shape) ** 2
    peak = peak_at(shape, *window_offsets(shape))
    light = np.clip(peak / np.maximum(window_of_cell(mean_cell, shape), 1e-9), 0.0, 1.0)
    return float((part * light).sum() / max(part.sum(), 1e-300))


def changed(tested: SiteColumns, some: npt.NDArray[np.intp], change: float, share: float) -> Array:
    """Estimates (n, 6) of bulk columns had their intensity changed; counting noise goes with the intensity."""
    found, null = tested.found[some], tested.null
    level = tested.level[some, None]
    centre = np.array([null.middle, *null.centre, 0.0, 0.0, 0.0]) * level
    bends = tested.kernel.weights[3:] @ peak_at(tested.shape, *window_offsets(tested.shape)).ravel()
    added = change * np.array([1.0, 0.0, 0.0, *(tested.response[0] * bends)])
    return np.asarray(centre + (found - centre) * np.sqrt(max(1 + change * share, 0.0)) + added)


def ways(shift_pm: float) -> Array:
    """Displacements (DIRECTIONS, 2) of one length [pm]."""
    angle = 2 * np.pi * (np.arange(DIRECTIONS) + 0.25) / DIRECTIONS
    return shift_pm * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def displaced(tested: SiteColumns, some: npt.NDArray[np.intp], shift_pm: float, vectors_pm: Array) -> Array:
    """Estimates (n, 6) of bulk columns had they been moved, each in one of DIRECTIONS directions."""
    moved = moved_peak(tested.shape, 0.0, ways(shift_pm), vectors_pm).reshape(DIRECTIONS, -1)
    added = tested.response[1] * moved @ tested.kernel.weights.T
    return np.asarray(tested.found[some] + added[np.arange(len(some)) % DIRECTIONS])


def bulk_sample(judged: Judged, kind: int) -> npt.NDArray[np.intp]:
    """Indices into `judged.kinds[kind]` of unflagged columns, at most COLUMNS, evenly taken."""
    whole = judged.kinds[kind].view == 0
    bulk = np.flatnonzero((judged.own & ~judged.flagged)[judged.kind == kind] & whole)
    return bulk[np.linspace(0, len(bulk) - 1, min(COLUMNS, len(bulk))).round().astype(np.intp)] if len(bulk) else bulk


def ideal_part(tested: SiteColumns, some: npt.NDArray[np.intp], signals: Array, share: float, cut: float) -> float:
    """Part found by an ideal observer in this image's noise, told what to look for, at the same rate of false alarms.

    Parameters
    ----------
    signals : ndarray of shape (k, 3)
        Relative intensity, displacement (row, col) [pm]; the columns take one after the other.
    share : float
        From `own_share`.
    """
    dprime = np.sqrt(np.einsum("ki,ki->k", signals, np.linalg.solve(noise_of(tested), signals.T).T))
    scatter = np.sqrt(max(1 + signals[0, 0] * share, 1e-3))
    of_each = dprime[np.arange(len(some)) % len(dprime)] / tested.level[some]
    return float(distributions.normal_sf((distributions.normal_isf(cut) - of_each) / scatter).mean())


def noise_of(tested: SiteColumns) -> Array:
    """Covariance (3, 3) of a column's estimates by noise alone, where the noise level is 1.

    The noise map holds what many changed columns leave in it. Bulk's own scatter bounds it: noise is a part of that.
    """
    covariance, null = tested.kernel.covariance, tested.null
    of_shift = (np.linalg.det(null.covariance) / np.linalg.det(covariance[1:, 1:])) ** 0.25
    scale = np.minimum(np.array([null.spread / np.sqrt(covariance[0, 0]), of_shift, of_shift]), 1.0)
    return np.asarray(scale[:, None] * covariance * scale)


def _recovered(
    trials: Sequence[Array], tested: SiteColumns, some: npt.NDArray[np.intp], cut: float
) -> list[dict[str, float]]:
    """Recovered part of each of some trials, its estimates (n, 6) of the columns `some` (n,), with its interval."""
    if not trials:
        return []
    n = len(some)
    hits = (tested.judge(np.concatenate(trials), np.tile(some, len(trials))).p_value <= cut).reshape(-1, n).sum(axis=1)
    found = []
    for number in hits.tolist():
        low, high = wilson(number, n)
        found.append({"n": n, "recovered": number / n if n else 0.0, "ci_low": low, "ci_high": high})
    return found


def trial_rows(
    judged: Judged, noise: Noise, mean_cell: Array, vectors_pm: Array, trials: Sequence[Trial]
) -> list[dict[str, Any]]:
    """Recovered part of every trial, with its 95 % interval, beside the ideal observer's.

    Parameters
    ----------
    mean_cell : ndarray of shape (n_u, n_v)
        Of the prediction, in units of the local mean.
    """
    rows: list[dict[str, Any]] = []
    for kind, tested in enumerate(judged.kinds):
        some = bulk_sample(judged, kind)
        share = own_share(tested, noise, mean_cell)
        mine = [t for t in trials if t.site == tested.shape.site and len(some)]
        found = [
            displaced(tested, some, trial.shift_pm, vectors_pm)
            if trial.shift_pm
            else changed(tested, some, trial.change, share)
            for trial in mine
        ]
        for trial, row in zip(mine, _recovered(found, tested, some, judged.cut), strict=True):
            signals = np.column_stack([np.full(DIRECTIONS, trial.change), ways(trial.shift_pm)])
            rows.append(vars(trial) | row | {"ideal": ideal_part(tested, some, signals, share, judged.cut)})
    return rows


def _with_bulk(judged: Judged) -> Iterator[tuple[int, SiteColumns]]:
    """Number and columns of the sites that have a bulk to put trials in."""
    return ((kind, tested) for kind, tested in enumerate(judged.kinds) if not tested.reason)


def loss_curves(judged: Judged, noise: Noise, mean_cell: Array) -> Curves:
    """Recovered part, with its 95 % interval, for each kind of column and each trial loss."""
    found: Curves = {}
    for kind, tested in _with_bulk(judged):
        some, share = bulk_sample(judged, kind), own_share(tested, noise, mean_cell)
        trials = [changed(tested, some, -loss, share) for loss in LOSSES]
        rows = _recovered(trials, tested, some, judged.cut)
        found[tested.shape.site] = [{"loss": loss} | row for loss, row in zip(LOSSES, rows, strict=True)]
    return found


def shift_curves(judged: Judged, vectors_pm: Array) -> Curves:
    """The same for each trial displacement [pm]."""
    found: Curves = {}
    for kind, tested in _with_bulk(judged):
        some = bulk_sample(judged, kind)
        trials = [displaced(tested, some, shift, vectors_pm) for shift in SHIFTS_PM]
        rows = _recovered(trials, tested, some, judged.cut)
        found[tested.shape.site] = [{"shift_pm": shift} | row for shift, row in zip(SHIFTS_PM, rows, strict=True)]
    return found


def smallest_loss(table: Curves, part: float = 0.9) -> float | None:
    """The smallest loss that is recovered in `part` of the columns of every kind, or None."""
    needed = []
    for rows in table.values():
        good = [row["loss"] for row in rows if row["recovered"] >= part]
        if not good:
            return None
        needed.append(min(good))
    return max(needed, default=None)


def _chance(rows: list[dict[str, float]], key: str, value: float) -> float:
    """Recovered part between the trials of a curve, 0 for no change at all."""
    return float(np.interp(value, [0.0, *(r[key] for r in rows)], [0.0, *(r["recovered"] for r in rows)]))


def chance_of(defect: Defect, losses: Curves, shifts: Curves) -> float:
    """Chance that a column as odd as this one is flagged; 1 for what is no column of the crystal."""
    if defect.site not in losses:
        return 1.0
    by_change = _chance(losses[defect.site], "loss", abs(defect.change))
    by_shift = _chance(shifts[defect.site], "shift_pm", float(np.hypot(*defect.shift_pm)))
    return by_shift if defect.kind == "displaced" else max(by_change, by_shift if defect.kind == "unknown" else 0.0)


def corrected_count(
    defects: Sequence[Defect], losses: Curves, shifts: Curves
) -> tuple[tuple[float, float, float], int]:
    """Number of point defects there are, of those that are found at least every second time.

    Every defect listed stands for its probability of being real over its chance of being found; source: Horvitz and
    Thompson 1952, doi:10.1080/01621459.1952.10483446.

    Returns
    -------
    tuple of float
        The number, and its 95 % interval.
    int
        Listed defects that are left out, because fewer than half of their like would be found.
    """
    points = [d for d in defects if d.kind != "extended"]
    chances = np.array([chance_of(d, losses, shifts) for d in points])
    real = np.array([d.probability_real for d in points])
    counted = chances >= COUNTED_FROM
    weights = np.maximum(real[counted], 1e-9) / chances[counted]
    return (float(weights.sum()), *weighted_poisson_interval(weights)), int((~counted).sum())


def pooled_rows(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials of two parts of an image taken together; a part may lack those of a site."""
    found = {(row["site"], row["name"]): row for row in first}
    for row in second:
        key = row["site"], row["name"]
        found[key] = _both(found[key], row) if key in found else row
    return list(found.values())


def pooled_curves(first: Curves, second: Curves) -> Curves:
    """Curves of two parts of an image taken together."""
    sites = dict.fromkeys([*first, *second])
    return {
        site: [_both(*pair) for pair in zip(first[site], second[site], strict=True)]
        if site in first and site in second
        else (first.get(site) or second[site])
        for site in sites
    }


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    n = int(one["n"] + other["n"])
    hits = round(one["n"] * one["recovered"]) + round(other["n"] * other["recovered"])
    low, high = wilson(hits, n)
    found = one | {"n": n, "recovered": hits / n if n else 0.0, "ci_low": low, "ci_high": high}
    if "ideal" in one and n:
        found["ideal"] = (one["n"] * one["ideal"] + other["n"] * other["ideal"]) / n
    return found
