"""Where in an image's mean cell the crystal's origin lies.

The mean cell is compared with the crystal's cell rendered from its columns (Z^1.7 weights, one fitted blur).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import nnls

from oddlattice.crystal import Crystal, column_nm2
from oddlattice.lattice.mean_cell import MeanCell
from oddlattice.numerics.arrays import Array, Complex

BLURS_NM = (0.02, 0.03, 0.04, 0.05, 0.06, 0.075, 0.09, 0.11)
SEARCH = 64  # steps of the origin search along u and v


@dataclass(frozen=True)
class OriginFit:
    """Where the crystal's origin lies in a mean cell, and how well the crystal explains it.

    Attributes
    ----------
    origin : ndarray of shape (2,)
        (u, v) of the crystal's origin in the mean cell.
    blur_nm : float
        Fitted rms width of a column without its thermal motion [nm].
    scale : float
        Factor from the crystal's to the image's contrast.
    explained : float
        Part of the mean cell's variance that the crystal explains, noise allowed for.
    second : float
        The same for the best origin elsewhere.
    sigmas : float
        Difference between the two, in standard errors of the mean cell.
    """

    origin: Array
    blur_nm: float
    scale: float
    explained: float
    second: float
    sigmas: float


def expected_amplitudes(crystal: Crystal, orders: npt.NDArray[np.int64], blur_nm: float) -> Complex:
    """Fourier coefficients of the crystal's cell, mean 1: columns of Z^1.7 weight, blurred; shape (n,)."""
    frequency = orders @ np.linalg.inv(crystal.vectors_nm).T
    square = (frequency**2).sum(1)
    total = np.zeros(len(orders), dtype=complex)
    weight_sum = 0.0
    for column in crystal.columns:
        weight = column_nm2(column)
        width = blur_nm**2 + column.rms_nm**2
        turn = np.exp(-2j * np.pi * (orders[:, 0] * column.u + orders[:, 1] * column.v))
        total += weight * np.exp(-2 * np.pi**2 * width * square) * turn
        weight_sum += weight
    return np.asarray(2 * total / weight_sum, dtype=np.complex128)


def _overlap_map(product: Complex, orders: npt.NDArray[np.int64]) -> Array:
    """Re sum_h product_h exp(2 pi i h.t) on a SEARCH x SEARCH grid of shifts t."""
    spectrum = np.zeros((SEARCH, SEARCH), dtype=complex)
    np.add.at(spectrum, (orders[:, 0] % SEARCH, orders[:, 1] % SEARCH), product)
    return np.asarray(np.fft.ifft2(spectrum).real * SEARCH**2)


def _sharpen(product: Complex, orders: npt.NDArray[np.int64], shift: Array) -> tuple[Array, float]:
    """Newton steps to the maximum of Re sum product exp(2 pi i h.t); (t, value)."""
    wave = 2 * np.pi * orders
    for _ in range(8):
        turned = product * np.exp(1j * wave @ shift)
        slope = -(turned.imag[:, None] * wave).sum(0)
        curvature = -np.einsum("n,ni,nj->ij", turned.real, wave, wave)
        if np.linalg.eigvalsh(curvature).max() >= 0:
            break
        step = -np.linalg.solve(curvature, slope)
        shift = shift + np.clip(step, -1 / SEARCH, 1 / SEARCH)
    return shift, float((product * np.exp(1j * wave @ shift)).real.sum())


def fit_origin(mean: MeanCell, crystal: Crystal) -> OriginFit:
    """Lay the crystal's cell on a mean cell, over all origins and blurs.

    The best fit maximises the overlap sum_h c_h conj(e_h) exp(2 pi i h.t); what it explains is the squared
    correlation of c and the shifted e over the resolved harmonics.
    """
    power = float((np.abs(mean.amplitudes) ** 2).sum())
    signal = max(power - 2 * len(mean.orders) * mean.noise**2, 1e-3 * power, 1e-300)
    best: tuple[float, float, Complex, Array, float] | None = None
    for blur in BLURS_NM:
        expected = expected_amplitudes(crystal, mean.orders, blur)
        product = mean.amplitudes * np.conj(expected)
        overlap = _overlap_map(product, mean.orders)
        peak = np.unravel_index(int(overlap.argmax()), overlap.shape)
        shift, value = _sharpen(product, mean.orders, np.array(peak) / SEARCH)
        norm = float((np.abs(expected) ** 2).sum())
        score = max(value, 0.0) ** 2 / norm
        if best is None or score > best[0]:
            best = (score, blur, expected, shift, value / norm)
    assert best is not None
    score, blur, expected, shift, scale = best
    overlap = _overlap_map(mean.amplitudes * np.conj(expected), mean.orders)
    norm = float((np.abs(expected) ** 2).sum())
    elsewhere = _elsewhere(overlap, expected, mean.orders, shift)
    second = max(elsewhere, 0.0) ** 2 / norm
    return OriginFit(
        origin=shift % 1.0,
        blur_nm=blur,
        scale=scale,
        explained=min(score / signal, 1.0),
        second=min(second / signal, 1.0),
        sigmas=float(np.sqrt(max(score - second, 0.0)) / max(mean.noise, 1e-12)),
    )


def _elsewhere(overlap: Array, expected: Complex, orders: npt.NDArray[np.int64], shift: Array) -> float:
    """Best overlap at an origin that is a different picture: another maximum, not a symmetry of the expected cell."""
    peaks = overlap == ndimage.maximum_filter(overlap, size=5, mode="wrap")
    values = []
    self_norm = float((np.abs(expected) ** 2).sum())
    for i, j in np.argwhere(peaks):
        apart = np.array([i, j]) / SEARCH - shift
        same = float((np.abs(expected) ** 2 * np.cos(2 * np.pi * orders @ apart)).sum()) / self_norm
        if same < 0.98:
            values.append(float(overlap[i, j]))
    return max(values, default=0.0)


def column_weights(mean: MeanCell, crystal: Crystal, blur_nm: float) -> dict[str, float]:
    """Intensities of the tested columns that explain a mean cell best, relative to the brightest, by site.

    The cell's origin must be the crystal's. A site that stands for several columns gets their mean.
    """
    columns = crystal.tested
    parts = np.stack([expected_amplitudes(replace(crystal, columns=(c,)), mean.orders, blur_nm) for c in columns], 1)
    design = np.concatenate([parts.real, parts.imag])
    weights, _ = nnls(design, np.concatenate([mean.amplitudes.real, mean.amplitudes.imag]))
    top = max(float(weights.max()), 1e-300)
    sites = dict.fromkeys(c.site for c in columns)
    return {
        site: float(np.mean([w for w, c in zip(weights, columns, strict=True) if c.site == site])) / top
        for site in sites
    }
