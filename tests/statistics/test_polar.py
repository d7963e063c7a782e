"""Measured places of columns and the B site against its A neighbours: drawn lattices of known displacement."""

from dataclasses import replace

import numpy as np
import pytest

from oddlattice.crystal import CELL_PX
from oddlattice.lattice.columns import ColumnShape
from oddlattice.statistics import polar
from support import report_products as made_up

SR = ColumnShape("Sr", 0.0, 0.0, 3.0, (110.0, 0.0, 110.0))
TI = ColumnShape("Ti", 0.5, 0.5, 1.5, (115.0, 0.0, 115.0))
VECTORS_PM = 390.5 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
SIDE = 24


def drawn(shift_uv: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A lattice in the tile frame; every Ti column moved by `shift_uv` of shape (2,) or (SIDE, SIDE, 2) [cells]."""
    line = (np.arange(SIDE * CELL_PX) + 0.5) / CELL_PX
    moved = np.broadcast_to(shift_uv, (SIDE, SIDE, 2))
    image = np.full((SIDE * CELL_PX,) * 2, 0.4)
    for shape in (SR, TI):
        for i in range(-1, SIDE + 1):
            for j in range(-1, SIDE + 1):
                here = moved[min(max(i, 0), SIDE - 1), min(max(j, 0), SIDE - 1)] if shape is TI else np.zeros(2)
                u, v = i + shape.u + here[0], j + shape.v + here[1]
                rows = slice(max(int(20 * u) - 12, 0), max(int(20 * u) + 12, 0))
                cols = slice(max(int(20 * v) - 12, 0), max(int(20 * v) + 12, 0))
                du, dv = line[rows, None] - u, line[None, cols] - v
                image[rows, cols] += shape.amplitude * np.exp(-shape.precision[0] * (du**2 + dv**2) / 2)
    return (image + noise * np.random.default_rng(seed).normal(size=image.shape)).astype(np.float32)


def measured(tiles: np.ndarray, mask: np.ndarray | None = None) -> polar.Polar:
    mask = np.ones((SIDE, SIDE), dtype=np.uint8) if mask is None else mask
    a, b = (polar.measure_places(tiles, mask, shape) for shape in (SR, TI))
    return polar.polar_displacements(a, b, (SIDE, SIDE), VECTORS_PM)


def test_a_displacement_shared_by_all_cells_is_measured() -> None:
    shift = np.array([0.03, -0.02])  # 11.7 and -7.8 pm along a and b
    found = measured(drawn(shift))
    assert len(found.cells) == (SIDE - 2) * (SIDE - 2) or len(found.cells) > 400
    assert np.abs(found.shift_pm - shift @ VECTORS_PM).max() < 1.0
    assert (found.a_site, found.b_site) == ("Sr", "Ti")


def test_bands_of_a_large_image_make_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, mask = drawn(np.array([0.02, 0.01]), noise=0.1), np.ones((SIDE, SIDE), dtype=np.uint8)
    whole = polar.measure_places(tiles, mask, SR)
    monkeypatch.setattr(polar, "_BAND_CELLS", 7)
    banded = polar.measure_places(tiles, mask, SR)
    assert np.array_equal(whole.cells, banded.cells)
    assert np.allclose(whole.uv, banded.uv, atol=1e-9)


def test_a_perfect_lattice_has_no_displacement() -> None:
    found = measured(drawn(np.zeros(2)))
    assert np.abs(found.shift_pm).max() < 0.3


def test_the_noise_told_is_the_noise_there_is() -> None:
    found = measured(drawn(np.array([0.02, 0.0]), noise=0.25))
    off = found.shift_pm - np.array([0.02, 0.0]) @ VECTORS_PM
    true = float(np.sqrt((off**2).mean()))
    assert found.sigma_pm == pytest.approx(true, rel=0.12)
    # and the mean over all cells is right within its own error, which is far smaller
    assert np.abs(off.mean(axis=0)).max() < 4 * true / np.sqrt(len(off))


def test_two_domains_keep_their_sign() -> None:
    shift = np.zeros((SIDE, SIDE, 2))
    shift[: SIDE // 2, :, 1], shift[SIDE // 2 :, :, 1] = 0.04, -0.04
    found = measured(drawn(shift, noise=0.1))
    first = found.cells[:, 0] < SIDE // 2
    along = found.shift_pm @ np.linalg.inv(VECTORS_PM)
    assert np.median(along[first, 1]) == pytest.approx(0.04, abs=0.002)
    assert np.median(along[~first, 1]) == pytest.approx(-0.04, abs=0.002)


def test_masked_cells_and_emptied_columns_have_no_displacement() -> None:
    mask = np.ones((SIDE, SIDE), dtype=np.uint8)
    mask[8:12, 8:12] = 0
    tiles = drawn(np.zeros(2))
    tiles[300:320, 300:320] = 0.4  # the Ti column of cell (15, 15) is gone
    found = measured(tiles, mask)
    cells = {tuple(c) for c in found.cells.tolist()}
    assert not cells & {(i, j) for i in range(8, 12) for j in range(8, 12)}
    assert (15, 15) not in cells and (15, 17) in cells


def test_the_b_site_is_the_one_with_oxygen() -> None:
    crystal = made_up.crystal()
    sites = polar.perovskite_sites(crystal)
    assert sites is not None and (sites[0].site, sites[1].site) == ("Sr", "Ti")
    turned = replace(crystal, columns=crystal.columns[::-1])
    sites = polar.perovskite_sites(turned)
    assert sites is not None and sites[1].site == "Ti"
    bare = [replace(c, atoms={}, brightness=b) for c, b in zip(crystal.columns, (0.4, 1.0), strict=True)]
    sites = polar.perovskite_sites(replace(crystal, columns=tuple(bare)))
    assert sites is not None and sites[0].site == "Ti"  # the brighter one


def test_other_crystals_have_no_polar_map() -> None:
    crystal = made_up.crystal()
    assert polar.perovskite_sites(replace(crystal, gamma_deg=120.0)) is None
    assert polar.perovskite_sites(replace(crystal, columns=crystal.columns[:1])) is None
    off = replace(crystal.columns[1], u=0.33)
    assert polar.perovskite_sites(replace(crystal, columns=(crystal.columns[0], off))) is None


def test_blocks_average_and_keep_the_middle() -> None:
    cells = np.argwhere(np.ones((60, 30)))
    shift = cells.astype(float)
    found = polar.in_blocks(cells, shift, (0.5, 0.5), most=20)
    assert found.cells == 3 and len(found.uv) == 200 and (found.number == 9).all()
    assert found.uv[0].tolist() == [1.5, 1.5] and found.shift_pm[0].tolist() == [1.0, 1.0]
    assert len(polar.in_blocks(np.empty((0, 2), dtype=int), np.empty((0, 2)), (0, 0)).uv) == 0


def test_a_bent_lattice_shows_its_bend_and_no_shear() -> None:
    u, v = np.meshgrid(np.arange(31), np.arange(31), indexing="ij")
    bend = 0.3 * np.sin(2 * np.pi * u / 30)
    nodes = np.stack([20 * u + 3 * v + bend, -2 * u + 20 * v]).astype(np.float32)
    cells, shift = polar.lattice_field(nodes, np.ones((30, 30), np.uint8), np.array([0.02, 0.02]))
    assert len(cells) == 900
    assert np.abs(shift[:, 1]).max() < 0.1  # a shear is no displacement
    assert shift[:, 0].std() == pytest.approx(0.3 * 20 * np.sqrt(0.5) * np.sqrt(1 - 6 / np.pi**2), rel=0.1)
