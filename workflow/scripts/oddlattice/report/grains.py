"""The grains of an image as its page tells them: tables, and outlines for the viewer."""

import json
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
            "between": f"{row['grain_1']} and {row['grain_2']}",
            "sort": row.get("sort") or n.NONE,
            "length": _length(row),
            "turn": _turn(row),
            "misfit": n.percent(row["misfit"], 1) if row.get("sort") == "phase" and n.usable(row.get("misfit")) else "",
        }
        for row in image.boundaries
    ]


def _length(row: Row) -> str:
    if n.usable(row.get("length_nm")):
        return f"{n.significant(row['length_nm'], 3)} nm"
    return f"{n.significant(row['length_px'], 3)} px"


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
