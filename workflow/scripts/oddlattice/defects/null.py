"""How bulk columns of an image scatter, and what that says of each column: p-values of each kind of column."""

from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from oddlattice.defects.displaced import Moved, bends_along, readings_of_moved
from oddlattice.defects.kernels import Kernel, estimates, make_kernel
from oddlattice.defects.noise import Noise
from oddlattice.defects.populations import bulk_of
from oddlattice.defects.published_score import column_scores
from oddlattice.lattice.columns import SIDE_PX, ColumnShape, signatures, window_start_px
from oddlattice.lattice.spoilt import SURROUNDED
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Float, Mask

MOST_FOREIGN = 1.0  # [standard errors] that the light of other grains' columns may make of a column
TESTED_FACTOR, SEEN_FACTOR = 1.6, 12.0  # on standard errors: a window cut further says too little to test, to take out
LEAST_SIGNAL = 1e-4  # part of a change that a window cut by the rim must still hold, to be looked at
MIN_COLUMNS = 30  # fewer columns of a kind give no null to judge by
SHAPE_ERROR = 0.04  # of a change or a displacement: what 68 % intervals need in composed fields not of the benchmark
# Of the columns, so many are worth as much to a standard deviation as all of them without the cuts that keep outliers
# away: measured on 40 to 1,000 normal columns. Of intensity, of displacement.
WORTH = 0.6, 0.7
KEPT = 0.99  # of bulk's displacements: those beyond are cut away to know their scatter
TYPICAL_SKEWNESS = 0.08, 0.1  # typical skewness of a column's intensity, and how far from it


@dataclass(frozen=True)
class Null:
    """How bulk columns of one kind scatter in one image, where the noise level is 1.

    Attributes
    ----------
    middle, spread : float
        Centre and standard deviation of the relative intensity.
    centre, covariance : ndarray of shape (2,) and (2, 2)
        Of the displacement (row, col) [pm, pm^2].
    columns : int
        Columns it was estimated from.
    skewness : float
        Skewness of the relative intensity, not negative: few electrons scatter further up than down.
    skewness_error : float
        How far from it the skewness may be.
    shift_share : float
        Part of the false alarms that may come from displacements; the rest from intensity.
    bent : tuple of float
        Centre and standard deviation of what columns hold of their second derivative along their displacement.
    moved : Moved or None
        What columns read that moved; None: their displacement alone.
    bend : ndarray of shape (3, 3)
        Covariance of the bends by noise alone.
    shared_freedom : float
        Degrees of freedom of the covariance that other kinds of columns bring, beside those of its own columns.
    """

    middle: float
    spread: float
    centre: Array
    covariance: Array
    columns: int
    skewness: float = 0.0
    skewness_error: float = 0.0
    shift_share: float = 0.5
    bent: tuple[float, float] = (0.0, 1.0)
    moved: Moved | None = None
    bend: Array = field(default_factory=lambda: np.eye(3))
    shared_freedom: float = 0.0

    @property
    def shift_freedom(self) -> float:
        """Degrees of freedom by which the covariance is known."""
        return max(WORTH[1] * (self.columns - 1), 2.0) + self.shared_freedom

    @property
    def shift_spread(self) -> float:
        """Standard deviation of the displacement, of all directions together [pm]."""
        return float(np.linalg.det(self.covariance) ** 0.25)

    @property
    def false_shares(self) -> dict[str, float]:
        """What part of the false alarms is of each kind."""
        of_change = (1 - self.shift_share) / 2
        return {"displaced": self.shift_share, "lighter": of_change, "heavier": of_change}

    def judge(self, found: Array, level: Array, doubt: Array | None = None) -> "Verdict":
        """Judge estimates (n, 6) at places with noise `level` (n,); see `Verdict`.

        `doubt` (n, 2) are factors on the standard errors of intensity and displacement, for what is not bulk's scatter.
        """
        by_change, by_shift = (level, level) if doubt is None else level * doubt.T
        change, change_sigma = found[:, 0] - self.middle * level, self.spread * by_change
        shift = found[:, 1:3] - self.centre * level[:, None]
        distance = np.einsum("ni,ij,nj->n", shift, np.linalg.inv(self.covariance), shift) / by_shift**2
        # the scale itself comes from `columns` columns: Student's and Hotelling's tails instead of the normal's
        of_change, freedom = max(WORTH[0] * (self.columns - 1), 2.0), self.shift_freedom
        tail = distributions.student_sf(np.abs(change / change_sigma), of_change)
        up = change > 0
        tail[up] = np.maximum(tail[up], self._leaning(tail[up], 1))
        tail[~up] = self._leaning(tail[~up], -1)
        p_change = 2 * tail
        p_shift = distributions.fisher_sf(distance / 2 * (freedom - 1) / freedom, 2, freedom - 1)
        if self.moved is not None:
            bent = (bends_along(found[:, 3:], shift, self.bend) / by_shift - self.bent[0]) / self.bent[1]
            p_shift = self.moved.p_values(bent, np.sqrt(-2 * np.log(np.maximum(p_shift, 1e-300))))
        p_value, moved = either(p_change, p_shift, self.shift_share)
        sign = np.where(moved, 1.0, np.sign(change))
        return Verdict(
            change=change,
            change_sigma=change_sigma,
            shift_pm=shift,
            shift_covariance_pm2=by_shift[:, None, None] ** 2 * self.covariance,
            z_intensity=change / change_sigma,
            z_shift=distributions.normal_isf(np.maximum(p_shift, 1e-300) / 2),
            p_value=p_value,
            z=sign * distributions.normal_isf(p_value / 2),
            moved=moved,
        )

    def _leaning(self, tail: Array, sign: int) -> Array:
        """Upper (sign 1) or lower (-1) tails (n,) of a distribution with this skewness; without it they are `tail`.

        Pearson III. A skewness that is not known well: the mean over it, by Gauss and Hermite with two points.
        """
        z = distributions.normal_isf(np.maximum(tail, 1e-300))
        either_way = (self.skewness - self.skewness_error, self.skewness + self.skewness_error)
        tails = [distributions.pearson3_sf(z, sign * some) if some > 0 else tail for some in either_way]
        return np.asarray((tails[0] + tails[1]) / 2)


