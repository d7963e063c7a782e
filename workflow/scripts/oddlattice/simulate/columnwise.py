"""Fast column-by-column simulator of HAADF scans, behind one interface: `simulate_scan`.

Each atomic column is a blurred peak (probe, source size and thermal motion in quadrature, plus a wide tail) whose
integrated intensity follows Z^1.7 and saturates with thickness. Defects are placed before the noise is drawn.
It is not multislice: cross-talk and depth dependence are not in it.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import Crystal, column_nm2, scattering_nm2
from oddlattice.numerics.arrays import Array, Index

SATURATION_NM = 40.0  # ASSUME: thickness at which dechannelling has levelled the growth to 1/e


@dataclass(frozen=True)
class Conditions:
    """How a scan is taken. Lengths along the scan are (row, col).

    Attributes
    ----------
    pixel_nm : float
        Pixel size [nm].
    rotation_deg : float
        Angle of lattice vector a from +row towards +col [deg].
    strain : tuple of float
        (e_rr, e_rc, e_cr, e_cc), added to the identity and applied to the lattice vectors: shear and anisotropy.
    thickness_nm : float
        Thickness at the centre [nm].
    thickness_gradient : tuple of float
        Relative change of thickness over the field, along (row, col).
    blur_nm : float
        rms of probe and source size together [nm].
    tail_fraction : float
        Part of a column's intensity that lies in a tail four times as wide.
    background : float
        Fraction of the dose that reaches the detector everywhere.
    contamination : float
        rms of a slowly varying background, as a part of `background`.
    dose_e_px : float
        Electrons per pixel; 0 gives the noiseless expectation for one electron a pixel.
    jitter_pm : float
        rms shift of a whole scan row along the fast axis [pm].
    drift_nm : tuple of float
        Drift over the scan, (row, col) [nm]; a third of it is quadratic in time.
    """

    pixel_nm: float = 0.0125
    rotation_deg: float = 0.0
    strain: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    thickness_nm: float = 10.0
    thickness_gradient: tuple[float, float] = (0.0, 0.0)
    blur_nm: float = 0.035
    tail_fraction: float = 0.25
    background: float = 0.01
    contamination: float = 0.0
    dose_e_px: float = 400.0
    jitter_pm: float = 5.0
    drift_nm: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Defect:
    """A changed column: `cell` = (u, v) index of the cell, `column` = index in `crystal.columns`.

    `factor` multiplies its intensity (0: empty); `shift_pm` moves it, (row, col) [pm]; `atoms`, where given, replaces
    the column's atoms per repeat (antisite, dopant) before `factor` applies.
    """

    cell: tuple[int, int]
    column: int
    kind: str
    factor: float = 1.0
    shift_pm: tuple[float, float] = (0.0, 0.0)
    atoms: dict[str, float] | None = None


@dataclass(frozen=True)
class Scan:
    """A simulated scan and its truth.

    Attributes
    ----------
    counts : ndarray of shape (rows, cols), float32
        Noisy image [counts]; equals `expected` when the dose is 0.
    expected : ndarray of shape (rows, cols), float32
        Mean of `counts`.
    origin_px : ndarray of shape (2,)
        (row, col) of the corner of cell (0, 0) [px].
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors a and b as rows, (row, col) [px].
    cells : ndarray of shape (n, 2), int
        Cell (u, v) of each column.
    columns : ndarray of shape (n,), int
        Index into `crystal.columns`.
    places_px : ndarray of shape (n, 2)
        (row, col) of each column in the image [px], drift included, row jitter not.
    defects : tuple of Defect
    """

    counts: npt.NDArray[np.float32]
    expected: npt.NDArray[np.float32]
    origin_px: Array
    vectors_px: Array
    cells: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    places_px: Array
    defects: tuple[Defect, ...] = field(default=())


def lattice_vectors_px(crystal: Crystal, conditions: Conditions) -> Array:
    """Lattice vectors in the image, rows a and b, (row, col) components [px]; shape (2, 2)."""
    angle = np.deg2rad(conditions.rotation_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    err, erc, ecr, ecc = conditions.strain
    return np.asarray(crystal.vectors_nm @ turn @ np.array([[1 + err, erc], [ecr, 1 + ecc]]) / conditions.pixel_nm)


def cells_over(shape: tuple[int, int], origin: Array, vectors: Array, margin: float) -> npt.NDArray[np.int64]:
    """Cells (n, 2) whose corner may lie within `margin` [px] of an image of `shape`."""
    corners = np.array([(r, c) for r in (-margin, shape[0] + margin) for c in (-margin, shape[1] + margin)])
    uv = (corners - origin) @ np.linalg.inv(vectors)
    low, high = np.floor(uv.min(0)).astype(int), np.ceil(uv.max(0)).astype(int)
    grid = np.stack(np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij"), -1)
    return grid.reshape(-1, 2)


def smooth_field(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Field of low waves with zero mean and unit rms, shape `shape`."""
    row, col = np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None, :]
    total = np.zeros(shape)
    for kr in range(3):
        for kc in range(3):
            if kr or kc:
                total += (
                    rng.normal() * np.cos(np.pi * (kr * row + rng.random())) * np.cos(np.pi * (kc * col + rng.random()))
                )
    total -= total.mean()
    return np.asarray(total / max(float(total.std()), 1e-9))


