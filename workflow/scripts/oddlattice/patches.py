"""Training patches in the lattice frame: simulated ones, and ones cut from registered images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlattice.columns import ColumnShape, peak_at
from oddlattice.crystal import CELL_PX, Crystal
from oddlattice.simulate import SATURATION_NM, column_nm2

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Patches for one step, each of shape (n, 40, 40), float32, standardised: local mean 0, contrast about 1.

    Attributes
    ----------
    patch : what the encoder sees: noise and, in part of the patches, a defect
    target : what is to be predicted: bulk
    variance : noise variance of `patch`
    """

    patch: Float
    target: Float
    variance: Float


def standardised(tiles: Float, contrast: float) -> Float:
    """What the network sees of an image divided by its local mean: mean 0 and the contrast of the image's cell as unit."""
    return np.asarray((tiles - 1) / contrast, dtype=np.float32)


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


def _lines() -> tuple[Array, Array]:
    """Coordinates u, v [cells] of the pixels of a patch about its centre; shapes (40, 1), (1, 40)."""
    line = (np.arange(2 * CELL_PX) + 0.5) / CELL_PX - 1.0
    return line[:, None], line[None, :]


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
    u, v = _lines()
    du, dv = u - place_uv[:, 0, None, None], v - place_uv[:, 1, None, None]
    metric = np.einsum("ik,nkl,jl->nij", crystal.vectors_nm, np.linalg.inv(covariance_nm2), crystal.vectors_nm)
    m = metric[:, :, :, None, None]
    square = m[:, 0, 0] * du**2 + 2 * m[:, 0, 1] * du * dv + m[:, 1, 1] * dv**2
    height = crystal.area_nm2 / (2 * np.pi * np.sqrt(np.linalg.det(covariance_nm2)))
    return np.asarray(height[:, None, None] * np.exp(-square / 2))


def add_defects(
    patch: Float, crystal: Crystal, weights: Array, covariance_nm2: Array, part: float, rng: np.random.Generator
) -> Float:
    """Paste a changed column (emptied to doubled, or moved by up to 60 pm) into a random `part` of the patches.

    The target stays bulk: the network learns to predict what the crystal would have been, not to draw the defect.
    """
    n = len(patch)
    hit = np.flatnonzero(rng.random(n) < part)
    if not len(hit):
        return patch
    tested = np.array([i for i, c in enumerate(crystal.columns) if c.tested])
    column = rng.choice(tested, len(hit))
    uv = np.array([(c.u, c.v) for c in crystal.columns])[column]
    # a cell of the patch at random; the central cell spans [-0.5, 0.5]
    place = uv - 0.5 + rng.integers(-1, 2, (len(hit), 2))
    blur = covariance_nm2[hit, column]
    change = np.where(rng.random(len(hit)) < 0.7, rng.uniform(-1.0, 1.0, len(hit)), 0.0)
    moved = np.where(change[:, None] == 0, rng.uniform(-0.06, 0.06, (len(hit), 2)), 0.0)
    moved_uv = moved @ np.linalg.inv(crystal.vectors_nm)
    before = column_stamp(crystal, place, blur)
    after = before.copy()
    shifted = np.flatnonzero(change == 0)
    after[shifted] = column_stamp(crystal, (place + moved_uv)[shifted], blur[shifted])
    out = patch.copy()
    out[hit] += weights[hit, column][:, None, None] * ((1 + change)[:, None, None] * after - before)
    return out


