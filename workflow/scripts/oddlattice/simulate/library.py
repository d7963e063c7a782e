"""A library of multislice images: the bulk cell, and every defect as its difference from bulk, over thickness.

Stored as `<name>.safetensors` (the images) and `<name>.yaml` (recipe, hashes, versions); never a pickle.
Intensities are fractions of the incident beam. No source size is in them, and no noise.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from oddlattice.numerics.arrays import Float
from oddlattice.run.yaml_files import read_mapping
from oddlattice.simulate.optics import wavelength_angstrom
from oddlattice.storage.atomic import whole_file, write_text

RECIPE_KEYS = {
    "name",
    "structure",
    "zone_axis",
    "rms_nm",
    "sites",
    "microscope",
    "thickness_cells",
    "cells",
    "grid_px",
    "slices_per_cell",
    "cell_px",
    "phonons",
    "seed",
    "defects",
}
DEFECT_KEYS = {
    "empty": {"site", "change"},
    "vacancy": {"site", "change", "of", "atoms", "first_cells"},
    "substitute": {"site", "change", "of", "by", "atoms", "first_cells"},
    "displaced": {"site", "change", "shifts_pm"},
}


@dataclass(frozen=True)
class Change:
    """One change of one atomic column.

    Attributes
    ----------
    site : str
        Column that is changed.
    change : str
        ``empty`` (every atom of the column is missing), ``vacancy``, ``substitute`` or ``displaced``.
    of, by : str
        Element taken out, element put in; "" where there is none.
    atoms : int
        Number of atoms changed; 0 for all.
    first_cell : int
        Cells of the column above the first changed atom, counted from the entrance surface.
    shift_pm : float
        Displacement of the whole column along lattice vector a [pm].
    """

    site: str
    change: str
    of: str = ""
    by: str = ""
    atoms: int = 0
    first_cell: int = 0
    shift_pm: float = 0.0

    @property
    def name(self) -> str:
        """Name of the change in the library, e.g. ``Sr-vacancy-Sr-4-at8``."""
        parts = [self.site, self.change, self.of, self.by]
        parts += [f"{self.atoms}-at{self.first_cell}"] if self.atoms else []
        parts += [f"{self.shift_pm:g}pm"] if self.shift_pm else []
        return "-".join(part for part in parts if part)


def load_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe and check its keys.

    Raises
    ------
    ValueError
        If a key is missing or unknown; the message names `path` and the key.
    """
    recipe = read_mapping(path)
    for verb, keys in (("is missing", RECIPE_KEYS - set(recipe)), ("is not known", set(recipe) - RECIPE_KEYS)):
        if keys:
            raise ValueError(f"{path}: key {min(keys)!r} {verb}; a recipe needs {', '.join(sorted(RECIPE_KEYS))}")
    for defect in recipe["defects"]:
        known = DEFECT_KEYS.get(str(defect.get("change")))
        if known is None or set(defect) - known:
            raise ValueError(f"{path}: defect {defect}: need change: one of {', '.join(DEFECT_KEYS)} and its keys")
    return recipe


def recipe_sha256(recipe: dict[str, Any]) -> str:
    """Hash of a recipe's content, whatever its order or comments."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def changes_of(recipe: dict[str, Any]) -> Iterator[Change]:
    """The changes that a recipe's `defects` list."""
    for defect in recipe["defects"]:
        common = {key: str(defect[key]) for key in ("site", "change", "of", "by") if key in defect}
        for shift_pm in defect.get("shifts_pm", [0.0]):
            for first_cell in defect.get("first_cells", [0]):
                yield Change(
                    **common, atoms=int(defect.get("atoms", 0)), first_cell=int(first_cell), shift_pm=float(shift_pm)
                )


