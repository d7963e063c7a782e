"""The results of a run as small as can be: two images of 12 columns each, one without a pixel size; counted answers."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from oddlattice.storage.products import COLUMNS, DEFECTS, IMAGES, PLACES, Schema, table, write_parquet

PIXEL_NM = 0.02
SHAPE = (60, 80)
SITES = ("Sr", "Ti")
EMPTY = 3  # the number of the column that is not there


def columns(image_id: str, sites: tuple[str, str] = SITES) -> list[dict[str, Any]]:
    """Two columns in each of 2 x 3 cells of 20 x 20 px; the one numbered EMPTY has lost 97 % of its intensity."""
    rows = [
        {
            "image_id": image_id, "grain": 1, "cell_u": u, "cell_v": v, "column": c, "site": sites[c],
            "row_px": 10.0 + 20 * u + 10 * c, "col_px": 12.0 + 20 * v + 10 * c, "z": 0.1, "q_value": 0.9,
            "probability_real": 0.01, "intensity_change": 0.02, "intensity_change_sigma": 0.03,
        }
        for u in range(2) for v in range(3) for c in range(2)
    ]  # fmt: skip
    rows[EMPTY] |= {"intensity_change": -0.97, "z": -12.0, "q_value": 1e-9, "probability_real": 0.999}
    return rows


def places(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each column but the emptied one, seen a quarter of a pixel below its place in the lattice."""
    rows = [{key: row.get(key) for key in PLACES} for k, row in enumerate(found) if k != EMPTY]
    return [row | {"row_px": row["row_px"] + 0.25} for row in rows]


def defects(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The emptied column, an extra atom and a region."""
    gone = {key: found[EMPTY][key] for key in found[EMPTY] if key in DEFECTS}
    head = {"image_id": gone["image_id"], "grain": 1, "cell_u": 0, "cell_v": 0}
    return [
        gone | {"kind": "vacancy-like", "in_region": False, "review": "confirmed"},
        head | {"kind": "extra", "row_px": 5.0, "col_px": 7.0, "z": 6.0},
        head | {"kind": "extended", "row_px": 30.0, "col_px": 40.0},
    ]


def write_results(folder: Path) -> Path:
    """Write results of a shard with the images `sized` and `unsized`, and a report of one word."""
    store = zarr.open_group(folder / "1_images/s.zarr", mode="w", zarr_format=3)
    names = ("sized", "unsized")
    for name in names:
        group = store.create_group(name)
        group["0"] = np.zeros(SHAPE, np.uint16)
        group.attrs["oddlattice"] = {"pixel_nm_header": None}
    maps = zarr.open_group(folder / "4_defects/s.zarr", mode="w", zarr_format=3)
    for name in names:
        maps.create_group(f"{name}/z")["0"] = np.zeros(SHAPE, np.float32)
    store.attrs["images"] = [{"image_id": name, "state": "read"} for name in names]
    images = [{"image_id": name, "state": "analysed", "model": "srtio3_001", "crystal": "SrTiO3"} for name in names]
    images[0]["pixel_nm"] = PIXEL_NM
    every = {name: columns(name) for name in names}
    tables: dict[str, tuple[list[dict[str, Any]], Schema]] = {
        "images": (images, IMAGES),
        "defects": ([row for name in names for row in defects(every[name])], DEFECTS),
        "s.columns": ([row for name in names for row in every[name]], COLUMNS),
        "s.places": ([row for name in names for row in places(every[name])], PLACES),
    }
    for name, (rows, schema) in tables.items():
        write_parquet(table(rows, schema), folder / f"4_defects/{name}.parquet")
    for name in names:
        page = folder / f"5_report/s/{name}.html"
        (page.parent / name).mkdir(parents=True)
        page.write_text(f"page of {name}")
        for end in ("defects.csv", "geojson"):
            (page.parent / f"{name}.{end}").touch()
    (folder / "5_report/index.html").write_text("report")
    return folder
