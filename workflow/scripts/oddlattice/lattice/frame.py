"""The lattice frame: lattice coordinates (u, v) of every pixel of an image, measured from the phases of its lattice.

(u, v) = (place - origin) @ inverse(vectors) + a smooth field on a coarse grid. The field takes up drift, shear and
bending over several cells; a single displaced or missing column hardly moves it.
Source: geometric phase, Hytch, Snoeck and Kilaas, Ultramicroscopy 74 (1998) 131, doi:10.1016/S0304-3991(98)00035-7.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.restoration import unwrap_phase

from oddlattice.lattice.fourier import Lattice, NoLatticeError
from oddlattice.lattice.spoilt import POOL_PX, Seen
from oddlattice.numerics.arrays import Array, Complex, Float
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.local_plane import block_mean, finite, global_polynomial, lerp, lerp_at, local_plane

GRID_CELLS = 0.8  # step of the coarse grid, in units of sqrt(cell area)
WINDOW_CELLS = 1.5  # rms width of the demodulation window, same units
FIELD_CELLS = 2.5  # rms width of the smoothing that follows, same units
ROUGHEST = 0.08  # [cells]; measured fields of crystals depart from smooth ones by 0.02 at most, of speckle by 0.12
STRIP_PX = 1 << 19  # pixels of one strip of rows
REFLECTIONS = 4  # strongest reflections that measure the field
TORN_STEPS, TORN_PART = (
    4,
    0.35,
)  # about a jump of the lattice so many grid steps are left out, if they are no more of all
LEAST_SEEN = 0.4  # part of a window that must not be blank
TOO_NARROW = "no lattice: no part of the image larger than about three cells is crystalline"
CRYSTAL_LEVEL = 0.35  # lattice amplitude, as a part of that of the good regions, below which phases are not used


@dataclass(frozen=True)
class Grid:
    """A coarse grid over an image: places along rows and cols [px], evenly spaced, first and last pixel included."""

    rows_px: Array
    cols_px: Array

    @property
    def step_px(self) -> tuple[float, float]:
        """Steps along (row, col) [px]."""
        return float(self.rows_px[1] - self.rows_px[0]), float(self.cols_px[1] - self.cols_px[0])

    @property
    def transposed(self) -> "Grid":
        """The grid with rows and columns exchanged."""
        return Grid(self.cols_px, self.rows_px)

    def at(self, layers: Array, places_px: Array) -> Array:
        """Layers (k, n, m) interpolated at places (p, 2) [px], edge values outside; shape (k, p)."""
        index = (places_px - [self.rows_px[0], self.cols_px[0]]) / np.array(self.step_px)
        return np.stack([ndimage.map_coordinates(layer, index.T, order=1, mode="nearest") for layer in layers])


def grid_over(shape: tuple[int, int], step_px: float) -> Grid:
    """Grid with steps of at most about `step_px`."""
    return Grid(*(np.linspace(0, n - 1, max(int(np.ceil((n - 1) / step_px)) + 1, 4)) for n in shape))


def strips(shape: tuple[int, int]) -> Iterator[slice]:
    """Strips of whole rows of about STRIP_PX pixels."""
    height = max(STRIP_PX // shape[1], 16)
    for start in range(0, shape[0], height):
        yield slice(start, min(start + height, shape[0]))


class Lifted:
    """Layers on a coarse grid, interpolated linearly to the pixels of strips of rows."""

    def __init__(self, layers: Array, grid: Grid, shape: tuple[int, int]) -> None:
        self._layers = layers
        self._cols = lerp_at(shape[1], grid.cols_px[0], grid.step_px[1], len(grid.cols_px))
        self._rows = lerp_at(shape[0], grid.rows_px[0], grid.step_px[0], len(grid.rows_px))

    def strip(self, rows: slice) -> Float:
        """Layers at the pixels of `rows`; shape (k, rows, cols)."""
        low, down = self._rows
        return lerp(self._layers, low[rows], down[rows], *self._cols)


@dataclass(frozen=True)
class Flattener:
    """The slowly varying mean of an image on a coarse grid, and limits beyond which a pixel is clipped.

    What is blank counts nowhere: there the flattened image is 0.
    """

    mean: Array
    grid: Grid
    limits: tuple[float, float]
    pedestal: float
    seen: Seen

    def lifted(self, shape: tuple[int, int]) -> Lifted:
        """The mean, ready to be interpolated to pixels."""
        return Lifted(self.mean[None], self.grid, shape)

    @property
    def transposed(self) -> "Flattener":
        """That of the image with rows and columns exchanged."""
        mean = np.ascontiguousarray(self.mean.T)
        return replace(self, mean=mean, grid=self.grid.transposed, seen=self.seen.transposed)


def fit_flattener(image: Float, period_px: float, seen: Seen | None = None) -> Flattener:
    """Slowly varying mean of an image over about two periods of its lattice, of what is `seen` where that is known.

    Where an image has no positive mean (a background was subtracted) a pedestal is added first.
    """
    rows, cols = image.shape
    n = max(int(period_px / 3), 1)
    height = n * max(512 // n, 1)
    parts = [slice(start, min(start + height, rows)) for start in range(0, rows, height)]
    seen = seen or Seen.of(image)
    small = np.concatenate([block_mean(seen.keep(finite(image[part]), part), n) for part in parts]).astype(np.float64)
    known = np.ones(small.shape)
    if seen.blank is not None:
        ones = (np.ones((min(part.stop, rows) - part.start, cols), np.float32) for part in parts)
        known = np.concatenate([block_mean(seen.keep(one, p), n) for one, p in zip(ones, parts, strict=True)])
        known = known.astype(np.float64)
        small /= np.maximum(known, 1e-6)
    some = small[known > 0.5] if (known > 0.5).any() else small
    lowest, middle = float(np.percentile(some, 0.1)), float(np.median(some))
    pedestal = 0.0 if lowest > 0 and middle > 0 else -lowest + max(middle - lowest, 1e-12) * 0.2
    smooth = _blurred(small + pedestal, known, 2.0 * period_px / n)
    smooth = np.maximum(smooth, 0.05 * float(np.median(smooth)) + 1e-12)
    at_rows, at_cols = (np.arange(count, dtype=np.float64) * n + (n - 1) / 2 for count in small.shape)
    grid = Grid(at_rows, at_cols)
    part = slice(max(rows // 2 - 64, 0), min(rows // 2 + 64, rows))
    flat = (finite(image[part]) + pedestal) / Lifted(smooth[None], grid, (rows, cols)).strip(part)[0] - 1
    low, high = np.percentile(seen.keep(flat, part), [0.2, 99.8])
    spread = max(float(high - low), 1e-6)
    return Flattener(smooth, grid, (float(low - spread), float(high + 1.5 * spread)), pedestal, seen)


def _blurred(values: Array, known: Array, sigma: float) -> Array:
    """Gaussian mean of `values` (n, m) where they are `known` (0 to 1); far from all of these the nearest such mean."""

    def blur(layer: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(layer, sigma, mode="nearest", truncate=3.0))

    if (known == 1).all():
        return blur(values)
    weight = blur(known)
    near = weight > 0.02 * float(weight.max())
    mean = blur(values * known) / np.maximum(weight, 1e-12)
    nearest = ndimage.distance_transform_edt(~near, return_distances=False, return_indices=True)
    return np.asarray(mean[nearest[0], nearest[1]])


def flat_strip(image: Float, rows: slice, flattener: Flattener, mean: Lifted) -> Float:
    """Relative deviation of rows of an image from the slowly varying mean, clipped; 0 where it is blank."""
    low, high = flattener.limits
    flat = _flattened(finite(image[rows]), mean.strip(rows)[0], flattener.pedestal, low, high)
    return flattener.seen.keep(flat, rows)


@compiled("float32[:, ::1](float32[:, :], float32[:, ::1], float32, float32, float32)")
def _flattened(strip: Float, mean: Float, pedestal: float, low: float, high: float) -> Float:
    """(strip + pedestal) / mean - 1, between `low` and `high`."""
    flat = np.empty(strip.shape, np.float32)
    for r in range(strip.shape[0]):
        for c in range(strip.shape[1]):
            value = (strip[r, c] + pedestal) / mean[r, c] - np.float32(1)
            flat[r, c] = min(max(value, low), high)
    return flat


def _window(grid_px: Array, at: npt.NDArray[Any], sigma_px: float) -> Array:
    """Gaussian windows (n, p) around grid places at the places `at` [px]."""
    away = (at - grid_px[:, None]) / sigma_px
    return np.where(np.abs(away) < 4, np.exp(-0.5 * np.minimum(away**2, 16)), 0.0)


def _covered(grid_px: Array, length: int, sigma_px: float) -> npt.NDArray[np.int64]:
    """Pixels of a line that the windows around neighbouring grid places cover."""
    first, last = np.floor(grid_px[0] - 4 * sigma_px) + 1, np.ceil(grid_px[-1] + 4 * sigma_px)
    return np.arange(max(int(first), 0), min(int(last), length))


def _bands(grid_px: Array, length: int, sigma_px: float) -> Iterator[tuple[slice, slice, Array]]:
    """Sixteen grid places at a time: their indices, the pixels that their windows cover, and the windows."""
    for i in range(0, len(grid_px), 16):
        points = slice(i, min(i + 16, len(grid_px)))
        at = _covered(grid_px[points], length, sigma_px)
        yield points, slice(int(at[0]), int(at[-1]) + 1), _window(grid_px[points], at, sigma_px)


def _window_sums(grid_px: Array, length: int, sigma_px: float) -> tuple[Array, Array]:
    """Sums of the windows around grid places, and how far their centroids are from the places [px]; (n,) each."""
    total, centre = np.empty(len(grid_px)), np.empty(len(grid_px))
    for points, pixels, window in _bands(grid_px, length, sigma_px):
        total[points] = window.sum(1)
        centre[points] = window @ np.arange(pixels.start, pixels.stop) / total[points]
    return total, centre - grid_px


def demodulate(
    image: Float, flattener: Flattener, frequencies: Array, grid: Grid, sigma_px: float
) -> tuple[Complex, float]:
    """Local complex amplitude of waves in an image.

    Parameters
    ----------
    frequencies : ndarray of shape (k, 2)
        (row, col) [cycles/px].

    Returns
    -------
    amplitudes : ndarray of shape (k, n, m), complex
        Gaussian mean of deviation times exp(-2 pi i g.place) around each grid place.
    noise : float
        rms of an amplitude that white noise of the image's variance would give.
    """
    shape = image.shape
    row_sum, _ = _window_sums(grid.rows_px, shape[0], sigma_px)
    col_sum, _ = _window_sums(grid.cols_px, shape[1], sigma_px)
    mean = flattener.lifted(shape)
    n, m = len(grid.rows_px), len(grid.cols_px)
    total = np.zeros((len(frequencies), n, m), dtype=complex)
    square = 0.0
    turns = np.exp(-2j * np.pi * frequencies[:, 1:] * np.arange(shape[1]))
    bands = []
    for points, cols, window in _bands(grid.cols_px, shape[1], sigma_px):
        waves = (turns[:, None, cols] * (window / col_sum[points, None])).astype(np.complex64)
        flat = waves.reshape(-1, waves.shape[2]).T
        bands.append((points, cols, np.concatenate([flat.real, flat.imag], axis=1)))
    for rows in strips(shape):
        strip = flat_strip(image, rows, flattener, mean)
        square += float(np.einsum("rc,rc->", strip, strip))
        part = np.empty((len(frequencies), len(strip), m), dtype=np.complex64)
        for points, cols, columns in bands:
            product = strip[:, cols] @ columns
            middle = product.shape[1] // 2
            both = (product[:, :middle] + 1j * product[:, middle:]).reshape(len(strip), len(frequencies), -1)
            part[:, :, points] = np.moveaxis(both, 1, 0)
        at = np.arange(rows.start, rows.stop)
        near = np.flatnonzero(
            (grid.rows_px > rows.start - 4 * sigma_px) & (grid.rows_px < rows.stop - 1 + 4 * sigma_px)
        )
        row_window = _window(grid.rows_px[near], at, sigma_px) / row_sum[near, None]
        for k, g in enumerate(frequencies):
            wave = row_window * np.exp(-2j * np.pi * g[0] * at)
            total[k, near] += wave.astype(np.complex64) @ part[k]
    noise = float(np.sqrt(square / (shape[0] * shape[1]) / (4 * np.pi * sigma_px**2)))
    return total, noise


@dataclass(frozen=True)
class Frame:
    """Lattice coordinates over an image: uv = (place - origin_px) @ inverse(vectors_px) + field.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors as rows [px].
    origin_px : ndarray of shape (2,)
        Place of u = v = 0 when the field is 0 [px].
    field : ndarray of shape (2, n, m)
        Deviation of (u, v) on the grid [cells].
    grid : Grid
    quality : ndarray of shape (n, m)
        Lattice amplitude on the grid, 1 in good crystal.
    shape : tuple of int
        (rows, cols) of the image.
    roughness : float
        rms by which the measured field departs from its smooth version [cells of the primitive lattice].
    """

    vectors_px: Array
    origin_px: Array
    field: Array
    grid: Grid
    quality: Array
    shape: tuple[int, int]
    roughness: float = 0.0

    @property
    def period_px(self) -> float:
        """Square root of the cell's area [px]."""
        return float(np.sqrt(abs(np.linalg.det(self.vectors_px))))

    def uv_at(self, places_px: Array) -> Array:
        """Lattice coordinates of places (p, 2) [px]; shape (p, 2)."""
        affine = (places_px - self.origin_px) @ np.linalg.inv(self.vectors_px)
        return np.asarray(affine + self.grid.at(self.field, places_px).T)

    def places_at(self, uv: Array) -> Array:
        """Places [px] of lattice coordinates (p, 2): the inverse of `uv_at`, by fixed-point steps; shape (p, 2)."""
        places = uv @ self.vectors_px + self.origin_px
        for _ in range(6):
            places = (uv - self.grid.at(self.field, places).T) @ self.vectors_px + self.origin_px
        return np.asarray(places)

    def lifted(self) -> Lifted:
        """(u, v) ready to be interpolated to pixels."""
        rows, cols = np.meshgrid(self.grid.rows_px, self.grid.cols_px, indexing="ij")
        places = np.stack([rows, cols], -1) - self.origin_px
        uv = np.moveaxis(places @ np.linalg.inv(self.vectors_px), -1, 0) + self.field
        return Lifted(uv, self.grid, self.shape)

    def in_cell(self, cell: npt.NDArray[np.int64]) -> "Frame":
        """The same frame counted in another cell of the lattice, its vectors as rows in steps of this one's."""
        field = np.moveaxis(np.moveaxis(self.field, 0, -1) @ np.linalg.inv(cell), -1, 0)
        return replace(self, vectors_px=cell @ self.vectors_px, field=field)

    def moved(self, shift: Array) -> "Frame":
        """The same frame with its origin at lattice coordinates `shift`."""
        return replace(self, origin_px=self.origin_px + np.asarray(shift) @ self.vectors_px)

    @property
    def transposed(self) -> "Frame":
        """That of the image with rows and columns exchanged: the same (u, v) for the same point of the specimen."""
        return replace(
            self,
            vectors_px=np.ascontiguousarray(self.vectors_px[:, ::-1]),
            origin_px=self.origin_px[::-1].copy(),
            field=np.ascontiguousarray(self.field.transpose(0, 2, 1)),
            grid=self.grid.transposed,
            quality=np.ascontiguousarray(self.quality.T),
            shape=(self.shape[1], self.shape[0]),
        )


