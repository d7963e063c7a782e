"""What the benchmark measures: kinds of defects, fields with them at known columns, the ideal observer, statistics."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from oddlattice.crystal import Crystal
from oddlattice.defects.kind_probabilities import EMPTY_BELOW
from oddlattice.numerics.arrays import Array
from oddlattice.simulate.columnwise import Conditions, Defect, Scan, lattice_vectors_px
from oddlattice.simulate.compose import AtomDefect, compose_scan, difference_image, find_change, library_conditions
from oddlattice.simulate.library import Library, ideal_dprime

THICKNESS_CELLS = 20  # of the fields on which detection is measured
SPACING_CELLS, RIM_CELLS = 5, 2.6  # between defects; between a defect and the border of the image
NEAR_CELLS = 1.6  # bulk columns nearer to a defect are neither bulk nor defect
SATURATED = 0.01  # of wrongly ordered pairs: with fewer the area under the curve no longer tells d'
PARTIAL = (0.85, 0.7, 0.5, 1.3)  # factors on a column's own image, for intervals of the intensity change
PUBLISHED_SHIFT = 7 / 23.8  # displacement in the published method's data [cells]


# ---------------------------------------------------------------- kinds of defects


@dataclass(frozen=True)
class Kind:
    """One kind of defect.

    Attributes
    ----------
    name, site, family : str
        `family` is ``vacancy``, ``substitution``, ``displaced`` or ``partial``.
    defect : Defect
        In cell (0, 0); a displacement gets its direction when it is placed.
    atoms : int
        Atoms changed; 0 for a displacement.
    shift_pm : float
    whole : bool
        Whether all atoms are changed.
    change : float
        Change of the column's own image in intensity, by least squares on the library's images.
    """

    name: str
    site: str
    family: str
    defect: Defect
    atoms: int
    shift_pm: float
    whole: bool
    change: float

    @property
    def called(self) -> str:
        """What the pipeline should call it."""
        if self.family == "displaced":
            return "displaced"
        return "heavier" if self.change > 0 else "vacancy-like" if self.change < EMPTY_BELOW else "lighter"


def _change_of(library: Library, crystal: Crystal, defect: Defect) -> float:
    conditions = library_conditions(library)
    own = -library.planes(library.differences[f"{crystal.columns[defect.column].site}-empty"], THICKNESS_CELLS)
    added = difference_image(library, crystal, conditions, defect, THICKNESS_CELLS)
    return float((added * own).sum() / (own * own).sum())


def _kind(library: Library, crystal: Crystal, name: str, family: str, defect: Defect, **more: Any) -> Kind:
    about: dict[str, Any] = {"atoms": 0, "shift_pm": float(np.hypot(*defect.shift_pm)), "whole": False} | more
    change = 0.0 if family == "displaced" else _change_of(library, crystal, defect)
    return Kind(name, crystal.columns[defect.column].site, family, defect, change=change, **about)


def detection_kinds(library: Library, crystal: Crystal) -> tuple[Kind, ...]:
    """The library's defects, each once, in a specimen of THICKNESS_CELLS cells."""
    found: dict[str, Kind] = {}
    column_of = {column.site: index for index, column in enumerate(crystal.columns) if column.tested}
    for change in library.changes.values():
        if change.site not in column_of:
            continue
        column, atoms = column_of[change.site], change.atoms or THICKNESS_CELLS
        whole = atoms == THICKNESS_CELLS
        if change.change == "displaced":
            defect = Defect((0, 0), column, "displaced", shift_pm=(0.0, change.shift_pm))
            kind = _kind(library, crystal, f"{change.site} moved {change.shift_pm:g} pm", "displaced", defect)
        elif change.change == "empty":
            defect = Defect((0, 0), column, "vacancy", factor=0.0)
            kind = _kind(library, crystal, f"{change.site} empty", "vacancy", defect, atoms=atoms, whole=True)
        else:
            family, part = ("substitution", f"{change.by} for") if change.by else ("vacancy", "missing")
            atomic = AtomDefect((0, 0), column, family, of=change.of, by=change.by, changed=change.atoms)
            name = f"{change.site} {part} {atoms}" if change.by else f"{change.site} {atoms} {part}"
            name = f"{change.by} on {change.site}, {'all' if whole else atoms}" if change.by else name
            find_change(library, atomic, change.site, THICKNESS_CELLS)
            kind = _kind(library, crystal, name, family, atomic, atoms=atoms, whole=whole)
        found.setdefault(kind.name, kind)
    return tuple(found.values())


