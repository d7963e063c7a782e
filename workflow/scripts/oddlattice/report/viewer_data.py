"""What the viewer and the list of defects of an image's page draw."""

import base64
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.defects.kinds import KINDS, NO_POINTS, kind_of
from oddlattice.report import grains, image_facts, outlines, pictures
from oddlattice.report import numbers as n
from oddlattice.report.image_facts import pixel_size_nm
from oddlattice.report.images import Image
from oddlattice.report.strain_view import strain_layer
from oddlattice.statistics.reviews import near_px
from oddlattice.storage.rows import Row


def _probability(words: str, value: float | None) -> str:
    """A probability with what it is that of; "" where it is not known."""
    return f"{words} {n.chance(value)}" if n.usable(value) else ""


DEFECT_KEYS = (
    "row col kind kind_text site real_text kind_chance_text z z_text q q_text change change_text shift shift_text "
    "arrow_row arrow_col radius area_text place_text of_grains grain cell_u cell_v column said"
).split()


def viewer_data(
    image: Image, raw: Row, prediction: Row | None, maps: dict[str, Row], crops: Row | None, statistics: Row
) -> Row:
    """What the viewer and the list of defects draw."""
    pixel, ruler = image_facts.pixel_size_nm(image)
    data: Row = {
        "image_id": image.row["image_id"],
        "rows": image.raw.shape[0],
        "cols": image.raw.shape[1],
        "pixel_nm": pixel,
        "ruler": ruler,
        "path": image.row["path"],
        "scan_id": image.row.get("scan_id") or "",
        "near_px": round(near_px(image.columns.select("row_px", "col_px").to_numpy().astype(np.float64)), 3),
        "raw": raw,
        "prediction": prediction,
        "maps": maps,
        "colours": pictures.DIVERGING.tolist(),
        "kinds": {name: {"colour": kind.colour, "path": kind.path} for name, kind in KINDS.items()},
        "outlines": None,
        "grains": grains.shown_grains(image),
        "boundaries": grains.shown_boundaries(image),
        "strain": strain_layer(image, statistics),
        "nodes": None,
        "crops": crops,
        "defects": defect_columns(image),
        "columns": column_values(image),
        "said": said_of_image(image),
    }
    if image.frames:
        every = image.frames.values()
        loops = [loop for one in every for loop in outlines.outlines(one.mask, one.coordinates.nodes_px)]
        data["outlines"] = [[int(round(10 * x)) for point in loop for x in point] for loop in loops]
    if image.coordinates is not None:
        u, v, places = outlines.coarse_nodes(image.coordinates.nodes_px)
        tenths = np.rint(10 * places).astype(int)
        data["nodes"] = {"u": u, "v": v, "row": tenths[0].ravel().tolist(), "col": tenths[1].ravel().tolist()}
    return data


def layers_of(image: Image, maps: dict[str, Row], prediction: Row | None, strained: bool = False) -> list[Row]:
    """The layers the viewer can show of an image, in the order in which they lie on each other."""
    lattice = image.coordinates is not None
    analysed = image.row["state"] == "analysed"
    found = [
        ("raw", "Raw", "R", True, 100, True),
        ("prediction", "Prediction", "B", False, 100, prediction is not None),
        ("difference", "Difference", "D", False, 100, "difference" in maps),
        ("z", "z map", "Z", False, 100, "z" in maps),
        ("strain", "Strain", "S", False, 70, strained),
        ("cells", "Lattice", "L", False, 80, lattice),
        ("mask", "Mask", "K", analysed, 80, lattice and image.mask is not None),
        ("grains", "Grains", "H", True, 80, bool(image.grains)),
        ("boundaries", "Boundaries", "Y", True, 100, bool(image.boundaries)),
        ("marks", "Defects", "M", True, 100, image.defects.height > 0),
    ]
    keys = ("key", "label", "hot", "on", "fade")
    return [dict(zip(keys, layer, strict=False)) for layer in found if layer[-1]]


def said_of_image(image: Image) -> Row:
    """What people said of the image as a whole, and the regions they excluded."""
    rows = image.said.to_dicts()
    missed = [row for row in rows if row["what"] == "missed"]
    regions = [row for row in rows if row["what"] == "region"]
    return {
        "unusable": [[row["reviewer"], row["at"]] for row in rows if row["what"] == "image"],
        "regions": [[row["reviewer"], json.loads(row["corners_px"]), row["at"]] for row in regions],
        "notes": [[row["reviewer"], row["note"], row["at"]] for row in rows if row["what"] == "note"],
        "looked": [[row["reviewer"], row["at"]] for row in rows if row["what"] == "looked"],
        "missed": [[row[key] for key in ("reviewer", "thing", "row_px", "col_px", "kind")] for row in missed],
    }


