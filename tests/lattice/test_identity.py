"""Who is it: known crystals are named, random ones are not, and what looks alike is named as a class."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oddlattice.lattice.crystal_views import load_library
from oddlattice.lattice.identity import SURE, Identity, alternatives, identify, label
from oddlattice.lattice.seen_cell import Observed
from support.seen_cells import LIBRARY, SEEDS, entries, known_cell, random_cell


def found(seen: Observed) -> Identity:
    return identify(seen, load_library((LIBRARY,)))


def image_of(crystal: str, axis: str, faintest: float = 0.1, pixel_nm: float | None = None) -> Observed:
    """A crystal as it is, 10 pm a pixel, without errors."""
    entry = next(one for one in entries() if (one["crystal"], one["axis"]) == (crystal, axis))
    gamma = np.deg2rad(entry["gamma_deg"])
    vectors = np.array([[entry["a_nm"], 0], [entry["b_nm"] * np.cos(gamma), entry["b_nm"] * np.sin(gamma)]])
    bright = np.array([column["nm2"] for column in entry["columns"]]) / entry["columns"][0]["nm2"]
    places = np.array([[column["u"], column["v"]] for column in entry["columns"]])[bright > faintest]
    return Observed(vectors / 0.01, places, bright[bright > faintest], 0.1, 0.02, pixel_nm, faintest)


def members(one: Identity) -> list[str]:
    """The candidates that make up the named class."""
    names, held = [], 0.0
    for candidate in one.candidates:
        if held >= one.probability - 1e-9:
            break
        names.append(candidate.entry.name)
        held += candidate.probability
    return names


def test_known_crystals_are_named_rightly_and_never_wrongly() -> None:
    rng, every = np.random.default_rng(SEEDS["known"]), entries()
    verdicts: dict[str, int] = dict.fromkeys(("right", "lattice", "unnamed", "wrong"), 0)
    rich = 0
    for _ in range(200):
        entry = every[rng.integers(len(every))]
        seen = known_cell(rng, entry)
        rich += len(seen.places) > 1
        one = found(seen)
        if one.kind in ("crystal", "class"):
            assert one.probability > SURE
            verdicts["right" if f"{entry['crystal']} {entry['axis']}" in members(one) else "wrong"] += 1
        else:  # of a single column, or without a length, often only the kind of lattice can be told
            verdicts["lattice" if one.kind == "lattice" else "unnamed"] += 1
    assert verdicts["wrong"] == 0
    assert verdicts["right"] + verdicts["lattice"] >= 190, verdicts
    assert verdicts["right"] >= 0.85 * rich, verdicts


def test_random_cells_get_no_name() -> None:
    rng = np.random.default_rng(SEEDS["random"])
    named = [one.name for one in (found(random_cell(rng)) for _ in range(500)) if one.kind in ("crystal", "class")]
    assert named == []


@pytest.mark.parametrize(
    ("crystal", "axis", "sites"),
    [
        ("Sr2TiO4", "[110]", ["Sr", "Sr", "Ti", "O"]),
        ("Bi2Te3", "[11-20]", ["Bi", "Bi", "Te", "Te", "Te"]),
    ],
)
def test_a_crystal_of_its_own_kind_is_named_without_pixel_size(crystal: str, axis: str, sites: list[str]) -> None:
    one = found(image_of(crystal, axis))
    assert (one.kind, one.name) == ("crystal", f"{crystal} {axis}")
    assert list(one.sites) == sites
    assert one.pixel_nm == pytest.approx(0.01, rel=1e-3)


def test_two_columns_ask_for_more_certainty() -> None:
    """1T TaS2 looks like WS2 where only its bright columns are seen: 0.96 is not enough for a name."""
    one = found(image_of("WS2", "[0001]"))
    assert one.kind == "unknown" and one.candidates[0].entry.name == "WS2 [0001]" and one.probability > SURE


def test_cell_leads_from_the_image_to_the_crystal() -> None:
    seen = image_of("Sr2TiO4", "[110]")
    turned = np.array([[1, 1], [0, -1]])
    moved = replace(
        seen,
        vectors_px=turned @ seen.vectors_px,
        places=(seen.places @ np.linalg.inv(turned) + [0.3, 0.7]) % 1.0,
    )
    one = found(moved).candidates[0].match
    sides = np.linalg.norm(one.cell @ moved.vectors_px, axis=1) * 0.01
    assert sides == pytest.approx(np.linalg.norm(one.view.vectors_nm, axis=1), rel=1e-3)
    assert found(moved).sites == ("Sr", "Sr", "Ti", "O")


def test_like_elements_are_a_class() -> None:
    one = found(image_of("Au", "[001]", pixel_nm=0.01))
    assert one.kind == "class" and one.probability > SURE
    assert {"Al [001]", "Au [001]", "Ag [001]", "Fe [001]"} <= set(members(one))
    ge = found(image_of("Ge", "[110]", pixel_nm=0.01))
    assert ge.kind == "class" and {"Ge [110]", "GaAs [110]"} <= set(members(ge))
    cuprate = found(image_of("YBa2Cu3O7", "[100]"))
    assert cuprate.name == "YBa2Cu3O7 [010]; YBa2Cu3O7 [100]"
    assert cuprate.sites == ("Ba", "Ba", "Y", "Cu", "Cu", "Cu")


@pytest.mark.parametrize(
    ("name", "left_open"),
    [
        ("Au [001]", {("Au", "[001]")}),
        ("TiS2 (1T) or ZrSe2 (1T) [0001]", {("TiS2 (1T)", "[0001]"), ("ZrSe2 (1T)", "[0001]")}),
        (
            "cuprate [001]; perovskite [010] or [100]",
            {("cuprate", "[001]"), *(("perovskite", a) for a in ("[010]", "[100]"))},
        ),
        ("one column in a square cell", {("one column in a square cell", "")}),
    ],
)
def test_a_name_tells_what_it_leaves_open(name: str, left_open: set[tuple[str, str]]) -> None:
    assert alternatives(name) == left_open


def test_a_class_has_one_name_whichever_of_it_is_likeliest() -> None:
    candidates = list(found(image_of("Ge", "[110]", pixel_nm=0.01)).candidates[:3])
    assert label(candidates) == label(candidates[::-1])


@pytest.mark.parametrize("ratio", [1.0, 0.95, 0.85])
def test_body_centred_iron_without_pixel_size_is_no_perovskite(ratio: float) -> None:
    iron = Observed(np.eye(2) * 28.7, np.array([[0, 0], [0.5, 0.5]]), np.array([1, ratio]), 0.1, 0.02, None, 0.1)
    one = found(iron)
    assert not one.name.startswith("SrTiO3")
    assert sum(c.probability for c in one.candidates if c.entry.family == "perovskite") < 0.1 or one.kind != "crystal"
    assert "Sr" not in one.sites


def test_one_column_without_a_length_names_the_lattice_alone() -> None:
    one = found(image_of("Cu", "[111]"))
    assert (one.kind, one.name) == ("lattice", "one column in a hexagonal cell")
    assert one.pixel_nm is None and set(one.sites) == {""}


def test_a_header_that_lies_does_not_change_the_name() -> None:
    for factor in (0.84, 0.9, 0.98, 1.02, 1.1, 1.16):
        one = found(image_of("Sr2TiO4", "[110]", pixel_nm=0.01 * factor))
        assert one.name == "Sr2TiO4 [110]"
        assert one.pixel_nm == pytest.approx(0.01, rel=1e-3)


def test_dark_columns_are_known_by_their_places() -> None:
    seen = image_of("Sr2TiO4", "[110]")
    one = found(replace(seen, brightness=np.array([1.0, 1.0, 0.9, 0.4]), dark=True))
    assert "Sr2TiO4 [110]" in members(one)


def test_the_whole_library_takes_less_than_50_ms_an_image() -> None:
    rng, every = np.random.default_rng(1), entries()
    seen = [known_cell(rng, every[rng.integers(len(every))]) for _ in range(30)]
    found(seen[0])
    start = time.process_time()
    for one in seen:
        found(one)
    assert (time.process_time() - start) / len(seen) < 0.05


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"mine\.json: found KeyError .*; needed a crystal library"):
        load_library((path,))
