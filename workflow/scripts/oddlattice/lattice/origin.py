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


def _overlap_maps(product: Complex, orders: npt.NDArray[np.int64]) -> Array:
    """Re sum_h product_h exp(2 pi i h.t) on a SEARCH x SEARCH grid of shifts t, for each of several products (k, n)."""
    spectrum = np.zeros((len(product), SEARCH, SEARCH), dtype=complex)
    rows, cols = orders.T % SEARCH
    for layer, values in zip(spectrum, product, strict=True):
        np.add.at(layer, (rows, cols), values)
    return np.asarray(np.fft.ifft2(spectrum).real * SEARCH**2)


def _sharpened(product: Complex, orders: npt.NDArray[np.int64], shifts: Array) -> tuple[Array, Array]:
    """Newton steps to the maxima of Re sum product exp(2 pi i h.t), for several products (k, n); (t, value) of each."""
    wave = 2 * np.pi * orders.T
    squares = np.stack([wave[0] * wave[0], wave[0] * wave[1], wave[1] * wave[1]], axis=-1)
    going = np.ones(len(product), dtype=bool)
    for _ in range(8):
        turned = product * np.exp(1j * shifts @ wave)
        slope_u, slope_v = -(turned.imag @ wave.T).T
        uu, uv, vv = -(turned.real @ squares).T
        determinant = uu * vv - uv**2
        going = going & (uu < 0) & (determinant > 0)
        if not going.any():
            break
        step = np.stack([uv * slope_v - vv * slope_u, uv * slope_u - uu * slope_v], axis=-1)
        step /= np.where(going, determinant, 1.0)[:, None]
        shifts = shifts + np.where(going[:, None], np.clip(step, -1 / SEARCH, 1 / SEARCH), 0.0)
    return shifts, (product * np.exp(1j * shifts @ wave)).real.sum(axis=1)


def fit_origin(mean: MeanCell, crystal: Crystal) -> OriginFit:
    """Lay the crystal's cell on a mean cell, over all origins and blurs.

    The best fit maximises the overlap sum_h c_h conj(e_h) exp(2 pi i h.t); what it explains is the squared
    correlation of c and the shifted e over the resolved harmonics.
    """
    power = float((np.abs(mean.amplitudes) ** 2).sum())
    signal = max(power - 2 * len(mean.orders) * mean.noise**2, 1e-3 * power, 1e-300)
    each = np.stack([expected_amplitudes(crystal, mean.orders, blur) for blur in BLURS_NM])
    product = mean.amplitudes * np.conj(each)
    overlaps = _overlap_maps(product, mean.orders)
    peaks = np.stack(np.unravel_index(overlaps.reshape(len(each), -1).argmax(axis=1), (SEARCH, SEARCH)), axis=-1)
    shifts, values = _sharpened(product, mean.orders, peaks / SEARCH)
    norms = (np.abs(each) ** 2).sum(axis=1)
    scores = np.maximum(values, 0.0) ** 2 / norms
    best = int(scores.argmax())
    score, norm, shift = float(scores[best]), float(norms[best]), shifts[best]
    elsewhere = _elsewhere(overlaps[best], each[best], mean.orders, shift)
    second = max(elsewhere, 0.0) ** 2 / norm
    return OriginFit(
        origin=shift % 1.0,
        blur_nm=BLURS_NM[best],
        scale=float(values[best]) / norm,
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