def _stamp(image: Array, places: Array, sigma: Array, weight: Array, row_shift: Array) -> None:
    """Add Gaussian peaks of integral `weight` [px^2 units] at `places`; row r is seen shifted by row_shift[r] [px]."""
    rows, cols = image.shape
    for start in range(0, len(places), 512):
        part = slice(start, start + 512)
        reach = int(np.ceil(4.5 * float(sigma[part].max()) + float(np.abs(row_shift).max())))
        offsets = np.arange(-reach, reach + 1)
        middle = np.rint(places[part]).astype(int)
        r, c = middle[:, :1] + offsets, middle[:, 1:] + offsets
        shift = row_shift[np.clip(r, 0, rows - 1)]
        s2 = 2.0 * sigma[part][:, None] ** 2
        along_row = np.exp(-((r - places[part][:, :1]) ** 2) / s2)
        moved = c[:, None, :] + shift[:, :, None] - places[part][:, 1][:, None, None]
        value = along_row[:, :, None] * np.exp(-(moved**2) / s2[:, :, None])
        value *= (weight[part] / (2 * np.pi * sigma[part] ** 2))[:, None, None]
        inside = ((r >= 0) & (r < rows))[:, :, None] & ((c >= 0) & (c < cols))[:, None, :]
        index = np.broadcast_to(r[:, :, None], value.shape)[inside], np.broadcast_to(c[:, None, :], value.shape)[inside]
        np.add.at(image, index, value[inside])


def _columns_over(
    crystal: Crystal, conditions: Conditions, shape: tuple[int, int], origin: Array, vectors: Array
) -> tuple[Index, Index, Array]:
    """Cells (n, 2), indices of columns (n,) and drifted places (n, 2) [px] of all columns that a scan may show."""
    cells = cells_over(shape, origin, vectors, margin=1.0 / conditions.pixel_nm)
    n = len(crystal.columns)
    at = np.repeat(cells, n, axis=0)
    kind = np.tile(np.arange(n), len(cells))
    uv = np.array([(c.u, c.v) for c in crystal.columns])
    places = (at + uv[kind]) @ vectors + origin
    time = np.clip(places[:, :1] / shape[0], -0.2, 1.2)
    return at, kind, places + np.array(conditions.drift_nm) / conditions.pixel_nm * (2 * time + time**2) / 3


def _repeats_at(crystal: Crystal, conditions: Conditions, relative: Array) -> Array:
    """Repeats of the cell along the beam that count, at places (n, 2) from the middle, as parts of the field."""
    thickness = conditions.thickness_nm * np.clip(1 + relative @ np.array(conditions.thickness_gradient), 0.02, None)
    return np.asarray(SATURATION_NM * (1 - np.exp(-thickness / SATURATION_NM)) / crystal.repeat_nm)


def _change_columns(
    conditions: Conditions,
    defects: tuple[Defect, ...],
    at: Index,
    kind: Index,
    repeats: Array,
    weight: Array,
    moved: Array,
) -> None:
    """Put defects into the weights and places of columns, in place."""
    where = {(int(i), int(j), int(k)): index for index, ((i, j), k) in enumerate(zip(at, kind, strict=True))}
    for defect in defects:
        index = where[(*defect.cell, defect.column)]
        if defect.atoms is not None:
            weight[index] = float(scattering_nm2(defect.atoms, 1.0)) * repeats[index]
        weight[index] *= defect.factor
        moved[index] += np.array(defect.shift_pm) / 1000 / conditions.pixel_nm


def simulate_scan(
    crystal: Crystal,
    conditions: Conditions,
    shape: tuple[int, int],
    defects: tuple[Defect, ...] = (),
    seed: int = 0,
    origin_px: tuple[float, float] | None = None,
) -> Scan:
    """Simulate one HAADF scan.

    Parameters
    ----------
    crystal : Crystal
    conditions : Conditions
    shape : tuple of int
        (rows, cols) of the scan.
    defects : tuple of Defect
        Changed columns; cell (0, 0) has its corner at `origin_px`.
    seed : int
        Seed of everything random: origin, jitter, contamination, noise.
    origin_px : tuple of float, optional
        (row, col) of the corner of cell (0, 0) [px]; random near the image's centre when not given.

    Returns
    -------
    Scan
    """
    rng = np.random.default_rng(seed)
    vectors = lattice_vectors_px(crystal, conditions)
    drawn = np.array(shape) / 2 + rng.random(2) @ vectors
    origin = np.asarray(origin_px, dtype=np.float64) if origin_px is not None else drawn
    row_shift = rng.normal(0.0, conditions.jitter_pm / 1000 / conditions.pixel_nm, shape[0])
    at, kind, places = _columns_over(crystal, conditions, shape, origin, vectors)
    repeats = _repeats_at(crystal, conditions, places / np.array(shape) - 0.5)
    bulk = np.array([column_nm2(c) for c in crystal.columns])
    weight = bulk[kind] * repeats
    moved = places.copy()
    _change_columns(conditions, defects, at, kind, repeats, weight, moved)
    sigma = np.array([np.hypot(conditions.blur_nm, c.rms_nm) for c in crystal.columns])[kind] / conditions.pixel_nm
    weight_px = weight / conditions.pixel_nm**2
    image = np.zeros(shape)
    _stamp(image, moved, sigma, weight_px * (1 - conditions.tail_fraction), row_shift)
    if conditions.tail_fraction > 0:
        _stamp(image, moved, 4 * sigma, weight_px * conditions.tail_fraction, row_shift)
    ground = conditions.background * (1 + conditions.contamination * smooth_field(shape, rng))
    expected = (image + np.clip(ground, 0, None)) * (conditions.dose_e_px or 1.0)
    counts = rng.poisson(expected) if conditions.dose_e_px else expected
    return Scan(
        counts=np.asarray(counts, dtype=np.float32),
        expected=expected.astype(np.float32),
        origin_px=origin,
        vectors_px=vectors,
        cells=at,
        columns=kind,
        places_px=places,
        defects=defects,
    )
