"""Crops of a crystal that lie on no grid: the cell that they share, learned from nothing but them."""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from oddlattice.benchmark.crops.cell import FINE, Cell, Fit, lattice_places, plane_of, sample_cell, turned
from oddlattice.benchmark.crops.fit import border_px, column_px, common_amplitudes, fit_crops, local_energy
from oddlattice.benchmark.crops.vectors import CHUNK, LARGEST_ORDER, find_vectors
from oddlattice.numerics.arrays import Array, Float

BINS = 48  # grid on which crops are averaged into the cell
WIDEST_RIM_PX = 7
LEAST_JITTER_PX2 = 1e-3  # less bends nothing
TRIAL_JITTER_PX2 = 0.1
RIM_EXCESS = 1.15  # misfit over that further in, from which on a border is left out


def _rim(ratio: Array) -> int:
    """Pixels at the border whose mean misfit over the expected one (side, side) stands out."""
    border = border_px(len(ratio))
    by_distance = np.array([ratio[border == distance].mean() for distance in range(len(ratio) // 4)])
    odd = np.flatnonzero(by_distance[:WIDEST_RIM_PX] > RIM_EXCESS * np.median(by_distance[WIDEST_RIM_PX:]))
    return int(odd[-1]) + 1 if len(odd) else 0


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
    plane = plane_of(side)
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
        energy = local_energy(square[0], square[1], column_px(cell.vectors_px))
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