def draw_bulk(crystal: Crystal, n: int, rng: np.random.Generator) -> tuple[Float, Array, Array]:
    """Draw `n` bulk patches over wide ranges of microscope conditions.

    Returns
    -------
    patch : ndarray of shape (n, 40, 40)
        Expected image, mean about 1.
    weights : ndarray of shape (n, columns)
        Integrated intensity of the columns, in the patch's units.
    covariance_nm2 : ndarray of shape (n, columns, 2, 2)
    """
    thickness = np.exp(rng.uniform(np.log(2.0), np.log(80.0), n))
    slope = rng.normal(0.0, 0.02, (n, 2))
    scattering = np.array([column_nm2(c) for c in crystal.columns])
    # ASSUME: the detector's angles change the exponent of Z, dechannelling differs between columns
    spread = np.exp(rng.normal(0.0, 0.12, (n, len(crystal.columns))))
    exponent = rng.uniform(0.8, 1.15, n)[:, None]
    per_column = scattering.max() * (scattering / scattering.max()) ** exponent * spread
    blur = np.exp(rng.uniform(np.log(0.022), np.log(0.085), n))
    uneven = np.exp(rng.normal(0.0, 0.08, n))
    turn = rng.uniform(0, np.pi, n)
    axis = np.stack([np.cos(turn), np.sin(turn)], -1)
    across = np.stack([-np.sin(turn), np.cos(turn)], -1)
    probe = (blur**2)[:, None, None] * (
        uneven[:, None, None] ** 2 * axis[:, :, None] * axis[:, None, :]
        + uneven[:, None, None] ** -2 * across[:, :, None] * across[:, None, :]
    )
    thermal = np.array([c.rms_nm for c in crystal.columns])[None, :, None, None] ** 2 * np.eye(2)
    covariance = probe[:, None] + thermal
    tail = rng.uniform(0.0, 0.5, n)
    shift = rng.normal(0.0, 0.003, (n, 2))
    grown = SATURATION_NM * (1 - np.exp(-thickness / SATURATION_NM))
    weights = per_column * grown[:, None] / crystal.repeat_nm / crystal.area_nm2
    cells = np.tile(mean_cells(crystal, weights, covariance, tail, shift), (1, 2, 2))
    cells = np.roll(cells, (CELL_PX // 2, CELL_PX // 2), axis=(1, 2))  # the central cell in the middle
    u, v = _lines()
    tilt = 1 + slope[:, 0, None, None] * u + slope[:, 1, None, None] * v
    # real detectors add an offset: the columns may be a small part of the signal
    ground = weights.sum(1) * np.exp(rng.uniform(np.log(0.02), np.log(20.0), n))
    cloud = rng.normal(0.0, 0.02, (n, 2))
    uneven_ground = 1 + cloud[:, 0, None, None] * u + cloud[:, 1, None, None] * v
    patch = cells * tilt + ground[:, None, None] * uneven_ground
    mean = patch.mean((1, 2))
    return (patch / mean[:, None, None]).astype(np.float32), weights * (1 - tail)[:, None] / mean[:, None], covariance


def correlated_noise(variance: Float, rng: np.random.Generator) -> Float:
    """Counting noise of the given variance [px], smoothed as resampling from a coarser scan smooths it."""
    noise = rng.standard_normal(variance.shape, dtype=np.float32) * np.sqrt(variance)
    w = rng.uniform(0.0, 0.25, (len(noise), 1, 1)).astype(np.float32)
    for axis in (1, 2):
        noise = (1 - 2 * w) * noise + w * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    return noise


def simulated_batches(crystal: Crystal, n: int, seed: int, defect_part: float = 0.5) -> Iterator[Batch]:
    """Endless batches of `n` simulated patches.

    Their noise is that of 0.5 to 500 electrons a pixel of the lattice frame at full contrast, and as much where an
    offset dilutes the contrast: every contrast is met in every noise.
    """
    rng = np.random.default_rng(seed)
    while True:
        bulk, weights, covariance = draw_bulk(crystal, n, rng)
        # one contrast is known per image: a patch's own is more or less, and the local mean is an estimate
        contrast = bulk.std(axis=(1, 2), keepdims=True) * np.exp(rng.normal(0.0, 0.15, (n, 1, 1))).astype(np.float32)
        middle = 1 + contrast * rng.normal(0.0, 0.03, (n, 1, 1)).astype(np.float32)
        variance = bulk * np.exp(rng.uniform(np.log(1 / 500.0), np.log(1 / 0.5), (n, 1, 1))).astype(np.float32)
        seen = np.clip(add_defects(bulk, crystal, weights, covariance, defect_part, rng), 0.0, None)
        target = (bulk - middle) / contrast
        patch = (seen - middle) / contrast + correlated_noise(variance * seen / bulk, rng)
        yield Batch(patch, target, variance + 1e-4)


@dataclass(frozen=True)
class ImagePatches:
    """Bulk patches cut from registered images.

    Attributes
    ----------
    patches : ndarray of shape (n, 40, 40), float32
        Standardised (see `standardised`).
    variance : ndarray of shape (40, 40), float32
        Noise variance, repeating with the cell.
    shapes : list of ColumnShape
        The tested columns as the images show them, in the same unit.
    """

    patches: Float
    variance: Float
    shapes: list[ColumnShape]


def image_batches(source: ImagePatches, n: int, seed: int, defect_part: float = 0.5) -> Iterator[Batch]:
    """Endless batches of `n` patches from images; changed columns are pasted into a random part of the inputs."""
    rng = np.random.default_rng(seed)
    u, v = _lines()
    while True:
        target = source.patches[rng.integers(0, len(source.patches), n)]
        target = target * np.exp(rng.normal(0.0, 0.1, (n, 1, 1))).astype(np.float32)
        patch = target.copy()
        for k in np.flatnonzero(rng.random(n) < defect_part):
            shape = source.shapes[rng.integers(len(source.shapes))]
            row, col = np.array([shape.u, shape.v]) - 0.5 + rng.integers(-1, 2, 2)
            before = peak_at(shape, u - row, v - col)
            if rng.random() < 0.7:
                patch[k] += rng.uniform(-1.0, 1.0) * before
            else:
                du, dv = rng.uniform(-0.15, 0.15, 2)
                patch[k] += peak_at(shape, u - row - du, v - col - dv) - before
        yield Batch(patch, target, np.broadcast_to(source.variance, target.shape).copy())
