"""Detectors of one scan: the lattice and the cell that one of them shows help another that shows less of them."""

from typing import Any

import numpy as np

from oddlattice.lattice.flattener import fit_flattener
from oddlattice.lattice.fourier import NoLatticeError, find_lattice
from oddlattice.lattice.measure import OnLattice, measured_on
from oddlattice.lattice.own_columns import find_columns
from oddlattice.lattice.own_crystal import (
    OwnCell,
    named,
    on_own_cell,
    register_on_own,
    seen_coefficients,
    strongest_lattice,
)
from oddlattice.lattice.reflections import lattice_map
from oddlattice.lattice.registration import Registration
from oddlattice.run.stage_settings import TileSettings

SHOWN_POWER = 60.0  # over noise, of waves in two directions: lines shifted to fit noise make up to 50 of it


def on_lattice_of(
    image: Any, other: Any, pixel_nm: tuple[float, float] | None, settings: TileSettings
) -> tuple[Registration, OwnCell]:
    """An image on the lattice, and in the cell, that another detector's image of the same scan shows.

    The lattice lies where the other shows it; shifts of lines, mean and columns are the image's own.

    Parameters
    ----------
    image, other : array of shape (rows, cols)

    Raises
    ------
    NoLatticeError
        The image shows nothing on that lattice, or the other shows none.
    """
    lattice = strongest_lattice(find_lattice(other))
    frame = register_on_own(other, pixel_nm, settings, lattice)[0].frame
    first = measured_on(OnLattice.of(image, frame, fit_flattener(image, frame.period_px)), lattice)
    cell = np.eye(2, dtype=np.int64)
    seen = seen_coefficients(lattice_map(image, first), cell)
    strong = np.abs(seen.amplitudes) ** 2 > SHOWN_POWER * 2 * seen.noise**2
    columns = find_columns(seen) if np.linalg.matrix_rank(seen.orders[strong]) == 2 else None
    if columns is None:
        raise NoLatticeError("no lattice: nothing of what another detector of the scan repeats stands above the noise")
    own = named(columns, first.frame.vectors_px, cell)
    return on_own_cell(image, own, first, lattice, pixel_nm), own