def trial_defects(library: Library, crystal: Crystal) -> list[dict[str, Any]]:
    """The same as a model lists them, to be put into the images it analyses; see `trials.Trial`."""
    return [
        {
            "name": kind.name,
            "site": kind.site,
            "kind": kind.called,
            "atoms": kind.atoms,
            "of_atoms": THICKNESS_CELLS if kind.atoms else 0,
            "thickness_nm": round(THICKNESS_CELLS * library.cell_nm[2], 4),
            "change": round(kind.change, 4),
            "shift_pm": kind.shift_pm,
        }
        for kind in detection_kinds(library, crystal)
    ]


def published_kinds(library: Library, crystal: Crystal) -> tuple[Kind, ...]:
    """The six classes of the published method: whole columns emptied, exchanged, and moved by 0.29 cell."""
    whole = [kind for kind in detection_kinds(library, crystal) if kind.whole]
    shift_pm = 1000 * PUBLISHED_SHIFT * crystal.a_nm
    moved = [
        _kind(
            library,
            crystal,
            f"{column.site} moved {shift_pm:.0f} pm",
            "displaced",
            Defect((0, 0), index, "displaced", shift_pm=(0.0, shift_pm)),
        )
        for index, column in enumerate(crystal.columns)
        if column.tested
    ]
    return (*whole, *moved)


def partial_kinds(library: Library, crystal: Crystal) -> tuple[Kind, ...]:
    """Columns with part of their own image missing or added, and displaced ones: their truth is a number."""
    found = []
    for index, column in enumerate(crystal.columns):
        if not column.tested:
            continue
        for factor in (*PARTIAL, 0.0):
            name = f"{column.site} {'+' if factor > 1 else '−'}{100 * abs(factor - 1):.0f} %"
            found.append(_kind(library, crystal, name, "partial", Defect((0, 0), index, "partial", factor=factor)))
        for shift_pm in (10.0, 20.0, 40.0):
            defect = Defect((0, 0), index, "displaced", shift_pm=(0.0, shift_pm))
            found.append(_kind(library, crystal, f"{column.site} moved {shift_pm:g} pm", "displaced", defect))
    return tuple(found)


# ---------------------------------------------------------------- fields


@dataclass(frozen=True)
class Field:
    """A composed scan and what was put where.

    Attributes
    ----------
    scan : Scan
    kinds : tuple of Kind
        Of the scan's defects, in their order.
    places_px : ndarray of shape (n, 2)
        Of the unchanged columns, drifted; row jitter not included.
    conditions : Conditions
    """

    scan: Scan
    kinds: tuple[Kind, ...]
    places_px: Array
    conditions: Conditions


def defect_cells(
    crystal: Crystal, conditions: Conditions, shape: tuple[int, int], origin_px: Array
) -> npt.NDArray[np.int64]:
    """Cells of a sparse grid, away from the border; shape (n, 2)."""
    vectors = lattice_vectors_px(crystal, conditions)
    reach = SPACING_CELLS * int(np.ceil(np.hypot(*shape) / np.linalg.norm(vectors, axis=1).min() / SPACING_CELLS))
    line = np.arange(-reach, reach + 1, SPACING_CELLS)
    cells = np.array(list(product(line, line)))
    places = (cells + 0.5) @ vectors + origin_px
    drift_px = np.abs(conditions.drift_nm).max() / conditions.pixel_nm
    rim = RIM_CELLS * np.linalg.norm(vectors, axis=1).max() + drift_px
    return np.asarray(cells[((places > rim) & (places < np.array(shape) - rim)).all(axis=1)])


