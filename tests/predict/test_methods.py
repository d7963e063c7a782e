"""The registry of methods: what else names them names the same ones."""

import numpy as np
import pytest

from oddlattice.predict.methods import METHODS, quiet_patches
from oddlattice.report.methods import REFERENCES, Cited, _words_of
from oddlattice.run.settings import load_schema
from support.settings import ROOT

SCHEMA = load_schema(ROOT / "workflow/schemas/config.schema.yaml")["properties"]


def test_the_schema_knows_every_method() -> None:
    assert set(SCHEMA["infer"]["properties"]["method"]["enum"]) == set(METHODS)
    measured = SCHEMA["benchmark"]["properties"]["methods"]
    assert set(measured["items"]["enum"]) == {*METHODS, "published"}
    assert set(measured["contains"]["enum"]) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_predicts_every_analysed_cell_and_has_words_for_a_paper(name: str) -> None:
    rng = np.random.default_rng(0)
    cell = 1 + 0.5 * np.outer(np.hanning(20), np.hanning(20))
    tiles = (np.tile(cell, (12, 12)) + rng.normal(0, 0.02, (240, 240))).astype(np.float32)
    seen = METHODS[name].begin()(tiles, np.ones((12, 12), np.uint8), lambda t, _: t * 0 + 1)
    assert seen.shape == tiles.shape and seen.dtype == np.float32 and (seen > 0).all()
    cite = Cited()
    assert "{" not in _words_of(name, cite)
    assert set(cite.order) <= set(REFERENCES)


def test_odd_patches_are_not_taken_for_quiet_where_most_show_but_a_part() -> None:
    """As those of crops: what few show makes nobody odd, what stands out does."""
    rng = np.random.default_rng(3)
    patches = rng.standard_normal((300, 40, 40)).astype(np.float32)
    patches[90:, :, 20:] = 0.0  # most show their left half alone
    odd = np.arange(300) % 5 == 0
    patches[odd, 8:13, 8:13] += 3.0
    assert not odd[quiet_patches(patches)].any()
    assert quiet_patches(np.zeros((5, 40, 40), np.float32)).all()
