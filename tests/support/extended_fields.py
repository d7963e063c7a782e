"""Fields of SrTiO3 [001] with one extended defect each, composed from the multislice library; for tests and trials."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

from oddlattice.crystal import Crystal, load_crystal
from oddlattice.simulate.columnwise import Conditions
from oddlattice.simulate.compose import compose_scan, library_conditions
from oddlattice.simulate.library import Library, load_library

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ROOT = Path(__file__).parents[2]
SIDE_PX = 768
DOSE = 800.0  # [electrons per pixel]
TURN_DEG = 7.0


@dataclass(frozen=True)
class Extended:
    """A noisy scan and where its extended defect is.

    Attributes
    ----------
    counts : ndarray of shape (rows, cols), float32
    odd : ndarray of shape (rows, cols), bool
        What is not perfect crystal of the one kind: the defect's own area, a line being one cell wide.
    pixel_nm : float
    """

    counts: npt.NDArray[np.float32]
    odd: Mask
    pixel_nm: float


@dataclass(frozen=True)
class Maker:
    """What the fields are composed of."""

    library: Library
    crystal: Crystal
    conditions: Conditions

    def bulk(self, shift_cells: tuple[float, float] = (0.0, 0.0), side_px: int = SIDE_PX, **changes: object) -> Array:
        """Expected image of perfect crystal for one electron a pixel; cell (0, 0) begins at the middle, moved."""
        conditions = replace(self.conditions, **changes)  # type: ignore[arg-type]
        turn = np.deg2rad(conditions.rotation_deg)
        a = self.crystal.a_nm / conditions.pixel_nm * np.array([np.cos(turn), np.sin(turn)])
        b = self.crystal.b_nm / conditions.pixel_nm * np.array([-np.sin(turn), np.cos(turn)])
        origin = np.full(2, side_px / 2) + shift_cells[0] * a + shift_cells[1] * b
        scan = compose_scan(
            self.library, self.crystal, conditions, (side_px, side_px), (), 1, (float(origin[0]), float(origin[1]))
        )
        return scan.expected.astype(np.float64)

    @property
    def cell_px(self) -> float:
        """Side of a cell [px]."""
        return self.crystal.a_nm / self.conditions.pixel_nm


def places() -> tuple[Array, Array]:
    """Rows and columns about the middle [px]."""
    row, col = np.mgrid[:SIDE_PX, :SIDE_PX] - (SIDE_PX - 1) / 2
    return row, col


def mixed(first: Array, second: Array, part: Array) -> Array:
    """`second` where `part` is 1, `first` where it is 0."""
    return np.asarray((1 - part) * first + part * second)


def step(distance_px: Array, width_px: float = 2.0) -> Array:
    """From 0 to 1 where a distance changes its sign."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance_px / width_px))


def slanted(tilt: float = 0.23) -> Array:
    """Distance from a straight line through the middle [px], which runs along no lattice vector."""
    row, col = places()
    return np.asarray((col + tilt * row) / np.hypot(1, tilt))


def antiphase_boundary(make: Maker) -> tuple[Array, Mask]:
    """Right of a line every column stands half a cell diagonal further on: Sr where Ti would be."""
    line = slanted()
    return mixed(make.bulk(), make.bulk((0.5, 0.5)), step(line)), np.abs(line) < make.cell_px / 2


def dislocations(make: Maker, *cores: tuple[tuple[float, float], tuple[int, int]]) -> tuple[Array, Mask]:
    """Edge dislocations at places (u, v) from the middle, with Burgers vectors (u, v); what is odd are their cores.

    Isotropic elasticity, Poisson's ratio 0.23. Source: Hirth and Lothe, Theory of Dislocations (1982), eq. 3-45.
    """
    row, col = places()
    turn, nu = np.deg2rad(make.conditions.rotation_deg), 0.23
    cell = make.cell_px * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    rows, cols, odd = row.copy(), col.copy(), np.zeros(row.shape, dtype=bool)
    for place, burgers in cores:
        vector, middle = np.array(burgers) @ cell, np.array(place) @ cell
        length = float(np.hypot(*vector))
        way = vector / length
        along = way[0] * (row - middle[0]) + way[1] * (col - middle[1]) + 1e-3
        across = -way[1] * (row - middle[0]) + way[0] * (col - middle[1]) + 1e-3
        square = along**2 + across**2
        by_along = np.arctan2(across, along) + along * across / (2 * (1 - nu) * square)
        by_across = (1 - 2 * nu) / (4 * (1 - nu)) * np.log(square / length**2) + (along**2 - across**2) / (
            4 * (1 - nu) * square
        )
        rows -= length / (2 * np.pi) * (way[0] * by_along + way[1] * by_across)
        cols -= length / (2 * np.pi) * (way[1] * by_along - way[0] * by_across)
        odd |= square < (2 * length) ** 2
    wide = SIDE_PX + 128
    knots = spline_filter(make.bulk(side_px=wide), order=3, mode="mirror")
    image = map_coordinates(knots, np.stack([rows, cols]) + (wide - 1) / 2, order=3, mode="mirror", prefilter=False)
    return np.maximum(image, 0), odd