@dataclass(frozen=True)
class Verdict:
    """What the test says of n columns of one kind.

    Attributes
    ----------
    change, change_sigma : ndarray of shape (n,)
        Relative intensity change against the image's bulk, and its standard error.
    shift_pm : ndarray of shape (n, 2)
        Displacement (row, col) [pm].
    shift_covariance_pm2 : ndarray of shape (n, 2, 2)
    z_intensity : ndarray of shape (n,)
        `change` over its standard error.
    z_shift : ndarray of shape (n,)
        The p-value of a displacement, with the loss of intensity that it would bring, as a normal deviate, never
        negative.
    p_value : ndarray of shape (n,)
        Of the more striking of the two, both having been looked at (`either`).
    z : ndarray of shape (n,)
        `p_value` as a normal deviate; negative where intensity is missing.
    moved : ndarray of shape (n,), bool
        Whether the more striking of the two is the displacement.
    """

    change: Array
    change_sigma: Array
    shift_pm: Array
    shift_covariance_pm2: Array
    z_intensity: Array
    z_shift: Array
    p_value: Array
    z: Array
    moved: npt.NDArray[np.bool_]

    @property
    def odd_as(self) -> npt.NDArray[np.str_]:
        """What each column would be if it had changed: displaced, lighter or heavier; shape (n,)."""
        return np.where(self.moved, "displaced", np.where(self.change < 0, "lighter", "heavier"))

    def at(self, i: int) -> "Verdict":
        """What it says of column `i`."""
        return Verdict(*(getattr(self, entry.name)[i : i + 1] for entry in fields(self)))


def change_error(sigma: npt.ArrayLike, change: npt.ArrayLike) -> Array:
    """Standard error of an intensity change: the scatter of bulk, and the error of the column's shape."""
    return np.asarray(np.hypot(sigma, SHAPE_ERROR * np.asarray(change)))


