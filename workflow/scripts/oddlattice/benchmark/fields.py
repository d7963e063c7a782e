"""What the benchmark measures: kinds of defects, fields with them at known columns, the ideal observer, statistics."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from oddlattice.benchmark.kinds import (
    THICKNESS_CELLS,
    Kind,
)
from oddlattice.crystal import Crystal
from oddlattice.numerics.arrays import Array
from oddlattice.simulate.columnwise import Conditions, Scan, lattice_vectors_px
from oddlattice.simulate.compose import compose_scan, library_conditions
from oddlattice.simulate.library import Library, ideal_dprime

SPACING_CELLS, RIM_CELLS = 5, 2.6  # between defects; between a defect and the border of the image
NEAR_CELLS = 1.6  # bulk columns nearer to a defect are neither bulk nor defect


@dataclass(frozen=True)
class Field:
    """A composed scan and what was put where.

    Attributes
    ----------
    scan : Scan
    kinds : tuple of Kind
        Of the scan's defects, in their order.
    places_px : ndarray of shape (n, 2)
        Of the unchanged columns, drifted; row jitter not included.
    conditions : Conditions
    """

    scan: Scan
    kinds: tuple[Kind, ...]
    places_px: Array
    conditions: Conditions


def defect_cells(
    crystal: Crystal, conditions: Conditions, shape: tuple[int, int], origin_px: Array
) -> npt.NDArray[np.int64]:
    """Cells of a sparse grid, away from the border; shape (n, 2)."""
    vectors = lattice_vectors_px(crystal, conditions)
    reach = SPACING_CELLS * int(np.ceil(np.hypot(*shape) / np.linalg.norm(vectors, axis=1).min() / SPACING_CELLS))
    line = np.arange(-reach, reach + 1, SPACING_CELLS)
    cells = np.array(list(product(line, line)))
    places = (cells + 0.5) @ vectors + origin_px
    drift_px = np.abs(conditions.drift_nm).max() / conditions.pixel_nm
    rim = RIM_CELLS * np.linalg.norm(vectors, axis=1).max() + drift_px
    return np.asarray(cells[((places > rim) & (places < np.array(shape) - rim)).all(axis=1)])


def compose_field(
    library: Library,
    crystal: Crystal,
    conditions: Conditions,
    shape: tuple[int, int],
    kinds: tuple[Kind, ...],
    seed: int,
    first: int = 0,
) -> Field:
    """A scan with one defect in every cell of a sparse grid; no kinds: bulk.

    The kinds are dealt in turn, beginning with `kinds[first % len(kinds)]`, to the cells in random order;
    displacements get random directions.
    """
    rng = np.random.default_rng(seed)
    vectors = lattice_vectors_px(crystal, conditions)
    origin = np.array(shape) / 2 + rng.random(2) @ vectors
    cells = rng.permutation(defect_cells(crystal, conditions, shape, origin)) if kinds else np.empty((0, 2), int)
    chosen = tuple(kinds[(first + k) % len(kinds)] for k in range(len(cells)))
    defects = []
    for kind, (u, v) in zip(chosen, cells, strict=True):
        angle = rng.uniform(0, 2 * np.pi)
        shift = (kind.shift_pm * float(np.cos(angle)), kind.shift_pm * float(np.sin(angle)))
        defects.append(replace(kind.defect, cell=(int(u), int(v)), shift_pm=shift))
    scan = compose_scan(library, crystal, conditions, shape, tuple(defects), seed, (float(origin[0]), float(origin[1])))
    where = {(int(u), int(v), int(k)): i for i, ((u, v), k) in enumerate(zip(scan.cells, scan.columns, strict=True))}
    places = [scan.places_px[where[(*defect.cell, defect.column)]] for defect in defects]
    return Field(scan, chosen, np.array(places).reshape(-1, 2), conditions)


def ideal_per_root_dose(
    library: Library, crystal: Crystal, conditions: Conditions, kind: Kind, phases: int = 3
) -> float:
    """Ideal observer's d' of a kind at 1 e/px, to be multiplied by the root of the dose [e/px].

    On the expected raw images with and without the one defect, jitter left out, averaged over places in the pixel.
    """
    still = replace(conditions, dose_e_px=0.0, jitter_pm=0.0, contamination=0.0, drift_nm=(0.0, 0.0))
    vectors = lattice_vectors_px(crystal, still)
    side = int(np.ceil(4.6 * np.linalg.norm(vectors, axis=1).max()))
    found = []
    for phase in range(phases):
        rng = np.random.default_rng(phase)
        place = np.array([side, side]) / 2 + rng.random(2)
        column = crystal.columns[kind.defect.column]
        corner = place - np.array([column.u, column.v]) @ vectors
        angle = rng.uniform(0, 2 * np.pi)
        shift = (kind.shift_pm * float(np.cos(angle)), kind.shift_pm * float(np.sin(angle)))
        defect = replace(kind.defect, shift_pm=shift)
        images = [
            compose_scan(library, crystal, still, (side, side), defects, 0, (float(corner[0]), float(corner[1])))
            for defects in ((), (defect,))
        ]
        found.append(ideal_dprime(images[0].expected, images[1].expected))
    return float(np.mean(found))


def detection_conditions(
    library: Library, dose_e_px: float, jitter_pm: float, rng: np.random.Generator, pixel_nm: float = 0.0125
) -> Conditions:
    """Conditions under which detection is measured; the rotation is random."""
    return library_conditions(
        library,
        pixel_nm=pixel_nm,
        thickness_nm=THICKNESS_CELLS * library.cell_nm[2],
        dose_e_px=dose_e_px,
        jitter_pm=jitter_pm,
        rotation_deg=float(rng.uniform(-45, 45)),
    )


def varied_conditions(library: Library, rng: np.random.Generator) -> Conditions:
    """Conditions drawn over what is met in practice; the library's range of thickness is kept."""
    source_nm = float(rng.uniform(0.02, 0.05))
    slope = rng.uniform(-0.15, 0.15, 2)
    most = float(library.thickness_cells[-1]) / (1 + np.abs(slope).sum() / 2) - 0.5
    return library_conditions(
        library,
        pixel_nm=float(rng.uniform(0.008, 0.020)),
        thickness_nm=float(rng.uniform(8.0, most)) * library.cell_nm[2],
        thickness_gradient=(float(slope[0]), float(slope[1])),
        dose_e_px=float(np.exp(rng.uniform(np.log(50.0), np.log(5000.0)))),
        jitter_pm=float(rng.uniform(0.0, 8.0)),
        rotation_deg=float(rng.uniform(-45, 45)),
        contamination=float(rng.uniform(0.0, 0.3)),
        blur_nm=float(np.hypot(library.probe_rms_nm, source_nm)),
    )


def ideals(library: Library, crystal: Crystal, kinds: tuple[Kind, ...], pixel_nm: float = 0.0125) -> dict[str, float]:
    """Ideal d' at 1 e/px of every kind under the conditions of detection."""
    conditions = detection_conditions(library, 1.0, 0.0, np.random.default_rng(0), pixel_nm)
    return {
        kind.name: ideal_per_root_dose(library, crystal, replace(conditions, rotation_deg=11.0), kind) for kind in kinds
    }