def compose_field(
    library: Library,
    crystal: Crystal,
    conditions: Conditions,
    shape: tuple[int, int],
    kinds: tuple[Kind, ...],
    seed: int,
    first: int = 0,
) -> Field:
    """A scan with one defect in every cell of a sparse grid; no kinds: bulk.

    The kinds are dealt in turn, beginning with `kinds[first % len(kinds)]`, to the cells in random order;
    displacements get random directions.
    """
    rng = np.random.default_rng(seed)
    vectors = lattice_vectors_px(crystal, conditions)
    origin = np.array(shape) / 2 + rng.random(2) @ vectors
    cells = rng.permutation(defect_cells(crystal, conditions, shape, origin)) if kinds else np.empty((0, 2), int)
    chosen = tuple(kinds[(first + k) % len(kinds)] for k in range(len(cells)))
    defects = []
    for kind, (u, v) in zip(chosen, cells, strict=True):
        angle = rng.uniform(0, 2 * np.pi)
        shift = (kind.shift_pm * float(np.cos(angle)), kind.shift_pm * float(np.sin(angle)))
        defects.append(replace(kind.defect, cell=(int(u), int(v)), shift_pm=shift))
    scan = compose_scan(library, crystal, conditions, shape, tuple(defects), seed, (float(origin[0]), float(origin[1])))
    where = {(int(u), int(v), int(k)): i for i, ((u, v), k) in enumerate(zip(scan.cells, scan.columns, strict=True))}
    places = [scan.places_px[where[(*defect.cell, defect.column)]] for defect in defects]
    return Field(scan, chosen, np.array(places).reshape(-1, 2), conditions)


def ideal_per_root_dose(
    library: Library, crystal: Crystal, conditions: Conditions, kind: Kind, phases: int = 3
) -> float:
    """Ideal observer's d' of a kind at 1 e/px, to be multiplied by the root of the dose [e/px].

    On the expected raw images with and without the one defect, jitter left out, averaged over places in the pixel.
    """
    still = replace(conditions, dose_e_px=0.0, jitter_pm=0.0, contamination=0.0, drift_nm=(0.0, 0.0))
    vectors = lattice_vectors_px(crystal, still)
    side = int(np.ceil(4.6 * np.linalg.norm(vectors, axis=1).max()))
    found = []
    for phase in range(phases):
        rng = np.random.default_rng(phase)
        place = np.array([side, side]) / 2 + rng.random(2)
        column = crystal.columns[kind.defect.column]
        corner = place - np.array([column.u, column.v]) @ vectors
        angle = rng.uniform(0, 2 * np.pi)
        shift = (kind.shift_pm * float(np.cos(angle)), kind.shift_pm * float(np.sin(angle)))
        defect = replace(kind.defect, shift_pm=shift)
        images = [
            compose_scan(library, crystal, still, (side, side), defects, 0, (float(corner[0]), float(corner[1])))
            for defects in ((), (defect,))
        ]
        found.append(ideal_dprime(images[0].expected, images[1].expected))
    return float(np.mean(found))


# ---------------------------------------------------------------- how much is measured


