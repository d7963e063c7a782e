"""Crystals and sites of a run: the same names whatever the rotation, origin, mirror or noise; none where not told."""

import json
from typing import Any

import numpy as np

from oddlattice.lattice.own_crystal import register_on_own
from oddlattice.statistics.crystals_of_run import brought_into_line, named_sites, with_names
from oddlattice.storage.products import COLUMNS, DEFECTS, GRAINS, IMAGES, table
from support.own_crystals import Sample, make_field

Told = list[tuple[str, float, float, float]]

OBLIQUE = [(0.0, 0.0, 1.0), (0.4, 0.55, 0.52), (0.7, 0.2, 0.48)]


def grain(image: str, columns: Told, **values: Any) -> dict[str, Any]:
    """A row of products.GRAINS with an own cell of 0.55 x 0.42 nm at 100 degrees."""
    cell = {"a_nm": 0.55, "b_nm": 0.42, "gamma_deg": 100.0, "a_px": 44.0, "b_px": 33.6, "pixel_nm": 0.0125}
    about = {"image_id": image, "grain": 1, "state": "analysed", "model": "own", "columns_tested": 500}
    return about | cell | {"own_columns": json.dumps([[*one, 0.02] for one in columns])} | values


def names(rows: list[dict[str, Any]], sure: dict[str, str] | None = None) -> dict[str, tuple[str, list[str] | None]]:
    """Crystal and sites in the run of each grain's image."""
    images = [{"image_id": k, "crystal": v, "crystal_probability": 0.99} for k, v in (sure or {}).items()]
    found = brought_into_line(table(rows, GRAINS), table(images, IMAGES))
    return {row["image_id"]: (row["crystal_in_run"], row["sites_in_run"]) for row in found.iter_rows(named=True)}


def turned(columns: list[tuple[float, float, float]]) -> Told:
    """The same cell turned by 180 degrees, from another column as its corner, letters by brightness."""
    order = sorted(columns, key=lambda c: -c[2])
    moved = [((0.4 - u) % 1, (0.55 - v) % 1, b) for u, v, b in order]
    return [("ABC"[k], *one) for k, one in enumerate(moved)]


def test_a_site_has_one_name_whatever_the_corner_and_the_order_by_noise() -> None:
    """B and C differ by less than noise in the second image, in the other order: places tell which is which."""
    first = grain("i1", [("ABC"[k], *one) for k, one in enumerate(OBLIQUE)])
    other = turned([(0.0, 0.0, 1.0), (0.4, 0.55, 0.49), (0.7, 0.2, 0.51)])
    assert [one[0] for one in other] == ["A", "B", "C"] and other[1][3] == 0.51
    found = names([first, grain("i2", other, columns_tested=300)])
    assert found == {"i1": ("crystal 1", ["A", "B", "C"]), "i2": ("crystal 1", ["A", "C", "B"])}


def test_what_brightness_alone_tells_apart_has_no_name_where_it_does_not() -> None:
    """A dumbbell reads the same turned by 180 degrees; its halves are told by brightness if at all."""
    clear = [("A", 0.0, 0.0, 1.0), ("B", 0.3, 0.2, 0.6)]
    same = [("A", 0.0, 0.0, 0.95), ("B", 0.3, 0.2, 0.94)]
    found = names([grain("i1", clear), grain("i2", same, columns_tested=100), grain("i3", clear, columns_tested=200)])
    assert found["i3"] == ("crystal 1", ["A", "B"]) and found["i2"] == ("crystal 1", ["", ""])


def test_other_crystals_keep_apart_and_names_of_the_library_hold_for_all() -> None:
    three = [("ABC"[k], *one) for k, one in enumerate(OBLIQUE)]
    named = [(site, *one) for site, one in zip(("Sr", "Ti", "O"), OBLIQUE, strict=True)]
    long = grain("i3", three, a_nm=0.75, a_px=60.0)
    found = names([grain("i1", three), grain("i2", named), long, grain("i4", three[:1])], {"i2": "SrTiO3 [123]"})
    assert found["i1"] == found["i2"] == ("SrTiO3 [123]", ["Sr", "Ti", "O"])
    assert {found["i3"][0], found["i4"][0]} == {"crystal 1", "crystal 2"}
    unsized = dict.fromkeys(("a_nm", "b_nm", "pixel_nm"))
    assert names([grain("i1", three), grain("i5", three, **unsized)])["i5"] == ("crystal 1", ["A", "B", "C"])


