"""The lattice that crops share, from the mean power spectrum of them all.

Places are (row, col) in pixels about the middle of the crop.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter
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
from oddlattice.numerics.arrays import Array, Float

LARGEST_FREQUENCY = 0.26  # of the harmonics of the cell [cycles/px]
LARGEST_ORDER = 8
FEWEST_CELLS = 1.15  # a crop must show so many periods along both vectors
POWER_OVER_GROUND = 6.0  # ASSUME: a maximum of the mean spectrum this far above its surroundings is a peak
SUPERCELL_EXCESS = 3.0  # power at the frequencies of a larger cell over that between them, for it to be real
CHUNK = 100  # crops at a time


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


def waves_of(vectors_px: Array, orders: npt.NDArray[np.int64], side: int, step: int = 1) -> Array:
    """Plane and waves as columns, at every `step`-th row and column: (pixels, 3 + 2 m)."""
    places = pixel_places(side).reshape(side, side, 2)[::step, ::step].reshape(-1, 2)
    phase = 2 * np.pi * (places @ np.linalg.inv(vectors_px)) @ orders.T
    plane = np.concatenate([np.ones((len(places), 1)), places / (side / 2)], axis=1)
    return np.concatenate([plane, np.cos(phase), np.sin(phase)], axis=1)


def _unexplained(flat: Array, vectors_px: Array, orders: npt.NDArray[np.int64], side: int) -> float:
    """Part of the variance of thinned crops (n, side * side / 4) that harmonics of a lattice leave."""
    q, _ = np.linalg.qr(waves_of(vectors_px, orders, side, step=2))
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
    waves = waves_of(vectors_px, harmonics(vectors_px), side)
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
