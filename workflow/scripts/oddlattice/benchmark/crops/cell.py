"""The periodic cell that all crops of a crystal share, how a crop lies on it, and the crop as the cell has it.

Every crop of a periodic crystal is a shifted copy of one periodic cell. Places are (row, col) in pixels about the
middle of the crop; phases (u, v) are fractions of the lattice vectors.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates

from oddlattice.benchmark.crops.vectors import pixel_places
from oddlattice.numerics.arrays import Array, Float

FINE = 96  # grid on which the cell is kept


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


def plane_of(side: int) -> Array:
    """1, row and col of every pixel of a crop, from -1 to 1; shape (side * side, 3)."""
    places = pixel_places(side)
    return np.concatenate([np.ones((len(places), 1)), places / (side / 2)], axis=1)


def displacement_px(fit: Fit) -> Array:
    """By how much (row, col) every pixel is moved [px]; shape (n, 2, side * side)."""
    side = fit.row_shift_px.shape[1]
    plane = plane_of(side)
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
    plane = plane_of(side)
    out = fit.ground @ plane.T + (fit.brightness @ plane.T) * value
    return np.asarray(out.reshape(-1, side, side), dtype=np.float32)


def turned(cell: Cell) -> Cell:
    """The cell as crops show it whose rows and columns are exchanged."""
    prior = cell.prior[[1, 0, 5, 4, 3, 2, 6, 8, 7, 9, 11, 10, 12]]
    return replace(cell, vectors_px=cell.vectors_px[:, ::-1].copy(), prior=prior)
