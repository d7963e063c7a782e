"""Training patches from simulation: bulk under all conditions, with defects pasted in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from oddlattice.crystal import CELL_PX, Crystal, column_nm2
from oddlattice.model.patches import Batch, pixel_lines
from oddlattice.numerics.arrays import Array, Float
from oddlattice.simulate.columnwise import SATURATION_NM
from oddlattice.simulate.library import Library


def reciprocal_nm(crystal: Crystal) -> Array:
    """Reciprocal vectors (g_row, g_col) [1/nm] of the harmonics of a CELL_PX grid; shape (CELL_PX, CELL_PX, 2)."""
    order = np.fft.fftfreq(CELL_PX, 1 / CELL_PX)
    inverse = np.linalg.inv(crystal.vectors_nm).T  # rows: a*, b*
    return np.asarray(order[:, None, None] * inverse[0] + order[None, :, None] * inverse[1])


def mean_cells(
    crystal: Crystal,
    weights: Array,
    covariance_nm2: Array,
    tail_fraction: Array,
    shift_nm: Array,
) -> Array:
    """Periodic images of bulk cells, by Fourier synthesis: exact for Gaussian columns of any width.

    Parameters
    ----------
    weights : ndarray of shape (n, columns)
        Integrated intensity of each column.
    covariance_nm2 : ndarray of shape (n, columns, 2, 2)
        Blur of each column, (row, col) [nm^2].
    tail_fraction : ndarray of shape (n,)
        Part of the intensity in a tail four times as wide.
    shift_nm : ndarray of shape (n, 2)
        Displacement of the whole cell, (row, col) [nm].

    Returns
    -------
    ndarray of shape (n, CELL_PX, CELL_PX)
        Mean over the cell is the sum of `weights`.
    """
    g = reciprocal_nm(crystal)
    uv = np.array([(c.u, c.v) for c in crystal.columns])
    order = np.fft.fftfreq(CELL_PX, 1 / CELL_PX)
    # pixel k's centre is at u = (k + 0.5) / CELL_PX: hence the half pixel
    hu = order[:, None, None] * (uv[:, 0] - 0.5 / CELL_PX) + order[None, :, None] * (uv[:, 1] - 0.5 / CELL_PX)
    phase = np.exp(-2j * np.pi * hu)  # (20, 20, columns)
    damp = 2 * np.pi**2 * np.einsum("ijk,nckl,ijl->nijc", g, covariance_nm2, g)
    tail = tail_fraction[:, None, None, None]
    transfer = (1 - tail) * np.exp(-damp) + tail * np.exp(-16 * damp)
    shift = np.exp(-2j * np.pi * np.einsum("ijk,nk->nij", g, shift_nm))
    spectrum = np.einsum("nijc,nc,ijc->nij", transfer, weights, phase) * shift
    return np.asarray(np.fft.ifft2(spectrum).real * CELL_PX**2)


def column_stamp(crystal: Crystal, place_uv: Array, covariance_nm2: Array) -> Array:
    """Gaussian peaks of unit integral per cell area at `place_uv` [cells about the patch centre].

    Parameters
    ----------
    place_uv : ndarray of shape (n, 2)
    covariance_nm2 : ndarray of shape (n, 2, 2)

    Returns
    -------
    ndarray of shape (n, 40, 40)
    """
    u, v = pixel_lines()
    du, dv = u - place_uv[:, 0, None, None], v - place_uv[:, 1, None, None]
    metric = np.einsum("ik,nkl,jl->nij", crystal.vectors_nm, np.linalg.inv(covariance_nm2), crystal.vectors_nm)
    m = metric[:, :, :, None, None]
    square = m[:, 0, 0] * du**2 + 2 * m[:, 0, 1] * du * dv + m[:, 1, 1] * dv**2
    height = crystal.area_nm2 / (2 * np.pi * np.sqrt(np.linalg.det(covariance_nm2)))
    return np.asarray(height[:, None, None] * np.exp(-square / 2))


def add_defects(bulk: "Bulk", crystal: Crystal, part: float, rng: np.random.Generator) -> Float:
    """Paste a changed column (emptied to doubled, or moved by up to 60 pm) into a random `part` of the patches.

    The target stays bulk: the network learns to predict what the crystal would have been, not to draw the defect.
    """
    hit = np.flatnonzero(rng.random(len(bulk.patch)) < part)
    if not len(hit):
        return bulk.patch
    tested = np.array([i for i, c in enumerate(crystal.columns) if c.tested])
    column = rng.choice(tested, len(hit))
    uv = np.array([(c.u, c.v) for c in crystal.columns])[column]
    # a cell of the patch at random; the central cell spans [-0.5, 0.5]
    place = uv - 0.5 + rng.integers(-1, 2, (len(hit), 2))
    blur = bulk.covariance_nm2[hit, column]
    change = np.where(rng.random(len(hit)) < 0.7, rng.uniform(-1.0, 1.0, len(hit)), 0.0)
    moved = np.where(change[:, None] == 0, rng.uniform(-0.06, 0.06, (len(hit), 2)), 0.0)
    moved_uv = moved @ np.linalg.inv(crystal.vectors_nm)
    before = column_stamp(crystal, place, blur)
    after = before.copy()
    shifted = np.flatnonzero(change == 0)
    after[shifted] = column_stamp(crystal, (place + moved_uv)[shifted], blur[shifted])
    out = bulk.patch.copy()
    out[hit] += bulk.weights[hit, column][:, None, None] * ((1 + change)[:, None, None] * after - before)
    return out


@dataclass(frozen=True)
class Bulk:
    """Expected images of bulk patches.

    Attributes
    ----------
    patch : ndarray of shape (n, 40, 40), float32
        Mean about 1.
    weights : ndarray of shape (n, columns)
        Integrated intensity of the columns' cores, in the patch's units.
    covariance_nm2 : ndarray of shape (n, columns, 2, 2)
        Their blur, (row, col) [nm^2].
    """

    patch: Float
    weights: Array
    covariance_nm2: Array


def _log_uniform(low: float, high: float, n: int, rng: np.random.Generator) -> Array:
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), n)))


def _uneven_blur(blur_nm: Array, rng: np.random.Generator) -> Array:
    """Covariances (n, 2, 2) [nm^2] of a blur that is a little longer one way: astigmatism, jitter, vibration."""
    n = len(blur_nm)
    uneven = np.exp(rng.normal(0.0, 0.08, n))
    turn = rng.uniform(0, np.pi, n)
    axis, across = np.stack([np.cos(turn), np.sin(turn)], -1), np.stack([-np.sin(turn), np.cos(turn)], -1)
    return np.asarray(
        (blur_nm**2)[:, None, None]
        * (
            uneven[:, None, None] ** 2 * axis[:, :, None] * axis[:, None, :]
            + uneven[:, None, None] ** -2 * across[:, :, None] * across[:, None, :]
        )
    )


def _in_the_field(cells: Array, weights: Array, covariance_nm2: Array, rng: np.random.Generator) -> Bulk:
    """Patches of 2x2 cells under a thickness slope, on a detector's offset and a passing cloud of contamination.

    Parameters
    ----------
    cells : ndarray of shape (n, 20, 20)
        Mean is the sum of `weights`.
    """
    n = len(cells)
    # the central cell in the middle
    patch = np.roll(np.tile(cells, (1, 2, 2)), (CELL_PX // 2, CELL_PX // 2), axis=(1, 2))
    u, v = pixel_lines()
    slope, cloud = rng.normal(0.0, 0.02, (2, n, 2, 1, 1))
    # real detectors add an offset: the columns may be a small part of the signal
    ground = (weights.sum(1) * _log_uniform(0.02, 20.0, n, rng))[:, None, None]
    patch = patch * (1 + slope[:, 0] * u + slope[:, 1] * v) + ground * (1 + cloud[:, 0] * u + cloud[:, 1] * v)
    mean = patch.mean((1, 2))
    return Bulk((patch / mean[:, None, None]).astype(np.float32), weights / mean[:, None], covariance_nm2)


def draw_bulk(crystal: Crystal, n: int, rng: np.random.Generator) -> Bulk:
    """Draw `n` bulk patches of the column-by-column simulator over wide ranges of microscope conditions."""
    thickness = _log_uniform(2.0, 80.0, n, rng)
    scattering = np.array([column_nm2(c) for c in crystal.columns])
    # ASSUME: the detector's angles change the exponent of Z, dechannelling differs between columns
    spread = np.exp(rng.normal(0.0, 0.12, (n, len(crystal.columns))))
    exponent = rng.uniform(0.8, 1.15, n)[:, None]
    per_column = scattering.max() * (scattering / scattering.max()) ** exponent * spread
    thermal = np.array([c.rms_nm for c in crystal.columns])[None, :, None, None] ** 2 * np.eye(2)
    covariance = _uneven_blur(_log_uniform(0.022, 0.085, n, rng), rng)[:, None] + thermal
    tail = rng.uniform(0.0, 0.5, n)
    grown = SATURATION_NM * (1 - np.exp(-thickness / SATURATION_NM))
    weights = per_column * grown[:, None] / crystal.repeat_nm / crystal.area_nm2
    cells = mean_cells(crystal, weights, covariance, tail, rng.normal(0.0, 0.003, (n, 2)))
    bulk = _in_the_field(cells, weights, covariance, rng)
    return Bulk(bulk.patch, bulk.weights * (1 - tail)[:, None], covariance)


def draw_library_bulk(crystal: Crystal, library: Library, n: int, rng: np.random.Generator) -> Bulk:
    """Draw `n` bulk patches of a multislice library over its thicknesses and wide ranges of source size.

    A part of every image goes through a blur four times as wide: the halo of a real source.
    """
    known = library.thickness_cells
    planes = library.weights(rng.uniform(0.5 * known[0], known[-1], n))
    spectrum = np.fft.fft2(np.einsum("nt,tij->nij", planes, library.bulk.astype(np.float64)))
    source = _uneven_blur(_log_uniform(0.01, 0.075, n, rng), rng)
    g = reciprocal_nm(crystal)
    damp = 2 * np.pi**2 * np.einsum("ijk,nkl,ijl->nij", g, source, g)
    halo = rng.uniform(0.0, 0.3, n)[:, None, None]
    order = np.fft.fftfreq(CELL_PX, 1 / CELL_PX)
    # the library's pixel i is at u = i / 20, a tile's at (i + 0.5) / 20; the frame is a little off
    middle = 0.5 / CELL_PX + rng.normal(0.0, 0.003, (n, 2)) @ np.linalg.inv(crystal.vectors_nm)
    phase = order[:, None] * middle[:, 0, None, None] + order[None, :] * middle[:, 1, None, None]
    transfer = (1 - halo) * np.exp(-damp) + halo * np.exp(-16 * damp)
    cells = np.fft.ifft2(spectrum * transfer * np.exp(2j * np.pi * phase)).real
    # for the pasted defects: columns as bright as their share by Z^1.7, as wide as probe and source
    share = np.array([column_nm2(c) for c in crystal.columns])
    weights = cells.mean(axis=(1, 2))[:, None] * share / share.sum()
    probe = (library.probe_rms_nm**2 + crystal.columns[0].rms_nm ** 2) * np.eye(2)
    return _in_the_field(cells, weights, np.repeat((source + probe)[:, None], len(share), axis=1), rng)


def joined(parts: list[Bulk]) -> Bulk:
    """Several drawings as one."""
    return Bulk(
        np.concatenate([p.patch for p in parts]),
        np.concatenate([p.weights for p in parts]),
        np.concatenate([p.covariance_nm2 for p in parts]),
    )


def correlated_noise(variance: Float, rng: np.random.Generator) -> Float:
    """Counting noise of the given variance [px], smoothed as resampling from a coarser scan smooths it."""
    noise = rng.standard_normal(variance.shape, dtype=np.float32) * np.sqrt(variance)
    w = rng.uniform(0.0, 0.25, (len(noise), 1, 1)).astype(np.float32)
    for axis in (1, 2):
        noise = (1 - 2 * w) * noise + w * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    return noise


def simulated_batches(
    crystal: Crystal, n: int, seed: int, library: Library | None = None, defect_part: float = 0.5
) -> Iterator[Batch]:
    """Endless batches of `n` simulated patches, half of them from the multislice library where there is one.

    Their noise is that of 0.5 to 500 electrons a pixel of the lattice frame at full contrast, and as much where an
    offset dilutes the contrast: every contrast is met in every noise.
    """
    rng = np.random.default_rng(seed)
    while True:
        if library is None:
            bulk = draw_bulk(crystal, n, rng)
        else:
            bulk = joined([draw_bulk(crystal, n - n // 2, rng), draw_library_bulk(crystal, library, n // 2, rng)])
        # one contrast is known per image: a patch's own is more or less, and the local mean is an estimate
        spread = np.exp(rng.normal(0.0, 0.15, (n, 1, 1))).astype(np.float32)
        contrast = bulk.patch.std(axis=(1, 2), keepdims=True) * spread
        middle = 1 + contrast * rng.normal(0.0, 0.03, (n, 1, 1)).astype(np.float32)
        variance = bulk.patch * (1 / _log_uniform(0.5, 500.0, n, rng)).astype(np.float32)[:, None, None]
        seen = np.clip(add_defects(bulk, crystal, defect_part, rng), 0.0, None)
        target = (bulk.patch - middle) / contrast
        patch = (seen - middle) / contrast + correlated_noise(variance * seen / bulk.patch, rng)
        yield Batch(patch, target, variance + 1e-4)