@dataclass(frozen=True)
class Plan:
    """How many fields of what; one field of 1024 px holds about 28 defects and 1,700 bulk columns.

    Attributes
    ----------
    side_px : int
        Of the fields.
    main : tuple of (dose [e/px], jitter [pm])
        Conditions of the table of aims.
    main_fields : int
        Fields for each of them.
    other : tuple of (dose [e/px], jitter [pm])
        Conditions for the curves.
    other_fields : int
    classes_fields : int
        Fields with the published classes: figures 1 and 2, table 1.
    calibration_fields : int
        Half of them bulk; all under conditions of their own.
    files : int
        Files through the whole pipeline.
    published_patches, published_epochs, published_rate : int, int, float
        Training of the published network (as published: 1,000, 200 and 1e-4).
    every : int
        Of the kinds of the detection experiment, every so many.
    """

    side_px: int
    main: tuple[tuple[float, float], ...]
    main_fields: int
    other: tuple[tuple[float, float], ...]
    other_fields: int
    classes_fields: int
    calibration_fields: int
    files: int
    published_patches: int
    published_epochs: int
    published_rate: float
    every: int = 1


MAIN = ((400.0, 0.0), (400.0, 5.0), (1250.0, 5.0))
_DOSES, _JITTERS = (50.0, 150.0, 400.0, 1250.0, 5000.0), (0.0, 5.0, 8.0)
PLANS = {
    "tiny": Plan(512, ((400.0, 5.0),), 2, (), 0, 1, 2, 1, 64, 1, 1e-3, every=4),
    "quick": Plan(1024, MAIN, 12, ((100.0, 5.0), (5000.0, 5.0)), 4, 12, 24, 3, 400, 20, 1e-3),
    "full": Plan(
        1024, MAIN, 150, tuple(c for c in product(_DOSES, _JITTERS) if c not in MAIN), 24, 215, 300, 24, 1000, 200, 1e-4
    ),
}


def detection_conditions(
    library: Library, dose_e_px: float, jitter_pm: float, rng: np.random.Generator, pixel_nm: float = 0.0125
) -> Conditions:
    """Conditions under which detection is measured; the rotation is random."""
    return library_conditions(
        library,
        pixel_nm=pixel_nm,
        thickness_nm=THICKNESS_CELLS * library.cell_nm[2],
        dose_e_px=dose_e_px,
        jitter_pm=jitter_pm,
        rotation_deg=float(rng.uniform(-45, 45)),
    )


def varied_conditions(library: Library, rng: np.random.Generator) -> Conditions:
    """Conditions drawn over what is met in practice; the library's range of thickness is kept."""
    source_nm = float(rng.uniform(0.02, 0.05))
    slope = rng.uniform(-0.15, 0.15, 2)
    most = float(library.thickness_cells[-1]) / (1 + np.abs(slope).sum() / 2) - 0.5
    return library_conditions(
        library,
        pixel_nm=float(rng.uniform(0.008, 0.020)),
        thickness_nm=float(rng.uniform(8.0, most)) * library.cell_nm[2],
        thickness_gradient=(float(slope[0]), float(slope[1])),
        dose_e_px=float(np.exp(rng.uniform(np.log(50.0), np.log(5000.0)))),
        jitter_pm=float(rng.uniform(0.0, 8.0)),
        rotation_deg=float(rng.uniform(-45, 45)),
        contamination=float(rng.uniform(0.0, 0.3)),
        blur_nm=float(np.hypot(library.probe_rms_nm, source_nm)),
    )


# ---------------------------------------------------------------- statistics


def auroc(bulk: Array, odd: Array) -> tuple[float, float]:
    """Area under the receiver operating curve, and its standard error.

    Ties count half. Source: DeLong et al. 1988, doi:10.2307/2531595.

    Parameters
    ----------
    bulk, odd : ndarray of shape (n,) and (m,)
        Scores; higher is odder.
    """
    ranks = stats.rankdata(np.concatenate([bulk, odd]))
    n, m = len(bulk), len(odd)
    of_odd = (ranks[n:] - stats.rankdata(odd)) / n
    of_bulk = 1 - (ranks[:n] - stats.rankdata(bulk)) / m
    error = np.sqrt((np.var(of_odd, ddof=1) / m if m > 1 else 0.25) + (np.var(of_bulk, ddof=1) / n if n > 1 else 0.25))
    return float(of_odd.mean()), float(error)


