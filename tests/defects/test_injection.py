"""What could have been found: trials against real injections, and densities corrected by them."""

import numpy as np
import pytest

from defects.test_kernels import CELLS, SR, TI, VECTORS_PM, noise_map, put
from defects.test_listing import listed
from oddlattice.crystal import CELL_PX
from oddlattice.defects.injection import (
    COUNTED_FROM,
    chance_of,
    corrected_count,
    loss_curves,
    own_share,
    pooled_curves,
    pooled_rows,
    shift_curves,
    smallest_loss,
    trial_rows,
)
from oddlattice.defects.kernels import moved_peak
from oddlattice.defects.listing import Defect, Judged
from oddlattice.defects.noise import Noise, estimate_noise
from oddlattice.defects.null import judge_columns
from oddlattice.lattice import columns
from oddlattice.lattice.columns import ColumnShape, peak_at
from oddlattice.model.known_defects import Trial, plain_trials, trials_of
from oddlattice.numerics.intervals import wilson
from support import doped_fields

MASK = np.ones((CELLS, CELLS), np.uint8)


def mean_cell() -> np.ndarray:
    line = (np.arange(CELL_PX) + 0.5) / CELL_PX
    total = np.full((CELL_PX, CELL_PX), 0.2)
    for shape in (SR, TI):
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                total += peak_at(shape, line[:, None] - shape.u - i, line[None, :] - shape.v - j)
    return total


def find(tiles: np.ndarray, fdr: float = 0.05) -> tuple[Judged, Noise]:
    noise = estimate_noise(tiles, MASK)
    found = [
        judge_columns(tiles, MASK, noise, shape, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles)) for shape in (SR, TI)
    ]
    return listed(tiles, noise, [one for one in found if one is not None], fdr), noise


def trial(shape: ColumnShape, change: float = 0.0, shift_pm: float = 0.0) -> Trial:
    return Trial("trial", shape.site, "lighter", 0, 0, 0.0, change, shift_pm)


@pytest.mark.parametrize(("change", "shift_pm"), [(-0.2, 0.0), (0.2, 0.0), (0.0, 9.0)])
def test_trials_tell_what_injection_finds(change: float, shift_pm: float) -> None:
    """The recovered part told for a trial agrees with the same change put into the image and looked for anew."""
    hits, trials, told = 0, 0, []
    for seed in range(3):
        tiles = noise_map(200 + seed)
        judged, noise = find(tiles)
        (row,) = trial_rows(judged, noise, mean_cell(), VECTORS_PM, [trial(SR, change, shift_pm)])
        assert row["ci_low"] <= row["recovered"] <= row["ci_high"] and row["n"] == 500
        told.append(row["recovered"])
        for k, cell in enumerate([(i, j) for i in range(4, 36, 5) for j in range(4, 36, 5)][::5]):
            tried = tiles.copy()
            shift = shift_pm * np.array([np.cos(k), np.sin(k)])
            put(tried, SR, cell, moved_peak(SR, change, shift, VECTORS_PM))
            hits += any(d.uv == (float(cell[0]), float(cell[1])) for d in find(tried)[0].defects)
            trials += 1
    low, high = wilson(hits, trials)
    assert low - 0.05 < np.mean(told) < high + 0.05, (hits, trials, told)


def test_the_ideal_observer_is_not_beaten() -> None:
    judged, noise = find(noise_map(5))
    rows = trial_rows(judged, noise, mean_cell(), VECTORS_PM, [trial(SR, -x) for x in (0.05, 0.1, 0.2, 0.4, 1.0)])
    assert [row["ideal"] for row in rows] == sorted(row["ideal"] for row in rows)
    assert all(row["recovered"] <= row["ideal"] + 0.03 for row in rows)
    assert rows[-1]["recovered"] == 1.0 and rows[-1]["ideal"] > 0.999
    assert rows[0]["recovered"] < 0.2


@pytest.mark.parametrize(("share", "factor"), [(0.1, 0.7), (0.1, 1.3), (0.0, 1.0)])
def test_the_ideal_observer_is_not_beaten_in_small_crowded_fields(share: float, factor: float) -> None:
    """A tenth of a site changed: what makes the noise look larger must not make the ideal observer blind."""
    image, judged = doped_fields.judged(doped_fields.doped_scan(share, factor, 0, side_px=320))
    losses = [trial(shape, -x) for shape in image.shapes for x in (0.03, 0.05, 0.07, 0.1, 0.2)]
    shifts = [trial(shape, 0.0, x) for shape in image.shapes for x in (3.0, 5.0, 8.0)]
    cell = columns.mean_cell(image.prediction, image.mask)
    rows = trial_rows(judged, judged.noise, cell, judged.vectors_pm, [*losses, *shifts])
    for row in rows:
        error = np.sqrt(max(row["ideal"] * (1 - row["ideal"]), 0.01) / row["n"])
        assert row["recovered"] <= row["ideal"] + 2 * error, row
    assert max(row["ideal"] for row in rows) > 0.95


