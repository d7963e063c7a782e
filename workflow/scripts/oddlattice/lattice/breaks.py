"""Where a lattice breaks: dislocations, and faults along which it is shifted, told by the phases of its waves.

A wave of reflection h has at each place the phase -2 pi h.U, U the displacement of the lattice there in cells. Around a
dislocation the sum of the steps of U along a circuit is its Burgers vector; across a fault U jumps.
Source: geometric phase, Hytch, Snoeck and Kilaas, Ultramicroscopy 74 (1998) 131, doi:10.1016/S0304-3991(98)00035-7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from oddlattice.lattice.demodulate import GRID_CELLS, WINDOW_CELLS, demodulate
from oddlattice.lattice.flattener import fit_flattener
from oddlattice.lattice.grid import Grid, grid_over
from oddlattice.numerics.arrays import Array, Bools, Complex, Float, Index

REFLECTIONS = 4  # strongest reflections whose waves are followed
HIGHEST_ORDER, HIGHEST_FREQUENCY = 2, 0.35  # of those that are tried [cycles/px]
TRIED_PX = 320  # side of the window in which it is tried how strong they are
WEAK_PART, RIM_STEPS = 0.65, 3  # of its usual strength: less may be a fault, away from the rim of the crystal
STRONG = 0.45  # of its usual strength that every wave must have all along a circuit
USUAL_PERCENT = 75  # of the places of good crystal where a wave is weaker than its usual strength
CLEAR = 6.0  # times its noise that a wave usually has at least
APART_PERIODS = 2.0  # windings half as far from each other are one dislocation; its circuit runs so far around them
WIDER_PERIODS = 1.0, 2.0  # by which a circuit is wider that is tried after one that tells nothing
AROUND_PERIODS = 3.0  # from a region, of the circuit around it
WHOLE = 0.05  # by which a Burgers vector may miss a lattice vector, and what each reflection tells of it
NEAREST_PERIODS, FARTHEST_PERIODS = 3.0, 8.0  # from a fault, of the places on its sides
LEAST_BLOCKS, BLOCK_PERIODS = 4, 3.0  # pieces of a fault, along it, whose scatter tells the error of its shift
FEWEST_IN_BLOCK = 4
ELONGATED = 3.0  # times longer than wide: what may be a fault
LEAST_LINE_PERIODS = 8.0
CERTAIN = 5.0  # standard errors from which a shift is one
LEAST_SHIFT = 0.05  # [cells]
AGREE = 3.0  # times their errors that reflections may be off one shift
WEAK = "the lattice is too weak along a circuit around it"
AT_EDGE = "no circuit around it lies in the image and in its grain"
UNCLEAR = "the closures that reflections tell are not those of one lattice vector"


@dataclass(frozen=True)
class Waves:
    """Waves of a lattice over an image.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        The lattice whose waves they are, a and b as rows.
    orders : ndarray of shape (k, 2)
        Reflections (h, k), the strongest first; the first two are not parallel.
    waves : ndarray of shape (k, n, m), complex
        Their amplitudes against the perfect lattice.
    grid : Grid
    strong : ndarray of shape (k, n, m), bool
        Places where a wave is strong.
    weak : ndarray of shape (n, m), bool
        Places of the crystal, not at its rim, where one of the waves is weaker than usual.
    """

    vectors_px: Array
    orders: Index
    waves: Complex
    grid: Grid
    strong: Bools
    weak: Bools

    @property
    def period_px(self) -> float:
        """Square root of the cell's area."""
        return float(np.sqrt(abs(np.linalg.det(self.vectors_px))))

    @cached_property
    def places_px(self) -> Array:
        """Places (n, m, 2) of the grid."""
        return self.grid.places_px

    @cached_property
    def windings(self) -> Index:
        """Turns of each wave's phase around each square of the grid, anticlockwise as seen; (k, n - 1, m - 1)."""
        phase = np.angle(self.waves)
        down, right = (_step(np.diff(phase, axis=axis)) for axis in (1, 2))
        around = down[:, :, :-1] + right[:, 1:, :] - down[:, :, 1:] - right[:, :-1, :]
        return np.rint(around / (2 * np.pi)).astype(np.int64)

    def dilated(self, places: Bools, periods: float) -> Bools:
        """Grid places (n, m) within so many periods of some of them."""
        if not places.any():
            return places
        away = ndimage.distance_transform_edt(~places, sampling=self.grid.step_px)
        return np.asarray(away <= periods * self.period_px)