def test_names_that_leave_open_more_take_in_those_that_leave_open_less() -> None:
    """One crystal; an image that tells more of it does not make a second one, nor the first surer."""
    three = [("ABC"[k], *one) for k, one in enumerate(OBLIQUE)]
    rows = [grain(f"i{k}", three, columns_tested=500 - k) for k in range(4)]
    said = {"i0": "MoS2 or WS2 [0001]", "i1": "MoS2 [0001]", "i2": "MoS2, MoSe2 or WS2 [0001]", "i3": "NbS2 [0001]"}
    found = names(rows, said)
    assert {found[image][0] for image in ("i0", "i1", "i2")} == {"MoS2, MoSe2 or WS2 [0001]"}
    assert found["i3"][0] == "NbS2 [0001]"


def test_a_faint_column_may_be_unseen() -> None:
    four = [*(("ABC"[k], *one) for k, one in enumerate(OBLIQUE)), ("D", 0.2, 0.75, 0.1)]
    found = names([grain("i1", four, columns_tested=100), grain("i2", turned(OBLIQUE))])
    assert found["i2"] == ("crystal 1", ["A", "B", "C"]) and found["i1"] == ("crystal 1", ["A", "B", "C", "D"])


def test_two_scans_of_one_crystal_get_the_same_sites() -> None:
    """B and C as bright as each other but for noise: scans turned against each other agree where places do."""
    angle = np.deg2rad(100)
    vectors = np.array([[0.55, 0.0], [0.42 * np.cos(angle), 0.42 * np.sin(angle)]])
    rows, truth = [], {}
    for k, bright in enumerate(((0.52, 0.48), (0.48, 0.52))):
        seen = ((0.0, 0.0, 1.0), (0.4, 0.55, bright[0]), (0.7, 0.2, bright[1]))
        field = make_field(Sample(vectors, seen), side_px=360, rotation_deg=10 + 75 * k, seed=k)
        found, own = register_on_own(field.counts, (0.0125, 0.0125))
        told = own.as_dict((0.0125, 0.0125))
        columns = [
            [one[key] for key in ("site", "u", "v", "brightness", "brightness_sigma")] for one in told["columns"]
        ]
        cell = {"a_nm": told["a_nm"], "b_nm": told["b_nm"], "gamma_deg": told["gamma_deg"]}
        rows.append(grain(f"i{k}", [], **cell, own_columns=json.dumps(columns)))
        assert found.crystal is not None
        middle = np.rint((180 - found.frame.places_at(np.zeros((1, 2)))) @ np.linalg.inv(own.vectors_px))
        at = found.frame.places_at(np.array([[c.u, c.v] for c in found.crystal.columns]) + middle)
        inside = np.linalg.norm(field.places_px - at[:, None], axis=-1).argmin(1)
        truth[f"i{k}"] = field.index[inside].tolist()
    said = names(rows)
    sites = {
        (site, true) for image, (_, some) in said.items() for site, true in zip(some or [], truth[image], strict=True)
    }
    assert {crystal for crystal, _ in said.values()} == {"crystal 1"} and len(sites) == 3


def test_gathered_tables_tell_names_of_the_run() -> None:
    three = [("ABC"[k], *one) for k, one in enumerate(OBLIQUE)]
    grains = table([grain("i1", three), {"image_id": "i2", "grain": 1, "state": "analysed", "model": "m"}], GRAINS)
    images = table([{"image_id": f"i{k}", "state": "analysed"} for k in (1, 2)], IMAGES)
    rows = [{"image_id": f"i{k}", "grain": 1, "column": k, "site": "B"} for k in (1, 2)]
    defects, about, told = with_names(table([*rows, {"image_id": "i1", "grain": 1}], DEFECTS), images, grains)
    assert defects["site_in_run"].to_list() == ["B", "B", None]
    assert about["crystal_in_run"].to_list() == ["crystal 1", "m"]
    assert told["sites_in_run"].to_list() == ['["A", "B", "C"]', None] and told.columns == list(GRAINS)
    columns = named_sites(table(rows, COLUMNS), brought_into_line(grains, images))
    assert columns["site_in_run"].to_list() == ["B", "B"]
