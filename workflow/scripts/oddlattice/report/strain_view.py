"""Strain as the page of an image shows it: coloured blocks for the viewer, sizes and noise as a table."""

from typing import Any

import numpy as np

from oddlattice.report import numbers as n
from oddlattice.report.images import Image
from oddlattice.report.layers import map_limit
from oddlattice.statistics.strain import COMPONENTS
from oddlattice.storage.rows import Row

#: Names, units and what a value is multiplied by.
SHOWN = {
    "exx": ("exx, along rows", "%", 100.0),
    "eyy": ("eyy, down columns", "%", 100.0),
    "exy": ("exy, shear", "%", 100.0),
    "rotation_deg": ("rotation", "°", 1.0),
}
LEAST_SIGMAS = 4.0  # that the full colour stands for at least: noise alone is pale


def _of_grains(statistics: Row) -> dict[int, Row]:
    """What the statistics of an image say of the strain of each grain."""
    each = statistics.get("grains") or {"1": statistics}
    return {int(k): one["strain"] for k, one in each.items() if "field" in one.get("strain", {})}


def strain_layer(image: Image, statistics: Row) -> Row | None:
    """Blocks (corners in tenths of a pixel: row, col, ...) of every grain with their strain; None without any."""
    found = {k: one for k, one in _of_grains(statistics).items() if k in image.frames}
    if not found:
        return None
    corners, values = [], {name: list[float]() for name in COMPONENTS}
    for k, one in found.items():
        field, at = one["field"], image.frames[k].coordinates
        half, step = field["step"] // 2, field["step"]
        start = np.stack([field["u"], field["v"]], -1) - half
        around = start[:, None] + step * np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
        corners += np.rint(10 * at.straight_px(around)).astype(int).reshape(-1, 8).tolist()
        for name in COMPONENTS:
            values[name] += [round(SHOWN[name][2] * x, 4) for x in field[name]]
    parts = {name: _part(name, values[name], found) for name in COMPONENTS}
    return {"corners": corners, "parts": parts}


def _part(name: str, values: list[float], found: dict[int, Row]) -> dict[str, Any]:
    label, unit, factor = SHOWN[name]
    sigma = max((factor * one["sigma"][name] for one in found.values() if n.usable(one["sigma"][name])), default=0.0)
    low, high = np.percentile(values, [2, 98])
    limit = map_limit((float(low), float(high)), max(LEAST_SIGMAS * sigma, 1e-3))
    return {"label": label, "unit": unit, "limit": limit, "values": values}


def strain_rows(statistics: Row) -> list[Row]:
    """Lines of the table of strain: rms over each grain, and the noise of one place."""
    return [
        {"grain": k, "cells": one["window_cells"]} | {name: _cell(name, one) for name in COMPONENTS}
        for k, one in _of_grains(statistics).items()
    ]


def _cell(name: str, one: Row) -> str:
    _, unit, factor = SHOWN[name]
    size = n.significant(factor * one["rms"][name], 2)
    if not n.usable(one["sigma"][name]):
        return f"{size} {unit} (noise not told)"
    return f"{size} {unit} (noise {n.significant(factor * one['sigma'][name], 2)})"
