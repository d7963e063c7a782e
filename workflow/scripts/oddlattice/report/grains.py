"""The grains of an image as its page tells them: tables, and outlines for the viewer."""

import json
from collections import Counter
from typing import Any

from oddlattice.crystal import OWN
from oddlattice.report import numbers as n
from oddlattice.report.images import Image
from oddlattice.storage.rows import Row

#: After Okabe and Ito; grains beyond as many take them again.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#8fa8ff", "#b0e07a")


def colour_of(grain: int) -> str:
    """Colour in which a grain is shown."""
    return COLOURS[(grain - 1) % len(COLOURS)]


def grain_lines(image: Image) -> list[Row]:
    """Rows of the table of grains; empty for an image of one."""
    return [_line(row) for row in image.grains]


def _line(row: Row) -> Row:
    density, between = n.interval(row["density_per_nm2"], row["density_ci_low"], row["density_ci_high"])
    analysed = row["state"] == "analysed"
    named = row["crystal"] or ("its own crystal" if row["model"] == OWN else row["model"] or n.NONE)
    turn = n.NONE
    if n.usable(row.get("rotation_deg")):
        turn = f"{n.with_error(row['rotation_deg'], row.get('rotation_sigma_deg'), digits=1, digits_alone=4)}°"
    return {
        "grain": row["grain"],
        "colour": colour_of(row["grain"]),
        "crystal": named,
        "rotation": turn,
        "share": n.percent(row["share_of_image"]),
        "tested": n.count(row["columns_tested"]) if analysed else n.NONE,
        "not_tested": n.count(row["columns_not_tested"]) if analysed else n.NONE,
        "defects": n.count(row["defects"]) if analysed else n.NONE,
        "density": f"{density} ({between})" if density != n.NONE else n.NONE,
        "completeness": n.percent(row["completeness_vacancy"]) if n.usable(row["completeness_vacancy"]) else n.NONE,
        "reason": "" if analysed else str(row["reason"]),
    }


def boundary_lines(image: Image) -> list[Row]:
    """Rows of the table of boundaries."""
    return [
        {
            "number": row["boundary"],
            "between": between(row),
            "sort": row.get("sort") or n.NONE,
            "length": _length(row),
            "turn": _turn(row),
            "width": _width(row),
            "missing": n.count(row["columns_missing"]) if n.usable(row.get("columns_missing")) else n.NONE,
            "extra": n.count(row["columns_extra"]) if n.usable(row.get("columns_extra")) else n.NONE,
            "told": "; ".join(_told(row)),
        }
        for row in image.boundaries
    ]


def between(row: Row) -> str:
    """The grains of a boundary."""
    return f"{row['grain_1']}" if row["grain_1"] == row["grain_2"] else f"{row['grain_1']} and {row['grain_2']}"


def _told(row: Row) -> list[str]:
    """What else is known of a boundary, in words."""
    says = []
    if row.get("direction_1"):
        angle = n.significant(row["directions_apart_deg"], 2)
        says.append(f"{row['direction_1']} and {row['direction_2']} run {angle}° apart")
        says.append(f"misfit along them {n.percent(row['misfit_along'], 1)}")
    if n.usable(row.get("shift_u")):
        parts = [n.with_error(row[f"shift_{k}"], row[f"shift_{k}_sigma"], digits=1, digits_alone=3) for k in "uv"]
        says.append(f"shifted by {parts[0]} a, {parts[1]} b")
    if row.get("columns_reason"):
        says.append(f"columns not counted: {row['columns_reason']}")
    if row.get("burgers"):
        vectors = Counter(tuple(one[2:]) for one in json.loads(row["burgers"]))
        listed = ", ".join(f"{number} × [{u:g} {v:g}]" for (u, v), number in vectors.most_common())
        says.append(f"dislocations: {listed}" if listed else "no dislocation is told")
        if row.get("dislocations_not_told"):
            says.append(f"about {row['dislocations_not_told']} more are not told")
    return says


def shown_boundaries(image: Image) -> list[dict[str, Any]]:
    """Number, sort, lines and dislocations (tenths of a pixel: row, col, ...) of each boundary, for the viewer."""
    return [
        {
            "number": row["boundary"],
            "sort": row.get("sort") or "",
            "lines": [[round(10 * x) for at in path for x in at] for path in json.loads(row["path_px"])],
            "dislocations": [[round(10 * x) for x in one[:2]] for one in json.loads(row.get("burgers") or "[]")],
        }
        for row in image.boundaries
    ]


def _length(row: Row) -> str:
    if n.usable(row.get("length_nm")):
        return f"{n.significant(row['length_nm'], 3)} nm"
    return f"{n.significant(row['length_px'], 3)} px"


def _width(row: Row) -> str:
    if not n.usable(row.get("width_px")):
        return n.NONE
    if n.usable(row.get("width_nm")):
        nm = row["width_nm"] / row["width_px"]
        return n.with_error(row["width_nm"], row["width_sigma_px"] * nm, "nm", digits=1)
    return n.with_error(row["width_px"], row["width_sigma_px"], "px", digits=1)


def _turn(row: Row) -> str:
    if not n.usable(row.get("misorientation_deg")):
        return n.NONE
    return f"{n.with_error(row['misorientation_deg'], row['misorientation_sigma_deg'], digits=1, digits_alone=3)}°"


def shown_grains(image: Image) -> list[dict[str, Any]]:
    """Number, colour and outlines (tenths of a pixel: row, col, row, ...) of each grain, for the viewer."""
    return [
        {
            "grain": row["grain"],
            "colour": colour_of(row["grain"]),
            "loops": [[round(10 * x) for at in loop for x in at] for loop in json.loads(row["outline_px"])],
        }
        for row in image.grains
        if row.get("outline_px")
    ]
