"""Strongly changed columns and those beside them, judged together."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from oddlattice.defects.between_sites import told_as_one
from oddlattice.defects.fdr import q_values
from oddlattice.defects.kernels import refine
from oddlattice.defects.noise import Noise
from oddlattice.defects.null import SiteColumns, Verdict
from oddlattice.defects.shared_scatter import with_shared_scatter
from oddlattice.defects.without import Without
from oddlattice.lattice.cell_statistics import LOCAL_MEAN_CELLS
from oddlattice.lattice.columns import (
    ColumnShape,
    gaussian,
    peak_at,
    px_of,
    window_of_cell,
    window_offsets,
)
from oddlattice.lattice.shapes import TAIL_WIDTH
from oddlattice.numerics.arrays import Array, Float

ROUNDS = 2  # strong columns are fitted, all others judged without them, and again
NEAR = 1.3  # of the shortest lattice vector: so far what is left of a changed column may reach
TAIL_DOUBT = 0.1  # ASSUME: standard error of the weight of a column's tail [of its height]
CHANGED = 6.0  # standard deviations: surely no bulk; to leave out fewer would cut bulk's own tails
FREEDOM = 4.0  # of Student's t by which what is left of strong columns is measured: odd neighbours hardly count
LIGHT_CELLS = 2  # about a column, over which its light is summed
GAIN_CELLS = 1.0  # over which it is measured
BEYOND = 4.0  # standard deviations from all that a tail can do: no measure of it


def judge_together(
    sites: list[SiteColumns],
    difference: Float,
    noise: Noise,
    cell: Array,
    vectors_pm: Array,
    fdr: float,
    rounds: int = ROUNDS,
    without: Without | None = None,
) -> tuple[list[SiteColumns], Without]:
    """Fit the strongly changed columns of an image, and judge every column without the others'.

    A strong change reaches into the windows of its neighbours. It is taken out as its column's shape says; what that
    leaves, because the shape is known so well only, is measured at all neighbours of all such columns alike, and its
    error counts (`tail_errors`, `gains_at`).

    Parameters
    ----------
    cell : ndarray of shape (n_u, n_v)
        Mean cell of the prediction.
    rounds : int
        How often strong columns are fitted, and the others judged without them.
    without : Without, optional
        What earlier rounds have taken out.
    """
    without = without or Without.of(difference, px_of(difference, noise.level))
    for _ in range(rounds):
        p = np.concatenate([site.verdict.p_value for site in sites]) if sites else np.empty(0)
        keys = [(kind, i) for kind, site in enumerate(sites) for i in range(len(site.cells))]
        flagged = np.flatnonzero(q_values(p) <= fdr)
        if not len(flagged) and not without.fits:
            break
        cut = fdr * (len(flagged) + 1) / len(p)
        strong = [keys[k] for k in flagged[np.argsort(p[flagged], kind="stable")]]
        for key in set(without.fits) - set(strong):
            without.put_back(key)
        for key in strong:
            _fit(key, sites[key[0]], without, noise, vectors_pm, cut)
        told_as_one(sites, without, noise, vectors_pm)
        sites = _judged_again(sites, without, cell, noise.level.shape, vectors_pm)
    return sites, without


def _fit(
    key: tuple[int, int], site: SiteColumns, without: Without, noise: Noise, vectors_pm: Array, cut: float
) -> None:
    """Take out a column's change, unless it was the stronger ones' beside it."""
    window = without.window(key, site)
    verdict = site.judge((site.view_of(key[1]).kernel.weights @ window.ravel())[None], np.array([key[1]]))
    if verdict.p_value[0] > cut:
        without.put_back(key)
        return
    start = without.far.get(key)
    without.take_out(key, site, fit_change(key[1], window, site, verdict, noise, vectors_pm, start), vectors_pm)


def fit_change(
    i: int,
    window: Array,
    site: SiteColumns,
    verdict: Verdict,
    noise: Noise,
    vectors_pm: Array,
    start: Array | None = None,
) -> Array:
    """Change and displacement (row, col) [pm] of column `i` in its window; `verdict` is of this column alone.

    It is looked for from a `start` on, or else from what the verdict reads.
    """
    start = np.array([verdict.change[0], *verdict.shift_pm[0]]) if start is None else start
    return refine(window, site.view_of(i).valid, site.shape, start, noise, vectors_pm, site.response)


def _judged_again(
    sites: list[SiteColumns], without: Without, cell: Array, shape: tuple[int, ...], vectors_pm: Array
) -> list[SiteColumns]:
    """Every column judged by its window without the other strong ones, against bulk without any of them."""
    clean = []
    for kind, site in enumerate(sites):
        found = site.estimates(without.left, 1)
        bulk = np.ones(len(found), dtype=bool)
        for key in without.fits:
            if key[0] == kind:
                found[key[1]] += site.view_of(key[1]).kernel.weights @ np.ravel(without.own(key))
                bulk[key[1]] = abs(site.verdict.z[key[1]]) < CHANGED
        clean.append((site.judged_by(found, bulk, site.null.shift_share, known=True), bulk))
    lost = [light_of(site.shape, cell) for site in sites]
    strong = [(sites[kind].cells[i], float(fit[0]) * lost[kind]) for (kind, i), fit in without.fits.items()]
    gains = gains_at([site for site, _ in clean], strong, cell, shape)
    return with_shared_scatter(
        [
            _without_tails(site, gain, sites, without, bulk, vectors_pm)
            for (site, bulk), gain in zip(clean, gains, strict=True)
        ]
    )


def gains_at(
    sites: list[SiteColumns],
    strong: list[tuple[npt.NDArray[np.intp], float]],
    cell: Array,
    shape: tuple[int, ...],
) -> list[Array]:
    """What a wrong local mean adds to the intensities of columns about strong ones, and its variance.

    An emptied column takes from the local mean by which the image was divided, most at the rim: what stands about it
    looks brighter by one factor. It is measured at the columns about a place, its own left out and those that no such
    factor explains, and drawn to 1 as far as there is nothing strong.

    Parameters
    ----------
    strong : list of (ndarray of shape (2,), float)
        Cell of the strong columns, and by what part of a cell's light each has changed.
    cell : ndarray of shape (n_u, n_v)
        Mean cell: what a factor multiplies.
    shape : tuple of int
        Of the image [cells].

    Returns
    -------
    list of ndarray of shape (n, 2)
        Value and variance, in units of relative intensity.
    """
    prior = np.zeros(shape)
    for at, light in strong:  # the local mean is one over so many cells
        prior[tuple(np.clip(at, 0, np.array(shape) - 1))] += (light / (2 * np.pi * LOCAL_MEAN_CELLS**2)) ** 2
    prior = np.maximum(_summed(prior, LOCAL_MEAN_CELLS), 1e-12)
    columns = [_Brightness.of(site, cell, prior) for site in sites]
    known = _summed(sum((c.on(shape, c.weight) for c in columns), np.zeros(shape)), GAIN_CELLS)
    gain = np.zeros(shape)
    for _ in range(4):  # what lies far from its neighbours hardly counts
        total = sum((c.on(shape, c.weight * c.near(gain)) for c in columns), np.zeros(shape))
        total = _summed(total, GAIN_CELLS)
        last, gain = gain, total / (known + 1 / prior)
    found = []
    for c in columns:
        precision = np.maximum(known[c.at] - c.weight, 0.0) + 1 / prior[c.at]
        others = total[c.at] - c.weight * c.near(last)
        found.append(np.stack([c.effect * others / precision, c.effect**2 / precision], axis=-1))
    return found


def light_of(shape: ColumnShape, cell: Array) -> float:
    """What part of the light of a cell (n_u, n_v) is a column's, not the ground's or its neighbours'."""
    wide_px = LIGHT_CELLS * max(shape.px_per_cell)
    return float(peak_at(shape, *window_offsets(shape, wide_px)).sum() / cell.sum())


