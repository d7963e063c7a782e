"""The specimen of a multislice library: a block of unit cells, and the atoms that a defect changes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Array
from oddlattice.simulate.library import Change


@dataclass(frozen=True)
class Specimen:
    """Atoms of a block of unit cells, each known by its cell.

    Attributes
    ----------
    symbols : ndarray of shape (n,), str
    places : ndarray of shape (n, 3)
        Fractions of the unit cell, cell index included: u, v and w (along the beam).
    box_angstrom : ndarray of shape (3,)
        Sides of the unit cell [Å].
    cells : tuple of int
        Unit cells along each side.
    """

    symbols: npt.NDArray[np.str_]
    places: Array
    box_angstrom: Array
    cells: tuple[int, int, int]

    def column(self, u: float, v: float) -> npt.NDArray[np.bool_]:
        """Atoms of the column at (u, v) of the middle cell, shape (n,)."""
        middle = np.array([u + self.cells[0] // 2, v + self.cells[1] // 2])
        return np.asarray(np.abs(self.places[:, :2] - middle).max(axis=1) < 1e-3)


def unit_cell(recipe: dict[str, Any], folder: Path) -> tuple[npt.NDArray[np.str_], Array, Array]:
    """Symbols (n,), fractional places (n, 3) and sides [Å] of the rectangular cell seen along the zone axis.

    Raises
    ------
    ValueError
        If the cell seen along the zone axis is not rectangular.
    """
    from ase import Atoms
    from ase.build import surface
    from ase.io import read

    structure = recipe["structure"]
    if "cif" in structure:
        atoms: Any = read(folder / structure["cif"])
    else:
        symbols, places = [atom[0] for atom in structure["atoms"]], [atom[1:] for atom in structure["atoms"]]
        atoms = Atoms(symbols, scaled_positions=places, cell=np.array(structure["cell_nm"]) * 10, pbc=True)
    if tuple(recipe["zone_axis"]) != (0, 0, 1):
        atoms = surface(  # type: ignore[no-untyped-call]
            atoms, recipe["zone_axis"], layers=1, periodic=True
        )
    if np.abs(atoms.cell.angles() - 90).max() > 0.01:
        angles = np.round(atoms.cell.angles(), 2).tolist()
        raise ValueError(f"recipe {recipe['name']}: cell along {recipe['zone_axis']} has angles {angles} deg; need 90")
    places = np.mod(np.round(atoms.get_scaled_positions(), 6), 1.0)
    return np.array(atoms.get_chemical_symbols()), places, np.array(atoms.cell.lengths())


def build_specimen(recipe: dict[str, Any], folder: Path) -> Specimen:
    """The undisturbed block: `cells` side by side, as thick as the thickest image."""
    symbols, places, box = unit_cell(recipe, folder)
    cells = (int(recipe["cells"][0]), int(recipe["cells"][1]), int(max(recipe["thickness_cells"])))
    steps = np.stack(np.meshgrid(*[np.arange(n) for n in cells], indexing="ij"), -1).reshape(-1, 1, 3)
    return Specimen(np.tile(symbols, len(steps)), (steps + places).reshape(-1, 3), box, cells)


def thermal_displacements(specimen: Specimen, rms_nm: dict[str, float], rng: np.random.Generator) -> Array:
    """Random displacements across the beam [Å], shape (n, 2); along the beam they do not matter."""
    rms = np.array([rms_nm[str(symbol)] for symbol in specimen.symbols]) * 10
    return np.asarray(rng.normal(size=(len(rms), 2)) * rms[:, None])


def changed_atoms(specimen: Specimen, change: Change, place: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Atoms that a change takes out, replaces or moves, shape (n,).

    Raises
    ------
    ValueError
        If the column has no such atoms, or not as many.
    """
    chosen = specimen.column(*place)
    if change.of:
        chosen &= specimen.symbols == change.of
    if change.atoms:
        layer = np.floor(specimen.places[:, 2])
        chosen &= (layer >= change.first_cell) & (layer < change.first_cell + change.atoms)
    found = int(chosen.sum())
    if found != (change.atoms or found) or not found:
        wanted = change.atoms or "all"
        raise ValueError(f"{change.name}: {found} atoms of the column at {place} are concerned; need {wanted}")
    return chosen


def apply_change(
    specimen: Specimen, displacements: Array, change: Change, chosen: npt.NDArray[np.bool_]
) -> tuple[Specimen, Array]:
    """Specimen and displacements after a change, the displacements of all other atoms kept."""
    if change.change == "displaced":
        moved = displacements.copy()
        moved[chosen, 0] += change.shift_pm / 100
        return specimen, moved
    if change.change == "substitute":
        symbols = np.where(chosen, change.by, specimen.symbols)
        return replace(specimen, symbols=symbols), displacements
    kept = replace(specimen, symbols=specimen.symbols[~chosen], places=specimen.places[~chosen])
    return kept, displacements[~chosen]
