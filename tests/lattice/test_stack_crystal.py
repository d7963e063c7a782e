"""Frames of a stack are laid on the crystal of its sum, whatever each of them shows by itself."""

import numpy as np
import pytest

from oddlattice.lattice.fourier import find_lattice
from oddlattice.lattice.own_crystal import OwnCell, register_on_own, strongest_lattice
from oddlattice.lattice.reflections import lattice_map
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.stack_crystal import StackCrystal, seen_again, sum_of_some
from oddlattice.lattice.tile_shard import stacks_in
from support.own_crystals import CRYSTALS, make_field

DRIFT_PX = np.array([3, -5])
FRAMES, SIDE_PX = 4, 220


def frames(name: str, dose: float) -> list[np.ndarray]:
    """Windows that drift over one specimen, each with noise of its own."""
    whole = make_field(CRYSTALS[name], side_px=SIDE_PX + 20, dose=1e5, rotation_deg=11.0, jitter_pm=0.0).counts
    rng = np.random.default_rng(4)
    mean = dose * whole / whole.mean()
    at = np.array([2, 16]) + np.arange(FRAMES)[:, None] * DRIFT_PX
    return [rng.poisson(mean[r : r + SIDE_PX, c : c + SIDE_PX]).astype(np.float32) for r, c in at]


def known(stack: list[np.ndarray]) -> StackCrystal:
    total = sum_of_some(stack)
    return StackCrystal(register_on_own(total)[1], strongest_lattice(find_lattice(total)))


@pytest.mark.parametrize("name", ["MoS2", "GaN"])
def test_frames_have_the_columns_of_their_stack(name: str) -> None:
    stack = frames(name, 12.0)
    told = StackCrystal.of(known(stack).as_dict())
    cells = []
    for frame in stack:
        first = fit_registration(frame, [], lattice=told.lattice)
        cell = seen_again(lattice_map(frame, first), told.own)
        assert cell is not None
        cells.append((first.frame, cell))
    corner = [frame.in_cell(cell.cell).moved(cell.origin @ np.linalg.inv(cell.cell)).origin_px for frame, cell in cells]
    for t, (_, cell) in enumerate(cells):
        np.testing.assert_array_equal(cell.columns.places, told.own.columns.places)
        np.testing.assert_allclose(cell.vectors_px, told.own.vectors_px, atol=0.15)
        # the corner is the same column in every frame: it has drifted, but for whole cells, as the specimen has
        off = (corner[t] - corner[0] + t * DRIFT_PX) @ np.linalg.inv(told.own.vectors_px)
        assert np.abs(off - np.rint(off)).max() < 0.06


def test_a_frame_of_another_crystal_is_not_laid_on_it() -> None:
    told = known(frames("MoS2", 50.0)).own
    other = make_field(CRYSTALS["SrTiO3 [110]"], side_px=SIDE_PX, dose=200.0).counts
    first = fit_registration(other, [], lattice=find_lattice(other))
    assert seen_again(lattice_map(other, first), told) is None
    _, own = register_on_own(other, again=lambda seen: seen_again(seen, told))
    assert isinstance(own, OwnCell) and len(own.sites) == 2


def test_stacks_of_a_shard() -> None:
    def row(name: str, frame: int, signal: str = "", state: str = "read") -> dict[str, object]:
        return {"image_id": name, "file_id": name[0], "signal": signal, "frame": frame, "state": state}

    rows = [row("a-f0000", 0), row("a-f0001", 1), row("a-f0002", 2, state="rejected"), row("b", 0), row("c", -1)]
    assert stacks_in([*rows, row("a-s1", 0, "BF")]) == {"a-f0000": ["a-f0000", "a-f0001"]}
