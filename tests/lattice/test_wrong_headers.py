"""An image whose header is wrong by a unit is laid on the crystal that it shows; a moire stays refused."""

import numpy as np
import pytest

from oddlattice.lattice.tile_image import How, laid
from oddlattice.run.stage_settings import TileSettings
from support.seen_cells import LIBRARY
from support.settings import default


def strontium_titanate() -> np.ndarray:
    """SrTiO3 [001] at 12.5 pm a pixel, 200 x 200 px."""
    turn = np.deg2rad(3.0)
    vectors = 31.24 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    rows, cols = np.indices((200, 200))
    expected = np.full((200, 200), 150.0)
    steps = np.stack(np.meshgrid(np.arange(-5, 6), np.arange(-5, 6)), -1).reshape(-1, 2)
    for offset, height in ((0.0, 600.0), (0.5, 290.0)):
        for row, col in (steps + offset) @ vectors + 100.0:
            expected += height * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * 4.1**2))
    return np.random.default_rng(1).poisson(expected).astype(np.float32)


def how(pixel_nm: float) -> How:
    return How({}, (pixel_nm, pixel_nm), default(TileSettings), None, True, [str(LIBRARY)])


def test_angstroms_taken_for_nanometres() -> None:
    counts = strontium_titanate()
    said = laid(counts, how(0.125)).attributes
    assert said["state"] == "tiled" and said["pixel_nm"] == pytest.approx(0.0125, rel=0.02)
    (line,) = [line for line in said["warnings"] if "header" in line]
    assert line.startswith("header says 125.00 pm/px, the lattice of ") and "perovskite [001]" in line
    assert "the header is wrong; lengths are by the lattice, good to " in line
    # by that of another size it is none of the library: what repeats every four nanometres is refused as before
    other = laid(counts, how(0.17)).attributes
    assert other["state"] == "no_lattice" and "moiré" in other["reason"]


def test_fringes_of_nanometres_are_no_crystal_of_another_size() -> None:
    place = np.stack(np.indices((200, 200)))
    waves = [np.cos(2 * np.pi * np.tensordot(k, place, 1) / 24) for k in ([1, 0], [0.5, 0.866], [-0.5, 0.866])]
    counts = np.random.default_rng(2).poisson(100 + 15 * sum(waves)).astype(np.float32)
    said = laid(counts, how(0.125)).attributes
    assert said["state"] == "no_lattice" and "moiré" in said["reason"]
