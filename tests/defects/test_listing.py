"""From tested columns to defects: kinds, neighbours, regions, completeness."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter, maximum_filter

from defects.test_kernels import CELLS, SR, TI, VECTORS_PM, noise_map, put
from oddlattice.crystal import CELL_PX
from oddlattice.defects.beside import judge_together
from oddlattice.defects.extra import extra_columns, highest_of
from oddlattice.defects.kernels import moved_peak, z_map
from oddlattice.defects.kind_probabilities import kind_probabilities
from oddlattice.defects.listing import Defect, Judged, decide_together, windows_of
from oddlattice.defects.noise import Noise, estimate_noise
from oddlattice.defects.null import SiteColumns, judge_columns
from oddlattice.lattice.columns import ColumnShape
from oddlattice.numerics.intervals import poisson_interval, weighted_poisson_interval, wilson

MASK = np.ones((CELLS, CELLS), np.uint8)


def find(tiles: np.ndarray, fdr: float = 0.05) -> tuple[list[Defect], object]:
    noise = estimate_noise(tiles, MASK)
    kinds = []
    for shape in (SR, TI):
        found = judge_columns(tiles, MASK, noise, shape, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles))
        assert found is not None
        kinds.append(found)
    judged = listed(tiles, noise, kinds, fdr)
    return judged.defects, judged


def listed(tiles: np.ndarray, noise: Noise, kinds: list[SiteColumns], fdr: float) -> Judged:
    """Columns judged together, and their defects."""
    sites, without = judge_together(kinds, tiles, noise, np.ones((CELL_PX, CELL_PX)), VECTORS_PM, fdr)
    n = sum(len(site.cells) for site in sites)
    judged = Judged(sites, windows_of(sites, without, fdr), noise, VECTORS_PM, [], 0, np.ones(n, dtype=bool))
    decide_together([judged], fdr)
    return judged


def changed(shape: ColumnShape, change: float, shift_pm: tuple[float, float]) -> np.ndarray:
    return moved_peak(shape, change, np.array(shift_pm), VECTORS_PM)


@pytest.mark.parametrize(
    ("change", "shift", "kind"),
    [
        (-1.0, (0.0, 0.0), "vacancy-like"),
        (-0.4, (0.0, 0.0), "lighter"),
        (0.8, (0.0, 0.0), "heavier"),
        (0.0, (0.0, 45.0), "displaced"),
        (0.0, (-60.0, 0.0), "displaced"),
    ],
)
def test_kinds_of_single_columns(change: float, shift: tuple[float, float], kind: str) -> None:
    tiles = 0.5 * noise_map(7)
    put(tiles, SR, (20, 20), changed(SR, change, shift))
    defects, _ = find(tiles, 0.01)
    at = [d for d in defects if d.uv == (20.0, 20.0)]
    assert len(at) == 1 and at[0].kind == kind and at[0].probability > 0.9
    assert len(defects) <= 2  # its neighbours are not odd
    assert at[0].change == pytest.approx(change, abs=4 * at[0].change_sigma + 0.02)
    if kind == "displaced":
        assert at[0].shift_pm[0] == pytest.approx(shift[0], abs=4 * at[0].shift_sigma_pm + 1)
        assert at[0].shift_pm[1] == pytest.approx(shift[1], abs=4 * at[0].shift_sigma_pm + 1)


def test_a_wide_defect_is_one_row() -> None:
    """A bright column whose tail reaches its neighbours' windows flags them; they go when it is taken out."""
    tiles = 0.3 * noise_map(8)
    wide = ColumnShape("Sr", 0.0, 0.0, 3.0, (30.0, 0.0, 30.0))
    put(tiles, SR, (20, 20), changed(wide, 1.0, (0.0, 0.0)))
    defects, judged = find(tiles, 0.01)
    assert [d.uv for d in defects if np.hypot(d.uv[0] - 20, d.uv[1] - 20) < 1.5] == [(20.0, 20.0)]


def test_two_neighbouring_vacancies_stay_two() -> None:
    tiles = 0.5 * noise_map(9)
    put(tiles, SR, (20, 20), changed(SR, -1.0, (0.0, 0.0)))
    put(tiles, TI, (20, 20), changed(TI, -1.0, (0.0, 0.0)))
    places = {d.uv for d in find(tiles, 0.01)[0]}
    assert {(20.0, 20.0), (20.5, 20.5)} <= places


def test_false_discoveries_stay_below_the_stated_rate() -> None:
    false = total = 0
    for seed in range(10):
        tiles = noise_map(100 + seed)
        true = {(float(i), float(j)) for i in (6, 14, 22, 30) for j in (6, 14, 22, 30)}
        for i, j in true:
            put(tiles, SR, (int(i), int(j)), changed(SR, -0.5, (0.0, 0.0)))
        defects, _ = find(tiles, 0.05)
        false += sum(d.uv not in true for d in defects)
        total += len(defects)
    assert total >= 10 * 15
    assert false / total < 0.09, (false, total)  # 0.05 expected of about 200: 3 sigma


def test_kind_probabilities_add_up_and_know_when_they_do_not_know() -> None:
    clear = kind_probabilities(-0.3, 0.03, np.array([1.0, 0.0]), np.diag([9.0, 9.0]))
    assert sum(clear.values()) == pytest.approx(1.0) and clear["lighter"] > 0.95
    vague = kind_probabilities(-0.82, 0.1, np.array([0.0, 0.0]), np.diag([100.0, 100.0]))
    assert max(vague.values()) < 0.6


