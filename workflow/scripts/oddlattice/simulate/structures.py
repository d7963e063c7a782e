"""Crystals from a recipe or from CIF files, seen along zone axes: the entries of a crystal library.

ASE (of the optional dependencies `library`) builds the cells; it is loaded here only, when it is needed.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.crystal import Z_OF
from oddlattice.lattice.crystal_views import views_of
from oddlattice.lattice.projection import Columns, conventional, plane_group, project
from oddlattice.numerics.arrays import Array
from oddlattice.run import yaml_files

RECIPE_KEYS = {"name", "family", "spacegroup", "cell_nm", "atoms", "axes", "source"}
CIF_NAME = "NAME [110].cif"
#: What ASE's parser raises on files that are no CIF of a crystal.
CIF_TROUBLE = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    AssertionError,
    RuntimeError,
    StopIteration,
    OSError,
)


@dataclass(frozen=True)
class Structure:
    """A unit cell.

    Attributes
    ----------
    cell_nm : ndarray of shape (3, 3)
        Lattice vectors as rows [nm].
    places : ndarray of shape (n, 3)
        Fractional places of the atoms.
    atoms : tuple of dict
        What is at each place: parts by element symbol.
    """

    cell_nm: Array
    places: Array
    atoms: tuple[dict[str, float], ...]


def structure_of(recipe: Mapping[str, Any]) -> Structure:
    """The unit cell of one crystal of the recipe."""
    from ase.spacegroup import crystal

    kinds = [{one[0]: 1.0} if isinstance(one[0], str) else dict(one[0]) for one in recipe["atoms"]]
    found: Any = crystal(
        [next(iter(kind)) for kind in kinds],
        [one[1:] for one in recipe["atoms"]],
        spacegroup=recipe["spacegroup"],
        setting=recipe.get("setting", 1),
        cellpar=[10 * side for side in recipe["cell_nm"]] + list(recipe.get("angles_deg", (90, 90, 90))),
    )
    atoms = tuple(kinds[kind] for kind in found.arrays["spacegroup_kinds"])
    return Structure(np.array(found.cell) / 10, found.get_scaled_positions(), atoms)


def structure_of_cif(path: Path) -> Structure:
    """The unit cell that a CIF file states.

    Raises
    ------
    ValueError
        If ASE cannot make a cell of it; the message names `path`.
    """
    from ase.io import read

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings and sites that ASE takes with a remark
            found: Any = read(str(path), format="cif")
    except CIF_TROUBLE as error:
        raise ValueError(f"{path}: found {type(error).__name__} ({error}); needed a CIF file of one crystal") from None
    occupied = found.info.get("occupancy", {})
    kinds = found.arrays.get("spacegroup_kinds", np.zeros(len(found), dtype=int))
    symbols = found.get_chemical_symbols()
    atoms = tuple(
        {str(symbol): float(part) for symbol, part in occupied.get(str(kind), {own: 1.0}).items()}
        for kind, own in zip(kinds, symbols, strict=True)
    )
    strange = sorted({symbol for one in atoms for symbol in one} - set(Z_OF))
    if strange:
        raise ValueError(f"{path}: found {', '.join(strange)}; needed elements up to bismuth")
    return Structure(np.array(found.cell) / 10, found.get_scaled_positions(), atoms)


def site_of(atoms: Mapping[str, float]) -> str:
    """Name of a column: its brightest element."""
    return max(atoms, key=lambda symbol: atoms[symbol] * Z_OF[symbol] ** 1.7)


def entry_of(names: Mapping[str, str], seen: Columns) -> dict[str, Any]:
    """One entry of the library, as JSON holds it; `names` holds crystal, family, axis and source."""
    a, b = seen.vectors_nm
    lengths = np.linalg.norm(seen.vectors_nm, axis=1)
    gamma = float(np.rad2deg(np.arccos(a @ b / lengths.prod())))
    return dict(names) | {
        "a_nm": round(float(lengths[0]), 5),
        "b_nm": round(float(lengths[1]), 5),
        "gamma_deg": round(gamma, 3),
        "repeat_nm": round(seen.repeat_nm, 5),
        "plane_group": plane_group(seen),
        "conventional": conventional(seen.vectors_nm).tolist(),
        "columns": [
            {
                "site": site_of(atoms),
                "u": round(float(place[0]), 4) % 1.0,
                "v": round(float(place[1]), 4) % 1.0,
                "atoms": {symbol: round(n, 3) for symbol, n in atoms.items()},
                "nm2": float(f"{bright:.4g}"),
            }
            for place, atoms, bright in zip(seen.places, seen.atoms, seen.brightness, strict=True)
        ],
        "views": views_of(seen),
    }


def entries_of_recipe(recipe: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Entries of every crystal of the recipe along every axis.

    Raises
    ------
    ValueError
        If a crystal lacks a key or names a source that is not listed.
    """
    for one in recipe["crystals"]:
        missing = RECIPE_KEYS - set(one)
        if missing:
            raise ValueError(f"crystal {one.get('name')}: key {min(missing)!r} is missing")
        if one["source"] not in recipe["sources"]:
            raise ValueError(f"crystal {one['name']}: source {one['source']!r} is not among the sources")
        structure = structure_of(one)
        for axis, zone in one["axes"].items():
            names = {"crystal": one["name"], "family": one["family"], "axis": axis, "source": one["source"]}
            yield entry_of(names, project(structure.cell_nm, structure.places, structure.atoms, zone))