@dataclass(frozen=True)
class Separation:
    """How far defects of a kind stand out of bulk.

    Attributes
    ----------
    n_defects, n_bulk : int
    auroc, auroc_se : float
    dprime, dprime_se : float
        sqrt(2) times the normal deviate of the area, or, where fewer than SATURATED of the pairs are in the wrong
        order, the difference of the means over the standard deviation of bulk.
    parametric : bool
        Which of the two it is.
    """

    n_defects: int
    n_bulk: int
    auroc: float
    auroc_se: float
    dprime: float
    dprime_se: float
    parametric: bool


def separation(bulk: Array, odd: Array, parametric: bool | None = None) -> Separation:
    """AUROC and d' of scores; `parametric` forces one way of computing d'."""
    area, error = auroc(bulk, odd)
    saturated = 1 - area < SATURATED if parametric is None else parametric
    if saturated:
        spread = float(bulk.std(ddof=1)) + 1e-12
        dprime = float((odd.mean() - bulk.mean()) / spread)
        own = float(odd.var(ddof=1)) / spread**2 if len(odd) > 1 else 1.0
        se = np.sqrt(own / len(odd) + 1 / len(bulk) + dprime**2 / (2 * len(bulk)))
    else:
        deviate = float(stats.norm.ppf(np.clip(area, 1e-6, 1 - 1e-6)))
        dprime = np.sqrt(2) * deviate
        se = np.sqrt(2) * error / max(float(stats.norm.pdf(deviate)), 1e-6)
    return Separation(len(odd), len(bulk), area, error, float(dprime), float(se), bool(saturated))


def recall_at(bulk: Array, odd: Array, rate: float) -> tuple[int, float]:
    """Defects above the threshold that `rate` of bulk exceeds: their number, and the threshold itself.

    Scores tied with the threshold are not found: a method that gives most columns the same score gains nothing.
    """
    threshold = float(np.quantile(bulk, 1 - rate, method="higher"))
    return int((odd > threshold).sum()), threshold


def known_signal_scores(
    family: str, change: float, z_intensity: Array, shift_pm: Array, covariance_pm2: Array, direction: Array
) -> Array:
    """Scores of an observer who knows what to look for, as the ideal one does: sign, or direction of displacement.

    Parameters
    ----------
    z_intensity : ndarray of shape (n,)
    shift_pm : ndarray of shape (n, 2)
    covariance_pm2 : ndarray of shape (n, 2, 2)
    direction : ndarray of shape (n, 2)
        Unit vectors; used for displacements only.
    """
    if family != "displaced":
        return z_intensity * (1.0 if change > 0 else -1.0)
    weight = np.linalg.solve(covariance_pm2, direction[..., None])[..., 0]
    return np.asarray((weight * shift_pm).sum(-1) / np.sqrt((weight * direction).sum(-1)))


def recall_of_ideal(dprime: Array, rate: float) -> Array:
    """Recall of the ideal observer, who knows the signal, when `rate` of bulk is called odd."""
    return np.asarray(stats.norm.sf(stats.norm.isf(rate) - dprime))


def recall_of_search(dprime: Array, rate: float, shift_share: float, samples: int = 100_000, seed: int = 0) -> Array:
    """Recall of an ideal test that is told neither kind nor sign nor direction, for changes of intensity.

    Three independent standard normal estimates, intensity and two of displacement; the smaller p-value counts, of which
    `shift_share` of the false alarms are the displacement's.
    """
    draws = np.random.default_rng(seed).standard_normal((samples, 3))
    shift = -(draws[:, 1:] ** 2).sum(1) / 2 - np.log(2 * shift_share)

    def surprise(lift: float) -> Array:
        return -np.asarray(np.minimum(stats.norm.logsf(np.abs(draws[:, 0] + lift)) - np.log(1 - shift_share), shift))

    threshold = np.quantile(surprise(0.0), 1 - rate)
    return np.array([float((surprise(float(d)) > threshold).mean()) for d in np.ravel(dprime)])
