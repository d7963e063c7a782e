"""Fields of displacements as geometry: coloured blocks, arrows, a key and a scale bar; the template only draws them."""

import math
from collections.abc import Sequence

import numpy as np

from oddlattice.numerics.arrays import Array
from oddlattice.report.numbers import significant
from oddlattice.storage.rows import Row

WIDTH = 640
TALLEST = 640
#: From little to much; pale enough for dark arrows, told apart by lightness alone.
RAMP = ("#fdf4e3", "#fbe3bd", "#f9cf94", "#f6b96d", "#f1a04c", "#e98635", "#dc6b26", "#c9531d")


def round_up(value: float) -> float:
    """The next of 1, 2, 3, 5, 10, ... that is not smaller."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(s * power for s in (1, 2, 3, 5, 10) if s * power >= value * (1 - 1e-9)))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def arrow(x: float, y: float, dx: float, dy: float) -> str:
    """SVG path of an arrow with its middle at (x, y)."""
    length = math.hypot(dx, dy)
    if length < 0.3:
        return ""
    head = min(0.42 * length, 5.5)
    ux, uy = dx / length, dy / length
    tail, tip = (x - dx / 2, y - dy / 2), (x + dx / 2, y + dy / 2)
    left = (tip[0] - head * (ux - 0.55 * uy), tip[1] - head * (uy + 0.55 * ux))
    right = (tip[0] - head * (ux + 0.55 * uy), tip[1] - head * (uy - 0.55 * ux))
    return (
        f"M{tail[0]:.1f} {tail[1]:.1f}L{tip[0]:.1f} {tip[1]:.1f}"
        f"M{left[0]:.1f} {left[1]:.1f}L{tip[0]:.1f} {tip[1]:.1f}L{right[0]:.1f} {right[1]:.1f}"
    )


def drawing(field: Row, shape_px: tuple[int, int], pixel_nm: tuple[float, float] | None) -> Row | None:
    """Drawing of a field in the image's frame; None where there is nothing to draw.

    Parameters
    ----------
    field : dict
        `row_px`, `col_px`, `shift_row_pm`, `shift_col_pm`, `corners_px` (as statistics.vector_field gives it).
    shape_px : tuple of int
        Of the image.
    pixel_nm : tuple of float or None
        Pixel size (row, col).
    """
    if not field["row_px"]:
        return None
    places = np.array([field["row_px"], field["col_px"]]).T
    shift = np.array([field["shift_row_pm"], field["shift_col_pm"]]).T
    corners = np.array(field["corners_px"]).reshape(-1, 4, 2)
    scale = min(WIDTH / shape_px[1], TALLEST / shape_px[0])
    size = np.hypot(*shift.T)
    top = round_up(float(np.percentile(size, 98)))
    side = scale * float(np.sqrt(_area(corners[len(corners) // 2])))
    per_pm = 1.15 * side / top
    ratio = np.array(pixel_nm) / math.sqrt(pixel_nm[0] * pixel_nm[1]) if pixel_nm else np.ones(2)
    bins = np.minimum((size / top * len(RAMP)).astype(int), len(RAMP) - 1)
    blocks = [
        {"colour": colour, "path": "".join(_path([(x, y) for y, x in scale * c]) for c in corners[bins == k])}
        for k, colour in enumerate(RAMP)
    ]
    drawn = np.minimum(size, 1.5 * top) / np.maximum(size, 1e-12)
    arrows = "".join(
        arrow(scale * c, scale * r, per_pm * dc, per_pm * dr)
        for (r, c), (dr, dc) in zip(places, shift * drawn[:, None] / ratio, strict=True)
    )
    found: Row = {
        "width": round(scale * shape_px[1], 1),
        "height": round(scale * shape_px[0], 1),
        "blocks": [b for b in blocks if b["path"]],
        "arrows": arrows,
        "key_arrow": arrow(0.5 * per_pm * top + 2, 8, per_pm * top, 0),
        "key_width": round(per_pm * top + 4, 1),
        "top": top,
        "top_text": f"{significant(top, 2)} pm",
        "ramp": RAMP,
        "bar": None,
    }
    if pixel_nm:
        length = round_up(0.12 * shape_px[1] * pixel_nm[1])
        found["bar"] = {"width": round(scale * length / pixel_nm[1], 1), "text": f"{significant(length, 1)} nm"}
    return found


def _area(corners: Array) -> float:
    row, col = corners.T
    return abs(0.5 * float(np.sum(row * np.roll(col, -1) - col * np.roll(row, -1))))
