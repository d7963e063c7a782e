"""Histograms as geometry: counts, curves and ticks in the coordinates of an SVG; the template only draws them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Array
from oddlattice.report.numbers import count, fixed

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 26, 42
#: What every template of a plot asks for: the size of the drawing, and where its axes lie.
BOX = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
FLOOR = 0.5  # lower end of the logarithmic count axis: one column stands clearly above it


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers (steps of 1, 2, 2.5 or 5) that lie in [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def histogram(values: Array, low: float, high: float, bins: int) -> dict[str, list[float]]:
    """Counts of `values` in equal bins over [low, high]; what lies beyond is counted in the outer bins."""
    edges = np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(np.clip(values[np.isfinite(values)], low, high), edges)
    return {"edges": [float(e) for e in edges], "counts": [int(n) for n in counts]}


def published_histogram(anm: Array, mean: float, std: float, band_std: float) -> dict[str, Any]:
    """Histogram of the published score and its band; the score's unit is the local mean."""
    finite = anm[np.isfinite(anm)]
    reach = max(abs(mean) + 5 * std, float(np.abs(finite).max()) if finite.size else 0.0, 1e-3)
    reach = math.ceil(reach * 20) / 20
    found: dict[str, Any] = histogram(anm, -reach, reach, 80)
    band = [mean - band_std * std, mean + band_std * std]
    outside = int(((finite < band[0]) | (finite > band[1])).sum())
    zeros = int((finite == 0).sum())
    return found | {
        "mean": mean,
        "std": std,
        "band_std": band_std,
        "band": band,
        "outside_band": outside,
        "zeros": zeros,
    }


def z_histogram(z: Array, flagged: npt.NDArray[np.bool_], limit: float = 20.0) -> dict[str, Any]:
    """Histogram of z, all columns and flagged ones, with the counts a standard normal would give."""
    finite = np.isfinite(z)
    largest = float(np.abs(z[finite]).max()) if finite.any() else 0.0
    reach = float(min(limit, max(6, math.ceil(largest))))
    bins = int(8 * reach if reach <= 10 else 4 * reach)
    found: dict[str, Any] = histogram(z, -reach, reach, bins)
    found["flagged"] = histogram(z[flagged], -reach, reach, bins)["counts"]
    edges = np.asarray(found["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    normal = np.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi) * (edges[1] - edges[0]) * int(finite.sum())
    found["normal"] = [float(n) for n in normal]
    found["beyond"] = int((np.abs(z[finite]) > reach).sum())
    return found


class _Axes:
    """Maps values to the SVG; counts are logarithmic."""

    def __init__(self, low: float, high: float, top: float) -> None:
        self.low, self.high = low, high
        self.top = max(10.0, top * 1.6)

    def x(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(LEFT + min(1.0, max(0.0, part)) * (WIDTH - LEFT - RIGHT), 2)

    def y(self, number: float) -> float:
        part = math.log(max(number, FLOOR) / FLOOR) / math.log(self.top / FLOOR)
        return round(HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP), 2)

    def frame(self) -> dict[str, Any]:
        places = ticks(self.low, self.high)
        decimals = max((len(f"{t:.10f}".rstrip("0").partition(".")[2]) for t in places), default=0)
        decades = [10**k for k in range(9) if 10**k <= self.top]
        return BOX | {
            "x_ticks": [{"at": self.x(t), "label": fixed(t, decimals)} for t in places],
            "y_ticks": [{"at": self.y(n), "label": count(n)} for n in decades],
        }


def _steps(axes: _Axes, edges: list[float], counts: list[float]) -> str:
    """SVG path of filled bars: one outline for all of them."""
    base = axes.y(FLOOR)
    path = [f"M{axes.x(edges[0])} {base}"]
    path += [f"V{axes.y(n)}H{axes.x(right)}" for right, n in zip(edges[1:], counts, strict=True)]
    return "".join(path) + f"V{base}Z"


def published_plot(found: dict[str, Any]) -> dict[str, Any]:
    """Drawing of `published_histogram`: frame, bars, the band and the mean."""
    axes = _Axes(found["edges"][0], found["edges"][-1], max(found["counts"]))
    low, high = axes.x(found["band"][0]), axes.x(found["band"][1])
    return axes.frame() | {
        "bars": _steps(axes, found["edges"], found["counts"]),
        "band": {"x": low, "width": round(high - low, 2)},
        "mean": axes.x(found["mean"]),
    }


def z_plot(found: dict[str, Any]) -> dict[str, Any]:
    """Drawing of `z_histogram`: frame, bars, flagged bars, the normal curve."""
    axes = _Axes(found["edges"][0], found["edges"][-1], max(*found["counts"], *found["normal"]))
    edges = found["edges"]
    points = [
        f"{axes.x((a + b) / 2)},{axes.y(n)}"
        for a, b, n in zip(edges[:-1], edges[1:], found["normal"], strict=True)
        if n >= FLOOR
    ]
    return axes.frame() | {
        "bars": _steps(axes, edges, found["counts"]),
        "flagged": _steps(axes, edges, found["flagged"]),
        "normal": " ".join(points),
    }


def completeness_plot(trials: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Drawing of the part of trial columns found again against the loss put into them, a line and a band per site."""

    def x(value: float) -> float:
        return round(LEFT + value * (WIDTH - LEFT - RIGHT), 2)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - value * (HEIGHT - BOTTOM - TOP), 2)

    lines = []
    for site, rows in sorted(trials.items()):
        low = [f"{x(r['loss'])},{y(r['ci_low'])}" for r in rows]
        high = [f"{x(r['loss'])},{y(r['ci_high'])}" for r in reversed(rows)]
        middle = " ".join(f"{x(r['loss'])},{y(r['recovered'])}" for r in rows)
        lines.append(
            {"site": site, "band": " ".join([*low, *high]), "line": middle, "number": count(int(rows[0]["n"]))}
        )
    tenths = [k / 5 for k in range(6)]
    return BOX | {
        "lines": lines,
        "nine_tenths": y(0.9),
        "x_ticks": [{"at": x(t), "label": f"{100 * t:.0f} %"} for t in tenths],
        "y_ticks": [{"at": y(t), "label": f"{100 * t:.0f} %"} for t in tenths],
    }
