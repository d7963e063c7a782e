"""Bulk of any crystal: the image decides how freely; cells of any sides; the same bytes every time."""

import numpy as np
import pytest

from oddlattice.benchmark import hard_bulk
from oddlattice.lattice.columns import mean_cell
from oddlattice.predict.conditional import AnyCrystal, Conditioned, on_places, shipped_network, worth
from oddlattice.predict.methods import predict_template
from oddlattice.predict.own_residual import own_residual


def field(stratum: str, side: int = 10) -> hard_bulk.HardField:
    return hard_bulk.compose(stratum, "perovskite [001]", side, 5)


def template(tiles: np.ndarray, mask: np.ndarray) -> np.ndarray:
    raw = predict_template(tiles, mask)
    return raw + own_residual(tiles - raw, mask, 3.0)


def test_quiet_bulk_is_left_to_the_mean_cell_and_fast_changes_to_the_network() -> None:
    quiet, steep = field("quiet"), field("wedge, bend, defocus")
    found = {}
    for name, one in (("quiet", quiet), ("steep", steep)):
        predict = AnyCrystal()
        mine, baseline = hard_bulk.score(one, predict), hard_bulk.score(one, template)
        assert predict.candidate is not None
        found[name] = (predict.candidate.latents_places, (mine.seen - baseline.seen) / mine.ideal)
    assert found["quiet"][0] is None and found["quiet"][1] > -0.005
    assert found["steep"][0] is not None and found["steep"][1] > 0.1


def test_what_is_decided_of_an_image_stays_and_gives_the_same_bytes() -> None:
    one, predict = field("bend"), AnyCrystal()
    first = predict(one.tiles, one.mask)
    again = AnyCrystal()(one.tiles, one.mask)
    assert first.tobytes() == again.tobytes() and first.dtype == np.float32
    chosen = predict.candidate
    predict(field("quiet").tiles, one.mask)
    assert predict.candidate is chosen


@pytest.mark.parametrize("sides", [(20, 20), (14, 26)])
def test_patches_do_not_care_for_the_sides_of_cells(sides: tuple[int, int]) -> None:
    u, v = ((np.arange(n) + 0.5) / n - 0.5 for n in sides)
    cell = 0.4 + 2 * np.exp(-(u[:, None] ** 2 + v[None] ** 2) / 0.03)
    tiles = np.tile(cell / cell.mean(), (9, 9)) + np.random.default_rng(0).normal(0, 0.02, (9 * sides[0], 9 * sides[1]))
    mask = np.ones((9, 9), np.uint8)
    mask[0, 0] = 0
    tiles = tiles.astype(np.float32)
    seen = Conditioned(shipped_network(), tiles, mask)
    made = seen.predicted(seen.encoded(tiles), 3.0)
    assert made.shape == tiles.shape
    assert np.abs(made - np.tile(mean_cell(tiles, mask), mask.shape)).mean() < 0.05
    known = on_places(mask, tiles.shape)
    assert known.shape == tuple(-(-n // 20) for n in tiles.shape) and known[0, 0] == 0 and known[2:, 2:].all()


def test_noise_is_worth_nothing_and_a_trend_is() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.1, (240, 240)).astype(np.float32)
    mask = np.ones((12, 12), np.uint8)
    trend = noise + np.repeat(np.linspace(-0.3, 0.3, 240, dtype=np.float32)[:, None], 240, 1)
    assert worth(noise, own_residual(noise, mask, 3.0), mask, 3.0) < 0.35
    assert worth(trend, own_residual(trend, mask, 3.0), mask, 3.0) > 0.9