@dataclass(frozen=True)
class _Brightness:
    """How much brighter than bulk each of n columns is, as a wrong local mean would make it."""

    at: tuple[npt.NDArray[np.intp], ...]
    effect: float
    value: Array
    spread: Array
    weight: Array

    @classmethod
    def of(cls, site: SiteColumns, cell: Array, prior: Array) -> "_Brightness":
        at = tuple(np.clip(site.cells, 0, np.array(prior.shape) - 1).T)
        effect = float(site.kernel.weights[0] @ window_of_cell(cell, site.shape).ravel())
        value = (site.found[:, 0] - site.null.middle * site.level) / effect
        spread = site.null.spread * site.level * site.factor[:, 0] / effect
        usable = value**2 < BEYOND**2 * (spread**2 + prior[at])
        return cls(at, effect, value, spread, np.where(usable, spread**-2.0, 0.0))

    def on(self, shape: tuple[int, ...], values: Array) -> Array:
        """Sums of `values` (n,) in each cell; shape (U, V)."""
        plane = np.zeros(shape)
        np.add.at(plane, self.at, values)
        return plane

    def near(self, gain: Array) -> Array:
        """The values, no further from `gain` (U, V) than bulk scatters; shape (n,)."""
        return np.asarray(gain[self.at] + np.clip(self.value - gain[self.at], -2.5 * self.spread, 2.5 * self.spread))