def shift_error_pm(sigma_pm: npt.ArrayLike, shift_pm: npt.ArrayLike) -> Array:
    """Standard error of a displacement (..., 2) along a direction [pm]: as `change_error`."""
    return np.asarray(np.hypot(sigma_pm, SHAPE_ERROR * np.hypot(*np.moveaxis(np.asarray(shift_pm), -1, 0))))


@dataclass(frozen=True)
class View:
    """How much of a column's window is analysed, and how it is judged by that.

    Attributes
    ----------
    valid : ndarray of shape (16, 16), bool
    kernel : Kernel
        Corrected for what the prediction takes up.
    factor : ndarray of shape (2,)
        Standard errors of intensity and displacement over those of a whole window.
    """

    valid: npt.NDArray[np.bool_]
    kernel: Kernel
    factor: Array


@dataclass(frozen=True)
class SiteColumns:
    """Every tested column of one kind in an image.

    Attributes
    ----------
    shape : ColumnShape
    cells : ndarray of shape (n, 2)
    views : tuple of View
        The first is of whole windows.
    view : ndarray of shape (n,)
        Which of them each column has.
    found : ndarray of shape (n, 6)
        Estimates: relative intensity, displacement (row, col) [pm], bends.
    level : ndarray of shape (n,)
        Noise level.
    doubt : ndarray of shape (n, 2)
        Factors on the standard errors of intensity and displacement: 1, but for windows that are cut by the rim, and
        beside strongly changed columns.
    null : Null
    verdict : Verdict
    anm : ndarray of shape (n,)
        Published score.
    surrounded : ndarray of shape (n,), bool
        Whether the columns beside it are seen, too.
    response : tuple of float
        Part of an intensity change, and of a displacement, that the prediction leaves in the difference.
    moved : ndarray of shape (k, 2)
        What columns read that moved: from `readings_of_moved`.
    reason : str
        Why none of them can be listed, "" where they can: the site has several populations and none is the bulk.
    of_bulk : ndarray of shape (n,), bool, or None
        The columns of the largest population; None before it was asked for.
    plain : ndarray of shape (n,)
        Relative intensity, read with nothing taken out beside: it does not depend on what is listed.
    """

    shape: ColumnShape
    cells: npt.NDArray[np.intp]
    views: tuple[View, ...]
    view: npt.NDArray[np.intp]
    found: Array
    level: Array
    doubt: Array
    null: Null
    verdict: Verdict
    anm: Array
    surrounded: npt.NDArray[np.bool_]
    response: tuple[float, float]
    moved: Array
    reason: str = ""
    of_bulk: npt.NDArray[np.bool_] | None = None
    plain: Array = field(default_factory=lambda: np.empty(0))

    @property
    def tested(self) -> npt.NDArray[np.bool_]:
        """Columns of which enough is seen to list them; the others are only taken out beside them; shape (n,)."""
        return np.asarray((self.factor.max(axis=1) <= TESTED_FACTOR) & self.surrounded)

    @property
    def kernel(self) -> Kernel:
        """Of whole windows."""
        return self.views[0].kernel

    @property
    def factor(self) -> Array:
        """Standard errors of intensity and displacement over those of a whole window; shape (n, 2)."""
        return np.stack([view.factor for view in self.views])[self.view]

    def view_of(self, i: int) -> View:
        """What is seen of column `i`."""
        return self.views[int(self.view[i])]

    def estimates(self, difference: Float, moved_cells: int = 0) -> Array:
        """Estimates (n, 6) in another difference, in which the cells are moved by so many along both axes."""
        found = np.empty((len(self.cells), len(self.kernel.weights)))
        for number, view in enumerate(self.views):
            here = np.flatnonzero(self.view == number)
            found[here] = estimates(difference, self.shape, view.kernel, self.cells[here] + moved_cells)
        return found

    def judge(self, found: Array, which: npt.NDArray[np.intp]) -> Verdict:
        """Judge estimates (n, 6) of columns `which` (n,)."""
        return self.null.judge(found, self.level[which], self.doubt[which])

    def judged_by(
        self,
        found: Array,
        bulk: npt.NDArray[np.bool_],
        shift_share: float,
        doubt: Array | None = None,
        known: bool = False,
    ) -> "SiteColumns":
        """The same columns with these estimates (n, 6), judged against the scatter of the `bulk` (n,) among them.

        Where the site has several populations, the largest of them is the bulk; where it is `known`, as it was.

        `doubt` (n, 2) are factors on the standard errors, beside those of the windows.
        """
        of_bulk, reason = self.of_bulk, self.reason
        if of_bulk is None or not known:
            of_bulk, reason = self._largest(found)
        bulk = bulk & of_bulk
        whole = bulk & (self.view == 0)
        chosen = next(some for some in (whole, bulk, np.ones_like(bulk)) if some.sum() >= MIN_COLUMNS or some.all())
        null = null_of(found[chosen], (self.level[:, None] * self.factor)[chosen], shift_share, self.kernel.bend)
        doubts = self.factor if doubt is None else self.factor * doubt
        judged = replace(self, found=found, doubt=doubts, reason=reason, of_bulk=of_bulk).judged_in(null)
        return judged if len(self.plain) else replace(judged, plain=found[:, 0])

    def judged_in(self, null: Null) -> "SiteColumns":
        """The same columns judged against this scatter."""
        null = replace(null, moved=Moved.of(self.moved, null.bent[1], null.shift_spread))
        return replace(self, null=null, verdict=null.judge(self.found, self.level, self.doubt))

    def _largest(self, found: Array) -> tuple[npt.NDArray[np.bool_], str]:
        """The columns (n,) of the largest population, all where there is but one, and why it is no bulk, else ""."""
        error = self.level * self.factor[:, 0] * np.sqrt(self.kernel.covariance[0, 0])
        tested = self.tested
        largest = bulk_of(found[tested, 0], error[tested])
        if largest.columns.all():
            return np.ones(len(found), dtype=bool), largest.reason
        of_bulk = np.zeros(len(found), dtype=bool)
        of_bulk[tested] = largest.columns
        return of_bulk, largest.reason


