"""Multislice of a scanning probe through the scattering matrix of a periodic cell.

The plane waves of the probe's aperture are sent through the specimen one by one. What an annular detector collects is
then, at every probe position at once, a Fourier series whose coefficients follow from the overlaps of the exit waves
on the detector: no scan is computed, and the image is exact between the pixels.

Source: scattering matrix, Ophus, Adv. Struct. Chem. Imaging 3 (2017) 13, doi:10.1186/s40679-017-0046-1;
multislice, Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. (2010), ch. 6.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from oddlattice.simulate.optics import interaction_per_volt_angstrom, wavelength_angstrom

BANDWIDTH = 2 / 3  # part of the grid's band that is kept, so that products of waves and potentials do not fold over
BATCH = 2  # beams sent through together: two waves and a slice stay in the cache, more do not


@dataclass(frozen=True)
class Optics:
    """Microscope and grid of one multislice calculation on a rectangular periodic cell.

    Attributes
    ----------
    kv : float
        Acceleration voltage [kV].
    convergence_mrad : float
        Semi-angle of the probe-forming aperture [mrad].
    detector_mrad : tuple of float
        Inner and outer angle of the annular detector [mrad]; the grid's band may cut it, see `reach_mrad`.
    extent_angstrom : tuple of float
        Sides of the periodic cell, along (row, col) [Å].
    grid_px : tuple of int
        Pixels along (row, col).
    slice_angstrom : float
        Thickness of a slice [Å].
    """

    kv: float
    convergence_mrad: float
    detector_mrad: tuple[float, float]
    extent_angstrom: tuple[float, float]
    grid_px: tuple[int, int]
    slice_angstrom: float

    @property
    def mrad_per_index(self) -> npt.NDArray[np.float64]:
        """Scattering angle between neighbouring Fourier components along (row, col) [mrad]."""
        return 1e3 * wavelength_angstrom(self.kv) / np.array(self.extent_angstrom)

    @property
    def reach_mrad(self) -> float:
        """Largest scattering angle the grid holds [mrad]."""
        return float(BANDWIDTH * (np.array(self.grid_px) / 2 * self.mrad_per_index).min())

    def indices(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Fourier indices along row and along col, each of shape `grid_px`."""
        rows, cols = (np.rint(np.fft.fftfreq(n, 1 / n)).astype(np.int64) for n in self.grid_px)
        along_row, along_col = np.meshgrid(rows, cols, indexing="ij")
        return along_row, along_col

    def angles_mrad(self) -> npt.NDArray[np.float64]:
        """Scattering angle of every Fourier component [mrad], shape `grid_px`."""
        along_row, along_col = self.indices()
        per_row, per_col = self.mrad_per_index
        return np.asarray(np.hypot(along_row * per_row, along_col * per_col))

    def detector(self) -> npt.NDArray[np.bool_]:
        """Fourier components that the detector collects, shape `grid_px`."""
        angle = self.angles_mrad()
        outer = min(self.detector_mrad[1], self.reach_mrad)
        return np.asarray((angle >= self.detector_mrad[0]) & (angle < outer))

    def beams(self) -> npt.NDArray[np.int64]:
        """Fourier indices (row, col) of the plane waves in the aperture, shape (beams, 2)."""
        inside = self.angles_mrad() <= self.convergence_mrad
        along_row, along_col = self.indices()
        return np.stack([along_row[inside], along_col[inside]], axis=-1)


def transmissions(potential_volt_angstrom: npt.NDArray[np.float32], optics: Optics) -> torch.Tensor:
    """Transmission functions exp(i sigma V) of slices, band-limited; shape (slices, N, N), complex64."""
    phase = torch.from_numpy(potential_volt_angstrom * np.float32(interaction_per_volt_angstrom(optics.kv)))
    band = torch.from_numpy(optics.angles_mrad() < optics.reach_mrad)
    limited: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(torch.polar(torch.ones_like(phase), phase)) * band)
    return limited


