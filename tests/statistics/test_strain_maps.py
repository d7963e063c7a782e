"""Maps of strain over the image, made from the table of places when they are asked for."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.statistics.strain_maps import strain_from_table, write_strain
from oddlattice.storage.products import PLACES

SIDE, CELL_PX, STRETCH = 16, 20.0, 0.01


def made(folder: Path) -> tuple[zarr.Group, pl.DataFrame]:
    """A grain whose columns stand 1 % farther apart along a row at its right end, 1 % less at its left; its places."""
    group = zarr.open_group(folder / "tiles.zarr", mode="w", zarr_format=3)
    corners = CELL_PX * np.arange(SIDE + 1.0)
    group["mask"] = np.ones((SIDE, SIDE), np.uint8)
    group["nodes_px"] = np.stack(np.meshgrid(corners, corners, indexing="ij"))
    group["line_shift_px"] = np.where(np.arange(int(SIDE * CELL_PX)) % 2, 0.7, -0.7)  # lines to and fro
    group.attrs["oddlattice"] = {"first_cell": [-3, 5], "scan_transposed": False}
    cells = np.stack(np.meshgrid(range(SIDE), range(SIDE), indexing="ij"), -1).reshape(-1, 2)
    place = (cells + 0.5) * CELL_PX
    half = SIDE * CELL_PX / 2
    place[:, 1] += STRETCH / (2 * half) * (place[:, 1] - half) ** 2
    seen = Coordinates.of(group)._shifted(place, -1)
    rows = [{"image_id": "a", "grain": 1, "cell_u": u - 3, "cell_v": v + 5, "column": 0, "site": "A"} for u, v in cells]
    rows = [row | {"row_px": r, "col_px": c} for row, (r, c) in zip(rows, seen, strict=True)]
    return group, pl.DataFrame([{key: row.get(key) for key in PLACES} for row in rows], schema=PLACES)


def test_strain_lies_where_its_columns_are(tmp_path: Path) -> None:
    group, places = made(tmp_path)
    found = strain_from_table(places, group, (0.02, 0.02))
    assert found is not None
    exx = found.values[0]
    assert exx[SIDE // 2, 2] == pytest.approx(-STRETCH * (1 - 5 / SIDE), abs=2e-4)
    assert exx[SIDE // 2, SIDE - 3] == pytest.approx(STRETCH * (1 - 5 / SIDE), abs=2e-4)
    inner = found.values[:, 2:-2, 2:-2]
    assert np.abs(inner[1:3]).max() < 1e-4
    out = zarr.open_group(tmp_path / "strain.zarr", mode="w", zarr_format=3)
    write_strain(out, {1: (found, Coordinates.of(group))}, (int(SIDE * CELL_PX), int(SIDE * CELL_PX)), (0.02, 0.02))
    assert set(out.group_keys()) == {"exx", "eyy", "exy", "rotation_deg"}
    seen = np.asarray(out["exx/0"])  # type: ignore[index]
    assert seen.shape == (320, 320)
    row, col = (int(CELL_PX * (k + 0.5)) for k in (SIDE // 2, SIDE - 3))
    assert seen[row, col] == pytest.approx(exx[SIDE // 2, SIDE - 3], abs=3e-4)
    assert "multiscales" in dict(out["exx"].attrs)["ome"]  # type: ignore[operator,arg-type,call-overload]


def test_a_few_columns_tell_no_strain(tmp_path: Path) -> None:
    group, places = made(tmp_path)
    assert strain_from_table(places.head(20), group, (0.02, 0.02)) is None
