"""Coarse lattice of an image: Fourier peaks, the reduced cell they span, and the cells of known crystals that fit it.

Places are (row, col) in pixels with pixel centres at whole numbers. Lattice vectors are the rows of a (2, 2) array,
right-handed in (row, col), as `Crystal.vectors_nm` is.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy import ndimage

from oddlattice.crystal import Crystal
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.local_plane import finite, running_median, slow_mean
from oddlattice.numerics.medians import median

BLOCK_PX = 1024  # the spectrum is taken of blocks this large: drift over a larger field would smear the peaks
MAX_BLOCKS = 25
LARGEST_FREQUENCY = 0.30  # [cycles/px]; peaks beyond it do not help to find a cell of 8 px or more
LARGEST_PERIOD_PX = 150.0
SMALLEST_PERIOD_PX = 5.0  # of the primitive lattice: 8 px a cell with two columns on its diagonal makes 5.7 px
PEAK_POWER = 22.0  # ASSUME: a maximum this far above the local background is a peak; in noise exp(-22) a pixel
WEAKEST_PEAK = 1e-3  # of the strongest peak's power; weaker ones may be side lobes, aliases or defects
LARGEST_INDEX = 16  # the two strongest peaks span at most this many reciprocal cells; more are aliases or noise
LONGEST_ASPECT = 4.0  # of the primitive cell
DISTORTED = 1.04  # a cell stretched more one way than the other is said to be distorted
SHARPEST_SHEAR_DEG = 25.0  # vectors closer in direction than this make a row of fringes, not a lattice


class NoLatticeError(ValueError):
    """The image shows no lattice that can be analysed; the message says why in words for a microscopist."""


class TooLongError(NoLatticeError):
    """By the header's pixel size the repeats are too long for atomic columns (`not_atomic`)."""


@dataclass(frozen=True)
class Lattice:
    """A lattice seen in the Fourier peaks of an image.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        Reduced right-handed vectors as rows, (row, col) [px].
    peaks : ndarray of shape (n, 2)
        Frequencies of the peaks that belong to it, (row, col) [cycles/px].
    powers : ndarray of shape (n,)
        Power of these peaks over the local background.
    explained : float
        Part of all peaks, weighted by the logarithm of their power, that belongs to it.
    """

    vectors_px: Array
    peaks: Array
    powers: Array
    explained: float

    @property
    def reciprocal(self) -> Array:
        """Reciprocal vectors as rows [cycles/px]: `vectors_px @ reciprocal.T` is the identity."""
        return np.asarray(np.linalg.inv(self.vectors_px).T)


def describe(vectors: Array) -> tuple[float, float, float]:
    """Lengths of a and b and the angle between them [deg]."""
    a, b = np.hypot(*vectors[0]), np.hypot(*vectors[1])
    cosine = np.clip(vectors[0] @ vectors[1] / (a * b), -1, 1)
    return float(a), float(b), float(np.degrees(np.arccos(cosine)))


def reduced(vectors: Array) -> Array:
    """Shortest right-handed basis of the same lattice (Lagrange-Gauss reduction); shape (2, 2)."""
    a, b = np.array(vectors[0], dtype=float), np.array(vectors[1], dtype=float)
    for _ in range(100):
        if a @ a > b @ b:
            a, b = b, a
        steps = np.rint(a @ b / max(a @ a, 1e-300))
        if steps == 0:
            break
        b = b - steps * a
    if a[0] * b[1] - a[1] * b[0] < 0:
        b = -b
    return np.array([a, b])


def flattened(image: Float, sigma_px: float) -> Float:
    """Relative deviation of an image from its slowly varying mean, clipped where it is far out of range."""
    mean = slow_mean(image, sigma_px)
    floor = max(float(np.abs(mean).mean()) * 0.05, 1e-20)
    deviation = (image - mean) / np.maximum(mean, floor)
    some = deviation[::3, ::3].ravel()
    middle = float(median(some))
    spread = 1.4826 * float(median(np.abs(some - middle)))
    limit = 8.0 * max(spread, 0.25 * float(deviation.std()))
    return np.asarray(np.clip(deviation, middle - limit, middle + limit), dtype=np.float32)


