"""Huge images: worked on in parts, with the results of the whole."""

import weakref
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from scipy.ndimage import map_coordinates

import cut_tiles
import find_defects
import infer_differences
import write_pages
from bench.material import Lattice, write_scan
from oddlattice.defects.raw_maps import Laid, warped, write_maps
from oddlattice.lattice import subareas
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.read import read_file
from oddlattice.report import images, layers
from oddlattice.run.settings import load_yaml
from oddlattice.run.stage_settings import DefectSettings, InferSettings, TileSettings
from oddlattice.storage.products import COLUMN_KEY
from oddlattice.storage.windows import Windows, every
from support.raw_files import SETTINGS
from support.settings import default
from support.stages import TABLES

ROOT = Path(__file__).parents[2]
CONFIG = load_yaml(ROOT / "config.yaml")
MODEL = ROOT / "models/srtio3_001"


@pytest.mark.parametrize("shape", [(200, 250), (160, 320), (331, 700), (3, 60_000)])
def test_cores_cover_every_cell_once_and_whole_chunks(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    found = subareas.parts_of(shape, 5)
    for part in found:
        seen[part.core] += 1
        assert [s.start % 32 for s in part.core] == [0, 0]
        wide = np.zeros(shape, int)[part.wide]
        assert wide[part.inner].shape == np.zeros(shape)[part.core].shape
        assert wide.size <= (subareas.PART_CELLS + 10) ** 2 or len(found) == 1
    assert (seen == 1).all()
    assert (len(found) == 1) == (shape[0] * shape[1] <= subareas.WHOLE_CELLS)


def test_windows_are_slices_of_the_array_and_chunks_are_read_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((70, 95), dtype=np.float32)
    array = zarr.create_array(tmp_path / "a", data=values, chunks=(16, 32))
    windows = Windows(array)
    for _ in range(50):
        low, high = np.sort(rng.integers(0, [[70], [95]], (2, 2)), axis=1).T
        window = slice(low[0], high[0]), slice(low[1], high[1])
        np.testing.assert_array_equal(windows[window], values[window])
    array[:] = 0  # what is kept is not read again
    np.testing.assert_array_equal(windows[10:60, 3:90], values[10:60, 3:90])
    assert not Windows(array)[10:60, 3:90].any()


# ---------------------------------------------------------------- an image in parts


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of 49 x 49 cells, read and tiled."""
    folder = tmp_path_factory.mktemp("parts")
    write_scan(folder / "scan.dm4", (640, 640), 3, Lattice(12, 5))
    stat = (folder / "scan.dm4").stat()
    file = {"file_id": "f", "path": "scan.dm4", "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    rows = read_file.read_file(file, str(folder / "scan.dm4"), str(folder / "images.zarr"), SETTINGS.as_dict())
    zarr.open_group(folder / "images.zarr").update_attributes({"images": rows})
    cut_tiles.main(folder / "images.zarr", [MODEL / "crystal.yaml"], folder / "tiles.zarr", default(TileSettings))
    return folder


def analysed(folder: Path, name: str, method: str) -> dict[str, object]:
    out = folder / f"{name} {method}"
    out.mkdir()
    settings = default(InferSettings, method=method, device="cpu")
    infer_differences.main(str(folder / "tiles.zarr"), [str(MODEL)], str(out / "differences.zarr"), settings, 2)
    tables = {table: str(out / f"{table}.parquet") for table in TABLES}
    stores = [str(folder / "images.zarr"), str(folder / "tiles.zarr"), str(out / "differences.zarr")]
    find_defects.main(*stores, tables, str(out / "maps.zarr"), DefectSettings.of(CONFIG["defects"]))
    assert not list(out.rglob(".z-*"))
    (row,) = pl.read_parquet(tables["images"]).to_dicts()
    assert row["state"] == "analysed", row["reason"]
    maps = zarr.open_group(out / "maps.zarr", mode="r")
    found = {key: maps[f"f/{key}/0"][:] for key in ("difference", "z")}
    return {
        "row": row,
        "defects": pl.read_parquet(tables["defects"]),
        "columns": pl.read_parquet(tables["columns"]),
        **found,
    }


@pytest.mark.parametrize("method", ["vae", "template"])
def test_an_image_in_parts_gives_what_the_whole_gives(
    tiled: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = analysed(tiled, "whole", method)
    monkeypatch.setattr(subareas, "WHOLE_CELLS", 100)
    monkeypatch.setattr(subareas, "PART_CELLS", 32)
    split = analysed(tiled, "split", method)
    key = list(COLUMN_KEY)
    one, other = (found["columns"].sort(key) for found in (whole, split))
    assert one.select(key).equals(other.select(key))  # every column once
    # cells are counted from the frame's origin, which is a column
    lattice = zarr.open_group(tiled / "tiles.zarr")["f/1"].attrs["oddlattice"]
    uv = (
        one.select("cell_u", "cell_v").to_numpy() + 0.5 * one.select("column").to_numpy()
    )  # Sr is 0, Ti 1 in the middle
    expected = lattice["origin_px"] + uv @ np.array([lattice["a_px"], lattice["b_px"]])
    assert np.abs(one.select("row_px", "col_px").to_numpy() - expected).max() < 0.3 * np.hypot(*lattice["a_px"])
    for place in ("row_px", "col_px"):
        np.testing.assert_allclose(one[place], other[place], atol=1e-3)
    assert np.corrcoef(one["z_intensity"], other["z_intensity"])[0, 1] > 0.98
    strong = [set(found["defects"].filter(pl.col("p_value") < 1e-9).select(key).rows()) for found in (whole, split)]
    assert strong[0] == strong[1]
    assert len(strong[0]) >= 3
    row, again = whole["row"], split["row"]
    assert again["columns_tested"] == row["columns_tested"]
    assert again["cells_analysed"] == row["cells_analysed"] and again["area_nm2"] == row["area_nm2"]
    assert again["published_mean"] == pytest.approx(row["published_mean"], abs=0.02)
    assert np.abs(whole["difference"] - split["difference"]).std() < 0.2 * whole["difference"].std()


def test_raw_pixels_are_laid_on_the_lattice() -> None:
    """Bent nodes, shifted rows: the place of every pixel, against nodes interpolated the other way."""
    u, v = np.meshgrid(np.arange(30.0), np.arange(40.0), indexing="ij")
    bend = np.stack([0.8 * np.sin(u / 9) * np.cos(v / 7), 0.6 * np.cos(u / 8 + v / 11)])
    nodes = np.stack([14 * u - 6 * v + 230, 6 * u + 14 * v + 5]) + bend
    shift = np.random.default_rng(0).normal(0, 0.5, 500)
    rows, cols = slice(100, 400), slice(90, 395)
    # maps of the places themselves: u and v of every pixel of the lattice frame
    maps = [
        np.ascontiguousarray(line, np.float32) for line in np.meshgrid(np.arange(580), np.arange(780), indexing="ij")
    ]
    at = warped(maps, Coordinates(nodes.astype(np.float32), shift), rows, cols)
    uv = (np.stack(at).astype(np.float64) + 0.5) / 20
    inside = ((uv > 0.05) & (uv < np.array([28.9, 38.9])[:, None, None])).all(0)
    assert inside.mean() > 0.8
    back = np.stack([map_coordinates(layer, uv, order=1) for layer in nodes])
    back[1] -= shift[rows][:, None]  # a feature at col c is seen at col c - shift
    true = np.stack(np.meshgrid(np.arange(100, 400), np.arange(90, 395), indexing="ij"))
    assert np.abs(back - true)[:, inside].max() < 0.02


def test_a_sample_of_a_huge_image_keeps_none_of_its_bands() -> None:
    living: list[weakref.ref[np.ndarray]] = []

    class Bands:
        shape = (4096, 64)

        def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
            band = np.arange(4096 * 64, dtype=np.float32).reshape(4096, 64)[window].copy()
            assert sum(old() is not None for old in living) <= 1
            living.append(weakref.ref(band))
            return band

    sample = every(Bands(), 3)
    np.testing.assert_array_equal(sample, np.arange(4096 * 64, dtype=np.float32).reshape(4096, 64)[::3, ::3])
    assert len(living) > 2


def test_a_turned_scan_is_laid_back_as_its_transpose_is() -> None:
    rng = np.random.default_rng(3)
    u, v = np.meshgrid(np.arange(12.0), np.arange(15.0), indexing="ij")
    nodes = np.stack([14 * u - 6 * v + 90, 6 * u + 14 * v + 5]).astype(np.float32)
    shift, values = rng.normal(0, 0.5, 300), rng.random((220, 280), dtype=np.float32)
    rows, cols = slice(20, 170), slice(10, 140)
    (upright,) = warped([values], Coordinates(nodes, shift), rows, cols)
    (turned,) = warped([values], Coordinates(nodes[::-1], shift, transposed=True), cols, rows)
    np.testing.assert_array_equal(turned, upright.T)
    assert upright.any()


def test_maps_are_written_to_a_part_in_eight_thousand(tmp_path: Path) -> None:
    u, v = np.meshgrid(np.arange(30.0), np.arange(40.0), indexing="ij")
    coordinates = Coordinates(np.stack([14 * u - 60, 14 * v - 60]).astype(np.float32), np.zeros(300))
    values = np.random.default_rng(5).normal(0, 3, (580, 780)).astype(np.float32)
    group = zarr.create_group(tmp_path / "maps.zarr")
    write_maps(group, [Laid({"z": values}, coordinates)], (300, 400), (0.01, 0.01))
    written = zarr.open_group(tmp_path / "maps.zarr", mode="r")["z/0"][:]
    (exact,) = warped([values], coordinates, slice(0, 300), slice(0, 400))
    assert (written != 0).all() and 2**-14 < (np.abs(written - exact) / np.abs(exact)).max() <= 2**-13
    assert (written.view(np.int32) & 0x7FF == 0).all()


def test_pages_are_the_same_when_pictures_are_read_band_by_band(
    tiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (tiled / "whole vae").exists():
        analysed(tiled, "whole", "vae")
    made = tiled / "whole vae"
    (tmp_path / "reviews.json").write_text('{"statements": []}')
    (tmp_path / "statistics.json").write_text("{}")
    stores = [tiled / "images.zarr", tiled / "tiles.zarr", made / "differences.zarr", made / "maps.zarr"]
    tables = [made / f"{table}.parquet" for table in ("defects", "images", "columns")]
    monkeypatch.setattr(layers, "TILE_PX", 128)
    found = []
    for name, at_once in (("whole", 1 << 30), ("bands", 1000)):
        monkeypatch.setattr(images, "AT_ONCE_PX", at_once)
        out = tmp_path / name / "shard"
        beside = [tmp_path / f"{name}.json" for name in ("statistics", "reviews")]
        write_pages.main(*stores, *tables, *beside, out, CONFIG)
        found.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 50
    assert found[0] == found[1]
