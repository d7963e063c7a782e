"""Registration of an image onto a crystal: the lattice, the crystal that it is of, and what is measured on both.

`fit_registration` measures everything from the image, strip by strip; `register` also cuts all of it into the frame.
"""

from collections.abc import Sequence

import numpy as np

from oddlattice.crystal import Crystal
from oddlattice.lattice.fourier import Lattice, TooLongError, find_lattice, not_atomic
from oddlattice.lattice.framing import Framing
from oddlattice.lattice.mean_cell import peaks_of_mean_cell
from oddlattice.lattice.measure import OnLattice, measured_on
from oddlattice.lattice.registration import Registration, Tiles, render
from oddlattice.lattice.which_crystal import Judge, on_a_crystal
from oddlattice.numerics.arrays import Float
from oddlattice.run.stage_settings import TileSettings

LARGEST_PERIOD_NM = 1.5  # ASSUME: primitive cells in projection are smaller, unless a crystal in use says otherwise
USUAL = TileSettings(length_tolerance=0.10, strain_tolerance=0.12, content_minimum=0.6)  # as shipped


def fit_registration(
    image: Float,
    crystals: Sequence[Crystal],
    pixel_nm: tuple[float, float] | None = None,
    settings: TileSettings | None = None,
    lattice: Lattice | None = None,
    judge: Judge | None = None,
    framing: Framing | None = None,
) -> Registration:
    """Measure frame, origin, row shifts, local mean and mask of an image.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray, read in strips of rows.
    crystals : sequence of Crystal
        Candidates; the data decide between them. Empty: the primitive lattice itself is registered, its origin at
        the brightest column.
    pixel_nm : tuple of float, optional
        Header's pixel size (row, col) [nm]; None when the file states none.
    settings : TileSettings, optional
    lattice : Lattice, optional
        Coarse lattice, when it is known.
    judge : Judge, optional
        Decides between crystals that fit in lattice and content; without it the content does.
    framing : Framing, optional
        That of the image, where more than one lattice is tried on it.

    Raises
    ------
    NoLatticeError
        The image shows no lattice that can be analysed.
    NoModelError
        The lattice is none of the crystals'.
    """
    settings = settings or USUAL
    lattice = lattice or find_lattice(image)
    largest = max([LARGEST_PERIOD_NM, *(1.3 * np.sqrt(crystal.area_nm2) for crystal in crystals)])
    if reason := not_atomic(lattice.vectors_px, pixel_nm, float(largest)):
        raise TooLongError(reason)
    flattener, frame = (framing or Framing(image)).on(lattice)
    if crystals:
        chosen = on_a_crystal(image, flattener, frame, crystals, pixel_nm, settings, judge)
        frame, crystal, origin_fit, mean_cell = chosen
        return measured_on(OnLattice(image, flattener, frame, mean_cell, crystal, origin_fit), lattice)
    on = OnLattice.of(image, frame, flattener)
    (u, v, _), *_ = peaks_of_mean_cell(on.mean_cell.cell())
    return measured_on(on.moved(np.array([u, v])), lattice)


def register(
    image: Float,
    crystal: Crystal | None,
    pixel_nm: tuple[float, float] | None = None,
    settings: TileSettings | None = None,
) -> Tiles:
    """Register an image onto one crystal (None: onto its own primitive lattice) and cut all of it into the frame.

    Raises
    ------
    NoLatticeError, NoModelError
        As `fit_registration`.
    """
    found = fit_registration(image, [crystal] if crystal is not None else [], pixel_nm, settings)
    n_u, n_v = found.mask.shape
    return Tiles(render(image, found, (slice(0, n_u), slice(0, n_v))), found.mask.astype(np.uint8), found)
