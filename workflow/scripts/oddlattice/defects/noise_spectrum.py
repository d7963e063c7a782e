"""Noise of a scan told by its spectrum: how strong it is, and whether the image was denoised, filtered or enlarged.

Every pixel of a scan counts its own electrons, so the noise has power at every frequency. Detectors smear it along the
lines; across them every line has its own. What was denoised, smoothed, enlarged or resampled between pixels has less at
the highest frequencies, in both directions. A median leaves its power, but neighbours that are the same to the digit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from oddlattice.lattice.spoilt import without_overlay
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.compiled import compiled
from oddlattice.numerics.local_plane import finite

SIDE_PX = 1024  # of the part in the middle that is looked at
LOWEST, HIGHEST, STEP = 0.25, 0.5, 0.05  # frequencies [cycles/px]: where columns hardly reach, up to the highest
LEAST_PART = 0.65  # noise that falls below so much of itself was smoothed; 0.77 to 0.97 in 20 scans as taken
REACHES = 1000.0  # a reflection so far over the median: columns reach over LOWEST, and what jitter makes of them, too
LEAST_PART_BEYOND = 0.15  # is then all that can be asked for
FLAT = 1.12  # columns, too, reach over LOWEST where they are sharp: then a floor is reached at last, in a direction
TIES, TIES_OFF = 0.03, 4  # neighbours that are the same, beyond what steps make; pixels that are no neighbours [px]
STRONGEST_SIGNAL = 1e6  # variance of an image over that of its noise; beyond it no counting comes
ROUNDING = 1.5  # of the variance that rounding to the file's steps makes; noise below it is not seen
LEAST_STEPS = 2.0  # mean in steps from which on rounding can hide noise: fewer are single electrons


@dataclass(frozen=True)
class NoiseSpectrum:
    """What a scan's spectrum says of its noise.

    Attributes
    ----------
    variance : float
        Of white noise as strong as that at the highest frequencies [counts^2].
    objection : str
        Why the noise is not that of counting; "" where it may be.
    """

    variance: float
    objection: str


def floors(image: Array) -> tuple[Array, float]:
    """Power of noise in steps of frequency from LOWEST to HIGHEST, along rows and along columns; shape (2, steps).

    A median leaves reflections out. With them, how far the strongest one beyond LOWEST stands over the noise there.

    Parameters
    ----------
    image : ndarray of shape (rows, cols)
        Counts.
    """
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in image.shape))
    spectrum = scipy.fft.rfft2((image - image.mean()) * window)
    power = (spectrum.real**2 + spectrum.imag**2) / (window**2).sum()
    row, col = np.abs(np.fft.fftfreq(image.shape[0]))[:, None], np.fft.rfftfreq(image.shape[1])[None, :]
    frequency = np.hypot(row, col)
    step = ((frequency - LOWEST) / STEP).astype(int)
    number = round((HIGHEST - LOWEST) / STEP)
    sectors = [4 * col < row, 4 * row < col]  # narrow: a detector smears along lines, and across them not at all
    known = frequency >= LOWEST
    found = [[np.median(power[s & known & (step == k)]) for k in range(number)] for s in sectors]
    beyond = power[known & (frequency < HIGHEST)]
    strongest = float(beyond.max() / max(float(np.median(beyond)), 1e-300))
    return np.asarray(np.array(found) / np.log(2), dtype=np.float64), strongest


def step_of(values: Array) -> float:
    """Steps in which the values of an image are told; 0 where they are not in steps."""
    several = np.unique(values[:: max(values.shape[0] // 64, 1)])
    steps = np.diff(several)
    least = float(steps.min(initial=np.inf))
    whole = np.isfinite(least) and np.allclose(steps / least, np.rint(steps / least), atol=1e-3)
    return least if whole else 0.0


def ties(image: Array, step: float) -> float:
    """Part of the neighbours that have the same value, beyond what chance makes where values are told in `step`.

    Chance is the larger of what pixels TIES_OFF apart show, and of neighbours that differ by one step. What is blank or
    saturated does not count. The direction that shows less counts: detectors smear along lines.
    """
    beyond = []
    for lines in (np.ascontiguousarray(image), np.ascontiguousarray(image.T)):
        same, apart, stepped = _alike(lines, image.min(), image.max(), step)
        beyond.append(same - max(2 * apart, 0.75 * stepped))
    return min(beyond)


@compiled("UniTuple(float64, 3)(float64[:, ::1], float64, float64, float64)")
def _alike(image: Array, lowest: float, highest: float, step: float) -> tuple[float, float, float]:
    """Part of neighbouring lines' pixels that are the same, of lines TIES_OFF apart, and of neighbours a step apart."""
    found = np.zeros(3)
    for case in range(3):
        apart, by = (TIES_OFF, 0.0) if case == 1 else (1, 0.0 if case == 0 else step)
        seen, alike = 0, 0
        for row in range(len(image) - apart):
            for col in range(image.shape[1]):
                here, there = image[row, col], image[row + apart, col]
                if lowest < here < highest and lowest < there < highest:
                    seen += 1
                    alike += abs(abs(there - here) - by) <= 1e-3 * step
        if seen and (step or case < 2):
            found[case] = alike / seen
    return found[0], found[1], found[2]


def noise_spectrum(image: Any) -> NoiseSpectrum:
    """Noise of a scan, by the part in its middle.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray.
    """
    part = tuple(slice(max(n - SIDE_PX, 0) // 2, max(n - SIDE_PX, 0) // 2 + SIDE_PX) for n in image.shape)
    seen = without_overlay(finite(image[part]))
    middle = np.nan_to_num(seen, nan=float(np.nanmedian(seen))).astype(np.float64)
    found, strongest = floors(middle)
    variance = float(found[:, -1].min())
    least = LEAST_PART if strongest < REACHES else LEAST_PART_BEYOND
    return NoiseSpectrum(variance, _objection(middle, found, variance, least))


def _objection(image: Array, found: Array, variance: float, least: float) -> str:
    """Why noise with these floors is not that of counting; `least` of itself must be left at high frequencies."""
    left = (found.min(1) / np.maximum(found.max(1), 1e-300)).max()
    at_last = (found / np.maximum(found[:, -1:], 1e-300))[:, -3:]  # a filter falls in both directions
    is_flat = bool(((at_last < FLAT) & (at_last > 1 / FLAT)).all(1).any())
    step = step_of(image)
    if left < least and not is_flat:
        part = f"{left:.1%}" if left >= 0.001 else "less than 0.1%"
        return f"at high frequencies {part} of its noise is left, in rows and columns"
    if (same := ties(image, step)) > TIES:
        return f"{same:.0%} more neighbouring pixels are the same than chance makes, as a median leaves them"
    if variance * STRONGEST_SIGNAL < image.var():
        return f"its noise is {np.sqrt(variance / max(float(image.var()), 1e-300)):.1g} of its contrast"
    if step and image.mean() > LEAST_STEPS * step and variance < ROUNDING * step**2 / 12:
        return "its noise is no more than the rounding of its values"
    return ""