def dislocation(make: Maker) -> tuple[Array, Mask]:
    """An edge dislocation in the middle: an extra half plane."""
    return dislocations(make, ((0.0, 0.0), (1, 0)))


def dislocation_along_the_diagonal(make: Maker) -> tuple[Array, Mask]:
    """One whose Burgers vector is the cell's diagonal."""
    return dislocations(make, ((1.3, -2.6), (1, 1)))


def dislocation_dipole(make: Maker) -> tuple[Array, Mask]:
    """Two of opposite Burgers vectors: an extra piece of a plane between them."""
    return dislocations(make, ((-4.2, -2.1), (0, 1)), ((3.7, 1.4), (0, -1)))


def two_dislocations(make: Maker) -> tuple[Array, Mask]:
    """Two that do not cancel."""
    return dislocations(make, ((-5.1, -3.3), (1, 0)), ((4.2, 3.1), (0, 1)))


def grain_boundary(make: Maker) -> tuple[Array, Mask]:
    """Right of a line the crystal is turned by 24 degrees."""
    line = slanted() - SIDE_PX / 8
    other = make.bulk(rotation_deg=make.conditions.rotation_deg + 24.0)
    return mixed(make.bulk(), other, step(line)), line > -make.cell_px / 2


def second_phase(make: Maker) -> tuple[Array, Mask]:
    """A precipitate of 9 cells across in the middle: half as thick, turned by 45 degrees, a cell 7 % smaller."""
    row, col = places()
    inside = 4.5 * make.cell_px - np.hypot(row, col)
    other = make.bulk(
        rotation_deg=make.conditions.rotation_deg + 45.0,
        strain=(-0.07, 0.0, 0.0, -0.07),
        thickness_nm=make.conditions.thickness_nm / 2,
    )
    return mixed(make.bulk(), other, step(inside)), inside > 0


def hole(make: Maker) -> tuple[Array, Mask]:
    """Vacuum, 8 cells across, in the middle."""
    row, col = places()
    inside = 4.0 * make.cell_px - np.hypot(row, col)
    nothing = np.full(row.shape, make.conditions.background)
    return mixed(make.bulk(), nothing, step(inside, 4.0)), inside > 0


def contamination(make: Maker) -> tuple[Array, Mask]:
    """A patch of amorphous material as bright as the crystal's mean, grainy, 8 cells across, in the middle."""
    row, col = places()
    rng = np.random.default_rng(5)
    distance = np.hypot(row, col)
    bulk = make.bulk()
    grains = gaussian_filter(rng.standard_normal(row.shape), 0.15 * make.cell_px)
    grains = np.clip(1 + 0.6 * grains / grains.std(), 0, None)
    part = step(4.0 * make.cell_px - distance, 0.7 * make.cell_px)
    # what lies on the crystal spreads the probe: its contrast fades
    image = bulk.mean() + (1 - 0.5 * part) * (bulk - bulk.mean()) + 1.2 * part * bulk.mean() * grains
    return image, distance < 4.0 * make.cell_px


def perfect(make: Maker) -> tuple[Array, Mask]:
    """Nothing odd."""
    bulk = make.bulk()
    return bulk, np.zeros(bulk.shape, dtype=bool)


FIELDS: dict[str, Callable[[Maker], tuple[Array, Mask]]] = {
    "antiphase boundary": antiphase_boundary,
    "dislocation": dislocation,
    "dislocation along the diagonal": dislocation_along_the_diagonal,
    "dislocation dipole": dislocation_dipole,
    "two dislocations": two_dislocations,
    "grain boundary": grain_boundary,
    "second phase": second_phase,
    "hole": hole,
    "contamination": contamination,
}


def compose_extended(field: Callable[[Maker], tuple[Array, Mask]], seed: int = 1, dose: float = DOSE) -> Extended:
    """A noisy scan with one extended defect, with 3 pm of row jitter."""
    library = load_library(ROOT / "models/libraries/srtio3_001.yaml")
    crystal = load_crystal(ROOT / "models/srtio3_001/crystal.yaml")
    conditions = library_conditions(library, dose_e_px=0.0, jitter_pm=0.0, rotation_deg=TURN_DEG)
    expected, odd = field(Maker(library, crystal, conditions))
    rng = np.random.default_rng(seed)
    jitter_px = rng.normal(0.0, 0.003 / conditions.pixel_nm, SIDE_PX)
    cols = np.arange(SIDE_PX)[None, :] + jitter_px[:, None]
    rows = np.broadcast_to(np.arange(SIDE_PX)[:, None], cols.shape)
    expected = np.maximum(map_coordinates(expected, [rows, cols], order=3, mode="nearest"), 0)
    return Extended(rng.poisson(dose * expected).astype(np.float32), odd, conditions.pixel_nm)