class Quality(Lifted):
    """The quality of the lattice at the pixels of strips of rows; 0 where the image is blank."""

    def __init__(self, frame: Frame, seen: Seen) -> None:
        super().__init__(frame.quality[None], frame.grid, frame.shape)
        self._seen = seen

    def strip(self, rows: slice) -> Float:
        """Quality at the pixels of `rows`; shape (1, rows, cols)."""
        quality = super().strip(rows)
        self._seen.keep(quality[0], rows)
        return quality


def lifted(flattener: Flattener, frame: Frame) -> tuple[Lifted, Lifted, Lifted]:
    """Slowly varying mean, (u, v) and quality of the lattice, ready to be interpolated to the pixels of strips."""
    return flattener.lifted(frame.shape), frame.lifted(), Quality(frame, flattener.seen)


def _coverage(seen: Seen, grid: Grid, sigma_px: float) -> tuple[Array, Array]:
    """Part of the window around each grid place that is seen, and how far its centroid is from the place.

    Returns
    -------
    part : ndarray of shape (n, m)
    off : ndarray of shape (2, n, m)
        (row, col) [px].
    """
    places = grid.rows_px, grid.cols_px
    lines = [_window_sums(at, n, sigma_px)[1] for n, at in zip(seen.shape, places, strict=True)]
    off = np.stack(np.broadcast_arrays(lines[0][:, None], lines[1][None, :]))
    if seen.blank is None:
        return np.ones(off.shape[1:]), off
    squares = [np.asarray((np.arange(n) + 0.5) * POOL_PX - 0.5) for n in seen.blank.shape]
    down, across = (_window(at, line, sigma_px) for at, line in zip(places, squares, strict=True))
    known = (~seen.blank).astype(np.float64)
    total = np.maximum(down @ known @ across.T, 1e-12)
    centroids = (down * squares[0]) @ known @ across.T / total, down @ known @ (across * squares[1]).T / total
    off = np.stack([centroids[0] - places[0][:, None], centroids[1] - places[1][None, :]])
    return total / np.outer(down.sum(1), across.sum(1)), off


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
            known = _coverage(flattener.seen, grid, sigma)[0] > LEAST_SEEN
            if not known.any():
                raise NoLatticeError(TOO_NARROW)
            chosen = strongest_reflections(orders, np.percentile(np.abs(amplitudes[:, known]), 85, axis=1))
            orders, frequencies, amplitudes = orders[chosen], frequencies[chosen], amplitudes[chosen]
        steps = _phase_steps(amplitudes) / (2 * np.pi * np.array(grid.step_px))
        weight = np.abs(amplitudes).mean((1, 2))[:, None]
        if np.abs(steps).max() < 0.02 / period or number == 2:
            break
        reciprocal = np.linalg.lstsq(orders * weight, (frequencies + steps) * weight, rcond=None)[0]
        vectors = np.linalg.inv(reciprocal).T
    frame = _frame_of_phases(amplitudes, noise, orders, vectors, grid, sigma, flattener.seen)
    if frame.roughness > ROUGHEST:
        raise NoLatticeError(
            "no lattice: the fringes do not keep step over the image "
            "(several grains, or the speckle of amorphous material)"
        )
    return frame