def _summed(plane: Array, width: float) -> Array:
    """Sums about every place, weighted by a Gaussian that is 1 there."""
    return np.asarray(gaussian_filter(plane, width, mode="constant") * 2 * np.pi * width**2)


def _without_tails(
    site: SiteColumns,
    gain: Array,
    sites: list[SiteColumns],
    without: Without,
    bulk: npt.NDArray[np.bool_],
    vectors_pm: Array,
) -> SiteColumns:
    """A kind of columns less what strong columns left at them, which is measured at all of them together."""
    found, doubt = site.found.copy(), np.ones((len(site.cells), 2))
    found[:, 0] -= gain[:, 0]
    doubt[:, 0] += gain[:, 1] / (site.null.spread * site.level * site.factor[:, 0]) ** 2
    site = replace(site, found=found)
    tails = tails_at(site, sites, without, vectors_pm)
    near = np.flatnonzero(np.abs(tails).sum(axis=(1, 2)) > 0)
    null, level = site.null, site.level[near, None]
    centre = np.array([null.middle, *null.centre])
    off = site.found[near, :3] - centre * level
    found = site.found.copy()
    for part, (rows, spread) in enumerate(
        ((slice(0, 1), np.array([[null.spread]])), (slice(1, 3), np.linalg.cholesky(null.covariance)))
    ):
        scale = level * site.factor[near, part : part + 1]
        white = np.linalg.inv(spread) / scale[:, :, None]  # (n, b, b)
        y = np.einsum("nij,nj->ni", white, off[:, rows])
        x = np.einsum("nij,njc->nic", white, tails[near][:, rows])
        error, variance = tail_errors(y, x)
        found[near, rows] -= np.einsum("ij,nj->ni", spread, error) * scale
        doubt[near, part] += variance
    return site.judged_by(found, bulk, site.null.shift_share, np.sqrt(doubt))


