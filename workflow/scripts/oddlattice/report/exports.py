"""What others take from an image's page: its defects as GeoJSON, and figures with a scale bar."""

import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from oddlattice.chunks import bands
from oddlattice.report import numbers as n
from oddlattice.report import pictures
from oddlattice.report.fields import round_up
from oddlattice.report.kinds import KINDS, kind_of

Row = dict[str, Any]

#: Coordinates of QuPath begin at the corner of the first pixel, ours in its middle.
CORNER_PX = 0.5
LARGEST_PX = 1100  # a figure's image; more is not seen in print
WIDTH_IN, LEGEND_IN = 3.5, 0.42
_OUTLINED: list[AbstractPathEffect] = [
    withStroke(linewidth=1.9, foreground="#0c0e11")
]  # seen on light and on dark columns
_NAMES = uuid.UUID("5f5e9c3e-6f0b-5a55-9a3e-3f1c3a1f0d11")  # of ours alone: the same defect keeps its id
_MARKERS = {
    "vacancy-like": "o",
    "lighter": "v",
    "heavier": "^",
    "displaced": "D",
    "extra": "+",
    "extended": "s",
    "unknown": "x",
}
_MEASURED = (
    "z q_value kind_probability intensity_change intensity_change_sigma shift_row_pm shift_col_pm shift_sigma_pm "
    "row_nm col_nm area_nm2 anm"
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
        "classification": {"name": kind, "color": _rgb(KINDS[kind_of(kind)]["colour"])},
        "measurements": {key: row[key] for key in _MEASURED if n.usable(row.get(key))},
        "image_id": image_id,
        "row_px": row["row_px"],
        "col_px": row["col_px"],
        "review": str(row.get("review") or ""),
    }
    if kind == "extended" and n.usable(row["area_nm2"]) and pixel_nm:
        geometry = {"type": "Polygon", "coordinates": [_circle(x, y, row["area_nm2"], pixel_nm)]}
        properties["outline"] = "circle of the region's area"
    place = uuid.uuid5(_NAMES, f"{image_id}/{number}/{row['row_px']:.2f}/{row['col_px']:.2f}")
    return {"type": "Feature", "id": str(place), "geometry": geometry, "properties": properties}


def _circle(x: float, y: float, area_nm2: float, pixel_nm: tuple[float, float], corners: int = 32) -> list[list[float]]:
    radius = math.sqrt(area_nm2 / math.pi)
    angle = 2 * math.pi * np.arange(corners + 1) / corners
    angle[-1] = 0.0  # closed: the last corner is the first
    return [
        [round(x + radius / pixel_nm[1] * float(np.cos(t)), 3), round(y + radius / pixel_nm[0] * float(np.sin(t)), 3)]
        for t in angle
    ]


def _rgb(colour: str) -> list[int]:
    return [int(colour[k : k + 2], 16) for k in (1, 3, 5)]


def reduced(raw: Any, most_px: int) -> npt.NDArray[np.generic]:
    """A 2-D array, or what is sliced like one, in means of whole blocks of pixels, at most `most_px` along a side."""
    side = -(-max(raw.shape) // most_px)
    if min(raw.shape) < side or side == 1:
        return np.asarray(raw[0 : raw.shape[0], 0 : raw.shape[1]])
    cols = raw.shape[1] // side
    means = [
        np.asarray(band[: len(band) // side * side, : cols * side], dtype=np.float32)
        .reshape(len(band) // side, side, cols, side)
        .mean(axis=(1, 3))
        for band in bands(raw, 64 * side)
    ]
    return np.concatenate(means)


def defect_figure(raw: Any, defects: pl.DataFrame, pixel_nm: tuple[float, float] | None) -> Figure:
    """The image with its defects marked by kind, a scale bar and a legend, as wide as one column of a journal."""
    view = reduced(raw, LARGEST_PX)
    low, high = pictures.display_range(raw)
    rows, cols = raw.shape
    image_in = WIDTH_IN * rows / cols
    whole_in = image_in + (LEGEND_IN if defects.height else 0.0)
    figure = Figure(figsize=(WIDTH_IN, whole_in), dpi=300)
    axes = figure.add_axes((0.0, 1 - image_in / whole_in, 1.0, image_in / whole_in))
    extent = (-0.5, cols - 0.5, rows - 0.5, -0.5)
    axes.imshow(view, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="none")
    axes.set_axis_off()
    kinds = [kind_of(k) for k in defects["kind"]]
    for kind in KINDS:
        some = defects.filter(pl.Series([k == kind for k in kinds], dtype=pl.Boolean))
        if some.height:
            colour = KINDS[kind]["colour"]
            hollow = {"facecolors": "none", "edgecolors": colour} if _MARKERS[kind] not in "+x" else {"color": colour}
            marks = axes.scatter(some["col_px"], some["row_px"], s=26, marker=_MARKERS[kind], linewidths=0.9, **hollow)
            marks.set_path_effects(_OUTLINED)
            marks.set_label(f"{kind} ({some.height})")
    if pixel_nm:
        _scale_bar(axes, rows, cols, pixel_nm[1])
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    if defects.height:
        figure.legend(loc="lower center", ncols=3, fontsize=6, frameon=False, handletextpad=0.2, columnspacing=1)
    return figure


def _scale_bar(axes: Axes, rows: int, cols: int, pixel_nm: float) -> None:
    nm = round_up(0.12 * cols * pixel_nm)
    length, left, bottom = nm / pixel_nm, 0.04 * cols, 0.95 * rows
    plate = Rectangle((left - 0.015 * cols, bottom - 0.07 * rows), length + 0.03 * cols, 0.095 * rows)
    plate.set(facecolor="#0c0e11", alpha=0.65, linewidth=0, zorder=3)
    bar = Rectangle((left, bottom), length, 0.012 * rows)
    bar.set(facecolor="white", linewidth=0, zorder=3)
    for patch in (plate, bar):
        axes.add_patch(patch)
    words = axes.text(left + length / 2, bottom - 0.012 * rows, f"{n.significant(nm, 1)} nm", color="white", fontsize=7)
    words.set(zorder=4, horizontalalignment="center", verticalalignment="bottom")


def save_figure(figure: Figure, stem: Path) -> None:
    """Write a figure as `stem`.svg, text as text, and `stem`.png; the same bytes every time."""
    with rc_context({"svg.hashsalt": "oddlattice", "svg.fonttype": "none"}):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})


def snippet(image_id: str) -> str:
    """Two lines of Python that show the image with its defects in HyperSpy."""
    return f'import oddlattice\noddlattice.open("results")["{image_id}"].signal().plot()'