def _frame_of_phases(
    amplitudes: Complex,
    noise: float,
    orders: npt.NDArray[np.int64],
    vectors: Array,
    grid: Grid,
    sigma: float,
    seen: Seen,
) -> Frame:
    part, off = _coverage(seen, grid, sigma)
    amplitudes = amplitudes / np.maximum(part, LEAST_SEEN)
    strength = np.sqrt(np.maximum(np.abs(amplitudes) ** 2 - noise**2, 0))
    typical = np.array([np.percentile(s[part > LEAST_SEEN], 85) for s in strength])
    strong = typical > 3 * noise
    if strong[:2].sum() < 2:
        raise NoLatticeError("no lattice: the fringes are too weak or too disordered to be followed over the image")
    quality = np.sqrt((strength[strong] ** 2).sum(0) / (typical[strong] ** 2).sum())
    good = (quality > CRYSTAL_LEVEL) & (np.abs(amplitudes[:2]).min(0) > 2.5 * noise) & (part > LEAST_SEEN)
    good = ndimage.binary_opening(good, np.ones((2, 2), dtype=bool)) & _largest_parts(good)
    if good.sum() < 9:
        raise NoLatticeError(TOO_NARROW)
    phases = np.stack([_unwrapped(a, good) for a in amplitudes])
    weights = np.where(good, part * quality**2, 0.0)
    field = _displacement(phases[:2], orders[:2], typical[:2], weights)
    if strong.sum() > 2:
        kept = np.flatnonzero(strong)
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
    return _smoothed(Frame(vectors, np.zeros(2), field, grid, np.where(torn, 0.0, quality), seen.shape), weights)


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
    reach = ndimage.distance_transform_edt(weights == 0)
    rough = float(np.sqrt((weights * ((rest - smooth) ** 2).sum(0)).sum() / weights.sum()))
    bend = _held(bend, reach, sigma)
    return replace(frame, vectors_px=vectors, origin_px=origin, field=bend + smooth * belief, roughness=rough)


def _held(bend: Array, reach: Array, sigma: float) -> Array:
    """A cubic may run away far from the crystal: there the value at the nearest crystal is kept."""
    if not (reach > 2 * sigma).any():
        return bend
    nearest = ndimage.distance_transform_edt(reach > 2 * sigma, return_distances=False, return_indices=True)
    return np.asarray(bend[:, nearest[0], nearest[1]])