@dataclass(frozen=True)
class Closure:
    """A circuit around something, in lattice vectors, anticlockwise as the image is seen.

    Attributes
    ----------
    place_px : tuple of float
        (row, col) of its middle.
    burgers : tuple of float or None
        Lattice vector (u, v) by which the displacement of the lattice grows along it; None where it is not told.
    reason : str
        Why not.
    """

    place_px: tuple[float, float]
    burgers: tuple[float, float] | None
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there is a dislocation for certain."""
        return self.burgers is not None and self.burgers != (0.0, 0.0)


def _chosen(orders: Index, strength: Array) -> Index:
    """The strongest of reflections (k, 2) [indices].

    Among them are as many that together they tell every lattice vector from its parts: where every second reflection is
    faint, as of SrTiO3, the strong ones alone do not see a shift by half a cell.
    """
    left = list(np.argsort(-strength))
    kept = [left.pop(0)]
    while seen_index(orders[kept]) != 1:
        better = next((k for k in left if seen_index(orders[[*kept, k]]) < seen_index(orders[kept])), None)
        if better is None:
            break
        kept.append(better)
        left.remove(better)
    return np.array(kept + left[: max(REFLECTIONS - len(kept), 0)], dtype=np.int64)


def seen_index(orders: Sequence[tuple[int, int]] | Index) -> float:
    """Of how many shifts that reflections do not tell apart there is one in a cell; infinite where all are parallel."""
    areas = [int(a[0] * b[1] - a[1] * b[0]) for k, a in enumerate(orders) for b in orders[:k]]
    return math.gcd(*areas) or math.inf


def waves_of(image: Float, vectors_px: Array, own: Bools | None = None) -> Waves | None:
    """The strongest waves of a lattice over an image (rows, cols); None where too few are over the noise.

    Parameters
    ----------
    own : ndarray of shape (rows, cols), bool, optional
        Pixels of the crystal.
    """
    inside = np.ones(image.shape, dtype=bool) if own is None else own
    reach = range(-HIGHEST_ORDER, HIGHEST_ORDER + 1)
    orders = np.array([(h, k) for h in reach for k in reach if h > 0 or (h == 0 and k > 0)])
    frequencies = orders @ np.linalg.inv(vectors_px).T
    orders = orders[np.hypot(*frequencies.T) < HIGHEST_FREQUENCY]
    window = _deep(inside)
    some, noise = _demodulated(image[window], vectors_px, orders)
    usual = np.percentile(np.abs(some[0]), USUAL_PERCENT, axis=(1, 2))
    orders, usual = orders[usual > CLEAR * noise], usual[usual > CLEAR * noise]
    if not np.isfinite(seen_index(orders)):
        return None
    kept = _chosen(orders, usual)
    (waves, grid), _ = _demodulated(image, vectors_px, orders[kept])
    inside = inside[np.ix_(*(np.rint(px).astype(int) for px in (grid.rows_px, grid.cols_px)))]
    size = np.abs(waves) / usual[kept][:, None, None]
    inner = ndimage.binary_erosion(inside, iterations=RIM_STEPS, border_value=1)
    weak = inner & (size < WEAK_PART).any(axis=0)
    return Waves(vectors_px, orders[kept], waves, grid, inside & (size > STRONG), np.asarray(weak))


def _deep(inside: Bools) -> tuple[slice, slice]:
    """A window about the place of a crystal that is farthest from its rim."""
    step = max(min(inside.shape) // 128, 1)
    depth = ndimage.distance_transform_edt(np.pad(inside[::step, ::step], 1))[1:-1, 1:-1]
    middle = step * np.array(np.unravel_index(int(depth.argmax()), depth.shape))
    low = [
        int(np.clip(at - TRIED_PX // 2, 0, max(n - TRIED_PX, 0))) for at, n in zip(middle, inside.shape, strict=True)
    ]
    return slice(low[0], low[0] + TRIED_PX), slice(low[1], low[1] + TRIED_PX)


def _demodulated(image: Float, vectors_px: Array, orders: Index) -> tuple[tuple[Complex, Grid], float]:
    """Waves (k, n, m) of reflections, on a grid; and the noise of each."""
    period = float(np.sqrt(abs(np.linalg.det(vectors_px))))
    grid = grid_over((image.shape[0], image.shape[1]), GRID_CELLS * period)
    frequencies = orders @ np.linalg.inv(vectors_px).T
    waves, noise = demodulate(image, fit_flattener(image, period), frequencies, grid, WINDOW_CELLS * period)
    return (waves, grid), noise


# ---------------------------------------------------------------- dislocations


def _step(phase: Array) -> Array:
    return np.asarray((phase + np.pi) % (2 * np.pi) - np.pi)


def closure_of(waves: Waves, places: Bools) -> Closure:
    """The circuit along the rim of some grid places (n, m), which are to be whole squares and a rim around them."""
    inner = ndimage.binary_erosion(places, border_value=0)
    rim = places & ~inner
    rows, cols = waves.grid.rows_px, waves.grid.cols_px
    at = np.argwhere(places)
    row, col = (np.interp(at[:, k].mean(), np.arange(len(px)), px) for k, px in enumerate((rows, cols)))
    middle = float(row), float(col)
    if places[[0, -1]].any() or places[:, [0, -1]].any():
        return Closure(middle, None, AT_EDGE)
    strong = waves.strong[:, rim].all(axis=1)
    if not np.isfinite(seen_index(waves.orders[strong])):
        return Closure(middle, None, WEAK)
    square = places[:-1, :-1] & places[1:, :-1] & places[:-1, 1:] & places[1:, 1:]
    total = waves.windings[:, square].sum(axis=1)
    burgers, reason = _solved(waves.orders[strong], total[strong])
    return Closure(middle, burgers, reason)


def _solved(orders: Index, total: Index) -> tuple[tuple[float, float] | None, str]:
    """The Burgers vector of which every reflection tells -h.B turns."""
    found = np.linalg.lstsq(orders.astype(float), -total.astype(float), rcond=None)[0]
    if max(np.abs(orders @ found + total).max(), np.abs(found - np.rint(found)).max()) > WHOLE:
        return None, UNCLEAR
    u, v = (float(round(x)) for x in found)
    return (u, v), ""


def dislocations(waves: Waves, near: Bools) -> list[Closure]:
    """Closures around what is wound, one for each dislocation within some grid places (n, m)."""
    wound = np.zeros(near.shape, dtype=bool)
    # around a dislocation one of any two waves turns that are not parallel; fainter ones turn where they break, too
    for i, j in np.argwhere((waves.windings[:2] != 0).any(axis=0)):
        wound[i : i + 2, j : j + 2] = True
    named, count = ndimage.label(waves.dilated(wound & near, APART_PERIODS), structure=np.ones((3, 3)))
    found = [_told_by_some(waves, np.asarray(named, dtype=np.int64), k) for k in range(1, count + 1)]
    return [one for one in found if one.burgers != (0.0, 0.0)]


def _told_by_some(waves: Waves, named: Index, k: int) -> Closure:
    """The closure around what is wound in some grid places, by the narrowest circuit along which waves are strong."""
    narrowest = closure_of(waves, named == k)
    for wider in WIDER_PERIODS:
        if narrowest.burgers is not None:
            break
        wide = waves.dilated(named == k, wider)
        if (wide & (named > 0) & (named != k)).any():
            break
        found = closure_of(waves, wide)
        if found.burgers is not None:
            return found
    return narrowest


def around(waves: Waves, places: Bools) -> tuple[Closure, list[Closure]]:
    """The circuit around some grid places (n, m) as a whole; and the dislocations in them.

    Where that circuit is not told, and everything wound in it is, it is the sum of these.
    """
    wide = waves.dilated(places, 1.0)
    whole = closure_of(waves, waves.dilated(places, AROUND_PERIODS))
    within = dislocations(waves, wide)
    told = [one.burgers for one in within if one.burgers is not None]
    if whole.burgers is None and told and len(told) == len(within):
        u, v = (float(sum(b[axis] for b in told)) for axis in range(2))
        return Closure(whole.place_px, (u, v)), within
    return whole, within


# ---------------------------------------------------------------- faults


@dataclass(frozen=True)
class Fault:
    """A line across which a lattice is shifted.

    Attributes
    ----------
    ends_px : tuple of two (row, col)
    shift : tuple of float
        Shift (u, v) of the side to the right of the line, seen from its first end, against the other [cells].
    sigma : tuple of float
        Standard errors of it.
    misfit : float
        How far the reflections are from one shift, over their errors: 1 where they agree.
    """

    ends_px: tuple[tuple[float, float], tuple[float, float]]
    shift: tuple[float, float]
    sigma: tuple[float, float]
    misfit: float


def faults(waves: Waves) -> list[Fault]:
    """The straight lines along which waves are weak and across which the lattice is shifted."""
    lines, count = ndimage.label(waves.weak, structure=np.ones((3, 3)))
    found = [_fault(waves, lines == k) for k in range(1, count + 1)]
    return [fault for fault in found if fault is not None]


def _fault(waves: Waves, places: Bools) -> Fault | None:
    line = line_through(places, waves)
    if (
        line is None
        or line[1] < ELONGATED
        or np.hypot(*np.diff(line[0], axis=0)[0]) < LEAST_LINE_PERIODS * waves.period_px
    ):
        return None
    found = fault_along(waves, line[0])
    if found is None or found.misfit > AGREE:
        return None
    size, sigma = math.hypot(*found.shift), math.hypot(*found.sigma)
    return found if size > max(CERTAIN * sigma, LEAST_SHIFT) else None


def fault_along(waves: Waves, ends_px: Array) -> Fault | None:
    """The shift of a lattice across the straight line between two places (2, 2) [px]; None where it is not told.

    The phases on both sides are continued up to the line, each block along it by itself; the scatter of the blocks is
    the error.
    """
    ends = np.asarray(ends_px, dtype=float)
    along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
    across = np.array([along[1], -along[0]])  # to the right of the line, rows counted downwards
    away = waves.places_px - ends[0]
    x, y = away @ across / waves.period_px, away @ along / waves.period_px
    length = float(np.hypot(*(ends[1] - ends[0]))) / waves.period_px
    near = (
        waves.strong.all(axis=0)
        & (np.abs(x) > NEAREST_PERIODS)
        & (np.abs(x) < FARTHEST_PERIODS)
        & (y > 0)
        & (y < length)
    )
    blocks = int(length / BLOCK_PERIODS)
    if blocks < LEAST_BLOCKS:
        return None
    jumps = list[Array]()
    for k in range(blocks):
        here = near & (y >= k * length / blocks) & (y < (k + 1) * length / blocks)
        sides = here & (x < 0), here & (x > 0)
        if min(side.sum() for side in sides) >= FEWEST_IN_BLOCK:
            jumps.append(_jump(waves, sides, x, y - (k + 0.5) * length / blocks))
    if len(jumps) < LEAST_BLOCKS:
        return None
    steps = np.exp(1j * np.array(jumps))
    mean = steps.mean(axis=0)
    spread = np.sqrt(np.maximum(-2 * np.log(np.maximum(np.abs(mean), 1e-9)), 1e-6) / (len(jumps) - 1))
    shift, sigma, misfit = _shift(waves.orders, np.angle(mean), np.maximum(spread, 0.02))
    first, last = ((float(r), float(c)) for r, c in ends)
    return Fault((first, last), shift, sigma, misfit)


def _jump(waves: Waves, sides: tuple[Bools, Bools], x: Array, y: Array) -> Array:
    """Step of the phase (k,) of each wave across a line, from planes of one slope through both sides."""
    found = []
    for wave in waves.waves:
        # slopes of the phase by the steps from place to place within each side, unwrapped
        phase = [np.angle(wave[side] * np.conj(wave[side].sum())) for side in sides]
        rows = [np.stack([x[side], y[side], np.full(side.sum(), -0.5 + k)], -1) for k, side in enumerate(sides)]
        design = np.concatenate([np.concatenate([r, np.ones((len(r), 1))], axis=1) for r in rows])
        offset = [np.angle(wave[side].sum()) for side in sides]
        between = offset[1] - offset[0]
        value = np.concatenate([phase[0], phase[1]])
        fit = np.linalg.lstsq(design, value, rcond=None)[0]
        found.append(between + fit[2])
    return np.array(found)


def _shift(orders: Index, jump: Array, sigma: Array) -> tuple[tuple[float, float], tuple[float, float], float]:
    """The shift (u, v) of least length of which reflections show steps of phase of -2 pi h.R."""
    at = np.stack(np.meshgrid(*[np.arange(-0.5, 0.5, 1 / 48)] * 2, indexing="ij"), -1).reshape(-1, 2)
    off = _step(jump + 2 * np.pi * at @ orders.T) / sigma
    best = at[np.argmin((off**2).sum(axis=1))]
    weight = orders / sigma[:, None] * 2 * np.pi
    for _ in range(4):
        left = _step(jump + 2 * np.pi * orders @ best) / sigma
        best = best - np.linalg.lstsq(weight, left, rcond=None)[0]
    left = _step(jump + 2 * np.pi * orders @ best) / sigma
    free = max(len(orders) - 2, 1)
    misfit = float(np.sqrt((left**2).sum() / free))
    error = np.sqrt(np.diag(np.linalg.pinv(weight.T @ weight))) * max(misfit, 1.0)
    best = best - np.rint(best + 1e-6)
    return (float(best[0]), float(best[1])), (float(error[0]), float(error[1])), misfit


def line_through(places: Bools, waves: Waves) -> tuple[Array, float] | None:
    """Ends (2, 2) [px] of the straight line along some grid places (n, m), and how many times longer than wide."""
    at = waves.places_px[places]
    if len(at) < 3:
        return None
    middle = at.mean(axis=0)
    _, _, axes = np.linalg.svd(at - middle, full_matrices=False)
    along = (at - middle) @ axes[0]
    width = max(float(np.ptp((at - middle) @ axes[1])), min(waves.grid.step_px))
    ends = middle + np.array([along.min(), along.max()])[:, None] * axes[0]
    return ends, float(np.ptp(along)) / width
