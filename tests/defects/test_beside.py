"""Crowded crystals and the neighbours of strong defects: every changed column is a row, and bulk beside it is none."""

import numpy as np
import pytest

from defects.test_kernels import CELLS, SR, TI, VECTORS_PM, judged, noise_map, put
from oddlattice.crystal import CELL_PX
from oddlattice.defects.beside import TAIL_DOUBT, gains_at, light_of, tail_errors
from oddlattice.defects.kernels import make_kernel, moved_peak, refine
from oddlattice.defects.noise import estimate_noise
from oddlattice.defects.null import SIDE_PX, judge_columns, windows_on
from support.doped_fields import Score, doped_scan, score

MASK = np.ones((CELLS, CELLS), np.uint8)


def total(scores: list[Score]) -> Score:
    return Score(*(sum(getattr(s, key) for s in scores) for key in Score.__dataclass_fields__))


def too_many(listed: int, share: float = 0.05) -> float:
    """More false ones than chance makes of the stated share: three standard deviations, and one."""
    return share * listed + 3 * np.sqrt(share * listed) + 1


@pytest.mark.parametrize(("share", "factor"), [(0.05, 1.3), (0.15, 1.3), (0.05, 0.0), (0.10, 0.0)])
def test_a_crowd_of_odd_columns_is_no_region(share: float, factor: float) -> None:
    found = total([score(doped_scan(share, factor, seed)) for seed in (21, 22)])
    assert found.tested > 100 * share
    assert found.found >= 0.98 * found.tested, found
    assert found.regions == 0
    assert found.false <= too_many(found.listed), found


@pytest.mark.parametrize("tail", [0.05, 0.15, 0.3])
def test_bulk_beside_vacancies_is_not_listed(tail: float) -> None:
    """Whatever is known of the tails of the columns."""
    found = total([score(doped_scan(0.02, 0.0, seed, tail)) for seed in range(11, 20)])
    assert found.found == found.tested > 12
    assert found.false <= too_many(found.listed), found


def test_bulk_beside_vacancies_is_not_listed_near_the_rim_either() -> None:
    found = total([score(doped_scan(0.02, 0.0, seed, 0.3), rim_px=0.0) for seed in range(11, 20)])
    assert found.false <= too_many(found.listed), found


@pytest.mark.parametrize("response", [(0.95, 1.0), (0.8, 1.0), (1.0, 0.8)])
def test_what_the_prediction_takes_up_is_given_back_to_each_alone(response: tuple[float, float]) -> None:
    noise = estimate_noise(noise_map(3), MASK)
    whole = np.ones((SIDE_PX, SIDE_PX), dtype=bool)
    for change, shift in ((-0.5, (0.0, 0.0)), (0.0, (30.0, -20.0)), (-0.3, (0.0, 40.0)), (12.0, (5.0, 0.0))):
        window = moved_peak(SR, change, np.array(shift), VECTORS_PM, 0, response)
        found = refine(window, whole, SR, np.array([change, *shift]) * 0.9, noise, VECTORS_PM, response)
        assert found == pytest.approx([change, *shift], abs=1e-3)


def test_an_error_that_all_neighbours_share_is_taken_off_each() -> None:
    rng = np.random.default_rng(8)
    effect = rng.uniform(20, 60, (40, 1, 1))
    y = rng.standard_normal((40, 1)) + 0.06 * effect[:, :, 0]
    y[3] -= 30  # a neighbour that is odd itself
    error, variance = tail_errors(y, effect)
    assert error[:, 0] == pytest.approx(0.06 * effect[:, 0, 0], abs=1.2)
    assert 0 < variance.max() < 0.1
    alone, doubt = tail_errors(y[:1], effect[:1])  # with no other to tell, only the doubt is left
    assert alone == pytest.approx(0.0) and doubt[0] == pytest.approx((TAIL_DOUBT * effect[0, 0, 0]) ** 2)


def test_windows_at_the_rim_are_told_by_what_is_analysed_of_them() -> None:
    mask = np.zeros((6, 7), np.uint8)
    mask[1:5, 1:6] = 1
    found = windows_on(mask, SR)  # at the corners of the cells
    assert sum(len(cells) for _, cells in found) == 5 * 6
    by_size = {int(valid.sum()): len(cells) for valid, cells in found if valid.all() or valid.sum() == 64}
    assert by_size[SIDE_PX**2] == 3 * 4
    assert sorted(int(valid.sum()) for valid, _ in found) == [64] * 4 + [128] * 4 + [256]
    (middle,) = windows_on(mask, TI)
    assert middle[0].all() and len(middle[1]) == 4 * 5


def test_columns_at_the_rim_are_read_with_what_is_there_and_not_tested_when_half_is_missing() -> None:
    """Unbiased, with the standard error they are given; real rims are worse than that, so they are not listed."""
    mask = MASK.copy()
    mask[:10] = 0
    chance = []
    for seed in range(4):
        tiles = noise_map(60 + seed)
        tiles[: 10 * CELL_PX] = 0
        empty = moved_peak(SR, -1.0, np.zeros(2), VECTORS_PM)
        put(tiles, SR, (10, 20), empty)
        tiles[: 10 * CELL_PX] = 0
        noise = estimate_noise(tiles, mask)
        site = judge_columns(tiles, mask, noise, SR, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles))
        assert site is not None
        rim = site.cells[:, 0] == 10
        assert rim.sum() == CELLS - 1 and not site.tested[rim].any() and (site.view[rim] > 0).all()
        odd = (site.cells == (10, 20)).all(axis=1)
        assert site.verdict.change[odd] == pytest.approx(-1.0, abs=4 * float(site.verdict.change_sigma[odd][0]))
        chance.append(site.verdict.z_intensity[rim & ~odd])
    z = np.concatenate(chance)
    assert abs(z.mean()) < 0.3 and 0.8 < z.std() < 1.2


def test_a_kernel_of_part_of_a_window_is_unbiased() -> None:
    noise = estimate_noise(noise_map(5), MASK)
    valid = np.ones((SIDE_PX, SIDE_PX), dtype=bool)
    valid[:, :8] = False
    kernel = make_kernel(SR, noise, VECTORS_PM, (1.0, 1.0), valid)
    assert not kernel.weights.reshape(-1, SIDE_PX, SIDE_PX)[:, ~valid].any()
    peak = moved_peak(SR, -0.2, np.zeros(2), VECTORS_PM).ravel()
    assert kernel.weights[:3] @ peak == pytest.approx([-0.2, 0.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("ground", [0.3, 3.0])
def test_an_emptied_column_takes_its_own_light_from_the_local_mean_and_no_more(ground: float) -> None:
    """Beside the ground, which stays: it is a fifth of the light, or a small part."""
    column = 3.0 * 2 * np.pi / 90  # the integral of the peak
    cell = np.full((CELL_PX, CELL_PX), ground)
    light = light_of(SR, cell)
    assert light == pytest.approx(column / ground, rel=1e-3)
    site = judged(noise_map(9), SR)
    (gain,) = gains_at([site], [(np.array([20, 20]), -light)], cell, (CELLS, CELLS))
    effect = float(site.kernel.weights[0] @ np.full(SIDE_PX**2, ground))
    at = (site.cells == (21, 20)).all(axis=1)
    most = effect * light / 57 * np.exp(-1 / 36)  # three cells wide is a mean over 57
    assert 0.5 * most < np.sqrt(gain[at, 1]) <= 1.001 * most
