"""The unit cell of a crystal seen along the beam, as `models/<name>/crystal.yaml` states it."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Array
from oddlattice.run import yaml_files

PxPerCell = tuple[int, int]  # pixels per unit cell along (u, v) in the lattice frame

OWN = "own"  # in place of a model's name: the crystal that an image itself shows
CELL_PX = 20  # of a cell of a special model along each lattice vector: its patches are 2 x 2 such cells
PX_PER_CELL: PxPerCell = (CELL_PX, CELL_PX)
COLUMN_DISTANCE_PX = 10.0  # between the nearest columns of a cell; so SrTiO3 [001] has 20 x 20 px
NEARLY = 0.25  # a cell whose sides are so near to a special model's is given that many pixels
#: Changes of a cell's basis, as integer matrices: the bases that may be its shortest, and its point operations.
TURNS = [np.array(m).reshape(2, 2) for m in product((-1, 0, 1), repeat=4) if abs(m[0] * m[3] - m[1] * m[2]) == 1]
LEAST_CELLS = 36  # analysed cells that a grain, a noise estimate or a test needs
Z_OF = {
    symbol: z
    for z, symbol in enumerate(
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
        "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
        "Pt Au Hg Tl Pb Bi".split(),
        start=1,
    )
}
CROSS_SECTION_SR_NM2 = 3e-5  # ASSUME: one Sr atom into a HAADF detector at 200-300 kV, channelling included


@dataclass(frozen=True)
class Column:
    """One atomic column of the unit cell.

    Attributes
    ----------
    site : str
        Name of the column, e.g. ``Sr``.
    u, v : float
        Place in the cell, as fractions of the lattice vectors a and b, in [0, 1).
    atoms : dict of str to float
        Atoms per repeat along the beam, by element symbol.
    rms_nm : float
        One-dimensional rms thermal displacement [nm].
    tested : bool
        Whether the column is visible and is tested for defects.
    brightness : float
        Intensity relative to the brightest column, where `atoms` is empty: a column known from an image only.
    """

    site: str
    u: float
    v: float
    atoms: dict[str, float]
    rms_nm: float
    tested: bool
    brightness: float = 1.0


@dataclass(frozen=True)
class Crystal:
    """The two-dimensional unit cell of a crystal in projection.

    Attributes
    ----------
    name : str
    a_nm, b_nm : float
        Lengths of the lattice vectors [nm].
    gamma_deg : float
        Angle from a to b [deg].
    repeat_nm : float
        Period along the beam [nm].
    columns : tuple of Column
    px_per_cell : tuple of int
        Pixels along (a, b) in the lattice frame.
    known_as : str
        Formula and zone axis, as a crystal library names its entries; "" where the file states none.
    nominal : bool
        Whether lengths are nominal, for nothing told the size of a pixel: then the cell is no ruler.
    """

    name: str
    a_nm: float
    b_nm: float
    gamma_deg: float
    repeat_nm: float
    columns: tuple[Column, ...]
    px_per_cell: PxPerCell = PX_PER_CELL
    known_as: str = ""
    nominal: bool = False

    @property
    def vectors_nm(self) -> npt.NDArray[np.float64]:
        """Lattice vectors as rows, (row, col) components [nm]; shape (2, 2); a points along +row."""
        gamma = np.deg2rad(self.gamma_deg)
        return np.array([[self.a_nm, 0.0], [self.b_nm * np.cos(gamma), self.b_nm * np.sin(gamma)]])

    @property
    def tested(self) -> tuple[Column, ...]:
        """The columns that are tested for defects."""
        return tuple(column for column in self.columns if column.tested)

    @property
    def area_nm2(self) -> float:
        """Area of the cell [nm^2]."""
        return float(abs(np.linalg.det(self.vectors_nm)))


def column_distance(vectors: Array, uv: Array) -> float:
    """Distance between the nearest columns `uv` (n, 2) of a crystal, in the unit of its `vectors` (2, 2), rows."""
    steps = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2), -1).reshape(-1, 1, 1, 2)
    apart = np.hypot(*np.moveaxis((uv[:, None] - uv[None] + steps) @ vectors, -1, 0))
    return float(apart[apart > 1e-6].min())


def px_per_cell_of(vectors: Array, uv: Array) -> PxPerCell:
    """Pixels per cell along (u, v), even numbers, by the distance between its columns: cells are 0.2 to 4 nm long.

    Parameters
    ----------
    vectors : ndarray of shape (2, 2)
        Lattice vectors as rows, in any unit of length.
    uv : ndarray of shape (n, 2)
        All columns of the cell.
    """
    ideal = COLUMN_DISTANCE_PX * np.hypot(*vectors.T) / column_distance(vectors, uv)
    if (np.abs(ideal / CELL_PX - 1) <= NEARLY).all():
        return PX_PER_CELL
    n_u, n_v = (2 * max(round(float(n) / 2), 2) for n in ideal)
    return n_u, n_v


def crystal_from_dict(found: dict[str, Any], path: Path) -> Crystal:
    """Build a Crystal from parsed YAML.

    Raises
    ------
    ValueError
        If a key is missing or a value is not usable; the message names `path` and the key.
    """
    try:
        columns = tuple(
            Column(
                site=str(c["site"]),
                u=float(c["u"]) % 1.0,
                v=float(c["v"]) % 1.0,
                atoms={str(k): float(n) for k, n in dict(c.get("atoms", {})).items()},
                rms_nm=float(c.get("rms_nm", 0.008)),
                tested=bool(c.get("tested", True)),
                brightness=float(c.get("brightness", 1.0)),
            )
            for c in found["columns"]
        )
        crystal = Crystal(
            name=str(found["name"]),
            a_nm=float(found["a_nm"]),
            b_nm=float(found["b_nm"]),
            gamma_deg=float(found["gamma_deg"]),
            repeat_nm=float(found.get("repeat_nm", found["a_nm"])),
            columns=columns,
            known_as=_known_as(found),
            nominal=bool(found.get("nominal", False)),
        )
    except KeyError as error:
        raise ValueError(
            f"{path}: key {error} is missing; a crystal needs name, a_nm, b_nm, gamma_deg, columns"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; a crystal needs numbers for a_nm, b_nm, gamma_deg, u, v") from None
    if not (0 < crystal.a_nm < 10 and 0 < crystal.b_nm < 10 and 20 <= crystal.gamma_deg <= 160):
        raise ValueError(f"{path}: a_nm, b_nm must lie in (0, 10) nm and gamma_deg in [20, 160] deg")
    if not crystal.tested:
        raise ValueError(f"{path}: columns: none is tested; at least one column needs tested: true")
    return crystal


def _known_as(found: dict[str, Any]) -> str:
    """Formula and axis, e.g. ``SrTiO3 [001]``."""
    formula, axis = found.get("formula"), found.get("zone_axis")
    return f"{formula} [{''.join(str(index) for index in axis)}]" if formula and axis else ""


def load_crystal(path: Path) -> Crystal:
    """Read a crystal from its YAML file; see `crystal_from_dict` for what is raised."""
    return crystal_from_dict(yaml_files.read_mapping(path), path)


def scattering_nm2(atoms: dict[str, float], repeats: float | Array) -> Array:
    """Integrated intensity of a column [nm^2]: cross-section times atoms, levelling off with thickness.

    Source: the Z^1.7 dependence of HAADF, Pennycook and Jesson, Ultramicroscopy 37 (1991) 14,
    doi:10.1016/0304-3991(91)90004-P.
    """
    per_repeat = sum(n * (Z_OF[symbol] / 38.0) ** 1.7 for symbol, n in atoms.items())
    return np.asarray(CROSS_SECTION_SR_NM2 * per_repeat * repeats, dtype=np.float64)


def column_nm2(column: Column) -> float:
    """Integrated intensity per repeat of a column [nm^2]; of one known from an image only, as bright as so much Sr."""
    return float(scattering_nm2(column.atoms, 1.0)) if column.atoms else CROSS_SECTION_SR_NM2 * column.brightness