def zone_of(axis: str, path: Path) -> list[int]:
    """Three indices of an axis written ``[110]``, ``[1-10]``, ``[1 -1 0]`` or, hexagonal, ``[11-20]``.

    Raises
    ------
    ValueError
        If it is no such axis; the message names `path`.
    """
    inside = axis.strip().removeprefix("[").removesuffix("]").replace(",", " ")
    indices = [int(found) for found in re.findall(r"-?\d+" if " " in inside else r"-?\d", inside)]
    if len(indices) == 4 and indices[0] + indices[1] + indices[2] == 0:
        u, v, t, w = indices
        indices = [u - t, v - t, w]
    if len(indices) != 3 or not any(indices):
        raise ValueError(f"{path}: found zone axis {axis!r}; needed three or four integers, as in {CIF_NAME!r}")
    return [index // int(np.gcd.reduce(indices)) for index in indices]


def axes_beside(path: Path) -> list[str]:
    """Zone axes of a CIF file: those of the list in `NAME.yaml` beside it, else the one in its own name.

    Raises
    ------
    ValueError
        If neither states one.
    """
    beside = path.with_suffix(".yaml")
    if beside.exists():
        listed = yaml_files.parse(beside.read_text(encoding="utf-8"))
        axes = listed.get("axes") if isinstance(listed, dict) else None
        if not isinstance(axes, list) or not axes or not all(isinstance(axis, str) for axis in axes):
            raise ValueError(f'{beside}: found {axes!r}; needed axes: a list, as in axes: ["[001]", "[110]"]')
        return axes
    named = re.findall(r"\[[^\]]+\]", path.stem)
    if not named:
        raise ValueError(f"{path}: found no zone axis; needed it in the name, as in {CIF_NAME!r}, or in {beside.name}")
    return named


def entries_of_cifs(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Entries of CIF files, each along the zone axes that it names or that stand beside it."""
    for path in paths:
        structure = structure_of_cif(path)
        name = re.sub(r"\s*\[[^\]]+\]", "", path.stem).strip() or path.stem
        for axis in axes_beside(path):
            seen = project(structure.cell_nm, structure.places, structure.atoms, zone_of(axis, path))
            yield entry_of({"crystal": name, "family": "", "axis": axis, "source": path.name}, seen)
