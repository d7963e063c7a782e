"""From tested columns to defects: one row for each column, or place between columns, that is listed."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from oddlattice.defects.beside import fit_change
from oddlattice.defects.fdr import Decision, decide
from oddlattice.defects.kernels import errors_over_bulks
from oddlattice.defects.kind_probabilities import (
    CERTAIN,
    CORE_BELOW,
    EMPTY_BELOW,
    LEAST_TAIL,
    core_change,
    count_as_empty,
    kind_probabilities,
)
from oddlattice.defects.noise import Noise
from oddlattice.defects.null import SiteColumns, change_error, shift_error_pm
from oddlattice.defects.two_groups import two_groups
from oddlattice.defects.without import Without
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array

Key = tuple[int, int]


@dataclass
class Defect:
    """One defect: a column, a place between columns, or a region.

    Attributes
    ----------
    uv : tuple of float
        Place [cells].
    site, kind, probability : what, and how probable this kind is if something is there
    z, p, q : of the test; nan where there was none
    change, change_sigma : relative intensity
    shift_pm, shift_sigma_pm : displacement (row, col) [pm]
    anm : published score
    cells : int
        Cells covered, of an extended region.
    column : int or None
        Index in the crystal's cell; None of what is no column.
    in_region : bool
        Whether it stands in an extended region or at its rim.
    probability_real : float
        That it is no false alarm; nan of a region.
    """

    uv: tuple[float, float]
    site: str
    kind: str
    probability: float
    z: float = np.nan
    p: float = np.nan
    q: float = np.nan
    change: float = np.nan
    change_sigma: float = np.nan
    shift_pm: tuple[float, float] = (np.nan, np.nan)
    shift_sigma_pm: float = np.nan
    anm: float = np.nan
    cells: int = 0
    column: int | None = None
    in_region: bool = False
    probability_real: float = np.nan


@dataclass
class Judged:
    """All columns of an image, or of a part of one, and after `decide_together` which of them are listed.

    Attributes
    ----------
    kinds : list of SiteColumns
        The columns of all kinds one after the other are the n columns.
    windows : dict of int to ndarray of shape (16, 16)
        Of every column that may be listed, without what others add to it.
    noise : Noise
    vectors_pm : ndarray of shape (2, 2)
    extras : list of Defect
        Places between the columns that may be listed.
    extra_tests : int
        Cells in which such places were looked for.
    own : ndarray of shape (n,), bool
        Columns that are tested here; those around a part are another part's.
    told : ndarray of shape (n,), bool
        Columns that have a row: those tested, and those of sites without a bulk to test them by.
    q : ndarray of shape (n,)
    flagged : ndarray of shape (n,), bool
    cut : float
        Largest p-value of a column that is listed, or the one that a further defect would need.
    probability_real : ndarray of shape (n,)
        That a column changed; nan of those that are not counted here.
    false_dispersion : float
        Variance of the number of false alarms over that of independent ones: how well the image tells probabilities.
    defects : list of Defect
    far : dict of int to ndarray of shape (3,)
        Fits of columns that moved so far that their readings do not lead there, see `Without`.
    """

    kinds: list[SiteColumns]
    windows: dict[int, Array]
    noise: Noise
    vectors_pm: Array
    extras: list[Defect]
    extra_tests: int
    own: npt.NDArray[np.bool_]
    q: Array = field(default_factory=lambda: np.empty(0))
    flagged: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))
    cut: float = 0.0
    told: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))
    probability_real: Array = field(default_factory=lambda: np.empty(0))
    false_dispersion: float = 1.0
    defects: list[Defect] = field(default_factory=list)
    far: dict[int, Array] = field(default_factory=dict)

    def keep(self, here: npt.NDArray[np.bool_]) -> None:
        """Let the columns of `here` (n,) be those of this part: told, and tested where their site has a bulk."""
        has_bulk = np.repeat([not site.reason for site in self.kinds], [len(site.cells) for site in self.kinds])
        self.told, self.own = here, here & has_bulk.astype(bool)

    @property
    def reasons(self) -> list[str]:
        """Why sites are not tested."""
        return [
            f"{site.shape.site}: {site.reason}, so its populations are told and none of it is listed"
            for site in self.kinds
            if site.reason
        ]

    @property
    def p(self) -> Array:
        """p-values of the columns; shape (n,)."""
        return np.concatenate([np.empty(0), *(site.verdict.p_value for site in self.kinds)])

    @property
    def kind(self) -> npt.NDArray[np.intp]:
        """Which of `kinds` each column is of; shape (n,)."""
        return np.repeat(np.arange(len(self.kinds)), [len(site.cells) for site in self.kinds])

    @property
    def cells(self) -> npt.NDArray[np.intp]:
        """Cell (u, v) of each column; shape (n, 2)."""
        return np.concatenate([np.empty((0, 2), dtype=np.intp), *(site.cells for site in self.kinds)])


def windows_of(sites: list[SiteColumns], without: Without, most_p: float) -> dict[int, Array]:
    """Windows (16, 16) of the columns with p-values of at most `most_p`, by their number among those of all kinds."""
    found, first = {}, 0
    for kind, site in enumerate(sites):
        for i in np.flatnonzero(site.verdict.p_value <= most_p):
            found[first + int(i)] = without.window((kind, int(i)), site)
        first += len(site.cells)
    return found


def far_fits(sites: list[SiteColumns], without: Without) -> dict[int, Array]:
    """`Without.far` by the number of each column among those of all kinds."""
    first = np.cumsum([0, *(len(site.cells) for site in sites)])
    return {int(first[kind]) + i: fit for (kind, i), fit in without.far.items()}


def decide_together(parts: list[Judged], fdr: float) -> None:
    """List the defects of an image that was judged in `parts`, at one false-discovery rate for all of it."""
    p = [part.p[part.own] for part in parts]
    extra = [np.array([place.p for place in part.extras]) for part in parts]
    decision = decide(np.concatenate([np.empty(0), *p]), np.concatenate([np.empty(0), *extra]), _tests(parts), fdr)
    q = np.split(decision.q, np.cumsum([len(some) for some in p])[:-1])
    q_extra = np.split(decision.q_extra, np.cumsum([len(some) for some in extra])[:-1])
    places = _tell_who_is_real(parts, decision, fdr)
    for part, q_own, q_places, real in zip(parts, q, q_extra, places, strict=True):
        part.q = np.ones(len(part.own))
        part.q[part.own] = q_own
        part.flagged, part.cut = part.q <= fdr, decision.cut
        part.defects = _listed(part)
        part.defects += [
            replace(e, q=float(q), probability_real=float(r))
            for e, q, r in zip(part.extras, q_places, real, strict=True)
            if q <= fdr
        ]


def _tell_who_is_real(parts: list[Judged], decision: Decision, fdr: float) -> list[Array]:
    """Fill how probably each column of an image has changed; the same of the places between them, part by part."""
    odd_as = [site.verdict.odd_as for part in parts for site in part.kinds]
    own = np.concatenate([np.empty(0, dtype=bool), *(part.own for part in parts)])
    extra = np.array([place.p for part in parts for place in part.extras])
    unseen = max(_tests(parts) - len(extra), 0)  # cells in which nothing stands out
    p = np.concatenate([*(part.p[part.own] for part in parts), extra, np.ones(unseen)])
    kind = np.concatenate([np.empty(0, dtype="U9"), *odd_as])[own]
    kind = np.concatenate([kind, np.full(len(extra) + unseen, "extra")])
    listed = np.concatenate([decision.q, decision.q_extra, np.ones(unseen)]) <= fdr
    shares = next((site.null.false_shares for part in parts for site in part.kinds), None)
    found = two_groups(p, kind, np.zeros(len(p), dtype=np.int8), listed, of_bulk=shares)
    chance, of_places, _ = np.split(found.probability_real, np.cumsum([len(decision.q), len(extra)]))
    for part, some in zip(parts, np.split(chance, np.cumsum([part.own.sum() for part in parts])[:-1]), strict=True):
        part.probability_real = np.full(len(part.own), np.nan)
        part.probability_real[part.own] = some
        part.false_dispersion = found.false_dispersion
    return np.split(of_places, np.cumsum([len(part.extras) for part in parts])[:-1])


def _tests(parts: list[Judged]) -> int:
    return sum(part.extra_tests for part in parts)


def _listed(judged: Judged) -> list[Defect]:
    """The flagged columns as defects, those of the smallest p-values first."""
    kind, p = judged.kind, judged.p
    first = np.cumsum([0, *(len(site.cells) for site in judged.kinds)])
    listed = np.flatnonzero(judged.flagged)
    return [
        replace(
            _defect(judged, judged.kinds[kind[k]], int(k - first[kind[k]]), int(k)),
            q=float(judged.q[k]),
            probability_real=float(judged.probability_real[k]),
        )
        for k in listed[np.argsort(p[listed], kind="stable")]
    ]


def _errors_of(found: Array, site: SiteColumns, i: int, judged: Judged) -> tuple[float, Array]:
    """`errors_over_bulks` of a column's fit; an emptied column has no place, and the error of bulk's."""
    if found[0] < EMPTY_BELOW:
        return 1.0, np.eye(2)
    valid = site.view_of(i).valid
    return errors_over_bulks(found, valid, site.shape, judged.noise, judged.vectors_pm, site.response)


def _defect(judged: Judged, site: SiteColumns, i: int, number: int) -> Defect:
    """Column `i` of a site as a defect, by its `number` among those of all kinds."""
    shape, cell, verdict, window = site.shape, site.cells[i], site.verdict.at(i), judged.windows[number]
    found = fit_change(i, window, site, verdict, judged.noise, judged.vectors_pm, judged.far.get(number))
    less, turned = _errors_of(found, site, i, judged)
    sigma = float(change_error(less * verdict.change_sigma[0], found[0]))
    covariance = turned @ verdict.shift_covariance_pm2[0] @ turned.T
    chances = kind_probabilities(float(found[0]), sigma, found[1:], covariance, number in judged.far)
    if found[0] < CORE_BELOW and shape.tail_weight > LEAST_TAIL:
        core, wider = core_change(window, site.view_of(i).valid, shape, judged.noise, site.response[0])
        core_sigma = float(change_error(wider * verdict.change_sigma[0], 1.0))
        count_as_empty(chances, float(distributions.normal_sf((core - EMPTY_BELOW) / core_sigma)))
    best = max(chances, key=lambda kind: chances[kind])
    return Defect(
        uv=(float(cell[0] + shape.u), float(cell[1] + shape.v)),
        site=shape.site,
        column=shape.column,
        kind=best if chances[best] >= CERTAIN else "unknown",
        probability=chances[best],
        z=float(verdict.z[0]),
        p=float(verdict.p_value[0]),
        change=float(found[0]),
        change_sigma=sigma,
        shift_pm=(float(found[1]), float(found[2])),
        shift_sigma_pm=float(shift_error_pm(np.linalg.det(covariance) ** 0.25, found[1:])),
        anm=float(site.anm[i]),
    )
