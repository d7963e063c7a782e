"""An atom between two sites is one defect, a column that moved; a vacancy beside a heavier column is two."""

from dataclasses import replace

import numpy as np
import pytest

from defects.test_kernels import SR, TI, VECTORS_PM, noise_map, put
from defects.test_listing import MASK, changed
from oddlattice.crystal import CELL_PX
from oddlattice.defects.beside import judge_together
from oddlattice.defects.listing import Defect, Judged, decide_together, far_fits, windows_of
from oddlattice.defects.noise import estimate_noise
from oddlattice.defects.null import judge_columns

BLACK = np.ones((CELL_PX, CELL_PX))
TIN = replace(TI, amplitude=2.5)
HALF_WAY_PM = (0.5 * 195.0, 0.5 * 195.0)  # from Sr to Ti


def judged(tiles: np.ndarray) -> Judged:
    noise = estimate_noise(tiles, MASK)
    kinds = [
        judge_columns(tiles, MASK, noise, shape, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles)) for shape in (SR, TIN)
    ]
    sites, without = judge_together([k for k in kinds if k], tiles, noise, BLACK, VECTORS_PM, 0.01)
    n = sum(len(site.cells) for site in sites)
    found = Judged(sites, windows_of(sites, without, 0.01), noise, VECTORS_PM, [], 0, np.ones(n, dtype=bool))
    found.far = far_fits(sites, without)
    decide_together([found], 0.01)
    return found


def found_in(tiles: np.ndarray) -> list[Defect]:
    """What is listed about cell (20, 20)."""
    return [d for d in judged(tiles).defects if np.hypot(d.uv[0] - 20, d.uv[1] - 20) < 1]


@pytest.mark.parametrize(("part", "noise"), [(0.8, 0.5), (1.0, 0.5), (1.0, 1.5), (1.2, 1.5)])
def test_an_atom_half_way_between_two_sites_is_one_column_that_moved(part: float, noise: float) -> None:
    tiles = noise * noise_map(3)
    shift = (part * HALF_WAY_PM[0], part * HALF_WAY_PM[1])
    put(tiles, SR, (20, 20), changed(SR, 0.0, shift))
    (one,) = found_in(tiles)  # its neighbour is none, whose window it shines into
    assert (one.uv, one.site, one.kind) == ((20.0, 20.0), "Sr", "displaced")
    assert one.shift_pm == pytest.approx(shift, abs=4 * one.shift_sigma_pm)
    assert one.change == pytest.approx(0.0, abs=3 * one.change_sigma)


def test_a_brighter_atom_half_way_is_displaced_too() -> None:
    tiles = noise_map(5)
    put(tiles, SR, (20, 20), changed(SR, 0.8, HALF_WAY_PM))
    (one,) = found_in(tiles)
    assert (one.site, one.kind) == ("Sr", "displaced") and one.change == pytest.approx(0.8, abs=0.2)


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_a_vacancy_beside_a_heavier_column_is_two(noise: float) -> None:
    tiles = noise * noise_map(4)
    put(tiles, SR, (20, 20), changed(SR, -1.0, (0.0, 0.0)))
    put(tiles, TIN, (20, 20), changed(TIN, 0.8, (0.0, 0.0)))
    assert {(d.site, d.kind) for d in found_in(tiles)} == {("Sr", "vacancy-like"), ("Ti", "heavier")}


def test_vacancies_are_not_taken_for_columns_that_moved() -> None:
    tiles = 3.0 * noise_map(6)  # a column stands out by 6 standard deviations
    for row in range(4, 37, 4):
        for col in range(4, 37, 4):
            put(tiles, SR, (row, col), changed(SR, -1.0, (0.0, 0.0)))
    assert not judged(tiles).far
