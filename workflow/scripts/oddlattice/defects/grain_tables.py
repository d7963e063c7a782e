"""Rows of the tables of grains and of boundaries."""

import json
import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np

from oddlattice.crystal import OWN
from oddlattice.lattice.boundaries import Line, Path, Turn, lines_between, outline_of, turned
from oddlattice.lattice.pixel_size import PixelNm, mean_nm, reckoned_nm
from oddlattice.numerics.arrays import Array, Labels
from oddlattice.storage.rows import Row

LOW_ANGLE_DEG = 15.0  # grains of one crystal that are turned by less meet in a low-angle boundary
COHERENT_DEG = 1.0  # grains that are turned by less are kept apart by what their cells hold
OTHER_CONTENT = 0.05  # of the brightest column, by which another column differs between two crystals at least
SAME_STRETCH, SAME_AREA = 1.05, 0.05  # cells this near to each other are one crystal's, where nothing else is known
FAINT = 0.2  # of the brightest column: what is fainter may be seen in one grain and not in another
OF_FIGURES = (
    "columns_tested",
    "defects",
    "area_nm2",
    "density_per_nm2",
    "density_ci_low",
    "density_ci_high",
    "completeness_vacancy",
    "completeness_vacancy_ci_low",
    "completeness_vacancy_ci_high",
    "crystal",
    "cells_analysed",
    "cells_masked",
    "pixel_nm",
)


def grain_row(image_id: str, grain: int, lattice: Mapping[str, Any], model: Mapping[str, Any], figures: Row) -> Row:
    """A grain as a row of products.GRAINS.

    Parameters
    ----------
    lattice, model : mapping
        What the tile and infer stages say of it.
    figures : dict
        Of the grain as of an image; empty where it could not be analysed.
    """
    row: Row = {"image_id": image_id, "grain": grain, "state": model["state"], "reason": model["reason"]}
    row |= {"model": model.get("model") or lattice.get("model")} | {key: figures.get(key) for key in OF_FIGURES}
    if lattice.get("a_px") is None:
        return row
    if "own_crystal" in lattice:
        seen = ("site", "u", "v", "brightness", "brightness_sigma")
        row["own_columns"] = json.dumps([[one[key] for key in seen] for one in lattice["own_crystal"]["columns"]])
    vectors = np.array([lattice["a_px"], lattice["b_px"]])
    lengths = np.hypot(*vectors.T)
    row |= {"a_px": float(lengths[0]), "b_px": float(lengths[1]), "gamma_deg": lattice.get("gamma_deg")}
    row["rotation_deg"] = float(np.degrees(np.arctan2(vectors[0, 1], vectors[0, 0])))
    if lattice.get("pixel_nm") is not None:
        row |= {f"{axis}_nm": float(size * lattice["pixel_nm"]) for axis, size in zip("ab", lengths, strict=True)}
    if lattice.get("a_sigma_px") is not None:
        sigma = _sigmas(lattice) / lengths
        row["rotation_sigma_deg"] = float(np.degrees(sigma[0]))
        row |= {"a_relative_sigma": float(sigma[0]), "b_relative_sigma": float(sigma[1])}
    return row


def in_labels(row: Row, labels: Labels, columns_per_px2: float) -> Row:
    """The row of a grain with what the label map (rows, cols) tells of it: outline, share, columns not tested."""
    own = labels == row["grain"]
    found: Row = {"outline_px": as_json(outline_of(own)), "share_of_image": float(own.mean())}
    if row["columns_tested"] is not None:
        found["columns_not_tested"] = max(round(float(own.sum()) * columns_per_px2) - row["columns_tested"], 0)
    return row | found


def boundary_rows(
    image_id: str, labels: Labels, lattices: Mapping[int, Mapping[str, Any]], header: PixelNm | None
) -> list[Row]:
    """The boundaries of an image as rows of products.BOUNDARIES; `lattices` are those of the grains that have one."""
    rows = []
    for number, line in enumerate(lines_between(labels), 1):
        row: Row = {"image_id": image_id, "boundary": number, "grain_1": line.grains[0], "grain_2": line.grains[1]}
        row |= {"length_px": line.length_px, "path_px": as_json(line.paths_px)}
        sides = [lattices.get(k) for k in line.grains]
        if sides[0] is not None and sides[1] is not None:
            row |= _relation(sides[0], sides[1], header, line)
        rows.append(row)
    return rows


def _relation(one: Mapping[str, Any], other: Mapping[str, Any], header: PixelNm | None, line: Line) -> Row:
    """How the crystals of two sides lie to each other."""
    pixel_nm = reckoned_nm(one, header)
    square = np.array(pixel_nm) / mean_nm(pixel_nm)
    vectors = [np.array([side["a_px"], side["b_px"]]) * square for side in (one, other)]
    turn = turned(vectors[0], vectors[1], (_sigmas(one), _sigmas(other)))
    row: Row = {"sort": _sort(one, other, turn)}
    if one.get("pixel_nm") is not None:
        row["length_nm"] = line.length_px * one["pixel_nm"]
    if turn is not None:
        row |= {"misorientation_deg": turn.angle_deg, "misorientation_sigma_deg": turn.sigma_deg}
        row["misfit"] = math.sqrt(turn.area_ratio) - 1
    return row


def _sort(one: Mapping[str, Any], other: Mapping[str, Any], turn: Turn | None) -> str:
    """`phase` between two crystals; `low-angle` or `grain` between two grains of one."""
    if not _one_crystal(one, other, turn):
        return "phase"
    return "low-angle" if turn is not None and turn.angle_deg < LOW_ANGLE_DEG else "grain"


def _one_crystal(one: Mapping[str, Any], other: Mapping[str, Any], turn: Turn | None) -> bool:
    if one["model"] != other["model"]:
        return False
    if turn is not None and turn.angle_deg < COHERENT_DEG and _content_apart(one, other) > OTHER_CONTENT:
        return False
    if one["model"] != OWN:
        return True
    bright = [[c["brightness"] > FAINT for c in side["own_crystal"]["columns"]] for side in (one, other)]
    columns = [sum(seen) for seen in bright]  # a faint one may be found in the larger grain alone
    alike = turn is not None and turn.stretch < SAME_STRETCH and abs(math.log(turn.area_ratio)) < SAME_AREA
    return alike and columns[0] == columns[1]


def _content_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Largest difference of the brightnesses of two crystals' columns, relative to their brightest and in order."""
    first, second = (sorted(_brightness(side), reverse=True) for side in (one, other))
    return max((abs(a - b) for a, b in zip_longest(first, second, fillvalue=0.0)), default=0.0)


def _brightness(lattice: Mapping[str, Any]) -> list[float]:
    if "own_crystal" in lattice:
        return [float(column["brightness"]) for column in lattice["own_crystal"]["columns"]]
    return [float(weight) for weight in lattice.get("fit_quality", {}).get("column_weights", {}).values()]


def _sigmas(lattice: Mapping[str, Any]) -> Array:
    return np.array([lattice["a_sigma_px"], lattice["b_sigma_px"]])


def as_json(paths: list[Path]) -> str:
    """Lines as JSON: a list of lists of [row, col], to a tenth of a pixel."""
    return json.dumps([[[round(r, 1), round(c, 1)] for r, c in path] for path in paths], separators=(",", ":"))