def robust_normal(values: Array) -> tuple[float, float]:
    """Centre and standard deviation of the bulk of `values`, whatever the outliers.

    Median and MAD to start with, then the standard deviation of what lies within 2.5 of it, corrected for the cut.
    """
    centre = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - centre))) + 1e-12
    kept_part = distributions.clipped_std(2.5)
    for _ in range(10):
        kept = values[np.abs(values - centre) < 2.5 * spread]
        centre, new = float(kept.mean()), float(kept.std(ddof=1)) / kept_part
        if abs(new - spread) < 1e-4 * spread:
            break
        spread = new
    return centre, spread


def skewness_of(values: Array) -> tuple[float, float]:
    """Skewness of the bulk of standardised `values`, not negative, and its error; typical where they are few."""
    kept = values[np.abs(values) < 3.5]
    typical, spread = TYPICAL_SKEWNESS
    known = len(kept) / 6  # inverse variance of a sample's skewness
    drawn = (distributions.skewness(kept) * known + typical / spread**2) / (known + spread**-2)
    return float(np.clip(drawn, 0.0, 0.8)), float((known + spread**-2) ** -0.5)


def robust_plane(values: Array) -> tuple[Array, Array]:
    """Centre (2,) and covariance (2, 2) of the bulk of two-dimensional `values` (n, 2)."""
    centre = np.median(values, axis=0)
    covariance = np.diag(np.maximum(1.4826 * np.median(np.abs(values - centre), axis=0), 1e-9) ** 2)
    cut = -2 * np.log(1 - KEPT)  # of chi-square with two degrees of freedom
    # variance left after cutting a normal at `cut`: source: Rousseeuw and Leroy 1987, sec. 7.1
    shrink = distributions.chi2_cdf(cut, 4) / distributions.chi2_cdf(cut, 2)
    for _ in range(20):
        off = values - centre
        distance = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off)
        kept = values[distance < cut]
        new = np.cov(kept.T) / shrink
        done = np.abs(new - covariance).max() < 1e-4 * np.abs(covariance).max()
        centre, covariance = kept.mean(axis=0), new
        if done:
            break
    return centre, covariance


