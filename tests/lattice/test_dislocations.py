"""A frame about dislocations and faults: cores and a narrow cut are lost, columns beside them stand on their sites."""

from pathlib import Path

import numpy as np
import pytest

from oddlattice.crystal import load_crystal
from oddlattice.defects.regions import gap_cells
from oddlattice.lattice.dislocations import from_line_px
from oddlattice.lattice.fit_frame import fit_frame
from oddlattice.lattice.flattener import fit_flattener
from oddlattice.lattice.fourier import find_lattice
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.tile_image import steps_and_blanks
from oddlattice.numerics.arrays import Array
from support.extended_fields import FIELDS, compose_extended
from support.grain_fields import SAMPLES, make_grains

CRYSTAL = load_crystal(Path(__file__).parents[2] / "models/srtio3_001/crystal.yaml")


@pytest.mark.parametrize(
    ("name", "cores", "most_cut"),
    [
        ("dislocation along the diagonal", 1, 24),  # of the cells in the image, so many may not be analysed
        ("dislocation dipole", 2, 24),
        ("two dislocations", 2, 40),
    ],
)
def test_only_cores_and_a_narrow_cut_are_lost(name: str, cores: int, most_cut: int) -> None:
    field = compose_extended(FIELDS[name])
    found = fit_registration(field.counts, [CRYSTAL], (field.pixel_nm, field.pixel_nm))
    assert len(found.frame.cores_px) == cores
    middles = np.moveaxis(found.nodes_px[:, :-1, :-1] + found.nodes_px[:, 1:, 1:], 0, -1) / 2
    row, col = np.rint(found.frame.cores_px[:, :2]).astype(int).T
    assert field.odd[row, col].all()
    seen = ((middles > 40) & (middles < np.array(field.counts.shape) - 40)).all(axis=-1)
    odd = np.zeros(seen.shape, dtype=bool)
    odd[seen] = field.odd[tuple(np.rint(middles[seen]).astype(int).T)]
    region = gap_cells(found.mask, found.inside, np.ones(found.mask.shape))
    assert 0.5 * odd.sum() < region.sum() < 2 * odd.sum()
    assert (seen & ~found.inside).sum() < most_cut
    (said,) = steps_and_blanks(found)
    assert "from dislocations" in said and "blank" not in said
    off = np.hypot(*found.shift_uv)[found.mask.astype(bool)]  # of each cell from its place in the frame [cells]
    assert np.percentile(off, 99) < 0.05


def test_a_perfect_crystal_is_cut_nowhere() -> None:
    field = compose_extended(FIELDS["hole"])
    found = fit_registration(field.counts, [CRYSTAL], (field.pixel_nm, field.pixel_nm))
    assert found.frame.cuts_px.shape == (0, 2, 2) and found.frame.cores_px.shape == (0, 3)


def test_the_distance_from_a_line() -> None:
    places = np.array([[0.0, 3.0], [5.0, 4.0], [13.0, -4.0]])
    assert from_line_px(places, np.array([[0.0, 0.0], [10.0, 0.0]])) == pytest.approx([3.0, 4.0, 5.0])


@pytest.mark.parametrize(("name", "shift"), [("MoS2", (1 / 3, 1 / 3)), ("SrTiO3", (0.0, 0.3))])
def test_both_sides_of_a_fault_stand_on_their_sites(name: str, shift: tuple[float, float]) -> None:
    pixel_nm, side = 0.0195, 360
    step = np.array(shift) @ SAMPLES[name].vectors_nm / pixel_nm

    def from_line_cols(at: Array) -> Array:
        return np.asarray(at[:, 1] - side / 2 - 0.3 * (at[:, 0] - side / 2))

    def moved(at: Array) -> Array:
        return np.asarray(at + (from_line_cols(at) > 0)[:, None] * step)

    truth = make_grains((name,), (0.0,), side_px=side, pixel_nm=pixel_nm, dose=200, changed=0, moved=moved, seed=3)
    lattice = find_lattice(truth.counts)
    flattener = fit_flattener(truth.counts, float(np.sqrt(abs(np.linalg.det(lattice.vectors_px)))))
    frame = fit_frame(truth.counts, lattice, flattener)
    assert len(frame.faults_px) == 1 and len(frame.cuts_px) == 0
    at = truth.places_px[truth.column == 0]
    uv = frame.uv_at(at[np.abs(from_line_cols(at)) > 2.5 * truth.cell_px])
    off = (uv - uv[0]) - np.rint(uv - uv[0])
    assert np.hypot(*(off - np.median(off, axis=0)).T).max() < 0.05
