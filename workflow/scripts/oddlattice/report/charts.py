"""Charts as geometry: lines, points with intervals and bands in the coordinates of an SVG; the template draws them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oddlattice.report.numbers import MINUS
from oddlattice.report.plots import BOTTOM, BOX, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks

OTHERS = ("#1f78c8", "#d07a1c", "#5d8a2a", "#b0498f", "#7f6bc4", "#b3423a", "#2a8f8a", "#8a7a2a")


@dataclass(frozen=True)
class Point:
    """A value at `x` and, where known, its interval."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined by a line or not; `dash` as SVG's stroke-dasharray."""

    name: str
    colour: str
    points: Sequence[Point]
    joined: bool = True
    marked: bool = True
    dash: str = ""


@dataclass(frozen=True)
class Axis:
    """Ends of an axis and whether it is logarithmic; `at` gives its ticks, else they are found."""

    low: float
    high: float
    logarithmic: bool = False
    at: tuple[float, ...] = ()

    def part(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high end."""
        scale: Callable[[float], float] = math.log if self.logarithmic else float
        low, high = scale(self.low), scale(self.high)
        value = min(max(value, self.low), self.high)
        return (scale(value) - low) / (high - low)

    def ticks(self) -> list[float]:
        """Values at ticks."""
        if self.at:
            return list(self.at)
        if not self.logarithmic:
            return ticks(self.low, self.high)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**k for k in range(first, last + 1)]


def label(value: float) -> str:
    """A tick's text: no more digits than it has."""
    return f"{value:g}".replace("-", MINUS)


def at_x(axis: Axis, value: float) -> float:
    """Where a value of the horizontal axis lies in the drawing."""
    return round(LEFT + axis.part(value) * (WIDTH - LEFT - RIGHT), 1)


def at_y(axis: Axis, value: float) -> float:
    """Where a value of the vertical axis lies in the drawing."""
    return round(HEIGHT - BOTTOM - axis.part(value) * (HEIGHT - BOTTOM - TOP), 1)


def chart(series: Sequence[Series], x: Axis, y: Axis, band: tuple[float, float] | None = None) -> dict[str, Any]:
    """Drawing of series in one frame; `band` is a range of y that is shaded."""
    drawn = []
    for one in series:
        points = [p for p in one.points if math.isfinite(p.x) and math.isfinite(p.y)]
        places = [(at_x(x, p.x), at_y(y, p.y)) for p in points]
        sure = [p for p in points if math.isfinite(p.low + p.high)]
        drawn.append(
            {
                "name": one.name,
                "colour": one.colour,
                "dash": one.dash,
                "line": " ".join(f"{a},{b}" for a, b in places) if one.joined and len(points) > 1 else "",
                "dots": places if one.marked else [],
                "bars": [(at_x(x, p.x), at_y(y, p.low), at_y(y, p.high)) for p in sure],
            }
        )
    shaded = None if band is None else {"y": at_y(y, band[1]), "height": round(at_y(y, band[0]) - at_y(y, band[1]), 1)}
    return BOX | {
        "x_ticks": [{"at": at_x(x, t), "label": label(t)} for t in x.ticks()],
        "y_ticks": [{"at": at_y(y, t), "label": label(t)} for t in y.ticks()],
        "series": drawn,
        "shaded": shaded,
    }
