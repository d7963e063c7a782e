"""From tested columns to defects: one row per defect, its kind, extended regions, and what could have been found."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from oddlattice.crystal import CELL_PX
from oddlattice.defects.kernels import MIN_COLUMNS, Noise, Scored, change_error, q_values, shift_error_pm
from oddlattice.lattice.columns import (
    ColumnShape,
    cut_windows,
    peak_at,
    window_of_cell,
    window_offsets,
    window_start_px,
)
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.compiled import compiled

CORE_BELOW, LEAST_TAIL = -0.4, 0.02  # where the core is asked too; a weaker tail cannot be told from it
EMPTY_BELOW = -0.8  # a column that lost more than this is vacancy-like: Ti in place of Sr takes away about 0.65
CERTAIN = 0.6  # a kind less probable than this is unknown
PRIOR_CHANGE, PRIOR_SHIFT_PM = 0.5, 40.0  # ASSUME: spread of the changes that defects make
PRIOR_MODELS = (0.5, 0.4, 0.1)  # ASSUME: intensity only, displacement only, both
DECOY_MARGIN = 1.15  # an extra column stands out by so much more than the deepest dip between the columns
NEAR_CELLS = 1.05  # odd columns closer than this belong together


@dataclass
class Found:
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


@dataclass
class Judged:
    """All columns of an image in one list, with what the false-discovery rate makes of them.

    Attributes
    ----------
    kinds : list of Scored
    kind, index : ndarray of shape (n,)
        Column k is entry `index[k]` of `kinds[kind[k]]`.
    p, q : ndarray of shape (n,)
    flagged : ndarray of shape (n,), bool
    cut : float
        Largest p-value flagged, or the one that a single defect would need.
    """

    kinds: list[Scored]
    kind: npt.NDArray[np.intp]
    index: npt.NDArray[np.intp]
    p: Array
    q: Array
    flagged: npt.NDArray[np.bool_]
    cut: float
    defects: list[Found] = field(default_factory=list)


def judge_all(kinds: list[Scored], fdr: float) -> Judged:
    """Benjamini-Hochberg over the columns of all kinds of an image."""
    p = np.concatenate([t.verdict.p_value for t in kinds]) if kinds else np.empty(0)
    kind = np.concatenate([np.full(len(t.cells), k) for k, t in enumerate(kinds)]) if kinds else np.empty(0, int)
    index = np.concatenate([np.arange(len(t.cells)) for t in kinds]) if kinds else np.empty(0, int)
    q = q_values(p)
    flagged = q <= fdr
    return Judged(kinds, kind, index, p, q, flagged, smallest_cut(p, flagged, fdr))


def smallest_cut(p: Array, flagged: npt.NDArray[np.bool_], fdr: float) -> float:
    """Largest p-value flagged, or the one that a further defect would need."""
    most = float(p[flagged].max()) if flagged.any() else 0.0
    return max(most, fdr * (int(flagged.sum()) + 1) / max(len(p), 1))


def moved_peak(shape: ColumnShape, change: float, shift_pm: Array, vectors_pm: Array, reach_px: int = 0) -> Array:
    """What a column with this change adds to the image, exactly: (1 + change) g(r - shift) - g(r), in its window.

    For displacements (..., 2) windows (..., 16, 16).
    """
    du, dv = window_offsets(shape, reach_px)
    su, sv = np.moveaxis(np.asarray(shift_pm) @ np.linalg.inv(vectors_pm), -1, 0)[..., None, None]
    return (1 + change) * peak_at(shape, du - su, dv - sv) - peak_at(shape, du, dv)


def refine(window: Array, shape: ColumnShape, start: Array, noise: Noise, vectors_pm: Array, response: Array) -> Array:
    """Change and displacement of a strongly changed column, where the linear kernels no longer hold.

    Gauss-Newton on (1 + change) g(r - shift) - g(r), weighted by the noise of each pixel. What the prediction takes up
    is given back to the window first.

    Returns
    -------
    ndarray of shape (3,)
        Change, displacement (row, col) [pm]. An emptied column has no place: its displacement stays 0.
    """
    sigma = window_of_cell(noise.sigma, shape)
    target = window / float(response.mean())
    found = np.array([np.clip(start[0], -1.0, 3.0), *np.clip(start[1:], -80, 80)])
    if start[0] < EMPTY_BELOW:
        found[1:] = 0.0
    step, most = np.array([0.02, 1.0, 1.0]), np.array([0.5, 40.0, 40.0])

    def model(p: Array) -> Array:
        return (moved_peak(shape, p[0], p[1:], vectors_pm) / sigma).ravel()

    free = slice(0, 1) if start[0] < EMPTY_BELOW else slice(0, 3)
    for _ in range(6):
        here = model(found)
        slopes = np.stack([(model(found + step * (np.arange(3) == i)) - here) / step[i] for i in range(3)][free], -1)
        move = np.linalg.lstsq(slopes, (target / sigma).ravel() - here, rcond=1e-6)[0]
        found[free] += np.clip(move, -most[free], most[free])
        found = np.clip(found, [-1.0, -150, -150], [5.0, 150, 150])
    return found


def kind_probabilities(change: float, change_sigma: float, shift_pm: Array, covariance_pm2: Array) -> dict[str, float]:
    """Probability of each kind, from the evidence of three models: intensity changed, column moved, both.

    Each model's parameters have a normal prior; the evidence is that of normal estimates. An intensity change is split
    at EMPTY_BELOW and 0 by its posterior.
    """
    s2 = change_sigma**2
    wide = covariance_pm2 + PRIOR_SHIFT_PM**2 * np.eye(2)
    log_change = (
        distributions.normal_logpdf(change, change_sigma),
        distributions.normal_logpdf(change, np.hypot(change_sigma, PRIOR_CHANGE)),
    )
    log_shift = tuple(distributions.plane_logpdf(shift_pm, c) for c in (covariance_pm2, wide))
    log_models = np.log(PRIOR_MODELS) + np.array(
        [log_change[1] + log_shift[0], log_change[0] + log_shift[1], log_change[1] + log_shift[1]]
    )
    models = np.exp(log_models - log_models.max())
    models /= models.sum()
    shrink = PRIOR_CHANGE**2 / (PRIOR_CHANGE**2 + s2)
    below = distributions.normal_sf((shrink * change - np.array([EMPTY_BELOW, 0.0])) / np.sqrt(shrink * s2))
    by_intensity = float(models[0] + models[2])
    return {
        "vacancy-like": by_intensity * float(below[0]),
        "lighter": by_intensity * float(below[1] - below[0]),
        "heavier": by_intensity * float(1 - below[1]),
        "displaced": float(models[1]),
    }


def core_change(window: Array, shape: ColumnShape, noise: Noise, response: float) -> tuple[float, float]:
    """Change of a column's core alone, its tail being left free, and its error over that of the whole column's change.

    Real images have more under a column than its own tail; a column is empty when its core is gone.
    """
    sigma = window_of_cell(noise.sigma, shape)
    du, dv = window_offsets(shape)
    core = peak_at(replace(shape, tail_weight=0.0), du, dv)
    both = np.stack([core, peak_at(shape, du, dv) - core]).reshape(2, -1) / sigma.ravel()
    normal = both @ both.T
    found = np.linalg.solve(normal, both @ (window / response / sigma).ravel())
    return float(found[0]), float(np.sqrt(np.linalg.inv(normal)[0, 0] * normal.sum()))


def _count_as_empty(chances: dict[str, float], empty: float) -> None:
    """Let what is counted as lighter be vacancy-like as far as the column's core is gone."""
    lost = chances["vacancy-like"] + chances["lighter"]
    chances["vacancy-like"] = max(chances["vacancy-like"], empty * lost)
    chances["lighter"] = lost - chances["vacancy-like"]


