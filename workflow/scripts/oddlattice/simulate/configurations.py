"""Images of a specimen with and without its defects, over frozen configurations."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.numerics.arrays import Array, Float
from oddlattice.simulate.library import Change, Library, changes_of
from oddlattice.simulate.multislice import Optics, annular_image, plane_waves, send_through, transmissions
from oddlattice.simulate.specimen import (
    Specimen,
    apply_change,
    build_specimen,
    changed_atoms,
    thermal_displacements,
    unit_cell,
)

DISC_CELLS = 0.15  # radius around a column within which its brightness is compared


def projected_slices(specimen: Specimen, displacements: Array, optics: Optics, slices_per_cell: int) -> Float:
    """Projected potential of every slice [V Å], shape (slices, *grid_px); atoms sit in the middle of their slice."""
    import abtem
    from ase import Atoms

    abtem.config.set({"device": "cpu", "fft": "numpy"})
    layer = np.floor(specimen.places[:, 2] * slices_per_cell + 1e-6) + 0.5
    across = specimen.places[:, :2] * specimen.box_angstrom[:2] + displacements
    positions = np.column_stack([across, layer * optics.slice_angstrom])
    box = specimen.box_angstrom * specimen.cells
    atoms = Atoms(list(specimen.symbols), positions=positions, cell=box, pbc=True)
    potential = abtem.Potential(
        atoms,
        gpts=optics.grid_px,
        slice_thickness=optics.slice_angstrom,
        parametrization="lobato",
        projection="infinite",
    )
    return np.asarray(potential.build(lazy=False).array, dtype=np.float32)


def average_over_site(image: Array, symmetry: str, mirror_only: bool = False) -> Array:
    """Average images (..., n, n) with the site at the middle over its symmetry: ``1`` or ``4mm``.

    `mirror_only` is for a column moved along the rows, which leaves the mirror across them.
    """
    if symmetry == "1":
        return image

    def mirrored(found: Array) -> Array:  # the middle stays at n // 2
        return np.roll(found[..., ::-1], 1 - found.shape[-1] % 2, axis=-1)

    image = (image + mirrored(image)) / 2
    if mirror_only:
        return image
    image = (image + np.swapaxes(mirrored(np.swapaxes(image, -1, -2)), -1, -2)) / 2
    return (image + np.swapaxes(image, -1, -2)) / 2


def bulk_cell(images: Array, cells: Sequence[int], symmetry: str) -> Array:
    """Mean unit cell (t, p, q) of images of the block (t, m p, n q), averaged over the symmetry of its corner."""
    t, rows, cols = images.shape
    folded = images.reshape(t, cells[0], rows // cells[0], cells[1], cols // cells[1]).mean(axis=(1, 3))
    half = folded.shape[1] // 2, folded.shape[2] // 2
    centred = average_over_site(np.roll(folded, half, axis=(1, 2)), symmetry)
    return np.asarray(np.roll(centred, (-half[0], -half[1]), axis=(1, 2)))


def centred(images: Array, cells: Sequence[int], place: tuple[float, float], cell_px: int) -> Array:
    """Float (t, m, n) rolled so that the column at `place` of the middle cell is at (m // 2, n // 2)."""
    rows, cols = images.shape[1:]
    row = round((place[0] + cells[0] // 2) * cell_px)
    col = round((place[1] + cells[1] // 2) * cell_px)
    return np.asarray(np.roll(images, (rows // 2 - row, cols // 2 - col), axis=(1, 2)))


class Block:
    """One frozen configuration of the block: images of bulk and of any change, with the same displacements."""

    def __init__(self, recipe: dict[str, Any], folder: Path, configuration: int, firsts: Sequence[int] = ()) -> None:
        self.recipe = recipe
        self.specimen = build_specimen(recipe, folder)
        rng = np.random.default_rng([int(recipe["seed"]), configuration])
        self.displacements = thermal_displacements(self.specimen, recipe["rms_nm"], rng)
        self.optics = optics_of(recipe, self.specimen)
        self.per_cell = int(recipe["slices_per_cell"])
        self.exits = [int(t) * self.per_cell for t in recipe["thickness_cells"]]
        self.shape = (recipe["cells"][0] * recipe["cell_px"], recipe["cells"][1] * recipe["cell_px"])
        waves = plane_waves(self.optics)
        keep = [first * self.per_cell for first in firsts if first]
        slices = transmissions(self._slices(self.specimen, self.displacements), self.optics)
        exit_waves, self.waves = send_through(waves, slices, self.optics, 0, self.exits, keep)
        self.waves[0] = waves
        self.bulk = np.stack([annular_image(exit_waves[n], self.optics, self.shape) for n in self.exits])

    def _slices(self, specimen: Specimen, displacements: Array) -> Float:
        return projected_slices(specimen, displacements, self.optics, self.per_cell)

    def difference(self, change: Change, place: tuple[float, float]) -> Array:
        """Image with a change less bulk, shape (thicknesses, rows, cols), the column at its place in the block."""
        chosen = changed_atoms(self.specimen, change, place)
        slices = transmissions(
            self._slices(*apply_change(self.specimen, self.displacements, change, chosen)), self.optics
        )
        first = change.first_cell * self.per_cell
        exit_waves, _ = send_through(self.waves[first], slices, self.optics, first, self.exits)
        return np.stack(
            [
                annular_image(exit_waves[n], self.optics, self.shape) - bulk if n in exit_waves else np.zeros_like(bulk)
                for n, bulk in zip(self.exits, self.bulk, strict=True)
            ]
        )


def optics_of(recipe: dict[str, Any], specimen: Specimen) -> Optics:
    """Microscope and grid of a recipe for its block."""
    microscope = recipe["microscope"]
    extent = specimen.box_angstrom[:2] * specimen.cells[:2]
    return Optics(
        kv=float(microscope["kv"]),
        convergence_mrad=float(microscope["convergence_mrad"]),
        detector_mrad=(float(microscope["detector_mrad"][0]), float(microscope["detector_mrad"][1])),
        extent_angstrom=(float(extent[0]), float(extent[1])),
        grid_px=(int(recipe["grid_px"][0]), int(recipe["grid_px"][1])),
        slice_angstrom=float(specimen.box_angstrom[2]) / int(recipe["slices_per_cell"]),
    )


def simulate_configuration(recipe: dict[str, Any], folder: Path, configuration: int) -> tuple[Array, dict[str, Array]]:
    """One frozen configuration: images of the bulk block, and centred differences averaged over the site's symmetry.

    Progress goes to standard error.
    """
    changes = list(changes_of(recipe))
    sites = {site["site"]: site for site in recipe["sites"]}
    block = Block(recipe, folder, configuration, sorted({change.first_cell for change in changes}))
    differences = {}
    for number, change in enumerate(changes, start=1):
        site = sites[change.site]
        place = float(site["u"]), float(site["v"])
        found = centred(block.difference(change, place), block.specimen.cells, place, recipe["cell_px"])
        differences[change.name] = average_over_site(found, str(site["symmetry"]), change.change == "displaced")
        done = f"configuration {configuration + 1} of {recipe['phonons']}, change {number} of {len(changes)}"
        print(f"simulate_library: {done}: {change.name}", file=sys.stderr, flush=True)
    return block.bulk, differences


def column_ratio(bulk: Array, block: Array, site: dict[str, Any], recipe: dict[str, Any]) -> Array:
    """How much brighter the mean column of a site is than the one that was changed, by thickness; shape (t,).

    The atoms of one column of a few configurations sit a little better or worse than those of all columns; what its
    change takes away must be measured by the column that stands in the bulk cell, or an emptied column turns negative.

    Parameters
    ----------
    bulk : ndarray of shape (t, p, q)
        Mean cell.
    block : ndarray of shape (t, m, n)
        Mean block over the same configurations.
    """
    cell_px, place = int(recipe["cell_px"]), (float(site["u"]), float(site["v"]))
    mean = centred(np.tile(bulk, (1, *recipe["cells"])), tuple(recipe["cells"]), place, cell_px)
    one = centred(block, tuple(recipe["cells"]), place, cell_px)
    row, col = (np.arange(size) - size // 2 for size in mean.shape[1:])
    disc = np.hypot(row[:, None], col[None, :]) < DISC_CELLS * cell_px
    floor = bulk.min(axis=(1, 2))[:, None]
    return np.asarray((mean[:, disc] - floor).sum(axis=1) / (one[:, disc] - floor).sum(axis=1))


def simulate_library(recipe: dict[str, Any], folder: Path) -> Library:
    """Simulate every image of a recipe, the mean over its configurations; paths in it are relative to `folder`."""
    found = [simulate_configuration(recipe, folder, k) for k in range(int(recipe["phonons"]))]
    corner = next((site["symmetry"] for site in recipe["sites"] if site["u"] == site["v"] == 0), "1")
    block = np.mean([images for images, _ in found], axis=0)
    bulk = bulk_cell(block, recipe["cells"], str(corner))
    ratios = {str(site["site"]): column_ratio(bulk, block, site, recipe) for site in recipe["sites"]}
    differences = {}
    for change in changes_of(recipe):
        mean = np.mean([images[change.name] for _, images in found], axis=0)
        whole = ratios[change.site][:, None, None] if change.atoms == 0 else 1.0
        differences[change.name] = (mean * whole).astype(np.float32)
    a_nm, b_nm, c_nm = (float(side) / 10 for side in unit_cell(recipe, folder)[2])
    return Library(recipe, bulk.astype(np.float32), differences, (a_nm, b_nm, c_nm))
