"""The tile stage as a product: what is written, and what real files give."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from rsciio import digitalmicrograph, emd

import cut_tiles
from oddlattice.crystal import CELL_PX, Crystal
from oddlattice.lattice import record, tile_image
from oddlattice.lattice.register import USUAL, fit_registration
from oddlattice.lattice.registration import render
from oddlattice.run.stage_settings import TileSettings
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import MOS2_120, SRTIO3
from support.settings import default

REAL = Path(__file__).parents[3] / "shared" / "real"
SRTIO3_FILE = Path(__file__).parents[2] / "models" / "srtio3_001" / "crystal.yaml"


def write_images(path: Path, images: Mapping[str, tuple[np.ndarray, tuple[float, float] | None]]) -> Path:
    """A product of the read stage: what the tile stage needs of it."""
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    for name, (image, pixel_nm) in images.items():
        group = root.create_group(name)
        group.create_array("0", data=image, chunks=(512, 512))
        group.attrs["oddlattice"] = {"pixel_nm_header": None if pixel_nm is None else list(pixel_nm)}
    rows = [{"image_id": name, "state": "read"} for name in images]
    root.attrs["images"] = [*rows, {"image_id": "gone", "state": "rejected"}]
    return path


def write_crystal(path: Path, crystal: Crystal) -> Path:
    columns = [{"site": c.site, "u": c.u, "v": c.v, "atoms": c.atoms} for c in crystal.columns]
    keys = ("name", "a_nm", "b_nm", "gamma_deg", "repeat_nm")
    path.write_text(yaml.safe_dump({key: getattr(crystal, key) for key in keys} | {"columns": columns}))
    return path


def tiled(path: Path, images: Mapping[str, Any], crystals: list[Path], threads: int = 1) -> zarr.Group:
    source = write_images(path / "images.zarr", images)
    cut_tiles.main(source, crystals, path / "tiles.zarr", default(TileSettings), threads)
    return zarr.open_group(str(path / "tiles.zarr"), mode="r")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[zarr.Group, dict[str, np.ndarray]]:
    """A bulk scan with a header 5 % off, vacuum, and a hexagonal lattice."""
    scan = simulate_scan(SRTIO3, Conditions(rotation_deg=30), (400, 440), seed=3)
    other = simulate_scan(MOS2_120, Conditions(pixel_nm=0.016, rotation_deg=5), (256, 256), seed=1)
    images = {
        "bulk": (scan.counts.astype(np.uint16), (0.0125 * 1.05, 0.0125 * 1.05)),
        "vacuum": (np.random.default_rng(0).poisson(3.0, (256, 256)).astype(np.uint16), (0.0125, 0.0125)),
        "other": (other.counts, (0.016, 0.016)),
    }
    path = tmp_path_factory.mktemp("tiles")
    return tiled(path, images, [SRTIO3_FILE]), {name: image for name, (image, _) in images.items()}


def test_every_image_has_a_row_with_state_and_reason(shard: tuple[zarr.Group, dict[str, np.ndarray]]) -> None:
    rows = shard[0].attrs["images"]
    assert [(row["image_id"], row["state"]) for row in rows] == [
        ("bulk", "tiled"),
        ("vacuum", "no_lattice"),
        ("other", "no_model"),
    ]
    assert rows[0]["reason"] == ""
    assert rows[1]["reason"].startswith("no lattice: ")
    assert rows[2]["reason"].startswith("no model for this lattice: a = ")
    for row in rows:
        attributes = shard[0][row["image_id"]].attrs["oddlattice"]
        assert (attributes["state"], attributes["reason"]) == (row["state"], row["reason"])
    assert len(shard[0]["other"].attrs["oddlattice"]["a_px"]) == 2
    assert list(shard[0]["vacuum"].array_keys()) == []


def test_arrays_are_as_specified(shard: tuple[zarr.Group, dict[str, np.ndarray]]) -> None:
    group, image = shard[0]["bulk/1"], shard[1]["bulk"]
    u, v = group["mask"].shape
    expected = {
        "tiles": ((CELL_PX * u, CELL_PX * v), "float32"),
        "mask": ((u, v), "uint8"),
        "inside": ((u, v), "uint8"),
        "nodes_px": ((2, u + 1, v + 1), "float64"),
        "line_shift_px": ((image.shape[0],), "float64"),
        "local_mean": ((u, v), "float64"),
        "depth_px": ((u + 1, v + 1), "float64"),
        "line_gain": ((image.shape[0],), "float64"),
    }
    assert {name: (group[name].shape, str(group[name].dtype)) for name in group.array_keys()} == expected
    assert group["tiles"].chunks == (640, 640)
    tiles, mask, nodes = group["tiles"][:], group["mask"][:], group["nodes_px"][:]
    cells = tiles.reshape(u, CELL_PX, v, CELL_PX).mean((1, 3))
    assert cells[mask > 0].mean() == pytest.approx(1, abs=0.01)
    centre = (nodes[:, :-1, :-1] + nodes[:, 1:, 1:]) / 2
    outside = ((centre < -30) | (centre > np.array(image.shape)[:, None, None] + 30)).any(0)
    assert outside.any()
    assert (cells[outside] == 0).all()
    assert not mask[outside].any()


def test_attributes_say_what_was_fitted(shard: tuple[zarr.Group, dict[str, np.ndarray]]) -> None:
    found = shard[0]["bulk/1"].attrs["oddlattice"]
    assert found["crystal"] == "srtio3_001"
    assert found["pixel_nm"] == pytest.approx(0.0125, rel=0.003)
    assert found["a_nm_header"] == pytest.approx(0.3905 * 1.05, rel=0.005)
    assert found["gamma_deg"] == pytest.approx(90, abs=0.3)
    assert found["rotation_deg"] % 90 == pytest.approx(30, abs=0.3)
    assert 0 < found["a_sigma_px"] < 0.02
    assert found["cells_analysed"] == int(shard[0]["bulk/1"]["mask"][:].sum())
    assert 0.2 < found["row_jitter_px_rms"] < 0.6  # 5 pm are 0.4 px
    assert found["scan_transposed"] is False
    (warning,) = found["warnings"]
    assert warning.startswith("header says 13.1")
    assert "the lattice says 12.5" in warning
    weights = found["fit_quality"]["column_weights"]
    assert weights["Sr"] == 1
    assert weights["Ti"] == pytest.approx(0.46, abs=0.05)


def test_cutting_in_bands_equals_cutting_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scan = simulate_scan(SRTIO3, Conditions(pixel_nm=0.03, rotation_deg=20, dose_e_px=2000), (400, 400), seed=1)
    found = fit_registration(scan.counts, [SRTIO3], (0.03, 0.03))
    whole = render(scan.counts, found, tuple(slice(0, n) for n in found.mask.shape))
    for name in ("BAND_CELLS", "CHUNK_CELLS"):  # a chunk has one writer
        monkeypatch.setattr(record, name, 13)
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w", zarr_format=3)
    tile_image.write_registration(scan.counts, found, group)
    assert np.abs(group["tiles"][:] - whole).max() < 1e-3


def test_images_in_parallel_give_the_same_bytes(tmp_path: Path) -> None:
    images = {
        f"im{i}": (
            simulate_scan(SRTIO3, Conditions(pixel_nm=0.03, rotation_deg=20 * i), (200, 200), seed=i).counts,
            None,
        )
        for i in range(2)
    }
    for threads in (1, 2):
        (tmp_path / str(threads)).mkdir()
    one, two = (tiled(tmp_path / str(threads), images, [SRTIO3_FILE], threads) for threads in (1, 2))
    assert one.attrs["images"] == two.attrs["images"]
    for name in images:
        assert one[f"{name}/1"]["tiles"][:].tobytes() == two[f"{name}/1"]["tiles"][:].tobytes()
        (warning,) = one[f"{name}/1"].attrs["oddlattice"]["warnings"]
        assert "no pixel size" in warning


def test_without_settings_they_are_those_that_are_shipped() -> None:
    assert default(TileSettings) == USUAL


def real_image(name: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """First image of a real file and its header's pixel size [nm]."""
    path = next(REAL.glob(f"*/{name}"), None)
    if path is None:
        pytest.skip(f"{REAL}: {name} is not there; the test needs the real files beside the repository")
    signal = (emd if path.suffix == ".emd" else digitalmicrograph).file_reader(str(path))[0]
    axes = [(float(axis["scale"]), str(axis["units"])) for axis in signal["axes"]]
    pixel = None if axes[0][1] in ("", "None") else (axes[0][0], axes[1][0])
    return np.asarray(signal["data"]), pixel


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_real_images(tmp_path: Path) -> None:
    names = {
        "strontium": "Acquisition_18.emd",
        "barium": "BTO_crystal_1.dm4",
        "mos2": "example_Se_implanted_MoS2.dm3",
        "moire": "STEM Moire Hologram.dm3",
    }
    images = {key: real_image(name) for key, name in names.items()}
    found = tiled(tmp_path, images, [SRTIO3_FILE])
    rows = {row["image_id"]: row for row in found.attrs["images"]}
    strontium = found["strontium/1"].attrs["oddlattice"]
    assert (strontium["state"], strontium["crystal"]) == ("tiled", "srtio3_001")
    assert strontium["a_nm_header"] == pytest.approx(0.3905, rel=0.06)
    assert any("the lattice says" in sentence for sentence in strontium["warnings"])
    tiles, mask = found["strontium/1"]["tiles"][:], found["strontium/1"]["mask"][:]
    cell = np.median(tiles.reshape(len(mask), CELL_PX, -1, CELL_PX).transpose(0, 2, 1, 3)[mask > 0], axis=0)
    corner, middle = cell[[0, 0, -1, -1], [0, -1, 0, -1]].mean(), cell[9:11, 9:11].mean()
    assert corner > middle > np.median(cell)  # Sr at the corners, Ti in the middle
    barium = found["barium/1"].attrs["oddlattice"]
    assert np.hypot(*barium["a_px"]) == pytest.approx(13, abs=0.7)
    assert rows["mos2"]["state"] == "no_model"  # of a crystal that was named, not of any
    assert rows["moire"]["state"] == "no_lattice"
    shutil.rmtree(tmp_path / "images.zarr")
