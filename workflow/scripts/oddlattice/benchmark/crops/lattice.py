"""Crops of a crystal that lie on no grid: their common lattice, the phase of each, and what bends it.

Every crop of a periodic crystal is a shifted copy of one periodic cell. The lattice comes from the mean power spectrum
of bulk crops, the cell from all of them together; then a crop's shift, strain, brightness and row shifts are fitted.
Places are (row, col) in pixels about the middle of the crop; phases (u, v) are fractions of the lattice vectors.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates, median_filter
from scipy.optimize import minimize

from oddlattice.lattice.fourier import (
    SMALLEST_PERIOD_PX,
    NoLatticeError,
    Spectrum,
    describe,
    lattice_of_peaks,
    reduced,
    spectrum_peaks,
)
from oddlattice.numerics.arrays import Array, Complex, Float

FINE = 96  # grid on which the cell is kept
BINS = 48  # grid on which crops are averaged into the cell
LARGEST_FREQUENCY = 0.26  # of the harmonics of the cell [cycles/px]
LARGEST_ORDER = 8
FEWEST_CELLS = 1.15  # a crop must show so many periods along both vectors
POWER_OVER_GROUND = 6.0  # ASSUME: a maximum of the mean spectrum this far above its surroundings is a peak
SUPERCELL_EXCESS = 3.0  # power at the frequencies of a larger cell over that between them, for it to be real
CHUNK = 100  # crops at a time
WIDEST_RIM_PX = 7
LEAST_JITTER_PX2 = 1e-3  # less bends nothing
TRIAL_JITTER_PX2 = 0.1
RIM_EXCESS = 1.15  # misfit over that further in, from which on a border is left out
PLANE = 3  # 1, row, col


def pixel_places(side: int) -> Array:
    """Places (row, col) of all pixels about the crop's middle [px]; shape (side * side, 2)."""
    line = np.arange(side) - (side - 1) / 2
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


def standardised(crops: Float) -> Float:
    """Every crop less its mean, over its standard deviation; shape (n, side, side)."""
    middle = crops.mean(axis=(1, 2), keepdims=True)
    spread = crops.std(axis=(1, 2), keepdims=True)
    return np.asarray((crops - middle) / np.maximum(spread, 1e-12), dtype=np.float32)


def harmonics(vectors_px: Array, largest: float = LARGEST_FREQUENCY) -> npt.NDArray[np.int64]:
    """Orders (h, k) of half of the cell's harmonics below a frequency; shape (m, 2)."""
    line = np.arange(-LARGEST_ORDER, LARGEST_ORDER + 1)
    orders = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    orders = orders[(orders[:, 0] > 0) | ((orders[:, 0] == 0) & (orders[:, 1] > 0))]
    frequency = orders @ np.linalg.inv(vectors_px).T
    return np.asarray(orders[np.hypot(frequency[:, 0], frequency[:, 1]) < largest])


def _waves(vectors_px: Array, orders: npt.NDArray[np.int64], side: int, step: int = 1) -> Array:
    """Plane and waves as columns, at every `step`-th row and column: (pixels, 3 + 2 m)."""
    places = pixel_places(side).reshape(side, side, 2)[::step, ::step].reshape(-1, 2)
    phase = 2 * np.pi * (places @ np.linalg.inv(vectors_px)) @ orders.T
    plane = np.concatenate([np.ones((len(places), 1)), places / (side / 2)], axis=1)
    return np.concatenate([plane, np.cos(phase), np.sin(phase)], axis=1)


def _unexplained(flat: Array, vectors_px: Array, orders: npt.NDArray[np.int64], side: int) -> float:
    """Part of the variance of thinned crops (n, side * side / 4) that harmonics of a lattice leave."""
    q, _ = np.linalg.qr(_waves(vectors_px, orders, side, step=2))
    return float(1 - ((flat @ q) ** 2).sum() / (flat**2).sum())