def single_defects(
    judged: Judged, difference: Float, noise: Noise, vectors_pm: Array, responses: list[Array], fdr: float
) -> None:
    """Turn flagged columns into defects, strongest first; each is taken out before its neighbours are judged again.

    A neighbour that was flagged only because the kernel reached into a stronger defect is no defect of its own; the
    false-discovery rate is kept among the p-values that are left.
    """
    order = np.flatnonzero(judged.flagged)
    left = _around([judged.kinds[judged.kind[k]].cells[int(judged.index[k])] for k in order], difference)
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
            Found(
                uv=(float(cell[0, 0] + shape.u), float(cell[0, 1] + shape.v)),
                site=shape.site,
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


def _around(cells: list[npt.NDArray[np.intp]], difference: Float) -> Array:
    """The difference about `cells`, a cell of rim around all of it; 0 elsewhere, where no memory is touched."""
    left = np.zeros([n + 2 * CELL_PX for n in difference.shape])
    inner = left[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX]
    for u, v in cells:
        near = tuple(slice(max(at - 2, 0) * CELL_PX, (at + 3) * CELL_PX) for at in (u, v))
        inner[near] = difference[near]
    return left


def _take_out(
    left: Array, shape: ColumnShape, cell: npt.NDArray[np.intp], found: Array, vectors_pm: Array, part: float
) -> None:
    """Subtract a defect from the padded difference, out to a cell from its column."""
    reach = CELL_PX // 2 - 1
    start_u, start_v = (s - reach for s in window_start_px(shape))
    added = part * moved_peak(shape, float(found[0]), found[1:], vectors_pm, reach)
    row, col = (cell + 1) * CELL_PX + (start_u, start_v)
    low = max(-row, 0), max(-col, 0)
    view = left[max(row, 0) : row + added.shape[0], max(col, 0) : col + added.shape[1]]
    view -= added[low[0] : low[0] + view.shape[0], low[1] : low[1] + view.shape[1]]


def extra_columns(judged: Judged, z: Float, mask: Mask, all_uv: Array, width_px: float, fdr: float) -> list[Found]:
    """Bright places far from every tested column: something where the crystal has nothing, or only light atoms.

    A place counts when its z would occur by chance anywhere in this image with probability below `fdr`, when it stands
    out further than any dip, and no other defect is within 0.6 cell.

    Parameters
    ----------
    z : ndarray of shape (U * 20, V * 20)
    all_uv : ndarray of shape (m, 2)
        Places of the tested columns in the cell.
    width_px : float
        Of the Gaussian that smoothed the noise of `z`.
    """
    line = (np.arange(CELL_PX) + 0.5) / CELL_PX
    away = np.ones((CELL_PX, CELL_PX), dtype=bool)
    for u, v in all_uv:
        du, dv = np.abs(line - u), np.abs(line - v)
        du, dv = np.minimum(du, 1 - du), np.minimum(dv, 1 - dv)
        away &= np.hypot(du[:, None], dv[None, :]) > 0.25
    places = np.tile(away, mask.shape) & (np.repeat(np.repeat(mask, CELL_PX, 0), CELL_PX, 1) > 0)
    # between the columns few electrons are counted and z leans to the bright side, most where it is darkest
    lean = _largest_lean(z, mask, away)
    many = int(places.sum())
    levels = np.arange(3.0, 60.0, 0.05)
    bar = float(levels[np.argmax(highest_of(levels, many, width_px, lean) < fdr)])
    free = _away_from(places, np.array([d.uv for d in judged.defects]).reshape(-1, 2), 0.6)
    # the deepest dips of the same map are decoys: no atom can be missing there, so noise alone goes that deep
    bar = max(bar, DECOY_MARGIN * -float(z.min(initial=0.0, where=free)))
    found = []
    for row, col in np.argwhere(free & (z > bar)):
        if z[row, col] < z[max(row - 3, 0) : row + 4, max(col - 3, 0) : col + 4].max():
            continue
        uv = ((row + 0.5) / CELL_PX, (col + 0.5) / CELL_PX)
        chance = float(highest_of(float(z[row, col]), many, width_px, lean))
        p = float(distributions.pearson3_sf(z[row, col], lean))
        found.append(Found(uv, "", "extra", 1.0 - chance, z=float(z[row, col]), p=p, q=chance))
    return found


@compiled("void(float32[:, ::1], uint8[:, ::1], boolean[:, ::1], float64[:, :, ::1])")
def _add_powers(z: Float, mask: Mask, away: npt.NDArray[np.bool_], out: Array) -> None:
    """Add 1, z, z^2 and z^3 of analysed cells to `out` (20, 20, 4), by the pixel of the cell; |z| < 6 alone."""
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            for i in range(CELL_PX if mask[u, v] else 0):
                for j in range(CELL_PX):
                    value = np.float64(z[u * CELL_PX + i, v * CELL_PX + j])
                    if away[i, j] and abs(value) < 6:
                        out[i, j, 0] += 1.0
                        out[i, j, 1] += value
                        out[i, j, 2] += value * value
                        out[i, j, 3] += value * value * value


def _largest_lean(z: Float, mask: Mask, away: npt.NDArray[np.bool_]) -> float:
    """Skewness of z at the pixel of the cell, of those `away` (20, 20), where it is largest; not negative."""
    sums = np.zeros((CELL_PX, CELL_PX, 4))
    _add_powers(np.ascontiguousarray(z, np.float32), np.ascontiguousarray(mask, np.uint8), away, sums)
    count = sums[:, :, 0]
    if count.max() < MIN_COLUMNS:
        return 0.0
    first, second, third = np.moveaxis(sums[:, :, 1:], -1, 0) / np.maximum(count, 1.0)
    variance = second - first**2
    seen = (count >= MIN_COLUMNS).astype(float)
    skewness = (third - 3 * first * second + 2 * first**3) / np.maximum(variance, 1e-12) ** 1.5
    lean = np.where(seen > 0, skewness, 0.0)
    pooled = uniform_filter(lean, 5, mode="wrap") / np.maximum(uniform_filter(seen, 5, mode="wrap"), 1e-9)
    return float(np.clip(pooled[seen > 0].max(), 0.0, 1.0))


def highest_of(level: npt.ArrayLike, places_px: float, width_px: float, lean: float) -> Array:
    """Probability that smoothed noise reaches a level somewhere, at most 1.

    Expected number of maxima above the level in white noise smoothed by a Gaussian of `width_px`; source: Worsley et
    al. 1992, doi:10.1038/jcbfm.1992.127. Tails that lean upwards (Pearson III) make it larger.
    """
    level = np.asarray(level, dtype=np.float64)
    gaussian = level * np.exp(-(level**2) / 2) / (2 * np.pi) ** 1.5 / (2 * width_px**2)
    known = np.minimum(level, 36.0)  # beyond it there is no number for the normal's tail
    heavier = np.where(level < 37, distributions.pearson3_sf(known, lean) / distributions.normal_sf(known), 1.0)
    return np.asarray(np.minimum(1.0, places_px * gaussian * np.maximum(heavier, 1.0)))


def _away_from(places: npt.NDArray[np.bool_], uv: Array, cells: float) -> npt.NDArray[np.bool_]:
    """`places` (U * 20, V * 20) without what lies within a distance [cells] of any of `uv` (n, 2)."""
    out = places.copy()
    reach = int(np.ceil(cells * CELL_PX))
    for u, v in uv * CELL_PX - 0.5:
        row, col = np.ogrid[max(int(u) - reach, 0) : int(u) + reach + 1, max(int(v) - reach, 0) : int(v) + reach + 1]
        part = out[row.min() : row.max() + 1, col.min() : col.max() + 1]
        near = np.hypot(row - u, col - v) < cells * CELL_PX
        part &= ~near[: part.shape[0], : part.shape[1]]
    return out


def group_extended(defects: list[Found], least: int) -> list[Found]:
    """Replace groups of at least `least` neighbouring defects by one region of kind `extended` each."""
    if len(defects) < least:
        return defects
    uv = np.array([d.uv for d in defects])
    pairs = cKDTree(uv).query_pairs(NEAR_CELLS, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(uv), len(uv)))
    _, group = connected_components(graph, directed=False)
    kept = [d for d, g in zip(defects, group, strict=True) if np.count_nonzero(group == g) < least]
    for g in np.unique(group):
        members = [d for d, other in zip(defects, group, strict=True) if other == g]
        if len(members) < least:
            continue
        strongest = min(members, key=lambda d: d.p)
        covered = {(int(np.floor(d.uv[0])), int(np.floor(d.uv[1]))) for d in members}
        middle = np.mean([d.uv for d in members], axis=0)
        kept.append(
            Found(
                (float(middle[0]), float(middle[1])),
                "",
                "extended",
                1.0,
                z=strongest.z,
                p=strongest.p,
                q=strongest.q,
                change=float(np.mean([d.change for d in members])),
                anm=strongest.anm,
                cells=len(covered),
            )
        )
    return kept