def _block_starts(length: int, block: int, most: int) -> list[int]:
    if length <= block:
        return [0]
    count = min(most, -(-length // block))
    return [round(i * (length - block) / (count - 1)) if count > 1 else (length - block) // 2 for i in range(count)]


def blocks_of(shape: tuple[int, int], block_px: int) -> list[tuple[slice, slice]]:
    """Blocks of about `block_px` spread over an image; one block when the image is not much larger."""
    block = [n if n <= 1.5 * block_px else block_px for n in shape]
    most = int(np.sqrt(MAX_BLOCKS))
    return [
        (slice(r, r + block[0]), slice(c, c + block[1]))
        for r in _block_starts(shape[0], block[0], most)
        for c in _block_starts(shape[1], block[1], most)
    ]


@dataclass(frozen=True)
class Spectrum:
    """Power over background, and plain, in the half plane col >= 0, rows from -`centre` on; steps in cycles/px."""

    power: Float
    plain: Float
    centre: int
    step: tuple[float, float]

    def frequency(self, index: Array) -> Array:
        """Frequencies (n, 2) [cycles/px] of places (n, 2) in `power`."""
        return np.asarray((index - np.array([self.centre, 0.0])) * np.array(self.step))


@lru_cache(maxsize=1)
def _window(rows: int, cols: int) -> Float:
    """Hann window of a block; blocks of one size follow each other."""
    return np.outer(np.hanning(rows + 2)[1:-1], np.hanning(cols + 2)[1:-1]).astype(np.float32)


def whitened_spectrum(image: Float) -> Spectrum:
    """Power spectrum of a block (Hann window) over its local background.

    The background is the larger of two medians: over a small neighbourhood, and along the row frequency, because
    row jitter smears every peak into a streak in that direction.
    """
    rows, cols = image.shape
    window = _window(rows, cols)
    flat = flattened(image, max(min(rows, cols) / 12, 12.0))
    flat = (flat - flat.mean()) * window
    size = scipy.fft.next_fast_len(rows, real=True), scipy.fft.next_fast_len(cols, real=True)
    centre, last = int(LARGEST_FREQUENCY * size[0]), int(LARGEST_FREQUENCY * size[1])
    spectrum = scipy.fft.fft(scipy.fft.rfft(flat, size[1])[:, : last + 1], size[0], axis=0)
    half = np.concatenate([spectrum[-centre:], spectrum[: centre + 1]])
    power = (half.real**2 + half.imag**2).astype(np.float32)
    around = running_median(power[::2, ::2], 9, 9)
    streak = np.asarray(ndimage.uniform_filter1d(running_median(power[::4].T, 1, 17), 3, axis=0), dtype=np.float32).T
    around = np.repeat(np.repeat(around, 2, 0), 2, 1)[: power.shape[0], : power.shape[1]]
    background = np.maximum(around, np.repeat(streak, 4, 0)[: power.shape[0]]) / np.float32(np.log(2))
    background += np.float32(1e-6) * power.max() + np.float32(1e-30)  # side lobes of the window are no peaks
    step = (1 / size[0], 1 / size[1])
    return Spectrum(power / background, power, centre, step)


def spectrum_peaks(spectrum: Spectrum, threshold: float) -> tuple[Array, Array]:
    """Peaks of a whitened spectrum, strongest first: frequencies (n, 2) [cycles/px] and powers (n,)."""
    power = spectrum.power
    index = np.argwhere(power > threshold)
    index = index[(index[:, 0] > 1) & (index[:, 0] < power.shape[0] - 2) & (index[:, 1] < power.shape[1] - 2)]
    reach = np.arange(-3, 4)
    rows, cols = (np.clip(at[:, None] + reach, 0, n - 1) for at, n in zip(index.T, power.shape, strict=True))
    highest = power[rows[:, :, None], cols[:, None, :]].max(axis=(1, 2))
    index = index[power[index[:, 0], index[:, 1]] == highest]
    frequencies, powers, plain = [], [], []
    for r, c in index:
        low = max(c - 2, 0)
        near = power[r - 2 : r + 3, low : c + 3].astype(float)
        weight = near * (near > 0.1 * near.max())
        rr, cc = np.mgrid[r - 2 : r + 3, low : c + 3]
        place = np.array([(rr * weight).sum(), (cc * weight).sum()]) / weight.sum()
        frequency = spectrum.frequency(place)
        if 1 / LARGEST_PERIOD_PX < np.hypot(*frequency) < LARGEST_FREQUENCY:
            frequencies.append(frequency)
            powers.append(float(near.max()))
            plain.append(float(spectrum.plain[r, c]))
    kept = np.array(plain) > WEAKEST_PEAK * max(plain, default=0.0)
    found, strength = np.array(frequencies).reshape(-1, 2)[kept], np.array(powers)[kept]
    order = np.argsort(strength)[::-1]
    return found[order], strength[order]


def _indexed(peaks: Array, basis: Array, tolerance: float) -> npt.NDArray[np.bool_]:
    index = peaks @ np.linalg.inv(basis)
    away = (index - np.rint(index)) @ basis
    return np.asarray((np.hypot(away[:, 0], away[:, 1]) < tolerance) & (np.abs(np.rint(index)).sum(1) > 0))


def _fit_basis(peaks: Array, powers: Array, basis: Array, tolerance: float) -> Array:
    for _ in range(3):
        hit = _indexed(peaks, basis, tolerance)
        index = np.rint(peaks[hit] @ np.linalg.inv(basis))
        weight = np.sqrt(np.log(powers[hit]))[:, None]
        if np.linalg.matrix_rank(index) < 2:
            return basis
        basis = np.linalg.lstsq(index * weight, peaks[hit] * weight, rcond=None)[0]
    return basis


def _strongest_area(peaks: Array) -> float:
    """Area spanned by the strongest peak and the next one in another direction [1/px^2]; 0 when there is none."""
    for other in peaks[1:]:
        area = abs(float(peaks[0, 0] * other[1] - peaks[0, 1] * other[0]))
        if area > np.sin(np.deg2rad(SHARPEST_SHEAR_DEG)) * np.hypot(*peaks[0]) * np.hypot(*other):
            return area
    return 0.0


def lattice_of_peaks(peaks: Array, powers: Array, resolution: float) -> Lattice | None:
    """The coarsest reciprocal lattice that holds nearly all peaks.

    Parameters
    ----------
    peaks : ndarray of shape (n, 2)
        Frequencies [cycles/px], strongest first.
    powers : ndarray of shape (n,)
        Power over background.
    resolution : float
        Width of one spectrum pixel [cycles/px].

    Returns
    -------
    Lattice or None
        None when the peaks do not span two directions.
    """
    peaks, powers = peaks[:40], powers[:40]
    weight = np.log(powers)
    found: list[tuple[float, float, Array]] = []
    for i, j in combinations(range(min(len(peaks), 12)), 2):
        if abs(peaks[i, 0] * peaks[j, 1] - peaks[i, 1] * peaks[j, 0]) < resolution**2:
            continue
        basis = reduced(np.array([peaks[i], peaks[j]]))
        short, long, angle = describe(basis)
        if min(angle, 180 - angle) < SHARPEST_SHEAR_DEG or long > 5 * short or short < 1 / LARGEST_PERIOD_PX:
            continue
        tolerance = max(1.6 * resolution, 0.05 * short)
        hit = _indexed(peaks, basis, tolerance)
        chance = min(np.pi * tolerance**2 / abs(np.linalg.det(basis)), 1.0)
        found.append((float((weight * (hit - chance)).sum()), abs(float(np.linalg.det(basis))), basis))
    if not found:
        return None
    strongest = _strongest_area(peaks)
    kept = [entry for entry in found if entry[1] > 0.9 * strongest / LARGEST_INDEX]
    found = kept or found
    best = max(score for score, _, _ in found)
    _, _, basis = max((entry for entry in found if entry[0] >= 0.93 * best), key=lambda entry: entry[1])
    tolerance = max(1.6 * resolution, 0.05 * float(np.hypot(*basis[0])))
    basis = reduced(_fit_basis(peaks, powers, basis, tolerance))
    hit = _indexed(peaks, basis, tolerance)
    index = np.rint(peaks[hit] @ np.linalg.inv(basis))
    if hit.sum() < 2 or np.linalg.matrix_rank(index) < 2:
        return None
    vectors = reduced(np.asarray(np.linalg.inv(basis).T, dtype=np.float64))
    return Lattice(vectors, peaks[hit], powers[hit], float(weight[hit].sum() / weight.sum()))


def _mean_spectrum(image: Float, blocks: list[tuple[slice, slice]]) -> Spectrum:
    spectra = [whitened_spectrum(finite(image[block])) for block in blocks]
    power = np.asarray(np.mean([s.power for s in spectra], axis=0), dtype=np.float32)
    plain = np.asarray(np.mean([s.plain for s in spectra], axis=0), dtype=np.float32)
    return Spectrum(power, plain, spectra[0].centre, spectra[0].step)


def _threshold(blocks: int) -> float:
    """Power that noise exceeds about once in 1e6 spectra when `blocks` whitened spectra are averaged."""
    return float(1.0 + (PEAK_POWER - 1.0) / np.sqrt(blocks))


def find_lattice(image: Float) -> Lattice:
    """The primitive lattice of an image, found without a crystal.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray.

    Returns
    -------
    Lattice

    Raises
    ------
    NoLatticeError
        With a sentence that says what was seen instead.
    """
    rows, cols = image.shape
    if min(rows, cols) < 64:
        raise NoLatticeError(f"no lattice: the image has {rows} x {cols} px; at least 64 x 64 px are needed")
    tries = [blocks_of((rows, cols), BLOCK_PX)]
    if len(tries[0]) > 1:
        tries += [[block] for block in tries[0]]
    if min(rows, cols) >= 512:
        tries += [[block] for block in blocks_of((rows, cols), max(min(rows, cols) // 4, 256))]
    found: list[Lattice] = []
    reasons: list[str] = []
    for number, blocks in enumerate(tries):
        spectrum = _mean_spectrum(image, blocks)
        peaks, powers = spectrum_peaks(spectrum, _threshold(len(blocks)))
        lattice = lattice_of_peaks(peaks, powers, max(spectrum.step)) if len(peaks) >= 2 else None
        reason = refusal(lattice, peaks)
        if lattice is not None and not reason:
            found.append(lattice)
            if number == 0:
                break
        reasons.append(reason)
    if not found:
        raise NoLatticeError(reasons[0])
    return max(found, key=lambda lattice: float(np.log(lattice.powers).sum()))


def refusal(lattice: Lattice | None, peaks: Array) -> str:
    """Why the peaks of an image make no lattice that can be analysed; empty when they do."""
    if not len(peaks):
        return (
            "no lattice: the Fourier transform shows no peaks (vacuum, amorphous, out of focus, too noisy, no crystal)"
        )
    if lattice is None:
        period = 1 / float(np.hypot(*peaks[0]))
        return f"no lattice: fringes in one direction only (period {period:.1f} px); columns need two directions"
    a, b, _ = describe(lattice.vectors_px)
    if min(a, b) < SMALLEST_PERIOD_PX:
        return (
            f"no lattice: the repeats are {a:.1f} x {b:.1f} px, too few pixels to resolve columns "
            "(moiré fringes or too low a magnification); at least 8 px a cell are needed"
        )
    if max(a, b) > LONGEST_ASPECT * min(a, b) and min(a, b) > 1 / np.hypot(*peaks.T).min():
        return "no lattice: what the Fourier transform shows repeats in no two directions (a photograph, steps or text)"
    if max(a, b) > LONGEST_ASPECT * min(a, b):
        return (
            f"no lattice: the repeats are {a:.1f} x {b:.1f} px; fringes with a weak second period "
            "(moiré, layers or scan interference) are not resolved columns"
        )
    if lattice.explained < 0.4:
        return (
            f"no lattice: the Fourier peaks do not belong to one lattice (the best explains {lattice.explained:.0%}; "
            "several grains, two lattices on the same place (moiré), or not a crystal)"
        )
    return ""


def not_atomic(vectors_px: Array, pixel_nm: tuple[float, float] | None, largest_nm: float) -> str:
    """Why, by the header's pixel size, a lattice cannot be one of atomic columns; empty when it can."""
    if pixel_nm is None:
        return ""
    a, b, _ = describe(vectors_px)
    a_nm, b_nm, _ = describe(vectors_px * np.array(pixel_nm))
    if np.sqrt(a_nm * b_nm) <= largest_nm:
        return ""
    size = 1000 * float(np.sqrt(pixel_nm[0] * pixel_nm[1]))
    return (
        f"no lattice: the repeats are {a:.1f} x {b:.1f} px, which is {a_nm:.2f} x {b_nm:.2f} nm by the header "
        f"({size:.0f} pm/px): too long for atomic columns, so moiré fringes or a superstructure at too low a "
        "magnification, or a wrong header"
    )


@dataclass(frozen=True)
class Match:
    """A cell of a crystal laid on a primitive lattice.

    Attributes
    ----------
    crystal : Crystal
    cell : ndarray of shape (2, 2), int
        The crystal's a and b as rows, in whole steps of the primitive vectors.
    scale_nm : float
        Pixel size that gives the cell its area [nm].
    stretch : float
        Ratio of the principal stretches between crystal and image, at least 1.
    """

    crystal: Crystal
    cell: npt.NDArray[np.int64]
    scale_nm: float
    stretch: float


def stretch_of(crystal: Crystal, vectors: Array) -> tuple[float, float]:
    """Scale [nm per unit of `vectors`] and ratio of principal stretches between a crystal's cell and `vectors`."""
    deformation = np.linalg.inv(crystal.vectors_nm) @ vectors
    large, small = np.linalg.svd(deformation, compute_uv=False)
    return float(1 / np.sqrt(large * small)), float(large / small)


def matches(
    primitive_px: Array,
    crystal: Crystal,
    pixel_nm: tuple[float, float] | None,
    length_tolerance: float,
    strain_tolerance: float,
    largest_index: int = 4,
) -> list[Match]:
    """All right-handed cells on a lattice whose shape, and with a header size, fit a crystal's.

    Weak reflections may be missing from the spectrum, so the crystal's cell may hold up to `largest_index` primitive
    cells. All orientations of the cell are listed; the content decides between them.
    """
    measured = primitive_px * np.array(pixel_nm) if pixel_nm is not None else primitive_px
    reach = 4
    steps = np.array([(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1) if i or j])
    first, second = (part.reshape(-1, 2) for part in np.broadcast_arrays(steps[:, None], steps[None]))
    cells = np.stack([first, second], axis=1)
    area = cells[:, 0, 0] * cells[:, 1, 1] - cells[:, 0, 1] * cells[:, 1, 0]
    cells = cells[(area >= 1) & (area <= largest_index)]
    deformations = np.linalg.inv(crystal.vectors_nm) @ (cells @ measured)
    large, small = np.linalg.svd(deformations, compute_uv=False).T
    fits = large / small <= (1 + strain_tolerance) ** 2
    if pixel_nm is not None:
        fits &= np.abs(np.log(large * small)) <= 2 * np.log1p(length_tolerance)
    scales = np.sqrt(crystal.area_nm2 / np.abs(np.linalg.det(cells[fits] @ primitive_px)))
    stretches = (large / small)[fits]
    return [
        Match(crystal, cell, float(scale), float(stretch))
        for cell, scale, stretch in zip(cells[fits], scales, stretches, strict=True)
    ]
