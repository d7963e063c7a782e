"""What others take from an image's page: its defects as GeoJSON, and how Python reads them."""

import math
import uuid

import numpy as np
import polars as pl

from oddlattice.defects.kinds import KINDS, kind_of
from oddlattice.report import numbers as n
from oddlattice.storage.rows import Row

#: Coordinates of QuPath begin at the corner of the first pixel, ours in its middle.
CORNER_PX = 0.5
NAMES = uuid.UUID("5f5e9c3e-6f0b-5a55-9a3e-3f1c3a1f0d11")  # of ours alone: the same defect keeps its id
_MEASURED = (
    "z q_value probability_real kind_probability intensity_change intensity_change_sigma shift_row_pm shift_col_pm "
    "shift_sigma_pm row_nm col_nm area_px2 area_nm2 anm"
).split()


def geojson(image_id: str, defects: pl.DataFrame, pixel_nm: tuple[float, float] | None) -> Row:
    """Defects as a GeoJSON feature collection, as QuPath imports it: pixels (x, y) from the image's upper left corner.

    A column is a point; an extended region is a circle of its area, and says so. napari counts from the middle of the
    first pixel: there, 0.5 px are to be taken off.
    """
    return {
        "type": "FeatureCollection",
        "features": [_feature(image_id, k, row, pixel_nm) for k, row in _rows(defects)],
    }


def _rows(defects: pl.DataFrame) -> list[tuple[int, Row]]:
    return list(enumerate(defects.iter_rows(named=True)))


def _feature(image_id: str, number: int, row: Row, pixel_nm: tuple[float, float] | None) -> Row:
    kind = str(row["kind"] or "unknown")
    x, y = row["col_px"] + CORNER_PX, row["row_px"] + CORNER_PX
    name = " ".join(part for part in (kind, str(row["site"] or "")) if part)
    geometry: Row = {"type": "Point", "coordinates": [round(x, 3), round(y, 3)]}
    properties: Row = {
        "objectType": "annotation" if kind == "extended" else "detection",
        "name": name,
        "classification": {"name": kind, "color": rgb(KINDS[kind_of(kind)].colour)},
        "measurements": {key: row[key] for key in _MEASURED if n.usable(row.get(key))},
        "image_id": image_id,
        "row_px": row["row_px"],
        "col_px": row["col_px"],
        "review": str(row.get("review") or ""),
    }
    if kind == "extended" and n.usable(row["area_px2"]):
        geometry = {"type": "Polygon", "coordinates": [_circle(x, y, row["area_px2"], pixel_nm or (1.0, 1.0))]}
        properties["outline"] = "circle of the region's area"
    place = uuid.uuid5(NAMES, f"{image_id}/{number}/{row['row_px']:.2f}/{row['col_px']:.2f}")
    return {"type": "Feature", "id": str(place), "geometry": geometry, "properties": properties}


def _circle(x: float, y: float, area_px2: float, pixel_nm: tuple[float, float], corners: int = 32) -> list[list[float]]:
    """A circle in nm of this area."""
    radius, longer = math.sqrt(area_px2 / math.pi), math.sqrt(pixel_nm[0] / pixel_nm[1])
    angle = 2 * math.pi * np.arange(corners + 1) / corners
    angle[-1] = 0.0  # closed: the last corner is the first
    return [
        [round(x + radius * longer * float(np.cos(t)), 3), round(y + radius / longer * float(np.sin(t)), 3)]
        for t in angle
    ]


def rgb(colour: str) -> list[int]:
    """Red, green and blue (0 to 255) of a colour #rrggbb."""
    return [int(colour[k : k + 2], 16) for k in (1, 3, 5)]


def snippet(image_id: str) -> str:
    """Two lines of Python that show the image with its defects in HyperSpy."""
    return f'import oddlattice\noddlattice.open("results")["{image_id}"].signal().plot()'