def test_brighter_columns_are_noisier() -> None:
    judged, noise = find(noise_map(6))
    share = own_share(judged.kinds[0], noise, mean_cell())
    assert 0.3 < share < 1.0
    dark = ColumnShape("Sr", 0.0, 0.0, 0.01, (90.0, 0.0, 90.0))
    one = judge_columns(noise_map(6), MASK, noise, dark, VECTORS_PM, (1.0, 1.0), np.zeros((800, 800), np.float32))
    assert one is not None and own_share(one, noise, mean_cell()) < 0.05


def test_smallest_loss_is_of_the_worst_kind() -> None:
    judged, noise = find(noise_map(3))
    table = loss_curves(judged, noise, mean_cell())
    found = smallest_loss(table)
    assert found is not None
    worst = min(row["recovered"] for rows in table.values() for row in rows if row["loss"] == found)
    assert worst >= 0.9
    table["none"] = [{"loss": 1.0, "n": 10, "recovered": 0.5, "ci_low": 0.2, "ci_high": 0.8}]
    assert smallest_loss(table) is None


def test_chance_of_a_listed_defect() -> None:
    curve = [{"loss": 0.5, "recovered": 0.5}, {"loss": 1.0, "recovered": 1.0}]
    shifts = [{"shift_pm": 10.0, "recovered": 0.4}, {"shift_pm": 20.0, "recovered": 0.8}]
    chance = lambda **more: chance_of(Defect((0, 0), **more), {"Sr": curve}, {"Sr": shifts})
    assert chance(site="Sr", kind="lighter", probability=1.0, change=-0.75, shift_pm=(0.0, 0.0)) == 0.75
    assert chance(site="Sr", kind="displaced", probability=1.0, change=-0.9, shift_pm=(9.0, 12.0)) == pytest.approx(0.6)
    assert chance(site="", kind="extra", probability=1.0) == 1.0


def test_corrected_counts_cover_the_truth() -> None:
    """95 % intervals of the number of defects that are found at least half the time hold, and have no bias."""
    rng, covered, total, expected, trials = np.random.default_rng(44), 0, 0.0, 0.0, 16
    places = [(i, j) for i in range(3, 38, 4) for j in range(3, 38, 4)]
    for seed in range(trials):
        tiles = noise_map(900 + seed)
        number = int(rng.poisson(25))
        losses = rng.uniform(0.02, 0.5, number)
        for loss, cell in zip(losses, rng.permutation(places)[:number], strict=True):
            put(tiles, SR, tuple(cell), moved_peak(SR, -loss, np.zeros(2), VECTORS_PM))
        judged, noise = find(tiles)
        curves = loss_curves(judged, noise, mean_cell())
        (found, low, high), left_out = corrected_count(judged.defects, curves, shift_curves(judged, VECTORS_PM))
        assert left_out < len(judged.defects)
        half = next(row["loss"] for row in curves["Sr"] if row["recovered"] >= COUNTED_FROM)
        truth = 25 * (0.5 - half) / 0.48
        covered += low <= truth <= high
        total, expected = total + found, expected + truth
    assert covered >= trials - 3
    assert total == pytest.approx(expected, rel=0.2)


def test_a_model_without_a_library_has_plain_trials() -> None:
    assert trials_of({}, ["Mo", "S2"]) == plain_trials(["Mo", "S2"])
    listed = [vars(trial(SR, -0.5))]
    assert trials_of({"trial_defects": listed}, ["Sr"]) == [trial(SR, -0.5)]


def test_parts_of_an_image_are_pooled() -> None:
    one = {"site": "Sr", "name": "empty", "n": 10, "recovered": 0.5, "ideal": 0.6, "ci_low": 0.0, "ci_high": 1.0}
    other = one | {"n": 30, "recovered": 0.9, "ideal": 1.0}
    (both,) = pooled_rows([one], [other])
    assert (both["n"], both["recovered"], both["ideal"]) == (40, 0.8, pytest.approx(0.9))
    assert (both["ci_low"], both["ci_high"]) == wilson(32, 40)
    lone = other | {"site": "Ti"}
    assert pooled_rows([one], [lone]) == [one, lone]
    assert pooled_curves({"Sr": [one]}, {"Ti": [lone]}) == {"Sr": [one], "Ti": [lone]}
