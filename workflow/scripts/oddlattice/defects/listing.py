"""From tested columns to defects: one row for each flagged column, judged beside its neighbours."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import PX_PER_CELL, PxPerCell
from oddlattice.defects.fdr import q_values, smallest_cut
from oddlattice.defects.kernels import moved_peak, refine
from oddlattice.defects.kind_probabilities import (
    CERTAIN,
    CORE_BELOW,
    EMPTY_BELOW,
    LEAST_TAIL,
    _count_as_empty,
    core_change,
    kind_probabilities,
)
from oddlattice.defects.noise import Noise
from oddlattice.defects.null import SiteColumns, change_error, shift_error_pm
from oddlattice.lattice.columns import (
    ColumnShape,
    cut_windows,
    window_start_px,
)
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Float

TAKEN_PX = 9  # beyond its window: so far a changed column is taken out


@dataclass
class Defect:
    """One defect: a column, a place between columns, or a region.

    Attributes
    ----------
    uv : tuple of float
        Place [cells].
    site, kind, probability : what and how sure
    z, p, q : of the test; nan where there was none
    change, change_sigma : relative intensity
    shift_pm, shift_sigma_pm : displacement (row, col) [pm]
    anm : published score
    cells : int
        Cells covered, of an extended region.
    column : int or None
        Index in the crystal's cell; None of what is no column.
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


@dataclass
class Judged:
    """All columns of an image in one list, with what the false-discovery rate makes of them.

    Attributes
    ----------
    kinds : list of SiteColumns
    kind, index : ndarray of shape (n,)
        Column k is entry `index[k]` of `kinds[kind[k]]`.
    p, q : ndarray of shape (n,)
    flagged : ndarray of shape (n,), bool
    cut : float
        Largest p-value flagged, or the one that a single defect would need.
    """

    kinds: list[SiteColumns]
    kind: npt.NDArray[np.intp]
    index: npt.NDArray[np.intp]
    p: Array
    q: Array
    flagged: npt.NDArray[np.bool_]
    cut: float
    defects: list[Defect] = field(default_factory=list)


def judge_all(kinds: list[SiteColumns], fdr: float) -> Judged:
    """Benjamini-Hochberg over the columns of all kinds of an image."""
    p = np.concatenate([t.verdict.p_value for t in kinds]) if kinds else np.empty(0)
    kind = np.concatenate([np.full(len(t.cells), k) for k, t in enumerate(kinds)]) if kinds else np.empty(0, int)
    index = np.concatenate([np.arange(len(t.cells)) for t in kinds]) if kinds else np.empty(0, int)
    q = q_values(p)
    flagged = q <= fdr
    return Judged(kinds, kind, index, p, q, flagged, smallest_cut(p, flagged, fdr))


def single_defects(
    judged: Judged, difference: Float, noise: Noise, vectors_pm: Array, responses: list[Array], fdr: float
) -> None:
    """Turn flagged columns into defects, strongest first; each is taken out before its neighbours are judged again.

    A neighbour that was flagged only because the kernel reached into a stronger defect is no defect of its own; the
    false-discovery rate is kept among the p-values that are left.
    """
    order = np.flatnonzero(judged.flagged)
    px_per_cell = judged.kinds[0].shape.px_per_cell if judged.kinds else PX_PER_CELL
    left = _around([judged.kinds[judged.kind[k]].cells[int(judged.index[k])] for k in order], difference, px_per_cell)
    listed = []
    for k in order[np.argsort(judged.p[order], kind="stable")]:
        tested, i = judged.kinds[judged.kind[k]], int(judged.index[k])
        shape, cell = tested.shape, tested.cells[i : i + 1]
        window = cut_windows(left, shape, cell + 1)[0]
        estimate = (tested.kernel.weights @ window.ravel())[None]
        verdict = tested.null.judge(estimate, tested.level[i : i + 1])
        judged.p[k] = verdict.p_value[0]
        if judged.p[k] > judged.cut:
            judged.flagged[k] = False
            continue
        start = np.array([verdict.change[0], *verdict.shift_pm[0]])
        found = refine(window, shape, start, noise, vectors_pm, responses[judged.kind[k]])
        _take_out(left, shape, cell[0], found, vectors_pm, float(responses[judged.kind[k]].mean()))
        sigma = float(change_error(verdict.change_sigma[0], found[0]))
        covariance = verdict.shift_covariance_pm2[0]
        chances = kind_probabilities(float(found[0]), sigma, found[1:], covariance)
        if found[0] < CORE_BELOW and shape.tail_weight > LEAST_TAIL:
            core, wider = core_change(window, shape, noise, float(responses[judged.kind[k]][0]))
            core_sigma = float(change_error(wider * verdict.change_sigma[0], 1.0))
            _count_as_empty(chances, float(distributions.normal_sf((core - EMPTY_BELOW) / core_sigma)))
        best = max(chances, key=lambda kind: chances[kind])
        judged.defects.append(
            Defect(
                uv=(float(cell[0, 0] + shape.u), float(cell[0, 1] + shape.v)),
                site=shape.site,
                column=shape.column,
                kind=best if chances[best] >= CERTAIN else "unknown",
                probability=chances[best],
                z=float(verdict.z[0]),
                p=float(judged.p[k]),
                change=float(found[0]),
                change_sigma=sigma,
                shift_pm=(float(found[1]), float(found[2])),
                shift_sigma_pm=float(shift_error_pm(np.linalg.det(covariance) ** 0.25, found[1:])),
                anm=float(tested.anm[i]),
            )
        )
        listed.append(k)
    judged.q = q_values(judged.p)
    judged.flagged &= judged.q <= fdr
    judged.cut = smallest_cut(judged.p, judged.flagged, fdr)
    judged.defects[:] = [
        replace(defect, q=float(judged.q[k]))
        for defect, k in zip(judged.defects, listed, strict=True)
        if judged.flagged[k]
    ]


def _around(cells: list[npt.NDArray[np.intp]], difference: Float, px_per_cell: PxPerCell) -> Array:
    """The difference about `cells`, a cell of rim around all of it; 0 elsewhere, where no memory is touched."""
    n_u, n_v = px_per_cell
    left = np.zeros((difference.shape[0] + 2 * n_u, difference.shape[1] + 2 * n_v))
    inner = left[n_u:-n_u, n_v:-n_v]
    for cell in cells:
        near = tuple(slice(max(at - 2, 0) * n, (at + 3) * n) for at, n in zip(cell, px_per_cell, strict=True))
        inner[near] = difference[near]
    return left


def _take_out(
    left: Array, shape: ColumnShape, cell: npt.NDArray[np.intp], found: Array, vectors_pm: Array, part: float
) -> None:
    """Subtract a defect from the padded difference, out to a cell from its column."""
    reach = TAKEN_PX
    start_u, start_v = (s - reach for s in window_start_px(shape))
    added = part * moved_peak(shape, float(found[0]), found[1:], vectors_pm, reach)
    row, col = (cell + 1) * shape.px_per_cell + (start_u, start_v)
    low = max(-row, 0), max(-col, 0)
    view = left[max(row, 0) : row + added.shape[0], max(col, 0) : col + added.shape[1]]
    view -= added[low[0] : low[0] + view.shape[0], low[1] : low[1] + view.shape[1]]
