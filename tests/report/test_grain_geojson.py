"""Grains and boundaries as GeoJSON; strain as the page shows it."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from oddlattice.lattice.boundaries import outline_of
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.report.grain_geojson import COORDINATES, grain_geojson
from oddlattice.report.grains import boundary_lines, shown_boundaries
from oddlattice.report.strain_view import strain_layer, strain_rows
from oddlattice.statistics.strain import COMPONENTS


def shoelace(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return abs(0.5 * float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])))


def boundary(**more: Any) -> dict[str, Any]:
    row = {"boundary": 1, "grain_1": 1, "grain_2": 2, "sort": "grain", "length_px": 20.0}
    return row | {"path_px": "[[[0.0,9.5],[20.0,9.5]]]"} | more


def test_a_grain_with_a_hole_is_a_polygon_with_two_rings() -> None:
    own = np.zeros((40, 60), dtype=bool)
    own[10:30, 10:50] = True
    own[15:20, 20:30] = False
    grains = [{"grain": 1, "crystal": "SrTiO3", "rotation_deg": 5.0, "outline_px": json.dumps(outline_of(own))}]
    found = grain_geojson("f1", grains, [boundary()])
    assert found["coordinates"] == COORDINATES
    grain, line = found["features"]
    assert grain["geometry"]["type"] == "Polygon"
    outer, hole = grain["geometry"]["coordinates"]
    assert outer[0] == outer[-1] and hole[0] == hole[-1]
    assert shoelace(outer) == pytest.approx(20 * 40, rel=0.05)  # to half a pixel
    assert shoelace(hole) == pytest.approx(5 * 10, rel=0.2)
    x, y = np.array(outer).T
    assert np.abs(np.array([x.min(), x.max(), y.min(), y.max()]) - (10, 50, 10, 30)).max() <= 0.5
    assert grain["properties"]["name"] == "grain 1: SrTiO3"
    assert grain["properties"]["measurements"] == {"rotation_deg": 5.0}
    assert line["geometry"] == {"type": "LineString", "coordinates": [[10.0, 0.5], [10.0, 20.5]]}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [f["id"] for f in grain_geojson("f1", grains, [boundary()])["features"]] == [grain["id"], line["id"]]


def test_a_grain_of_two_pieces_is_told_as_both() -> None:
    own = np.zeros((30, 60), dtype=bool)
    own[5:20, 5:20] = own[5:20, 40:50] = True
    (grain,) = grain_geojson("f1", [{"grain": 2, "outline_px": json.dumps(outline_of(own))}], [])["features"]
    assert grain["geometry"]["type"] == "MultiPolygon"
    assert len(grain["geometry"]["coordinates"]) == 2


def test_what_is_told_of_a_boundary_is_said_in_words() -> None:
    wall = {"burgers": "[[3.0,4.0,0.0,1.0],[9.0,4.0,0.0,1.0]]", "dislocations": 2, "dislocations_not_told": 1}
    fault = {"grain_2": 1, "sort": "antiphase", "shift_u": 0.497, "shift_v": -0.5}
    fault |= {"shift_u_sigma": 0.002, "shift_v_sigma": 0.003, "length_nm": 4.0}
    image: Any = SimpleNamespace(boundaries=[boundary(sort="low-angle", **wall), boundary(**fault)])
    first, second = boundary_lines(image)
    assert first["told"] == "dislocations: 2 × [0 1]; about 1 more are not told"
    assert (second["between"], second["length"]) == ("1", "4.00 nm")
    assert second["told"] == "shifted by 0.497 ± 0.002 a, −0.500 ± 0.003 b"
    assert shown_boundaries(image)[0]["dislocations"] == [[30, 40], [90, 40]]
    assert shown_boundaries(image)[1]["lines"] == [[0, 95, 200, 95]]


def test_strain_is_drawn_where_its_cells_are_and_listed_with_its_noise() -> None:
    nodes = np.stack(np.meshgrid(20.0 * np.arange(7), 10.0 * np.arange(7), indexing="ij"))
    frame = SimpleNamespace(coordinates=Coordinates(nodes, np.zeros(200)))
    values = {name: [0.01, -0.02] for name in COMPONENTS}
    field = {"step": 2, "u": [1, 3], "v": [1, 5]} | values
    sizes = dict.fromkeys(COMPONENTS, 0.01)
    said = {"strain": {"field": field, "rms": sizes, "sigma": sizes | {"exy": None}, "window_cells": 5}}
    image: Any = SimpleNamespace(frames={1: frame})
    layer = strain_layer(image, said)
    assert layer is not None
    assert layer["corners"][0] == [0, 0, 0, 200, 400, 200, 400, 0]  # tenths of a pixel: row, col, ...
    assert layer["parts"]["exx"]["values"] == [1.0, -2.0]
    assert layer["parts"]["exx"]["limit"] >= 4.0
    (row,) = strain_rows(said)
    assert row["exx"] == "1.0 % (noise 1.0)"
    assert row["exy"] == "1.0 % (noise not told)"
    assert strain_layer(image, {"strain": {"reason": "too few"}}) is None
