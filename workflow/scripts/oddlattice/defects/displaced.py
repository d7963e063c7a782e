"""One question for a column that moved: its displacement, and how it seems to be broadened along it.

A column that moved far reads as one that moved less, is lower and wider along its way: a half of the squared
displacement times its second derivative. Both readings are asked together: how much more likely they are of a column
moved by any length than of bulk. Source: the likelihood ratio of a curved hypothesis, Efron 1978,
doi:10.1214/aos/1176344130; its tail is integrated over the readings of bulk.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from oddlattice.defects.kernels import Kernel, moved_peak
from oddlattice.lattice.columns import ColumnShape
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.compiled import compiled

LENGTHS_PM = np.arange(0.0, 160.0, 4.0)  # displacements whose readings are told
READ = 0.4 * 1.12 ** np.arange(41)  # displacements read by which it is asked [standard deviations], 0.4 to 37
WAYS = 4  # of displacements
RATIOS = np.linspace(0.0, 80.0, 41)  # of which the tail is tabulated; beyond it falls as that of chi-square
BENDS = np.arange(-13.0, 13.05, 0.1)  # of bulk's bends, over which it is integrated [standard deviations]


def bends_along(found: Array, shift_pm: Array, bend: Array) -> Array:
    """What columns hold of their second derivative along their displacements [standard deviations of noise alone].

    Parameters
    ----------
    found : ndarray of shape (..., 3)
        The last three readings of a `Kernel`.
    shift_pm : ndarray of shape (..., 2)
    bend : ndarray of shape (3, 3)
        Their covariance.
    """
    row, col = np.moveaxis(shift_pm / np.maximum(np.hypot(*np.moveaxis(shift_pm, -1, 0)), 1e-9)[..., None], -1, 0)
    form = np.stack([row**2, 2 * row * col, col**2], axis=-1)
    variance = np.einsum("...i,ij,...j->...", form, bend, form)
    return np.asarray((form * found).sum(axis=-1) / np.sqrt(np.maximum(variance, 1e-300)))


def readings_of_moved(shape: ColumnShape, kernel: Kernel, vectors_pm: Array, response: tuple[float, float]) -> Array:
    """What columns read that moved by LENGTHS_PM: bend along it (`bends_along`), displacement [pm]; shape (k, 2).

    Only up to the length that reads as the longest: a column that moved farther is gone.
    """
    angle = 2 * np.pi * (np.arange(WAYS) + 0.5) / WAYS
    way = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    windows = moved_peak(shape, 0.0, LENGTHS_PM[:, None, None] * way, vectors_pm, 0, response)
    read = windows.reshape(len(LENGTHS_PM), WAYS, -1) @ kernel.weights.T
    along = (read[..., 1:3] * way).sum(axis=-1).mean(axis=1)
    bent = bends_along(read[..., 3:], np.broadcast_to(way, (*read.shape[:2], 2)), kernel.bend).mean(axis=1)
    longest = int(np.argmax(along)) + 1
    return np.stack([bent, along], axis=-1)[:longest]


@compiled("float64[::1](float64[::1], float64[::1], float64[::1], float64[::1])")
def _best_ratios(bent: Array, distance: Array, of_bent: Array, of_distance: Array) -> Array:
    """Twice the logarithm of the best likelihood ratio of each of n readings over some lengths (k,); never below 0."""
    best = np.zeros(len(bent))
    for i in range(len(bent)):
        for k in range(len(of_bent)):
            a, b = of_bent[k], of_distance[k]
            best[i] = max(best[i], 2 * (bent[i] * a + distance[i] * b) - a * a - b * b)
    return best


@compiled("float64[:, ::1](float64[::1], float64[::1])")
def _tails(of_bent: Array, of_distance: Array) -> Array:
    """Part of bulk with each of BENDS (bends,) whose likelihood ratio is above each of RATIOS; shape (ratios, bends).

    Bulk of one bend is as likely to have moved by one of some lengths (k,) where it lies farther away than a distance.
    """
    found, least = np.empty((len(RATIOS), len(BENDS))), np.empty(len(BENDS))
    for i in range(len(RATIOS)):
        least[:] = np.inf
        for k in range(len(of_bent)):
            a, b = of_bent[k], of_distance[k]
            start, slope = (RATIOS[i] + a * a + b * b) / (2 * b), a / b
            for j in range(len(BENDS)):
                least[j] = min(least[j], start - slope * BENDS[j])
        for j in range(len(BENDS)):
            found[i, j] = np.exp(-(max(least[j], 0.0) ** 2) / 2)
    return found


@dataclass(frozen=True)
class Moved:
    """The readings of moved columns, in the standard deviations of bulk.

    Attributes
    ----------
    bent : ndarray of shape (k,)
    distance : ndarray of shape (k,)
    """

    bent: Array
    distance: Array

    @classmethod
    def of(cls, readings: Array, spread: float, spread_pm: float) -> Self:
        """From `readings_of_moved` (m, 2) and the standard deviations of bulk's bends and displacement."""
        distance = READ[max(readings[-1, 1] / spread_pm, READ[1]) >= READ]
        return cls(np.interp(distance, readings[:, 1] / spread_pm, readings[:, 0] / spread), distance)

    def p_values(self, bent: Array, distance: Array) -> Array:
        """Of bulk, as likely as (n,) columns with these readings, or likelier, to have moved; shape (n,).

        Parameters
        ----------
        bent, distance : ndarray of shape (n,)
            Of bulk standard normal, and the distance of a standard normal in two dimensions.
        """
        best = _best_ratios(*(np.ascontiguousarray(x) for x in (bent, distance, self.bent, self.distance)))
        beyond = np.maximum(best - RATIOS[-1], 0.0)
        return np.asarray(np.exp(np.interp(best, RATIOS, self._log_tail) - beyond / 2))

    @cached_property
    def _log_tail(self) -> Array:
        """Logarithm of the part of bulk with likelihood ratios above RATIOS; the first is that of no ratio at all."""
        density = np.exp(-(BENDS**2) / 2)
        part = _tails(self.bent, self.distance) @ (density / density.sum())
        part[0] = 1.0
        return np.asarray(np.log(np.maximum(part, 1e-300)))