def propagator(optics: Optics) -> torch.Tensor:
    """Fresnel propagator over one slice in Fourier space, band-limited; shape (N, N), complex64."""
    k2 = (optics.angles_mrad() / 1e3 / wavelength_angstrom(optics.kv)) ** 2
    phase = -np.pi * wavelength_angstrom(optics.kv) * optics.slice_angstrom * k2
    kept = optics.angles_mrad() < optics.reach_mrad
    return torch.from_numpy((np.exp(1j * phase) * kept).astype(np.complex64))


def plane_waves(optics: Optics) -> torch.Tensor:
    """Plane waves of the aperture at the entrance, shape (beams, N, N), complex64, unit amplitude."""
    row, col = (
        np.exp(2j * np.pi * index[:, None] * np.arange(n) / n)
        for index, n in zip(optics.beams().T, optics.grid_px, strict=True)
    )
    return torch.from_numpy((row[:, :, None] * col[:, None, :]).astype(np.complex64))


def send_through(
    waves: torch.Tensor,
    slices: torch.Tensor,
    optics: Optics,
    first: int,
    exits: Sequence[int],
    keep: Collection[int] = (),
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Send waves through slices `first` and following.

    Parameters
    ----------
    waves : Tensor of shape (beams, N, N)
        Waves in front of slice `first`; left unchanged.
    slices : Tensor of shape (slices, N, N)
        Transmission functions of the whole specimen.
    optics : Optics
    first : int
        Index of the first slice to pass.
    exits : sequence of int
        Numbers of slices after which the exit waves are wanted; those up to `first` are left out.
    keep : collection of int
        Indices of slices in front of which the waves are kept.

    Returns
    -------
    exit_waves : dict of int to Tensor of shape (beams, detector components)
        Fourier components on the detector, normalised to a unit incident wave.
    kept : dict of int to Tensor of shape (beams, N, N)
    """
    forward = propagator(optics)
    on_detector = torch.from_numpy(optics.detector())
    wanted = [number for number in exits if number > first]
    exit_waves = {n: torch.empty(len(waves), int(on_detector.sum()), dtype=torch.complex64) for n in wanted}
    kept = {index: torch.empty_like(waves) for index in keep}
    last = max(wanted, default=first)
    for start in range(0, len(waves), BATCH):
        part = slice(start, start + BATCH)
        here = waves[part]
        for index in range(first, last):
            if index in kept:
                kept[index][part] = here
            spectrum = torch.fft.fft2(here * slices[index]) * forward
            if index + 1 in exit_waves:
                exit_waves[index + 1][part] = spectrum[:, on_detector] / spectrum[0].numel()
            here = torch.fft.ifft2(spectrum)
    return exit_waves, kept


def annular_image(exit_waves: torch.Tensor, optics: Optics, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Image of an annular detector over the whole cell, of a given shape, as a fraction of the beam.

    The probe is free of aberrations; pixel (i, j) is the probe at (i / rows, j / cols) of the cell. With M the overlap
    of the exit waves of beams h and h' on the detector, the Fourier coefficient at g is the sum of M over h' - h = g.

    Raises
    ------
    ValueError
        If `shape` is too small to hold the image's band.
    """
    beams = optics.beams()
    widest = 4 * np.abs(beams).max(axis=0)
    if (np.array(shape) <= widest).any():
        raise ValueError(f"shape {shape}: the image's band needs more than {widest.tolist()} px")
    overlap = (exit_waves @ exit_waves.conj().T).numpy().astype(np.complex128) / len(beams)  # [h, h']
    steps = (beams[None, :, :] - beams[:, None, :]) % np.array(shape)
    coefficients = np.zeros(shape, dtype=np.complex128)
    np.add.at(coefficients, (steps[..., 0], steps[..., 1]), overlap)
    return np.asarray(np.fft.ifft2(coefficients, norm="forward").real)