def mean_spectrum(crops: Float) -> Spectrum:
    """Mean power spectrum of standardised crops (Hann window) over its background, as an image's: `spectrum_peaks`."""
    side = crops.shape[1]
    size = 4 * side  # crops show few cells: their peaks are wide, and close
    window = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1])
    total = np.zeros((size, size))
    for start in range(0, len(crops), CHUNK):
        part = standardised(crops[start : start + CHUNK]) * window
        part -= part.mean(axis=(1, 2), keepdims=True) * window / window.mean()
        total += (np.abs(np.fft.fft2(part, s=(size, size))) ** 2).sum(0)
    power = np.fft.fftshift(total) / len(crops)
    around = int(4 * size / side) | 1  # of every second frequency
    ground = median_filter(power[::2, ::2], size=around, mode="wrap").repeat(2, 0).repeat(2, 1)
    over = power / (ground / np.log(2) + 1e-7 * power.max())
    half = np.s_[:, size // 2 :]
    return Spectrum(over[half].astype(np.float32), power[half].astype(np.float32), size // 2, (1 / size, 1 / size))


def _refined(flat: Array, vectors_px: Array, side: int) -> Array:
    start = np.asarray(np.linalg.inv(vectors_px).ravel(), dtype=np.float64)
    scale = 0.15 / side
    orders = harmonics(vectors_px, 0.15)

    def rest(step: Array) -> float:
        return _unexplained(flat, np.asarray(np.linalg.inv((start + scale * step).reshape(2, 2))), orders, side)

    simplex = np.vstack([np.zeros(4), np.eye(4)])
    found = minimize(
        rest,
        np.zeros(4),
        method="Nelder-Mead",
        options={"xatol": 0.01, "fatol": 1e-6, "maxfev": 200, "initial_simplex": simplex},
    )
    return np.asarray(np.linalg.inv((start + scale * found.x).reshape(2, 2)), dtype=np.float64)


def _supercell(crops: Float, vectors_px: Array) -> Array:
    """The lattice, or one of twice its area where the crops have power at its frequencies."""
    side = crops.shape[1]
    waves = _waves(vectors_px, harmonics(vectors_px), side)
    q, _ = np.linalg.qr(waves)
    flat = standardised(crops).reshape(len(crops), -1).astype(np.float64)
    rest = (flat - (flat @ q) @ q.T).reshape(crops.shape)
    window = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1]).ravel()
    seen = rest.reshape(len(crops), -1) * window

    def power_at(offset: Array) -> Array:
        line = np.arange(-2, 2)
        orders = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2) + offset
        frequency = orders @ np.linalg.inv(vectors_px).T
        frequency = frequency[np.hypot(frequency[:, 0], frequency[:, 1]) < LARGEST_FREQUENCY]
        amplitude = seen @ np.exp(-2j * np.pi * pixel_places(side) @ frequency.T)
        return np.asarray((np.abs(amplitude) ** 2).mean(0))

    between = np.median(np.concatenate([power_at(np.array(o)) for o in ((0.5, 0.25), (0.25, 0.5), (0.25, 0.25))]))
    best, vectors = SUPERCELL_EXCESS, vectors_px
    for half, cell in (((0.5, 0.5), [[1, 1], [-1, 1]]), ((0.5, 0.0), [[2, 0], [0, 1]]), ((0.0, 0.5), [[1, 0], [0, 2]])):
        excess = float(np.sort(power_at(np.array(half)))[-4:].mean() / between)
        larger = reduced(np.array(cell) @ vectors_px)
        if excess > best and max(describe(larger)[:2]) * FEWEST_CELLS < side:
            best, vectors = excess, larger
    return vectors


