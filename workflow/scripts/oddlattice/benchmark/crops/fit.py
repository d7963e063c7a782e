"""How crops lie on a cell: shift, strain, brightness and row shifts of each, by least squares."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from oddlattice.benchmark.crops.cell import FINE, Cell, Fit, joined, lattice_places, plane_of, sample_cell
from oddlattice.benchmark.crops.vectors import CHUNK, harmonics, standardised, waves_of
from oddlattice.numerics.arrays import Array, Complex, Float

PLANE = 3  # 1, row, col


def _coefficients(crops: Float | Array, vectors_px: Array, orders: npt.NDArray[np.int64]) -> Complex:
    """Amplitudes of the harmonics of every crop about its middle; shape (n, m)."""
    side = crops.shape[1]
    waves = waves_of(vectors_px, orders, side)
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


def local_energy(rest: Array, variance: Array, sigma_px: float) -> Array:
    """Squared misfit over its expectation, averaged over the size of a column; shape of `rest` (n, side, side)."""
    return np.asarray(
        gaussian_filter(rest**2, (0, sigma_px, sigma_px)) / gaussian_filter(variance, (0, sigma_px, sigma_px))
    )


def border_px(side: int) -> npt.NDArray[np.int64]:
    """Distance of every pixel from the border of a crop, 0 at it; shape (side, side)."""
    line = np.minimum(np.arange(side), np.arange(side)[::-1])
    return np.minimum(line[:, None], line[None, :])


def column_px(vectors_px: Array) -> float:
    """Standard deviation of a typical column [px]: an eighth of the cell."""
    return float(np.sqrt(abs(np.linalg.det(vectors_px))) / 8)


def _step(cell: Cell, slopes: Array, crops: Array, fit: Fit, robust: bool) -> tuple[Fit, Array, Array]:
    """One Gauss-Newton step of a few crops; also the variance left in every parameter, (n, 12) and (n, side)."""
    n, side = len(crops), crops.shape[1]
    plane = plane_of(side)
    uv = lattice_places(cell.vectors_px, fit)
    value, by_row, by_col = (sample_cell(part, uv) for part in slopes)
    scale = fit.brightness[:, :1]
    bright = fit.brightness @ plane.T / scale
    rest = crops.reshape(n, -1) / scale - fit.ground @ plane.T / scale - bright * value
    variance = sample_cell(cell.variance, uv)
    weight = (border_px(side) >= cell.rim_px).ravel() / (variance * cell.correlation_px)
    if robust:
        shape = (n, side, side)
        energy = local_energy(rest.reshape(shape), variance.reshape(shape), column_px(cell.vectors_px))
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
