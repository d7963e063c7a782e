"""The frame of an image, fitted to the phases of its strongest reflections.

The field takes up drift, shear and bending over several cells; a single displaced or missing column hardly moves it.
Source: geometric phase, Hytch, Snoeck and Kilaas, Ultramicroscopy 74 (1998) 131, doi:10.1016/S0304-3991(98)00035-7.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.restoration import unwrap_phase

from oddlattice.lattice.breaks import CLEAR, RIM_STEPS, STRONG, WEAK_PART, Waves, seen_index
from oddlattice.lattice.demodulate import GRID_CELLS, WINDOW_CELLS, coverage, demodulate
from oddlattice.lattice.dislocations import slips_of
from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.fourier import Lattice, NoLatticeError
from oddlattice.lattice.frame import Frame
from oddlattice.lattice.grid import Grid, grid_over
from oddlattice.lattice.spoilt import Seen
from oddlattice.numerics.arrays import Array, Complex, Float
from oddlattice.numerics.distances import distance_px
from oddlattice.numerics.local_plane import global_polynomial, local_plane

FIELD_CELLS = 2.5  # rms width of the smoothing that follows [sqrt(cell area)]
ROUGHEST = 0.08  # [cells]; measured fields of crystals depart from smooth ones by 0.02 at most, of speckle by 0.12
REFLECTIONS = 4  # strongest reflections that measure the field
TORN_STEPS, TORN_PART = 4, 0.35  # steps about a jump of the lattice that are left out, if they are no more of all
LEAST_SEEN = 0.4  # part of a window that must not be blank
TOO_NARROW = "no lattice: no part of the image larger than about three cells is crystalline"
TOO_WEAK = "no lattice: what repeats is too weak or too disordered to be followed over the image, or is no crystal"
CRYSTAL_LEVEL = 0.35  # lattice amplitude, as a part of that of the good regions, below which phases are not used


def _phase_steps(amplitudes: Complex) -> Array:
    """Mean phase step between neighbours along (row, col), by amplitude; shape (k, 2) [rad per step]."""
    down = (amplitudes[:, 1:] * np.conj(amplitudes[:, :-1])).sum((1, 2))
    right = (amplitudes[:, :, 1:] * np.conj(amplitudes[:, :, :-1])).sum((1, 2))
    return np.stack([np.angle(down), np.angle(right)], -1)


def candidate_reflections(lattice: Lattice) -> npt.NDArray[np.int64]:
    """Reflections that may carry the lattice: those of the strongest peaks, and the lowest orders; shape (k, 2)."""
    seen = np.rint(lattice.peaks[:8] @ lattice.vectors_px.T).astype(np.int64)
    low = np.array([(1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2)])
    both = np.concatenate([seen, low])
    both = np.where((both[:, :1] < 0) | ((both[:, :1] == 0) & (both[:, 1:] < 0)), -both, both)
    return np.unique(both[np.abs(both).sum(1) > 0], axis=0)


def strongest_reflections(orders: npt.NDArray[np.int64], strength: Array) -> npt.NDArray[np.int64]:
    """Indices of the REFLECTIONS strongest, the first two independent; shape (k,)."""
    ranked = [int(i) for i in np.argsort(strength)[::-1]]
    first = ranked[0]
    second = next(i for i in ranked if orders[first, 0] * orders[i, 1] != orders[first, 1] * orders[i, 0])
    rest = [i for i in ranked if i not in (first, second)]
    return np.array([first, second, *rest[: REFLECTIONS - 2]])


def completing(
    orders: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], strength: Array, noise: float
) -> npt.NDArray[np.int64]:
    """Indices of the reflections without which those `chosen` do not tell all shifts apart; shape (k,)."""
    found = list(chosen)
    for k in np.argsort(-strength):
        if strength[k] > CLEAR * noise and seen_index(orders[[*found, k]]) < seen_index(orders[found]):
            found.append(k)
    return np.array(found[len(chosen) :], dtype=np.int64)


def fit_frame(image: Float, lattice: Lattice, flattener: Flattener) -> Frame:
    """Refine a coarse lattice to a frame over the whole image.

    The phases of the strongest reflections are followed over a coarse grid, unwrapped, transposed into displacements by
    weighted least squares and smoothed by local planes; where the lattice is weak the field continues smoothly.
    """
    shape = (image.shape[0], image.shape[1])
    period = float(np.sqrt(abs(np.linalg.det(lattice.vectors_px))))
    grid = grid_over(shape, GRID_CELLS * period)
    sigma = WINDOW_CELLS * period
    orders = candidate_reflections(lattice)
    vectors = lattice.vectors_px
    for number in range(3):
        frequencies = orders @ np.linalg.inv(vectors).T
        amplitudes, noise = demodulate(image, flattener, frequencies, grid, sigma)
        if number == 0:
            known = coverage(flattener.seen, grid, sigma)[0] > LEAST_SEEN
            if not known.any():
                raise NoLatticeError(TOO_NARROW)
            strength = np.percentile(np.abs(amplitudes[:, known]), 85, axis=1)
            chosen = strongest_reflections(orders, strength)
            field_of = len(chosen)
            chosen = np.concatenate([chosen, completing(orders, chosen, strength, noise)])
            orders, frequencies, amplitudes = orders[chosen], frequencies[chosen], amplitudes[chosen]
        steps = _phase_steps(amplitudes[:field_of]) / (2 * np.pi * np.array(grid.step_px))
        weight = np.abs(amplitudes[:field_of]).mean((1, 2))[:, None]
        if np.abs(steps).max() < 0.02 / period or number == 2:
            break
        own = slice(field_of)
        reciprocal = np.linalg.lstsq(orders[own] * weight, (frequencies[own] + steps) * weight, rcond=None)[0]
        vectors = np.linalg.inv(reciprocal).T
    frame = _frame_of_phases(amplitudes, field_of, noise, orders, vectors, grid, sigma, flattener.seen)
    if frame.roughness > ROUGHEST:
        raise NoLatticeError(
            "no lattice: the fringes do not keep step over the image "
            "(several grains, the speckle of amorphous material, or no crystal)"
        )
    return frame


def _frame_of_phases(
    amplitudes: Complex,
    field_of: int,
    noise: float,
    orders: npt.NDArray[np.int64],
    vectors: Array,
    grid: Grid,
    sigma: float,
    seen: Seen,
) -> Frame:
    """The frame of the first `field_of` waves; the others only tell faults that these do not see."""
    part, off = coverage(seen, grid, sigma)
    amplitudes = amplitudes / np.maximum(part, LEAST_SEEN)
    strength = np.sqrt(np.maximum(np.abs(amplitudes) ** 2 - noise**2, 0))
    typical = np.array([np.percentile(s[part > LEAST_SEEN], 85) for s in strength])
    strong = typical > 3 * noise
    if strong[:2].sum() < 2:
        raise NoLatticeError(TOO_WEAK)
    kept = np.flatnonzero(strong[:field_of])
    quality = np.sqrt((strength[kept] ** 2).sum(0) / (typical[kept] ** 2).sum())
    good = (quality > CRYSTAL_LEVEL) & (np.abs(amplitudes[:2]).min(0) > 2.5 * noise) & (part > LEAST_SEEN)
    good = ndimage.binary_opening(good, np.ones((2, 2), dtype=bool)) & _largest_parts(good)
    if good.sum() < 9:
        raise NoLatticeError(TOO_NARROW)
    size = np.abs(amplitudes) / np.maximum(typical, 1e-30)[:, None, None]
    inner = ndimage.binary_erosion(part > LEAST_SEEN, iterations=RIM_STEPS, border_value=1)
    weak = inner & (size[strong] < WEAK_PART).any(axis=0)
    slips = slips_of(
        Waves(vectors, orders[strong], amplitudes[strong], grid, good & (size[strong] > STRONG), weak), good
    )
    amplitudes, orders, typical = amplitudes[:field_of], orders[:field_of], typical[:field_of]
    amplitudes = amplitudes * np.exp(-2j * np.pi * np.tensordot(orders, slips.part(grid.places_px), 1))
    phases = np.stack([_unwrapped(a, good) for a in amplitudes])
    weights = np.where(good, part * quality**2, 0.0)
    field = _displacement(phases[:2], orders[:2], typical[:2], weights)
    if len(kept) > 2:
        constant = np.array(
            [_wrapped_middle(phases[k] - 2 * np.pi * np.tensordot(orders[k], field, 1), good) for k in kept]
        )
        rest = np.stack(
            [
                _near(phases[k] - c, 2 * np.pi * np.tensordot(orders[k], field, 1))
                for k, c in zip(kept, constant, strict=True)
            ]
        )
        field = _displacement(rest, orders[kept], typical[kept], weights)
    torn = _torn(field, good)
    weights = np.where(torn, 0.0, weights)
    smooth = local_plane(field, weights, 1.5)[0]
    down = np.gradient(smooth, grid.step_px[0], axis=1) * off[0]
    right = np.gradient(smooth, grid.step_px[1], axis=2) * off[1]
    field = field - down - right
    quality = ndimage.minimum_filter(
        quality, 3, mode="nearest"
    )  # at its edge a column is cut, and drags its line along
    slips = slips.with_strain(field, weights, grid, sigma)
    field = field - slips.strain(grid.places_px)
    frame = _smoothed(Frame(vectors, np.zeros(2), field, grid, np.where(torn, 0.0, quality), seen.shape), weights)
    return frame.cut_open(slips)


def _torn(field: Array, good: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Grid places about the lines at which (u, v) jumps by a lattice vector: the cuts that end at dislocations.

    None where there are many: that is no crystal with a dislocation.
    """
    jump = np.zeros(good.shape, dtype=bool)
    for axis in range(2):
        ahead = [slice(None), slice(None)]
        behind = [slice(None), slice(None)]
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        over = (np.abs(np.diff(field, axis=axis + 1)).max(0) > 0.5) & good[tuple(ahead)] & good[tuple(behind)]
        jump[tuple(ahead)] |= over
        jump[tuple(behind)] |= over
    torn = ndimage.binary_dilation(jump, iterations=TORN_STEPS) if jump.any() else jump
    return np.asarray(torn if (torn & good).sum() < TORN_PART * good.sum() else np.zeros_like(torn))