def defect_columns(image: Image) -> dict[str, list[Any]]:
    """The table of defects as the page shows it: values to sort and draw by, and texts."""
    pixel, _ = pixel_size_nm(image)
    found: dict[str, list[Any]] = {key: [] for key in DEFECT_KEYS}
    sides = {row["boundary"]: sorted({row["grain_1"], row["grain_2"]}) for row in image.boundaries}
    for row, marks in zip(image.defects.iter_rows(named=True), image.marks, strict=True):
        # a column that is not there has no displacement
        gone = row["kind"] in ("vacancy-like", "extra", *NO_POINTS)
        shift = [math.nan if gone else row[f"shift_{axis}_pm"] for axis in ("row", "col")]
        size = math.hypot(*shift) if all(n.usable(s) for s in shift) else None
        radius = None
        if row["kind"] == "extended" and n.usable(row["area_px2"]):
            radius = round(math.sqrt(row["area_px2"] / math.pi), 1)
        known = size is not None and pixel is not None
        arrow = [s / 1000 / p for s, p in zip(shift, pixel or (1, 1), strict=True)] if known else [None, None]
        change, sigma = row["intensity_change"], row["intensity_change_sigma"]
        values = {
            "row": row["row_px"],
            "col": row["col_px"],
            "kind": kind_of(row["kind"]),
            "kind_text": str(row["kind"] or "unknown"),
            "site": str(row["site"] or row.get("sort") or ""),
            "real_text": _probability("real", row.get("probability_real")),
            "kind_chance_text": _probability("kind", row["kind_probability"]),
            "z": row["z"],
            "z_text": n.fixed(row["z"], 1),
            "q": row["q_value"],
            "q_text": n.q_value(row["q_value"]),
            "change": change,
            "change_text": _split_error(change, sigma, 100),
            "shift": size,
            "shift_text": _split_error(size, row["shift_sigma_pm"], 1),
            "arrow_row": arrow[0],
            "arrow_col": arrow[1],
            "radius": radius,
            "area_text": " · ".join(_extent(row)),
            "place_text": f"{n.significant(row['row_px'], 4)}, {n.significant(row['col_px'], 4)}",
            "of_grains": [row["grain"]] if row["grain"] else sides.get(row["number"], []),
            "grain": row["grain"],
            "cell_u": row["cell_u"],
            "cell_v": row["cell_v"],
            "column": row["column"],
            "said": [[m["reviewer"], m["verdict"], m["kind"], m["note"], m["at"]] for m in marks],
        }
        for key in DEFECT_KEYS:
            value = values[key]
            found[key].append(round(value, 5) if isinstance(value, float) and key != "q" else value)
    return found


def _extent(row: Row) -> list[str]:
    """Area of a region, and its Burgers vector where a circuit around it does not close."""
    unit = next((unit for unit in ("nm", "px") if n.usable(row[f"area_{unit}2"])), None)
    says = [f"{n.significant(row[f'area_{unit}2'], 2)} {unit}²"] if unit else []
    if says and not n.usable(row["z"]):
        says.append("no listed column in it")
    u, v = row.get("burgers_u"), row.get("burgers_v")
    if u is not None and v is not None and (u, v) != (0, 0):
        length = f", {n.significant(row['burgers_pm'], 3)} pm" if n.usable(row.get("burgers_pm")) else ""
        says.append(f"dislocation [{u:g} {v:g}]{length}")
    return says


def _split_error(value: float | None, error: float | None, factor: float) -> list[str]:
    """Value and error as two texts rounded alike; the signed value carries its sign."""
    if value is None or not math.isfinite(value):
        return [n.NONE, ""]
    if error is None or not math.isfinite(error) or error <= 0:
        return [n.significant(factor * value, 2), ""]
    decimals = n.decimals_for(factor * error, 1)
    return [n.fixed(factor * value, decimals), f"± {n.fixed(factor * error, decimals)}"]


def column_values(image: Image) -> Row | None:
    """Place, z and change of intensity of every tested column, packed for the read-out; None where none was tested.

    Base64 of little-endian whole numbers: places as parts of 65535 of the image's size, z in hundredths, changes in
    thousandths of a column, -32768 where there is none, and the index of the site.
    """
    found = image.columns
    if not found.height:
        return None

    def packed(name: str, factor: float, dtype: str) -> str:
        values = found[name].to_numpy().astype(np.float64) * factor
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        whole = np.clip(np.rint(np.nan_to_num(values)), low + (low < 0), high)
        return _base64(np.where(np.isfinite(values), whole, low).astype(dtype))

    rows, cols = image.raw.shape
    sites = sorted(set(found["site"].drop_nulls()))
    index = np.array([sites.index(site) if site in sites else 255 for site in found["site"]], dtype=np.uint8)
    return {
        "number": found.height,
        "sites": sites,
        "row": packed("row_px", 65535 / rows, "<u2"),
        "col": packed("col_px", 65535 / cols, "<u2"),
        "z": packed("z", 100, "<i2"),
        "change": packed("intensity_change", 1000, "<i2"),
        "site": _base64(index),
    }


def _base64(values: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
