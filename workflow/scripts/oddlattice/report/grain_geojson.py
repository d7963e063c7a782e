"""Grains and boundaries of an image as GeoJSON, in the coordinates of its defects: pixels from the image's corner."""

import json
import uuid
from collections.abc import Sequence

import numpy as np
from skimage.measure import points_in_poly

from oddlattice.numerics.arrays import Array
from oddlattice.report import numbers as n
from oddlattice.report.exports import CORNER_PX, NAMES
from oddlattice.report.grains import colour_of
from oddlattice.storage.rows import Row

COORDINATES = "pixels (x, y) from the upper left corner of the image: x = col + 0.5, y = row + 0.5 of the tables"
BOUNDARY = [201, 166, 255]
_OF_GRAIN = (
    "a_nm b_nm gamma_deg rotation_deg rotation_sigma_deg area_nm2 columns_tested defects density_per_nm2 "
    "density_ci_low density_ci_high completeness_vacancy"
).split()
_OF_BOUNDARY = (
    "length_px length_nm misorientation_deg misorientation_sigma_deg misfit misfit_along directions_apart_deg "
    "width_px width_nm columns_missing columns_extra dislocations shift_u shift_v shift_u_sigma shift_v_sigma"
).split()


def grain_geojson(image_id: str, grains: Sequence[Row], boundaries: Sequence[Row]) -> Row:
    """A feature collection: a polygon for each grain that has an outline, a line for each boundary."""
    features = [_grain(image_id, row) for row in grains if row.get("outline_px")]
    features += [_boundary(image_id, row) for row in boundaries]
    return {"type": "FeatureCollection", "coordinates": COORDINATES, "features": features}


def _grain(image_id: str, row: Row) -> Row:
    name = f"grain {row['grain']}" + (f": {row['crystal']}" if row.get("crystal") else "")
    colour = [int(colour_of(row["grain"])[k : k + 2], 16) for k in (1, 3, 5)]
    properties = _properties(image_id, name, f"grain {row['grain']}", colour, row, _OF_GRAIN)
    polygons = polygons_of([np.array(loop) for loop in json.loads(row["outline_px"])])
    rings = [[_xy(ring, closed=True) for ring in polygon] for polygon in polygons]
    geometry: Row = {"type": "MultiPolygon", "coordinates": rings}
    if len(rings) == 1:
        geometry = {"type": "Polygon", "coordinates": rings[0]}
    return _feature(f"{image_id}/grain/{row['grain']}", geometry, properties)


def _boundary(image_id: str, row: Row) -> Row:
    between = f"grains {row['grain_1']} and {row['grain_2']}"
    if row["grain_1"] == row["grain_2"]:
        between = f"within grain {row['grain_1']}"
    name = f"boundary {row['boundary']}: {row.get('sort') or 'not told'}, {between}"
    properties = _properties(image_id, name, "boundary", BOUNDARY, row, _OF_BOUNDARY)
    lines = [_xy(np.array(path)) for path in json.loads(row["path_px"])]
    geometry: Row = {"type": "MultiLineString", "coordinates": lines}
    if len(lines) == 1:
        geometry = {"type": "LineString", "coordinates": lines[0]}
    return _feature(f"{image_id}/boundary/{row['boundary']}", geometry, properties)


def _properties(image_id: str, name: str, kind: str, colour: list[int], row: Row, keys: Sequence[str]) -> Row:
    return {
        "objectType": "annotation",
        "name": name,
        "classification": {"name": kind, "color": colour},
        "measurements": {key: row[key] for key in keys if n.usable(row.get(key))},
        "image_id": image_id,
    }


def _feature(of: str, geometry: Row, properties: Row) -> Row:
    return {"type": "Feature", "id": str(uuid.uuid5(NAMES, of)), "geometry": geometry, "properties": properties}


def _xy(path: Array, closed: bool = False) -> list[list[float]]:
    places = [[round(float(col) + CORNER_PX, 1), round(float(row) + CORNER_PX, 1)] for row, col in path]
    return [*places, places[0]] if closed and places[0] != places[-1] else places


def polygons_of(loops: list[Array]) -> list[list[Array]]:
    """Closed lines of an outline as polygons: each a line around it, and those around its holes."""
    size = [_area(loop) for loop in loops]
    if not loops:
        return []
    outer = np.sign(size[int(np.argmax(np.abs(size)))])  # the largest is around something
    polygons = [[loop] for loop, area in zip(loops, size, strict=True) if area * outer > 0]
    for loop, area in zip(loops, size, strict=True):
        if area * outer < 0:
            around = [one for one in polygons if points_in_poly(loop[:1], one[0])[0]]  # type: ignore[no-untyped-call]
            if around:
                min(around, key=lambda one: abs(_area(one[0]))).append(loop)
    return polygons


def _area(loop: Array) -> float:
    row, col = loop.T
    return 0.5 * float(np.sum(row * np.roll(col, -1) - col * np.roll(row, -1)))