def tails_at(site: SiteColumns, sites: list[SiteColumns], without: Without, vectors_pm: Array) -> Array:
    """What a tail of the height of a column would do to the estimates of a kind of columns; shape (n, 3, classes).

    A class are the strong columns of one kind at one distance; each counts by its own change of intensity.
    """
    reach = NEAR * float(np.hypot(*vectors_pm.T).min())
    index = -np.ones(site.cells.max(axis=0) + 1, dtype=np.intp)
    index[tuple(site.cells.T)] = np.arange(len(site.cells))
    weights = np.stack([view.kernel.weights for view in site.views])
    columns: dict[tuple[int, int], Array] = {}
    for kind, other in enumerate(sites):
        strong = [(other.cells[i], fit[0]) for (k, i), fit in without.fits.items() if k == kind]
        if not strong:
            continue
        cells, changes = np.array([cell for cell, _ in strong]), np.array([change for _, change in strong])
        for step in np.ndindex(5, 5):
            offset = np.array(step) - 2
            away = offset + np.array([site.shape.u - other.shape.u, site.shape.v - other.shape.v])
            distance = float(np.hypot(*(away @ vectors_pm)))
            if not 1e-6 < distance < reach:
                continue
            at = cells + offset
            inside = ((at >= 0) & (at < index.shape)).all(axis=1)
            hit = np.where(inside, index[tuple(np.where(inside[:, None], at, 0).T)], -1)
            effect = weights[:, :3] @ _tail(other.shape, site.shape, away).ravel()  # (views, 3)
            column = columns.setdefault((kind, round(distance)), np.zeros((len(site.cells), 3)))
            np.add.at(column, hit[hit >= 0], changes[hit >= 0, None] * effect[site.view[hit[hit >= 0]]])
    return np.stack(list(columns.values()), axis=-1) if columns else np.zeros((len(site.cells), 3, 0))


def _tail(of: ColumnShape, at: ColumnShape, away: Array) -> Array:
    """A tail as high as its column in the window (16, 16) of a column that stands `away` (u, v) [cells] from it."""
    du, dv = window_offsets(at)
    width = of.tail_width if of.tail_weight else TAIL_WIDTH[0]
    return of.amplitude * gaussian(du + away[0], dv + away[1], np.array(of.precision) / width**2)


def tail_errors(y: Array, x: Array) -> tuple[Array, Array]:
    """What strong columns left at each neighbour, as all other neighbours tell it, and its variance.

    Least squares with Student's t and a normal prior of TAIL_DOUBT for each class; a neighbour's own value is left out
    of what is taken off it. Source: Lange et al. 1989, doi:10.1080/01621459.1989.10478852.

    Parameters
    ----------
    y : ndarray of shape (n, b)
        Estimates of bulk, in their own standard deviations.
    x : ndarray of shape (n, b, c)
        What a tail of each class does to them.

    Returns
    -------
    error : ndarray of shape (n, b)
    variance : ndarray of shape (n,)
        Mean over the b components.
    """
    b, classes = x.shape[1:]
    prior = np.eye(classes) / TAIL_DOUBT**2
    possible = 1 + TAIL_DOUBT**2 * (x**2).sum(axis=2)
    usable = ((y**2) < BEYOND**2 * possible).all(axis=1)
    weight = usable.astype(np.float64)
    for _ in range(20):
        covariance = np.linalg.inv(prior + np.einsum("n,nbc,nbd->cd", weight, x, x))
        mean = covariance @ np.einsum("n,nbc,nb->c", weight, x, y)
        square = ((y - x @ mean) ** 2).sum(axis=1)
        weight = np.where(usable, (FREEDOM + b) / (FREEDOM + square), 0.0)
    # the same without each neighbour, by the formula of Sherman, Morrison and Woodbury
    spread = x @ covariance  # (n, b, c)
    hat = np.einsum("nbc,ndc->nbd", spread, x)
    inner = np.linalg.inv(np.eye(b) - weight[:, None, None] * hat)
    error = x @ mean - weight[:, None] * np.einsum("nbd,nde,ne->nb", hat, inner, y - x @ mean)
    variance = hat + weight[:, None, None] * np.einsum("nbd,nde,nef->nbf", hat, inner, hat)
    return error, np.trace(variance, axis1=1, axis2=2) / b
