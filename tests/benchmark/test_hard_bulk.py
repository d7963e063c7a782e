"""Hard bulk: fields hold what they say, the score counts, and a method is compared on the same fields."""

import numpy as np
import pytest

from oddlattice.benchmark import hard_bulk
from oddlattice.lattice.columns import as_cells
from oddlattice.predict.methods import predict_template

QUIET = ("quiet", "perovskite [001]", 10, 5)


def test_fields_have_seeds_of_their_own_and_the_halves_share_none() -> None:
    seeds = [seed for half in hard_bulk.SEEDS for *_, seed in hard_bulk.fields_of(half, 16)]
    assert len(seeds) == len(set(seeds)) == 2 * 16 * len(hard_bulk.STRATA)


def test_a_field_is_the_same_every_time_and_divided_by_its_mean() -> None:
    one, other = hard_bulk.compose(*QUIET), hard_bulk.compose(*QUIET)
    assert one.tiles.tobytes() == other.tiles.tobytes()
    assert one.tiles.mean() == pytest.approx(1.0, abs=0.02)
    assert {planted.part for planted in one.planted} <= {-hard_bulk.PLANTED, hard_bulk.PLANTED}
    assert all(4 < planted.dprime < 12 for planted in one.planted)


def test_conditions_are_those_of_the_stratum() -> None:
    rng = np.random.default_rng(0)
    step = hard_bulk.conditions_of("step", 12, rng)
    assert len(np.unique(step.thickness)) == 2 and (step.width == 1).all() and not step.dirt.any()
    wedge = hard_bulk.conditions_of("wedge, 15 % odd", 15, rng).thickness
    slope = np.hypot(*(np.diff(wedge, axis=k).mean() for k in (0, 1)))
    assert slope == pytest.approx(hard_bulk.WEDGE_PER_CELL, rel=0.05)
    assert hard_bulk.odd_part("wedge, 15 % odd") == 0.15 and hard_bulk.odd_part("bend") == 0.0
    odd = hard_bulk.compose("30 % odd", "perovskite [001]", 12, 1).bulk
    assert 0.15 < 1 - odd.mean(axis=(1, 2)).min() < 0.5


def test_who_knows_bulk_reaches_the_ideal_and_who_knows_nothing_does_not() -> None:
    field = hard_bulk.compose(*QUIET)
    found = hard_bulk.score(field, predict_template)
    assert found.defects == len(field.planted) and 0.75 < found.seen / found.ideal < 1.2
    steep = hard_bulk.compose("wedge, bend, defocus", "perovskite [001]", 10, 5)
    flat = hard_bulk.score(steep, predict_template)
    assert flat.seen / flat.ideal < 0.5


def test_methods_are_compared_field_by_field() -> None:
    def worse(tiles: np.ndarray, mask: np.ndarray) -> np.ndarray:
        prediction = predict_template(tiles, mask).copy()
        as_cells(prediction, (20, 20))[::2] *= 1.03
        return prediction

    rows = hard_bulk.scores_of([QUIET, (*QUIET[:3], 6)], {"template": predict_template, "worse": worse})
    (same,) = hard_bulk.compared(rows, "template")
    assert same["ahead"] == same["ahead_low"] == same["ahead_high"] == 0
    (behind,) = hard_bulk.compared(rows, "worse")
    assert behind["ahead_high"] < 0 and behind["fields"] == 2


def test_the_table_has_a_row_for_each_stratum_and_none_without_a_method_to_compare() -> None:
    found = hard_bulk.hard_bulk_table(1, ("vae", "template", "any_crystal", "published"), 1)
    assert found["stratum"].to_list() == list(hard_bulk.STRATA)
    assert (found["efficiency"] - found["efficiency_template"] - found["ahead"]).abs().max() < 1e-9  # type: ignore[operator]
    assert found["ahead"].mean() > 0.05  # type: ignore[operator]
    assert len(hard_bulk.hard_bulk_table(1, ("vae", "template"), 1)) == 0