def find_vectors(crops: Float) -> Array:
    """Lattice vectors as rows (row, col) [px] that bulk crops (n, side, side) share; shape (2, 2).

    Raises
    ------
    NoLatticeError
        The crops show no two-dimensional lattice with several pixels a cell and more than one cell a crop.
    """
    side = crops.shape[1]
    peaks, powers = spectrum_peaks(mean_spectrum(crops), POWER_OVER_GROUND)
    lattice = lattice_of_peaks(peaks, powers, 0.5 / side) if len(peaks) >= 2 else None
    if lattice is None:
        raise NoLatticeError("no lattice: the mean power spectrum of the crops shows no peaks in two directions")
    some = standardised(crops[:: max(1, len(crops) // 64)][:64])
    flat = some[:, ::2, ::2].reshape(len(some), -1).astype(np.float64)  # the harmonics in use end well below 1/4
    vectors = reduced(_refined(flat, lattice.vectors_px, side))
    larger = _supercell(crops[:: max(1, len(crops) // 400)], vectors)
    if larger is not vectors:
        vectors = reduced(_refined(flat, larger, side))
    short, long, _ = describe(vectors)
    if short < SMALLEST_PERIOD_PX or long * FEWEST_CELLS > side:
        raise NoLatticeError(f"no lattice: repeats of {short:.1f} x {long:.1f} px in crops of {side} px")
    return vectors


@dataclass(frozen=True)
class Cell:
    """The periodic cell all crops share, in units of its own standard deviation.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors as rows (row, col) [px].
    values : ndarray of shape (96, 96)
        Cell at u, v = i / 96, j / 96; mean 0, standard deviation 1.
    variance : ndarray of shape (48, 48)
        Of the pixels about their prediction, in the same unit squared.
    prior : ndarray of shape (13,)
        Variance of a crop's shift (2) and its slopes (4) [px^2], ground (3) and brightness (3) [unit^2], and of its row
        shifts [px^2]; infinite where anything goes.
    correlation_px : float
        Pixels over which the noise is one and the same.
    energy_limit : float
        Local misfit over the expected one that 99 % of bulk stays below.
    rim_px : int
        Pixels at the border of every crop that are not what the image showed there (crops blurred one by one).
    row_correlation_px : float
        As `correlation_px`, along a row only.
    """

    vectors_px: Array
    values: Array
    variance: Array
    prior: Array
    correlation_px: float
    energy_limit: float
    rim_px: int = 0
    row_correlation_px: float = 1.0

    @property
    def slopes(self) -> Array:
        """Value and derivatives along row and col [1/px] of the cell; shape (3, 96, 96)."""
        order = np.fft.fftfreq(FINE, 1 / FINE)
        spectrum = np.fft.fft2(self.values)
        inverse = np.linalg.inv(self.vectors_px)
        by_u = np.fft.ifft2(spectrum * 2j * np.pi * order[:, None]).real
        by_v = np.fft.ifft2(spectrum * 2j * np.pi * order[None, :]).real
        return np.stack([self.values, *(inverse[axis, 0] * by_u + inverse[axis, 1] * by_v for axis in range(2))])


@dataclass(frozen=True)
class Fit:
    """How n crops lie on the cell: crop = ground + brightness * cell(place - shift).

    Attributes
    ----------
    geometry : ndarray of shape (n, 6)
        Shift (row, col) [px] and its slopes along row, then along col [px per half side].
    ground, brightness : ndarray of shape (n, 3)
        Value and slopes along row and col, in counts.
    row_shift_px : ndarray of shape (n, side)
    """

    geometry: Array
    ground: Array
    brightness: Array
    row_shift_px: Array

    def part(self, which: slice) -> "Fit":
        """Some of the crops."""
        return Fit(self.geometry[which], self.ground[which], self.brightness[which], self.row_shift_px[which])


def joined(fits: list[Fit]) -> Fit:
    """All crops of several fits."""
    names = ("geometry", "ground", "brightness", "row_shift_px")
    return Fit(*(np.concatenate([getattr(fit, name) for fit in fits]) for name in names))


def _plane(side: int) -> Array:
    places = pixel_places(side)
    return np.concatenate([np.ones((len(places), 1)), places / (side / 2)], axis=1)


def displacement_px(fit: Fit) -> Array:
    """By how much (row, col) every pixel is moved [px]; shape (n, 2, side * side)."""
    side = fit.row_shift_px.shape[1]
    plane = _plane(side)
    moved = np.einsum("ngk,pg->nkp", fit.geometry.reshape(-1, 3, 2), plane)
    moved[:, 1] += np.repeat(fit.row_shift_px, side, axis=1)
    return np.asarray(moved)


def lattice_places(vectors_px: Array, fit: Fit) -> Array:
    """Lattice coordinates (u, v) of every pixel; shape (n, side * side, 2)."""
    places = pixel_places(fit.row_shift_px.shape[1])
    return np.asarray((places[None] - displacement_px(fit).transpose(0, 2, 1)) @ np.linalg.inv(vectors_px))


def sample_cell(cell: Array, uv: Array) -> Array:
    """A periodic cell (m, m) at lattice coordinates (..., 2), linear between its pixels; shape (...,)."""
    at = np.moveaxis(uv, -1, 0) * len(cell)
    return np.asarray(map_coordinates(cell, at % len(cell), order=1, mode="grid-wrap"))


def predict(cell: Cell, fit: Fit) -> Float:
    """The crops as the cell alone has them; shape (n, side, side)."""
    side = fit.row_shift_px.shape[1]
    value = sample_cell(cell.values, lattice_places(cell.vectors_px, fit))
    plane = _plane(side)
    out = fit.ground @ plane.T + (fit.brightness @ plane.T) * value
    return np.asarray(out.reshape(-1, side, side), dtype=np.float32)


# ---- phases


def _coefficients(crops: Float | Array, vectors_px: Array, orders: npt.NDArray[np.int64]) -> Complex:
    """Amplitudes of the harmonics of every crop about its middle; shape (n, m)."""
    side = crops.shape[1]
    waves = _waves(vectors_px, orders, side)
    normal = waves.T @ waves
    solve = np.linalg.solve(normal + 1e-3 * np.diag(np.diag(normal)), waves.T)
    found = crops.reshape(len(crops), -1) @ solve.T
    m = len(orders)
    return np.asarray((found[:, PLANE : PLANE + m] - 1j * found[:, PLANE + m :]) / 2)


def _best_phase(amplitude: Complex, reference: Complex, orders: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Shift (u, v) of each crop against the reference, and the correlation there; shapes (n, 2) and (n,)."""
    grid = 48
    places = np.zeros((len(amplitude), 2))
    best = np.zeros(len(amplitude))
    for start in range(0, len(amplitude), CHUNK):
        spectrum = np.zeros((len(amplitude[start : start + CHUNK]), grid, grid), dtype=np.complex128)
        product = amplitude[start : start + CHUNK] * np.conj(reference)
        for m, (h, k) in enumerate(orders):
            spectrum[:, h % grid, k % grid] += product[:, m]
        # a crop moved by s has its amplitudes turned by -2 pi h s
        correlation = np.fft.ifft2(spectrum).real * grid**2
        flat = correlation.reshape(len(spectrum), -1)
        top = flat.argmax(1)
        best[start : start + CHUNK] = flat[np.arange(len(top)), top]
        row, col = np.unravel_index(top, (grid, grid))
        places[start : start + CHUNK] = np.stack([row, col], -1) / grid
    return places, best


def _turned(amplitude: Complex, places: Array, orders: npt.NDArray[np.int64]) -> Complex:
    return np.asarray(amplitude * np.exp(-2j * np.pi * places @ orders.T))


def common_amplitudes(crops: Float, vectors_px: Array) -> tuple[Complex, npt.NDArray[np.int64]]:
    """Amplitudes (m,) of the cell that explains the standardised crops best once each is moved onto it, and orders."""
    orders = harmonics(vectors_px)
    amplitude = _coefficients(standardised(crops), vectors_px, orders)
    best, found = -np.inf, amplitude[0]
    for first in range(0, len(amplitude), max(1, len(amplitude) // 6)):
        reference = amplitude[first]
        for _ in range(6):
            places, score = _best_phase(amplitude, reference / np.linalg.norm(reference), orders)
            reference = np.median(_turned(amplitude, -places, orders).view(np.float64), axis=0).view(np.complex128)
        if score.sum() > best:
            best, found = float(score.sum()), reference
    return found, orders


# ---- what bends a crop


def starting_fit(cell: Cell, crops: Float | Array) -> Fit:
    """Shift, ground and brightness of crops from the phases of their harmonics."""
    side = crops.shape[1]
    orders = harmonics(cell.vectors_px)
    spectrum = np.fft.fft2(cell.values) / FINE**2
    reference = spectrum[orders[:, 0] % FINE, orders[:, 1] % FINE]
    amplitude = _coefficients(crops, cell.vectors_px, orders)
    places, _ = _best_phase(amplitude, reference, orders)
    gain = (_turned(amplitude, -places, orders) * reference.conj()).real.sum(1) / (np.abs(reference) ** 2).sum()
    spread = crops.std(axis=(1, 2))
    n = len(crops)
    geometry, ground, brightness = np.zeros((n, 6)), np.zeros((n, 3)), np.zeros((n, 3))
    geometry[:, :2] = places @ cell.vectors_px
    ground[:, 0] = crops.mean(axis=(1, 2))
    brightness[:, 0] = np.clip(gain, 0.2 * spread, 2 * spread) + 1e-12
    return Fit(geometry, ground, brightness, np.zeros((n, side)))


def _local_energy(rest: Array, variance: Array, sigma_px: float) -> Array:
    """Squared misfit over its expectation, averaged over the size of a column; shape of `rest` (n, side, side)."""
    return np.asarray(
        gaussian_filter(rest**2, (0, sigma_px, sigma_px)) / gaussian_filter(variance, (0, sigma_px, sigma_px))
    )


def border_px(side: int) -> npt.NDArray[np.int64]:
    """Distance of every pixel from the border of a crop, 0 at it; shape (side, side)."""
    line = np.minimum(np.arange(side), np.arange(side)[::-1])
    return np.minimum(line[:, None], line[None, :])


def _rim(ratio: Array) -> int:
    """Pixels at the border whose mean misfit over the expected one (side, side) stands out."""
    border = border_px(len(ratio))
    by_distance = np.array([ratio[border == distance].mean() for distance in range(len(ratio) // 4)])
    odd = np.flatnonzero(by_distance[:WIDEST_RIM_PX] > RIM_EXCESS * np.median(by_distance[WIDEST_RIM_PX:]))
    return int(odd[-1]) + 1 if len(odd) else 0


def column_px(vectors_px: Array) -> float:
    """Standard deviation of a typical column [px]: an eighth of the cell."""
    return float(np.sqrt(abs(np.linalg.det(vectors_px))) / 8)


def _step(cell: Cell, slopes: Array, crops: Array, fit: Fit, robust: bool) -> tuple[Fit, Array, Array]:
    """One Gauss-Newton step of a few crops; also the variance left in every parameter, (n, 12) and (n, side)."""
    n, side = len(crops), crops.shape[1]
    plane = _plane(side)
    uv = lattice_places(cell.vectors_px, fit)
    value, by_row, by_col = (sample_cell(part, uv) for part in slopes)
    scale = fit.brightness[:, :1]
    bright = fit.brightness @ plane.T / scale
    rest = crops.reshape(n, -1) / scale - fit.ground @ plane.T / scale - bright * value
    variance = sample_cell(cell.variance, uv)
    weight = (border_px(side) >= cell.rim_px).ravel() / (variance * cell.correlation_px)
    if robust:
        shape = (n, side, side)
        energy = _local_energy(rest.reshape(shape), variance.reshape(shape), column_px(cell.vectors_px))
        weight *= np.minimum(1, (cell.energy_limit / np.maximum(energy, 1e-9)) ** 2).reshape(n, -1)
    moved = np.stack([-bright * by_row, -bright * by_col])  # (2, n, pixels)
    design = np.empty((n, 12, side * side))
    for k in range(3):
        for axis in range(2):
            design[:, 2 * k + axis] = moved[axis] * plane[:, k]
        design[:, 6 + k] = plane[:, k]
        design[:, 9 + k] = value * plane[:, k]
    now = np.concatenate([fit.geometry, fit.ground / scale, fit.brightness / scale], axis=1)
    precision = 1 / cell.prior[:12]
    aim = np.zeros(12)
    weighted = design * weight[:, None]
    normal = weighted @ design.transpose(0, 2, 1) + np.diag(precision)
    right = np.einsum("npx,nx->np", weighted, rest) - precision * (now - aim)
    by_rows = (weighted * moved[1][:, None]).reshape(n, 12, side, side).sum(-1)  # (n, 12, side)
    stiff = (weight * moved[1] ** 2).reshape(n, side, side).sum(-1) + 1 / cell.prior[12]
    pull = (weight * moved[1] * rest).reshape(n, side, side).sum(-1) - fit.row_shift_px / cell.prior[12]
    reduced_normal = normal - np.einsum("npr,nqr->npq", by_rows / stiff[:, None], by_rows)
    inverse = np.linalg.inv(reduced_normal + 1e-12 * np.eye(12))
    change = np.einsum("npq,nq->np", inverse, right - np.einsum("npr,nr->np", by_rows, pull / stiff))
    limit = 0.06 * np.sqrt(abs(np.linalg.det(cell.vectors_px)))
    change[:, :6] = np.clip(change[:, :6], -limit, limit)
    rows = (pull - np.einsum("npr,np->nr", by_rows, change)) / stiff
    new = now + change
    new[:, 9] = np.clip(new[:, 9], 0.3, 3.0)
    fitted = Fit(new[:, :6], new[:, 6:9] * scale, new[:, 9:] * scale, fit.row_shift_px + np.clip(rows, -limit, limit))
    return fitted, np.diagonal(inverse, axis1=1, axis2=2), 1 / stiff


def fit_crops(cell: Cell, crops: Float, steps: int = 4) -> tuple[Fit, Array, Array]:
    """Lay crops (n, side, side) onto the cell; columns that do not fit are left out of account.

    Returns
    -------
    fit : Fit
    variance : ndarray of shape (n, 12)
        Left in shift and slopes, ground and brightness (in units of the brightness).
    row_variance : ndarray of shape (n, side)
    """
    slopes = cell.slopes
    fits, variances, rows = [], [], []
    for start in range(0, len(crops), 32):
        part = crops[start : start + 32].astype(np.float64)
        fit = starting_fit(cell, part)
        for step in range(steps):
            fit, variance, row_variance = _step(cell, slopes, part, fit, robust=step > 0)
        fits.append(fit)
        variances.append(variance)
        rows.append(row_variance)
    return joined(fits), np.concatenate(variances), np.concatenate(rows)


def _upsampled(values: Array) -> Array:
    """A periodic cell on the fine grid; the averaging within a bin is undone."""
    bins = len(values)
    order = np.fft.fftfreq(bins, 1 / bins)
    box = np.sinc(order / bins)
    # bin centres lie half a bin from the grid's points
    turn = np.exp(-1j * np.pi * order / bins)
    keep = np.abs(order) <= LARGEST_ORDER * 1.5
    spectrum = np.fft.fft2(values) * np.outer(keep * turn / box, keep * turn / box)
    wide = np.zeros((FINE, FINE), dtype=np.complex128)
    index = order.astype(int) % FINE
    wide[np.ix_(index, index)] = spectrum
    return np.asarray(np.fft.ifft2(wide).real * (FINE / bins) ** 2)


def _averaged(cell: Cell, crops: Float, fit: Fit) -> Cell:
    """The cell and its noise from all crops as they are laid now."""
    side = crops.shape[1]
    plane = _plane(side)
    sums = np.zeros((3, BINS * BINS))
    energies, correlations, along = [], [], []
    ratio = np.zeros((side, side))
    inner = (border_px(side) >= cell.rim_px).ravel()
    for start in range(0, len(crops), CHUNK):
        which = slice(start, start + CHUNK)
        part, part_fit = crops[which].reshape(-1, side * side).astype(np.float64), fit.part(which)
        uv = lattice_places(cell.vectors_px, part_fit)
        index = np.floor((uv % 1.0) * BINS).astype(int) % BINS
        bins = (index[..., 0] * BINS + index[..., 1]).ravel()
        scale = part_fit.brightness[:, :1]
        bright = part_fit.brightness @ plane.T / scale
        level = (part - part_fit.ground @ plane.T) / scale
        rest = level - bright * sample_cell(cell.values, uv)
        variance = sample_cell(cell.variance, uv)
        square = [a.reshape(-1, side, side) for a in (rest, variance)]
        energy = _local_energy(square[0], square[1], column_px(cell.vectors_px))
        weight = np.minimum(1, (cell.energy_limit / np.maximum(energy, 1e-9)) ** 2).reshape(len(part), -1) * inner
        ratio += (square[0] ** 2 / square[1]).sum(0)
        for k, value in enumerate((bright * weight * level, bright**2 * weight, weight * rest**2)):
            sums[k] += np.bincount(bins, value.ravel(), BINS * BINS)
        energies.append(energy[:, WIDEST_RIM_PX:-WIDEST_RIM_PX:4, WIDEST_RIM_PX:-WIDEST_RIM_PX:4].ravel())
        white = square[0] / np.sqrt(square[1])
        power = np.abs(np.fft.fft2(white - white.mean(axis=(1, 2), keepdims=True), s=(2 * side, 2 * side))) ** 2
        ring = np.fft.fftfreq(2 * side)
        slow = np.hypot(ring[:, None], ring[None, :])
        correlations.append(power[:, (slow > 0.04) & (slow < 0.15)].mean() / power.mean())
        along.append(power[:, :, (np.abs(ring) > 0.04) & (np.abs(ring) < 0.15)].mean() / power.mean())
    values = (sums[0] / np.maximum(sums[1], 1e-9)).reshape(BINS, BINS)
    variance = (sums[2] / np.maximum(sums[1], 1e-9)).reshape(BINS, BINS)
    variance = np.maximum(gaussian_filter(variance, 1.0, mode="wrap"), 1e-3 * variance.max() + 1e-9)
    fine = _upsampled(values)
    return replace(
        cell,
        values=(fine - fine.mean()) / fine.std(),
        variance=variance / fine.std() ** 2,
        correlation_px=float(max(1.0, np.mean(correlations))),
        energy_limit=float(max(1.5, np.quantile(np.concatenate(energies), 0.99))),
        rim_px=_rim(ratio),
        row_correlation_px=float(max(1.0, np.mean(along))),
    )


def learn_cell(crops: Float, rounds: int = 4) -> tuple[Cell, Fit]:
    """Learn lattice, cell, noise and the usual bending of bulk crops (n, side, side) from nothing but them.

    Raises
    ------
    NoLatticeError
        If the crops share no lattice.
    """
    vectors = find_vectors(crops)
    amplitude, orders = common_amplitudes(crops, vectors)
    spectrum = np.zeros((FINE, FINE), dtype=np.complex128)
    spectrum[orders[:, 0] % FINE, orders[:, 1] % FINE] = amplitude
    values = 2 * np.fft.ifft2(spectrum).real * FINE**2
    side = crops.shape[1]
    loose = np.array([np.inf, np.inf, *[(0.02 * side / 2) ** 2] * 4, np.inf, 0.1, 0.1, np.inf, 0.02, 0.02, 0.1])
    cell = Cell(vectors, (values - values.mean()) / values.std(), np.full((BINS, BINS), 0.3), loose, 2.0, 10.0)
    for _ in range(rounds):
        fit, variance, row_variance = fit_crops(cell, crops)
        scale = fit.brightness[:, :1]
        found = np.concatenate([fit.geometry, fit.ground / scale, fit.brightness / scale], axis=1)
        # the spread of what is found and what is left unknown of it: one step of expectation-maximisation
        usual = np.array([_clipped_mean(found[:, k] ** 2 + variance[:, k]) for k in range(12)])
        free = np.isinf(loose[:12])
        prior = np.append(np.where(free, np.inf, usual), row_jitter_px2(cell, fit, row_variance))
        vectors = cell.vectors_px @ np.linalg.inv(np.eye(2) - fit.geometry[:, 2:].mean(0).reshape(2, 2) / (side / 2))
        cell = replace(_averaged(cell, crops, fit), prior=np.maximum(prior, 1e-8), vectors_px=vectors)
    fit, _, _ = fit_crops(cell, crops)
    return cell, fit


def row_jitter_px2(cell: Cell, fit: Fit, row_variance: Array) -> float:
    """Variance of the row shifts [px^2] by moments: scatter of what is measured less its own errors.

    `fit` and `row_variance` as of `fit_crops`: shifts drawn towards 0 by the prior, which is undone here.
    """
    prior = cell.prior[12]
    information = np.maximum(1 / row_variance - 1 / prior, 1e-6)
    measured = fit.row_shift_px / (row_variance * information)
    error = max(cell.row_correlation_px / cell.correlation_px, 1.0) / information
    weight = (prior + error) ** -2
    square = np.minimum(measured**2, 9 * (prior + error))
    return float(max((weight * (square - error)).sum() / weight.sum(), LEAST_JITTER_PX2))


def turned(cell: Cell) -> Cell:
    """The cell as crops show it whose rows and columns are exchanged."""
    prior = cell.prior[[1, 0, 5, 4, 3, 2, 6, 8, 7, 9, 11, 10, 12]]
    return replace(cell, vectors_px=cell.vectors_px[:, ::-1].copy(), prior=prior)


def scanned_down(cell: Cell, crops: Float) -> bool:
    """Whether the scan ran along the columns of the crops (n, side, side), not along their rows: where jitter is."""
    found = []
    for one, shown in ((cell, crops), (turned(cell), crops.transpose(0, 2, 1))):
        loose = replace(one, prior=np.append(one.prior[:12], TRIAL_JITTER_PX2))
        fit, _, row_variance = fit_crops(loose, shown)
        found.append(row_jitter_px2(loose, fit, row_variance))
    return found[1] > 1.5 * found[0] + 5 * LEAST_JITTER_PX2


def _clipped_mean(square: Array) -> float:
    return float(np.minimum(square, 9 * np.median(square) / 0.455).mean())