def either(p_change: Array, p_shift: Array, shift_share: float) -> tuple[Array, npt.NDArray[np.bool_]]:
    """p-values (n,) of the more striking of two independent tests, and whether it is the displacement's.

    At any threshold `shift_share` of the false alarms are the displacement's. Source: Sidak's correction with weights,
    Holland and Copenhaver 1987, doi:10.2307/2531989; Genovese et al. 2006, doi:10.1093/biomet/93.3.509.
    """
    weights = 2 * (1 - shift_share), 2 * shift_share
    by_change, by_shift = p_change / weights[0], p_shift / weights[1]
    smaller = np.minimum(by_change, by_shift)
    # 1 - (1 - w0 p)(1 - w1 p), in a form that loses no digits of the smallest
    return np.maximum(2 * smaller - weights[0] * weights[1] * smaller**2, 1e-300), by_shift < by_change


def null_of(found: Array, level: Array, shift_share: float, bend: Array | None = None) -> Null:
    """Scatter of columns with estimates (n, 3 or more), where the noise level of intensity and displacement is 1.

    Parameters
    ----------
    level : ndarray of shape (n, 2)
    bend : ndarray of shape (3, 3), optional
        Covariance of the last three estimates by noise alone; None: bends are not asked for.
    """
    middle, spread = robust_normal(found[:, 0] / level[:, 0])
    centre, covariance = robust_plane(found[:, 1:3] / level[:, 1:])
    skewness = skewness_of((found[:, 0] / level[:, 0] - middle) / spread)
    null = Null(middle, spread, centre, covariance, len(found), *skewness, shift_share)
    if bend is None:
        return null
    bent = bends_along(found[:, 3:], found[:, 1:3] - centre * level[:, 1:], bend) / level[:, 1]
    return replace(null, bent=robust_normal(bent), bend=bend)


def judge_columns(
    difference: Float,
    mask: Mask,
    noise: Noise,
    shape: ColumnShape,
    vectors_pm: Array,
    response: tuple[float, float],
    anm_map: Float,
    shift_share: float = 0.5,
    depth: Array | None = None,
    foreign: Float | None = None,
) -> SiteColumns | None:
    """Test every column of one kind against the scatter of its own kind in this image.

    A window that is cut by the rim of what is analysed is tested with what is there of it.

    Parameters
    ----------
    difference : ndarray of shape (U n_u, V n_v)
        0 where masked.
    response : tuple of float
        Part of an intensity change, and of a displacement, that the prediction leaves in the difference (1: all).
    anm_map : ndarray of shape (U n_u, V n_v)
        From `published_map`.
    shift_share : float
        Part of the false alarms that may come from displacements.
    depth : ndarray of shape (U + 1, V + 1), optional
        How far the cells' corners are from what is not seen [shortest lattice vector]; None: far.
    foreign : ndarray of shape (U n_u, V n_v), optional
        Light of other grains' columns, which was taken off: columns that it would change by much are not tested.

    Returns
    -------
    SiteColumns, or None where there are fewer than MIN_COLUMNS columns.
    """
    views, places, numbers = _views_on(mask, noise, shape, vectors_pm, response)
    cells = np.concatenate([np.empty((0, 2), dtype=np.intp), *places])
    if len(cells) < MIN_COLUMNS:
        return None
    order = np.lexsort(cells.T[::-1])
    cells, view_of = cells[order], np.concatenate(numbers)[order]
    empty, level = np.zeros((len(cells), 6)), noise.level[np.clip(cells[:, 0], 0, None), np.clip(cells[:, 1], 0, None)]
    blank = Null(0.0, 1.0, np.zeros(2), np.eye(2), len(cells))
    site = SiteColumns(
        shape,
        cells,
        tuple(views),
        view_of,
        empty,
        level,
        np.ones((len(cells), 2)),
        blank,
        blank.judge(empty, level),
        column_scores(anm_map, shape, cells),
        _depth_of(depth, shape, cells) >= SURROUNDED,
        response,
        readings_of_moved(shape, views[0].kernel, vectors_pm, response),
    )
    site = site if foreign is None else _unlit(site, foreign)
    return site.judged_by(site.estimates(difference), np.ones(len(cells), dtype=bool), shift_share)