@dataclass(frozen=True)
class Library:
    """Images of bulk and differences of defects.

    Attributes
    ----------
    recipe : dict
    bulk : ndarray of shape (thicknesses, cell_px, cell_px), float32
        Bulk cell; pixel (i, j) is the probe at u = i / cell_px, v = j / cell_px.
    differences : dict of str to ndarray of shape (thicknesses, m, n), float32
        Defect minus bulk over `recipe["cells"]` cells by name of the change; the changed column is at pixel
        (m // 2, n // 2).
    cell_nm : tuple of float
        Unit cell: along a (rows), b (cols) and the beam [nm].
    sha256 : str
        Of the file of images; "" for one that is not stored.
    """

    recipe: dict[str, Any]
    bulk: Float
    differences: dict[str, Float]
    cell_nm: tuple[float, float, float]
    sha256: str = ""

    @cached_property
    def changes(self) -> dict[str, Change]:
        """The changes by name."""
        return {change.name: change for change in changes_of(self.recipe)}

    @property
    def thickness_cells(self) -> npt.NDArray[np.float64]:
        """Thicknesses of the images [cells]."""
        return np.array(self.recipe["thickness_cells"], dtype=np.float64)

    @property
    def probe_rms_nm(self) -> float:
        """Width of the Gaussian that fits the probe's core best [nm]: 0.21 wavelengths per aperture angle."""
        optics = self.recipe["microscope"]
        return float(0.021 * wavelength_angstrom(optics["kv"]) / (optics["convergence_mrad"] / 1000))

    def planes(self, images: Float, thickness_cells: float) -> npt.NDArray[np.float64]:
        """Image at one thickness [cells], linear between the stored ones and from nothing at thickness 0.

        Raises
        ------
        ValueError
            If the library is not that thick.
        """
        return np.asarray(np.einsum("t,tij->ij", self.weights(np.array(thickness_cells)), images.astype(np.float64)))

    def weights(self, thickness_cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Weight of every stored thickness at given thicknesses [cells]; shape (..., thicknesses).

        Raises
        ------
        ValueError
            If a thickness is negative or above the library's.
        """
        known = np.concatenate([[0.0], self.thickness_cells])
        low, high = float(np.min(thickness_cells)), float(np.max(thickness_cells))
        if low < 0 or high > known[-1] + 1e-9:
            name = self.recipe["name"]
            raise ValueError(f"library {name}: thickness {low:.1f}-{high:.1f} cells; it holds 0-{known[-1]:g} cells")
        units = np.eye(len(known))
        return np.stack([np.interp(thickness_cells, known, units[k]) for k in range(1, len(known))], axis=-1)


def save_library(library: Library, images: Path, card: Path, versions: dict[str, str]) -> None:
    """Write a library: its images as safetensors, and recipe, hashes and versions as YAML."""
    tensors = {"bulk": library.bulk} | {f"difference.{name}": found for name, found in library.differences.items()}
    content = save(
        {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in sorted(tensors.items())},
        metadata={"recipe_sha256": recipe_sha256(library.recipe)},
    )
    with whole_file(images) as part:
        part.write_bytes(content)
    described = {
        "images": images.name,
        "images_sha256": hashlib.sha256(content).hexdigest(),
        "recipe_sha256": recipe_sha256(library.recipe),
        "cell_nm": list(library.cell_nm),
        "intensity_unit": "fraction of the incident beam",
        "versions": versions,
        "recipe": library.recipe,
    }
    write_text(card, yaml.safe_dump(described, sort_keys=False, width=120, default_flow_style=None))


def load_library(card: Path) -> Library:
    """Read a library by its YAML file.

    Raises
    ------
    ValueError
        If the images are not those that the YAML file describes.
    """
    described = read_mapping(card)
    if not {"images", "images_sha256", "cell_nm", "recipe"} <= set(described):
        raise ValueError(f"{card}: a library's card needs images, images_sha256, cell_nm and recipe")
    images = card.with_name(str(described["images"]))
    sha256 = hashlib.sha256(images.read_bytes()).hexdigest()
    if sha256 != described["images_sha256"]:
        raise ValueError(f"{images}: sha256 {sha256}; {card.name} needs {described['images_sha256']}")
    try:
        with safe_open(str(images), framework="numpy") as tensors:
            found = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{images}: {error}; need a safetensors file") from None
    bulk = found.pop("bulk")
    differences = {name.removeprefix("difference."): array for name, array in found.items()}
    a_nm, b_nm, c_nm = (float(side) for side in described["cell_nm"])
    return Library(described["recipe"], bulk, differences, (a_nm, b_nm, c_nm), sha256)


def ideal_dprime(mean0: npt.NDArray[Any], mean1: npt.NDArray[Any]) -> float:
    """Detectability of a known signal at a known place in Poisson noise.

    d'^2 = sum over pixels of (mean1 - mean0)^2 / mean0, for signals that are small against `mean0`.
    Source: Barrett and Myers, Foundations of Image Science (2004), ch. 13.

    Parameters
    ----------
    mean0, mean1 : ndarray
        Expected counts without and with the signal, same shape; `mean0` > 0.
    """
    return float(np.sqrt(np.sum((np.asarray(mean1, dtype=np.float64) - mean0) ** 2 / mean0)))
