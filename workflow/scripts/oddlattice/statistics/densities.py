"""Defects per area, corrected for what is missed and for what is falsely flagged, with intervals that know both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from oddlattice.defects.false_alarms import FalseAlarms
from oddlattice.numerics.intervals import poisson_interval, wilson
from oddlattice.statistics import poisson
from oddlattice.statistics.counting import together
from oddlattice.storage.rows import Row

LEAST_COMPLETENESS = 0.05  # below this lower limit of the completeness a correction is no more than a guess
_NORMAL_95 = 1.959963984540054
_QUANTILES = 400


@dataclass(frozen=True)
class Found:
    """The part of trial defects that were found again: `hits` of `trials`, neither need be whole."""

    hits: float
    trials: float

    @property
    def part(self) -> float:
        """The part found."""
        return self.hits / self.trials


def trials_behind(part: float, low: float, high: float) -> Found | None:
    """The trials that a proportion with this Wilson interval was measured on; None where the three do not agree.

    The ends of Wilson's interval are the roots of (p - part)^2 = z^2 p (1 - p) / n: their product is
    part^2 / (1 + z^2 / n), that of their distances from 1 is (1 - part)^2 / (1 + z^2 / n).
    """
    if not (0 <= low <= part <= high <= 1 and high > low):
        return None
    near, product = (part, low * high) if part >= 0.5 else (1 - part, (1 - low) * (1 - high))
    more = near**2 / product - 1 if product > 0 else 0.0
    if more <= 0:
        return None
    trials = _NORMAL_95**2 / more
    return Found(part * trials, trials)


def corrected_density(number: float, exposure: float, found: Found | None, level: float = 0.95) -> tuple[float, ...]:
    """Density of a Poisson count seen through a completeness that itself was measured, with its interval.

    Parameters
    ----------
    number : float
        Defects counted.
    exposure : float
        Area, times the part of the counted that is not false [nm^2 per counted].
    found : Found or None
        Trials of the completeness; None: everything is found.

    Returns
    -------
    tuple of float
        Density, lower and upper limit [nm^-2]. The limits are quantiles of the ratio of Garwood's gamma distributions
        of the count and Jeffreys' beta distribution of the completeness (averaged over its quantiles).
    """
    tail = (1 - level) / 2
    if found is None:
        low, high = poisson_interval(int(number), level)
        return number / exposure, low / exposure, high / exposure
    steps = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    part = special.betaincinv(found.hits + 0.5, found.trials - found.hits + 0.5, steps)

    def quantile(shape: float, probability: float) -> float:
        ends = special.gammaincinv(shape, probability) / part[[-1, 0]]
        if ends[1] - ends[0] <= 1e-12 * ends[1]:
            return float(ends[0])
        below = lambda x: float(special.gammainc(shape, x * part).mean()) - probability
        return float(optimize.brentq(below, ends[0], ends[1]))

    low = quantile(number, tail) if number else 0.0
    return number / found.part / exposure, low / exposure, quantile(number + 1, 1 - tail) / exposure


def completeness_of(row: Mapping[str, Any], kind: str) -> Found | None:
    """Completeness of a kind in an image, from whatever columns its row of the images table has; None without any.

    Columns are sought as completeness_<kind> with _ci_low and _ci_high; `vacancy-like` is also called `vacancy`.
    """
    names = [kind.replace("-", "_"), kind.removesuffix("-like").replace("-", "_")]
    for name in names:
        part, low, high = (row.get(f"completeness_{name}{end}") for end in ("", "_ci_low", "_ci_high"))
        if part is not None and low is not None and high is not None and all(map(math.isfinite, (part, low, high))):
            return trials_behind(part, low, high)
    return None


def pooled(founds: Sequence[Found], areas_nm2: Sequence[float]) -> Found:
    """Completeness of several images together, each weighed by its area."""
    part = sum(f.part * a for f, a in zip(founds, areas_nm2, strict=True)) / sum(areas_nm2)
    trials = sum(f.trials for f in founds)
    return Found(part * trials, trials)


def densities_by_kind(
    kinds: Sequence[Sequence[str]],
    images: Sequence[Mapping[str, Any]],
    false: Sequence[Mapping[str, FalseAlarms]],
) -> list[Row]:
    """Number and density of each kind of point defect, as flagged and corrected, each with its 95 % interval.

    Parameters
    ----------
    kinds : sequence of sequence of str
        Kind of each point defect of each image.
    images : sequence of mapping
        Rows of the images table (products.IMAGES) of the analysed images: area_nm2, completeness columns.
    false : sequence of mapping
        False alarms among the defects of each kind of each image.

    Returns
    -------
    list of dict
        A row for each kind, the most frequent first, and one for all together. Intervals are widened by the scatter
        of the images beyond counting. `corrected_per_nm2` takes off the false alarms expected of the kind and divides
        by the completeness; it is None, and `not_corrected` says why, where completeness is not known for this kind in
        every image.
    """
    area = sum(row["area_nm2"] or 0.0 for row in images)
    if not area:
        return []
    areas = [row["area_nm2"] or 0.0 for row in images]
    numbers = {kind: [list(some).count(kind) for some in kinds] for kind in sorted({k for some in kinds for k in some})}
    on_area = [some for some, area_nm2 in zip(false, areas, strict=True) if area_nm2]
    rows = []
    for kind, each in sorted(numbers.items(), key=lambda item: (-sum(item[1]), item[0])):
        count, alarms = Count.of(each, areas), together(on_area, kind)
        rows.append(_density(kind, count, alarms) | _corrected(kind, count, alarms, images))
    every = Count.of([len(some) for some in kinds], areas)
    return [*rows, _density("all", every, together(on_area)) | _corrected_whole(images)]


def _corrected_whole(images: Sequence[Mapping[str, Any]]) -> Row:
    """Corrected density of all kinds together: that of the images table, which weighs each defect by its own chance."""
    ends = [images[0].get(f"density_corrected_{end}") for end in ("per_nm2", "ci_low", "ci_high")]
    if len(images) > 1 or any(end is None for end in ends):
        return {}
    names = ("corrected_per_nm2", "corrected_ci_low_per_nm2", "corrected_ci_high_per_nm2")
    return dict(zip(names, ends, strict=True)) | {"not_corrected": ""}


@dataclass(frozen=True)
class Count:
    """Defects on an area [nm^2], and how much more than counting they scatter between images; at least 1."""

    number: int
    area_nm2: float
    dispersion: float

    @classmethod
    def of(cls, numbers: Sequence[int], areas_nm2: Sequence[float]) -> "Count":
        """Of images together, those without an area left out."""
        kept = [(n, a) for n, a in zip(numbers, areas_nm2, strict=True) if a]
        spread = poisson.within_dispersion([([n for n, _ in kept], [a for _, a in kept])]) if kept else None
        return cls(sum(n for n, _ in kept), sum(a for _, a in kept), max(spread or 1.0, 1.0))


def _density(kind: str, count: Count, false: FalseAlarms) -> Row:
    number, area = count.number, count.area_nm2
    low, high = poisson_interval(number, dispersion=count.dispersion)
    return {
        "kind": kind,
        "number": number,
        **false.row(),
        "area_nm2": area,
        "density_per_nm2": number / area,
        "ci_low_per_nm2": low / area,
        "ci_high_per_nm2": high / area,
        "completeness": None,
        "corrected_per_nm2": None,
        "corrected_ci_low_per_nm2": None,
        "corrected_ci_high_per_nm2": None,
        "not_corrected": "kinds together have no one completeness" if kind == "all" else "",
    }


def _corrected(kind: str, count: Count, false: FalseAlarms, images: Sequence[Mapping[str, Any]]) -> Row:
    used = [row for row in images if row["area_nm2"]]
    founds = [completeness_of(row, kind) for row in used]
    known = [f for f in founds if f is not None]
    if len(known) < len(founds):
        return {"not_corrected": "completeness is not measured for this kind"}
    found = pooled(known, [row["area_nm2"] for row in used])
    if wilson_low(found) < LEAST_COMPLETENESS:
        return {"completeness": found.part, "not_corrected": "completeness is too low to divide by"}
    if not false.share < 1:
        return {"completeness": found.part, "not_corrected": "how many are false is not known"}
    exposure = count.area_nm2 / (1 - false.share)
    value, low, high = corrected_density(count.number / count.dispersion, exposure / count.dispersion, found)
    return {
        "completeness": found.part,
        "corrected_per_nm2": value,
        "corrected_ci_low_per_nm2": low,
        "corrected_ci_high_per_nm2": high,
    }


def wilson_low(found: Found) -> float:
    """Lower end of the 95 % interval of a completeness."""
    return wilson(round(found.hits), max(round(found.trials), 1))[0]


def site_fractions(tested: Mapping[str, int], flagged: Sequence[tuple[str, str]]) -> list[Row]:
    """Part of the tested columns of each site that is flagged, as any kind and as each kind, with 95 % intervals.

    Parameters
    ----------
    tested : mapping of str to int
        Columns tested, by site.
    flagged : sequence of (str, str)
        Site and kind of every point defect; a site that was not tested (an extra column) is left out.
    """
    rows = []
    for site, columns in sorted(tested.items()):
        here = [kind for name, kind in flagged if name == site]
        for kind in ["any", *sorted(set(here))]:
            number = len(here) if kind == "any" else here.count(kind)
            low, high = wilson(min(number, columns), columns)
            rows.append(
                {
                    "site": site,
                    "kind": kind,
                    "number": number,
                    "columns_tested": columns,
                    "fraction": number / columns,
                    "ci_low": low,
                    "ci_high": high,
                }
            )
    return rows