def _unlit(site: SiteColumns, foreign: Float) -> SiteColumns:
    """The columns, of which those that light of other grains' columns would change by much are not tested."""
    sigma = site.level[:, None] * np.sqrt(np.diag(site.kernel.covariance))
    read = site.estimates(foreign)[:, : sigma.shape[1]]  # intensity and place; what bends a column is judged by these
    return replace(site, surrounded=site.surrounded & (np.abs(read) < MOST_FOREIGN * sigma).all(1))


def _depth_of(depth: Array | None, shape: ColumnShape, cells: npt.NDArray[np.intp]) -> Array:
    """Depth (n,) of the columns of `cells` (n, 2), between that of the corners of theirs."""
    at = (cells + np.array([shape.u, shape.v])).T
    return np.full(len(cells), np.inf) if depth is None else map_coordinates(depth, at, order=1, mode="nearest")


def _views_on(
    mask: Mask, noise: Noise, shape: ColumnShape, vectors_pm: Array, response: tuple[float, float]
) -> tuple[list[View], list[npt.NDArray[np.intp]], list[npt.NDArray[np.intp]]]:
    """The whole window and those that the rim cuts: views, the cells of each cut, and the number of their view."""
    views = [View(np.ones((SIDE_PX, SIDE_PX), dtype=bool), make_kernel(shape, noise, vectors_pm, response), np.ones(2))]
    signal = signatures(shape, vectors_pm) ** 2
    places, numbers = [], []
    for valid, cells in windows_on(mask, shape):
        if not valid.all():
            if (signal[:, valid].sum(1) < LEAST_SIGNAL * signal.sum((1, 2))).any():
                continue
            view = _cut_view(valid, views[0].kernel, make_kernel(shape, noise, vectors_pm, response, valid))
            if not view.factor.max() < SEEN_FACTOR:
                continue
            views.append(view)
        places.append(cells)
        numbers.append(np.full(len(cells), 0 if valid.all() else len(views) - 1))
    return views, places, numbers


def _cut_view(valid: npt.NDArray[np.bool_], whole: Kernel, kernel: Kernel) -> View:
    """A view of the `valid` pixels (16, 16) of a window."""
    more = np.sqrt(np.diag(kernel.covariance) / np.diag(whole.covariance))
    factor = np.array([more[0], more[1:].max()])
    # bends: with the covariance of the whole window's, times the factor on a displacement
    even = factor[1] * np.linalg.cholesky(whole.bend) @ np.linalg.inv(np.linalg.cholesky(kernel.bend))
    weights = np.concatenate([kernel.weights[:3], even @ kernel.weights[3:]])
    return View(valid, replace(kernel, weights=weights), factor)


def windows_on(mask: Mask, column: ColumnShape) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]]:
    """Columns whose windows are on analysed cells, wholly or in part.

    Returns
    -------
    list of (ndarray of shape (16, 16), bool; ndarray of shape (n, 2))
        The analysed pixels of a window, and the cells (u, v) of the columns with such windows.
    """
    starts = zip(window_start_px(column), column.px_per_cell, strict=True)
    rows, cols = (np.arange(start, start + SIDE_PX) // n for start, n in starts)
    steps = [(u, v) for u in np.unique(rows) for v in np.unique(cols)]
    low = [max(0, -int(line[0])) for line in (rows, cols)]
    high = [n - max(0, int(line[-1])) for n, line in zip(mask.shape, (rows, cols), strict=True)]
    if min(h - n for h, n in zip(high, low, strict=True)) <= 0:
        return []
    code = np.zeros((high[0] - low[0], high[1] - low[1]), dtype=np.intp)
    for bit, (u, v) in enumerate(steps):
        code |= (mask[low[0] + u : high[0] + u, low[1] + v : high[1] + v] > 0).astype(np.intp) << bit
    found = []
    for number in np.unique(code[code > 0]):
        valid = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
        for bit, (u, v) in enumerate(steps):
            valid |= bool(number >> bit & 1) & (rows[:, None] == u) & (cols[None, :] == v)
        found.append((valid, np.argwhere(code == number) + low))
    return found