def test_an_atom_between_the_columns_is_extra() -> None:
    tiles = 0.5 * noise_map(11)
    row, col = int(20.25 * 20), int(20.25 * 20)
    line = np.arange(-6, 7)
    tiles[row - 6 : row + 7, col - 6 : col + 7] += 1.2 * np.exp(
        -(line[:, None] ** 2 + line[None, :] ** 2) / (2 * 2.1**2)
    )
    places = np.array([(0.0, 0.0), (0.5, 0.5)])
    noise, nothing = estimate_noise(tiles, MASK), np.empty((0, 2))
    bulk, found = (
        extra_columns(z_map(plane, MASK, noise, SR), MASK, places, nothing, 2.1, VECTORS_PM, 1e-4)
        for plane in (0.5 * noise_map(11), tiles)
    )
    new = [d for d in found if d.uv not in {b.uv for b in bulk}]
    assert len(bulk) <= 1 and len(new) == 1 and np.hypot(new[0].uv[0] - 20.25, new[0].uv[1] - 20.25) < 0.1


@pytest.mark.parametrize("level", [3.6, 4.2])
def test_the_highest_of_smoothed_noise_is_foreseen(level: float) -> None:
    """The number of maxima above a level in smoothed white noise is the one that is told."""
    rng, seen, trials = np.random.default_rng(6), 0, 60
    for _ in range(trials):
        smooth = gaussian_filter(rng.normal(size=(256, 256)), 2.1, mode="wrap")
        smooth /= smooth.std()
        seen += int(((smooth == maximum_filter(smooth, 7)) & (smooth > level)).sum())
    told = trials * highest_of(level, 16 * 16, 2.1, 0.0) * 256  # small places: the probability is not cut at 1
    assert abs(seen - told) < 0.25 * told + 3 * np.sqrt(told)


@pytest.mark.parametrize(("gone", "kind"), [("core", "vacancy-like"), ("all", "vacancy-like"), ("part", "lighter")])
def test_a_column_is_empty_when_its_core_is_gone(gone: str, kind: str) -> None:
    """A tail that was fitted too strong must not make an emptied column a lighter one."""
    tailed = replace(SR, tail_weight=0.25, tail_width=2.0)
    tiles = 0.5 * noise_map(8)
    lost = {"core": changed(SR, -1.0, (0.0, 0.0)), "all": changed(tailed, -1.0, (0.0, 0.0))}
    put(tiles, tailed, (20, 20), lost.get(gone, changed(tailed, -0.6, (0.0, 0.0))))
    noise = estimate_noise(tiles, MASK)
    one = judge_columns(tiles, MASK, noise, tailed, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles))
    assert one is not None
    judged = listed(tiles, noise, [one], 0.05)
    (defect,) = (d for d in judged.defects if d.uv == (20.0, 20.0))
    assert defect.kind == kind
    assert (defect.change < -0.95) == (gone == "all")


@pytest.mark.parametrize("weight", [0.0, 1e-12, 0.01, 0.03])
def test_a_tail_that_is_hardly_there_does_no_harm(weight: float) -> None:
    shape = replace(SR, tail_weight=weight)
    tiles = 0.5 * noise_map(9)
    put(tiles, shape, (20, 20), changed(shape, -1.0, (0.0, 0.0)))
    noise = estimate_noise(tiles, MASK)
    one = judge_columns(tiles, MASK, noise, shape, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles))
    assert one is not None
    judged = listed(tiles, noise, [one], 0.05)
    assert [d.kind for d in judged.defects if d.uv == (20.0, 20.0)] == ["vacancy-like"]


def test_neighbours_of_strong_defects_do_not_loosen_the_threshold() -> None:
    tiles = noise_map(31)
    for i in range(4, 36, 5):
        for j in range(4, 36, 5):
            put(tiles, SR, (i, j), changed(SR, 0.0, (60.0, 40.0)))
    defects, judged = find(tiles)
    strong = [d for d in defects if d.uv[0] % 5 == 4 and d.uv[1] % 5 == 4]
    assert len(strong) == 49
    assert len(defects) - 49 <= 0.05 * 49 + 3 * np.sqrt(0.05 * 49) + 1
    assert max(d.q for d in defects) <= 0.05
    assert judged.cut <= 0.05 * (len(defects) + 1) / len(judged.p)


def test_intervals_by_hand() -> None:
    assert poisson_interval(0) == (0.0, pytest.approx(3.6889, abs=1e-3))
    assert poisson_interval(10) == (pytest.approx(4.795, abs=1e-3), pytest.approx(18.390, abs=1e-3))
    same = weighted_poisson_interval(np.ones(10))
    assert same == (pytest.approx(4.795, abs=0.01), pytest.approx(18.390, abs=0.01))
    assert weighted_poisson_interval(np.full(10, 2.0)) == pytest.approx((2 * same[0], 2 * same[1]))
    assert weighted_poisson_interval(np.empty(0)) == (0.0, pytest.approx(3.6889, abs=1e-3))
    for hits, n in ((0, 7), (7, 7), (3, 40), (499, 500)):
        for level in (0.95, 0.68):
            known = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
            assert wilson(hits, n, level) == pytest.approx((known.low, known.high))
    assert wilson(8, 10) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