def _largest_parts(good: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Parts of at least a twentieth of the largest: islands of noise are dropped."""
    labels, count = ndimage.label(good)
    if not count:
        return good
    sizes = np.bincount(labels.ravel())[1:]
    return np.asarray(np.isin(labels, 1 + np.flatnonzero(sizes >= 0.05 * sizes.max())))


def _unwrapped(amplitude: Complex, good: npt.NDArray[np.bool_]) -> Array:
    """Phase without jumps inside `good`; parts not connected are brought nearest to the plane through the largest."""
    phase = np.angle(amplitude)
    masked = np.ma.array(phase, mask=~good)
    unwrapped = np.ma.filled(unwrap_phase(masked, rng=0), 0.0)  # type: ignore[no-untyped-call]
    labels, count = ndimage.label(good)
    if count > 1:
        largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
        plane = global_polynomial(unwrapped[None], (labels == largest).astype(float), 1)[0]
        for part in range(1, count + 1):
            if part != largest:
                here = labels == part
                turns = np.rint(np.median((plane - unwrapped)[here]) / (2 * np.pi))
                unwrapped[here] += 2 * np.pi * turns
    return np.asarray(unwrapped)


def _wrapped_middle(phase: Array, good: npt.NDArray[np.bool_]) -> float:
    return float(np.angle(np.exp(1j * phase[good]).mean()))


def _near(phase: Array, target: Array) -> Array:
    return np.asarray(target + (phase - target + np.pi) % (2 * np.pi) - np.pi)


def _displacement(phases: Array, orders: npt.NDArray[np.int64], typical: Array, weights: Array) -> Array:
    """(u, v) whose waves have these phases, by least squares; shape (2, n, m)."""
    root = typical[:, None]
    solve = np.linalg.pinv(2 * np.pi * orders * root) * root.T
    return np.where(weights > 0, np.tensordot(solve, phases, 1), 0.0)


def _smoothed(frame: Frame, weights: Array) -> Frame:
    """The frame with its field smoothed over several cells and its plane taken into vectors and origin."""
    plane = global_polynomial(frame.field, weights, 1)
    span = np.array([frame.grid.rows_px[-1], frame.grid.cols_px[-1]])
    slope = np.stack([(plane[:, -1, 0] - plane[:, 0, 0]) / span[0], (plane[:, 0, -1] - plane[:, 0, 0]) / span[1]])
    inverse = np.linalg.inv(frame.vectors_px) + slope
    vectors = np.linalg.inv(inverse)
    origin = -(plane[:, 0, 0] - frame.origin_px @ np.linalg.inv(frame.vectors_px)) @ vectors
    order = 3 if (weights > 0).sum() > 100 else 1
    bend = global_polynomial(frame.field - plane, weights, order) * (order > 1)
    rest = frame.field - plane - bend
    sigma = FIELD_CELLS * frame.period_px / float(np.mean(frame.grid.step_px))
    smooth, support = local_plane(rest, weights, sigma)
    level = float(np.median(support[weights > 0]))
    belief = support / (support + 0.02 * level)
    reach = distance_px(weights == 0)
    rough = float(np.sqrt((weights * ((rest - smooth) ** 2).sum(0)).sum() / weights.sum()))
    bend = _held(bend, reach, sigma)
    return replace(frame, vectors_px=vectors, origin_px=origin, field=bend + smooth * belief, roughness=rough)


def _held(bend: Array, reach: Array, sigma: float) -> Array:
    """A cubic may run away far from the crystal: there the value at the nearest crystal is kept."""
    if not (reach > 2 * sigma).any():
        return bend
    nearest = ndimage.distance_transform_edt(reach > 2 * sigma, return_distances=False, return_indices=True)
    return np.asarray(bend[:, nearest[0], nearest[1]])
