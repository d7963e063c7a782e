"""The choice among models: each judged by itself, by its folder, whatever the others are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr
from safetensors.numpy import load_file, save_file

import infer_differences
from oddlattice.crystal import CELL_PX, load_crystal
from oddlattice.lattice.tile_image import registered
from oddlattice.model.choice import Judge, predicted_cell, tile_one
from oddlattice.model.folder import load_model, sha256_of
from oddlattice.model.simulated_bulk import draw_bulk
from oddlattice.run.stage_settings import InferSettings, TileSettings
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.own_crystals import Sample, make_field
from support.settings import default
from support.stages import LIBRARY

SHIPPED = Path(__file__).parents[2] / "models/srtio3_001"
CRYSTAL = load_crystal(SHIPPED / "crystal.yaml")
WEIGHTS = load_file(SHIPPED / "weights.safetensors")


def bulk_cell() -> np.ndarray:
    cell = draw_bulk(CRYSTAL, 1, np.random.default_rng(2)).patch[0, 10:30, 10:30].astype(float)
    return cell / cell.mean()


def rival(folder: Path, ti_atoms: dict[str, float], spoiled: float) -> Path:
    """A second model of the same lattice: of other columns, its network's bulk spoiled by `spoiled` of the contrast."""
    shutil.copytree(SHIPPED, folder)
    crystal = yaml.safe_load((folder / "crystal.yaml").read_text())
    crystal["columns"][1]["atoms"] = ti_atoms
    (folder / "crystal.yaml").write_text(yaml.safe_dump(crystal))  # its name stays: the folder tells them apart
    weights = dict(WEIGHTS)
    weights["bulk"] = weights["bulk"] + np.float32(spoiled) * np.sin(np.arange(2 * CELL_PX, dtype=np.float32))
    save_file(weights, folder / "weights.safetensors")
    meta = yaml.safe_load((folder / "model.yaml").read_text())
    meta["weights_sha256"] = sha256_of((folder / "weights.safetensors").read_bytes())
    (folder / "model.yaml").write_text(yaml.safe_dump(meta))
    return folder


def test_one_cell_without_torch_is_what_the_network_says() -> None:
    cell = bulk_cell()
    seen = (cell - 1) / cell.std()
    patch = torch.from_numpy(np.roll(np.tile(seen, (2, 2)), (10, 10), (0, 1)).astype(np.float32))[None, None]
    vae = load_model(SHIPPED).vae
    with torch.no_grad():
        there = vae.decode_centre(vae.encode(patch)[0])[0, 0].numpy()
    np.testing.assert_allclose(predicted_cell(WEIGHTS, seen), there, atol=1e-4)


def test_judge_tells_a_spoiled_network_and_leaves_a_distorted_cell_less(tmp_path: Path) -> None:
    other = rival(tmp_path / "other", {"Ti": 1}, 0.6)
    crystals = [load_crystal(folder / "crystal.yaml") for folder in (SHIPPED, other)]
    judge, cell = Judge([SHIPPED, other], crystals), bulk_cell()
    assert judge(crystals[0], cell, 1.0) < 0.1 < judge(crystals[1], cell, 1.0)
    assert judge(crystals[0], cell, 1.05) == pytest.approx(judge(crystals[0], cell, 1.0) / 0.4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scan = simulate_scan(CRYSTAL, Conditions(rotation_deg=10, thickness_nm=15), (320, 320), seed=3)
    path = tmp_path_factory.mktemp("images") / "images.zarr"
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    root.create_array("i/0", data=scan.counts)
    root["i"].attrs["oddlattice"] = {"pixel_nm_header": [0.0125, 0.0125]}
    root.attrs["images"] = [{"image_id": "i", "state": "read"}]
    return path


def tiled(images: Path, out: Path, folders: list[Path]) -> zarr.Group:
    zarr.open_group(out, mode="w", zarr_format=3).attrs["images"] = [{"image_id": "i", "state": "tiled", "reason": ""}]
    job = {"images_zarr": str(images), "image_id": "i", "out": str(out), "settings": default(TileSettings).as_dict()}
    tile_one([str(folder / "crystal.yaml") for folder in folders], **job)
    return zarr.open_group(out)["i/1"]


@pytest.mark.parametrize("sound_first", [True, False])
def test_a_second_model_takes_no_image_from_the_one_that_fits(images: Path, tmp_path: Path, sound_first: bool) -> None:
    # the better list of columns, the worse network: by content alone it would win, and then refuse the image
    sound, other = rival(tmp_path / "sound", {"Ti": 1, "O": 4}, 0.0), rival(tmp_path / "second", {"Ti": 1, "O": 1}, 0.6)
    folders = [sound, other] if sound_first else [other, sound]
    alone, both, wrong = (
        tiled(images, tmp_path / name, chosen)
        for name, chosen in (("alone", [sound]), ("both", folders), ("wrong", [other]))
    )
    explained = [g.attrs["oddlattice"]["fit_quality"]["content_explained"] for g in (alone, wrong)]
    assert round(explained[1], 2) > round(explained[0], 2), "the trap is set"
    assert both.attrs["oddlattice"] == alone.attrs["oddlattice"]
    assert both.attrs["oddlattice"]["model"] == "sound"
    np.testing.assert_array_equal(both["tiles"][:], alone["tiles"][:])
    settings = default(InferSettings, device="cpu")
    infer_differences.main(str(tmp_path / "both"), [str(f) for f in folders], str(tmp_path / "out"), settings, 1)
    said = zarr.open_group(tmp_path / "out")["i/1"].attrs["oddlattice"]
    assert (said["state"], said["model"]) == ("analysed", "sound")


@pytest.mark.parametrize(
    ("side_nm", "second", "stated", "special"),
    [
        (0.3905, 0.5, True, True),
        (0.3905, 0.5, False, False),  # 2 columns in a square cell, of whatever size
        (0.2887, 0.35, True, False),  # NiAl: 45 degrees turned, two of its cells are as large as one of SrTiO3
        (0.2887, 0.35, False, False),
        (0.4020, 0.3, True, False),  # BaTiO3, by its size
    ],
)
def test_lattice_and_misfit_alone_do_not_make_it_the_models(
    side_nm: float, second: float, stated: bool, special: bool
) -> None:
    cell = Sample(np.diag([side_nm, side_nm]), ((0, 0, 1.0), (0.5, 0.5, second)))
    field = make_field(cell, side_px=320, rotation_deg=20, dose=40, seed=3)
    pixel_nm = (0.0125, 0.0125) if stated else None
    judge = Judge([SHIPPED], [CRYSTAL], default(InferSettings).misfit_limit)
    settings, models = default(TileSettings), {"srtio3_001": CRYSTAL}
    found, own = registered(field.counts, models, pixel_nm, settings, judge, True, libraries=[str(LIBRARY)])
    assert (own is None) == special == (found.crystal is CRYSTAL)
