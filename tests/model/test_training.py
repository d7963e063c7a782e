"""Training: the simulated patches are physics, the loop learns, and the rule makes a model folder from images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from oddlattice.crystal import CELL_PX, crystal_from_dict, load_crystal
from oddlattice.lattice.columns import mean_cell
from oddlattice.lattice.register import register
from oddlattice.lattice.shapes import fit_shape
from oddlattice.model.bulk_images import propose_crystal, robust_cells
from oddlattice.model.folder import load_model
from oddlattice.model.patches import ImagePatches, image_batches
from oddlattice.model.simulated_bulk import draw_bulk, draw_library_bulk, mean_cells, simulated_batches
from oddlattice.model.training import Progress, train_vae
from oddlattice.model.vae import VAEConfig
from oddlattice.run.stage_settings import ReadSettings, TrainSettings
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from oddlattice.simulate.library import load_library
from support.settings import default
from train_model import main

SRTIO3 = load_crystal(Path(__file__).parents[2] / "models/srtio3_001/crystal.yaml")
TINY: dict[str, Any] = {"latent": 4, "channels": [8, 8, 8], "basis": 16, "batch": 64}
READ = default(ReadSettings)


def save_dm4(path: Path, counts: np.ndarray, pixel_nm: float) -> None:
    """Write a DigitalMicrograph 4 file as the instrument's software does."""
    from nion.data import Calibration, DataAndMetadata
    from nionswift_plugin.DM_IO import dm3_image_utils

    calibrations = [Calibration.Calibration(0, pixel_nm, "nm") for _ in range(2)]
    data = DataAndMetadata.new_data_and_metadata(counts.astype(np.float32), dimensional_calibrations=calibrations)
    with open(path, "wb") as file:
        dm3_image_utils.save_image(data, file, 4)


def test_mean_cells_agree_with_the_simulator() -> None:
    """The cell made by Fourier synthesis is the cell that the scan simulator shows."""
    conditions = Conditions(pixel_nm=SRTIO3.a_nm / CELL_PX, dose_e_px=0, jitter_pm=0, background=0, tail_fraction=0.3)
    scan = simulate_scan(SRTIO3, conditions, (160, 160), origin_px=(79.5, 79.5))
    blur = np.array([conditions.blur_nm**2 + c.rms_nm**2 for c in SRTIO3.columns])
    weights = np.array([1.0, 0.7, 0.1, 0.1])
    cell = mean_cells(
        SRTIO3, weights[None], (blur[:, None, None] * np.eye(2))[None], np.array([0.3]), np.zeros((1, 2))
    )[0]
    seen = scan.expected[80:100, 80:100].astype(float)
    assert cell.mean() == pytest.approx(weights.sum())
    # same places and shapes; the weights of the simulator follow from its atoms
    for column in SRTIO3.tested:
        one, other = fit_shape(seen, column), fit_shape(cell, column)
        np.testing.assert_allclose(one.precision, other.precision, rtol=0.03, atol=2)


def test_bulk_patches_have_unit_mean_and_wide_conditions() -> None:
    bulk = draw_bulk(SRTIO3, 200, np.random.default_rng(0))
    patch, weights = bulk.patch, bulk.weights
    np.testing.assert_allclose(patch.mean(axis=(1, 2)), 1.0, rtol=1e-5)
    contrast = patch.std(axis=(1, 2))
    assert np.quantile(contrast, 0.05) < 0.1 < 1.0 < np.quantile(contrast, 0.95)
    assert (weights > 0).all()


def test_targets_of_simulated_patches_hold_no_defect() -> None:
    clean = next(simulated_batches(SRTIO3, 200, 5, defect_part=0.0))
    odd = next(simulated_batches(SRTIO3, 200, 5, defect_part=1.0))
    excess = np.abs((odd.patch - odd.target) / np.sqrt(odd.variance)).max(axis=(1, 2))
    usual = np.abs((clean.patch - clean.target) / np.sqrt(clean.variance)).max(axis=(1, 2))
    assert np.median(excess) > 1.5 * np.median(usual)
    np.testing.assert_allclose(odd.target.mean(axis=(1, 2)), 0.0, atol=0.2)
    np.testing.assert_allclose(odd.target.std(axis=(1, 2)), 1.0, atol=0.8)


def test_training_learns_stops_and_repeats_itself() -> None:
    held = [next(simulated_batches(SRTIO3, 128, 9))]
    looks: list[Progress] = []

    def run(steps: int) -> tuple[float, bytes]:
        config = VAEConfig(4, (8, 8, 8), 16)
        vae, history = train_vae(
            config, simulated_batches(SRTIO3, 64, 1), held, steps=steps, look_every=20, say=looks.append
        )
        return min(p.held_out for p in history), b"".join(v.numpy().tobytes() for v in vae.state_dict().values())

    first, weights = run(160)
    assert looks[0].held_out > 1.2 * first and [p.step for p in looks] == list(range(20, 161, 20))
    assert run(160) == (first, weights)


def test_early_stop_keeps_the_best_weights() -> None:
    patches = np.ones((50, 40, 40), np.float32) + 0.1 * np.random.default_rng(0).standard_normal(
        (50, 40, 40), np.float32
    )
    shape = fit_shape(mean_cells_of_srtio3(), SRTIO3.tested[0])
    source = ImagePatches(patches, np.full((40, 40), 0.01, np.float32), [shape])
    held = [next(image_batches(source, 50, 7))]
    _, history = train_vae(
        VAEConfig(2, (4, 4, 4), 8), image_batches(source, 16, 1), held, steps=5000, look_every=5, patience=3
    )
    assert history[-1].step < 5000
    assert int(np.argmin([p.held_out for p in history])) == len(history) - 4


def mean_cells_of_srtio3() -> np.ndarray:
    blur = np.tile(0.04**2 * np.eye(2), (1, 4, 1, 1))
    return mean_cells(SRTIO3, np.array([[1.0, 0.6, 0.1, 0.1]]), blur, np.zeros(1), np.zeros((1, 2)))[0]


def test_odd_cells_are_left_out_of_training() -> None:
    rng = np.random.default_rng(0)
    tiles = np.tile(mean_cells_of_srtio3(), (20, 20)) + 0.05 * rng.standard_normal((400, 400))
    tiles[100:120, 200:220] *= 0.5
    kept = robust_cells(tiles.astype(np.float32), np.ones((20, 20), np.uint8))
    assert not kept[5, 10] and kept.sum() >= 396


def test_an_unknown_crystal_is_proposed_from_an_image() -> None:
    cell = {"name": "hex", "a_nm": 0.32, "b_nm": 0.32, "gamma_deg": 120.0}
    columns = [
        {"site": "Mo", "u": 0.0, "v": 0.0, "atoms": {"Mo": 1}},
        {"site": "S", "u": 1 / 3, "v": 2 / 3, "atoms": {"S": 2}},
    ]
    crystal = crystal_from_dict(cell | {"columns": columns}, Path("hex"))
    scan = simulate_scan(crystal, Conditions(rotation_deg=11, dose_e_px=3000, jitter_pm=2), (384, 384), seed=2)
    found = propose_crystal("new", {}, scan.counts, (0.0125, 0.0125))
    assert found["a_nm"] == pytest.approx(0.32, rel=0.01) and found["b_nm"] == pytest.approx(0.32, rel=0.01)
    assert min(abs(found["gamma_deg"] - 60), abs(found["gamma_deg"] - 120)) < 1
    assert len(found["columns"]) == 2 and (found["columns"][0]["u"], found["columns"][0]["v"]) == (0.0, 0.0)
    second = found["columns"][1]
    assert {round(3 * second["u"]), round(3 * second["v"])} <= {1, 2}
    unsized = propose_crystal("new", {}, scan.counts, None)
    assert unsized["nominal"] and len(unsized["columns"]) == 2
    assert "nominal" not in propose_crystal("new", {"a_nm": 0.32, "b_nm": 0.32}, scan.counts, None)
    again = register(scan.counts, crystal_from_dict(found, Path("proposed")), (0.0125, 0.0125))
    assert mean_cell(again.tiles, again.mask)[0, 0] > 1.5  # the brightest column is at the corner


def test_a_model_is_trained_from_a_file(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    scan = simulate_scan(SRTIO3, Conditions(rotation_deg=5, dose_e_px=2000), (640, 640), seed=4)
    save_dm4(archive / "bulk, 1.dm4", scan.counts, 0.0125)
    settings = TINY | {
        "name": "mine",
        "source": "images",
        "library": "",
        "steps": 40,
        "crystal": "auto",
        "bulk": [{"path": "bulk, 1.dm4", "region_px": [0, 600, 0, 620]}],
    }
    folder = tmp_path / "models/mine"
    said: list[str] = []
    main(None, None, str(folder / "model.yaml"), str(archive), default(TrainSettings, **settings), 3, READ, said.append)
    model = load_model(folder)
    assert model.crystal.name == "mine" and len(model.crystal.tested) >= 2
    assert model.meta["recipe"]["bulk"][0]["path"] == "bulk, 1.dm4"
    assert "SHA-256 of this recipe" in (folder / "card.md").read_text()
    with Picture.open(folder / "card.png") as card:
        assert card.size[0] > 600
    assert any(line.startswith("step 40") for line in said)
    missing = default(TrainSettings, **settings | {"bulk": [{"path": "none.dm4"}]})
    with pytest.raises(ValueError, match="none.dm4: No such file"):
        main(None, None, str(folder / "model.yaml"), str(archive), missing, 3, READ, said.append)


def test_library_patches_are_cells_of_the_library() -> None:
    library = load_library(Path(__file__).parents[2] / "models/libraries/srtio3_001.yaml")
    bulk = draw_library_bulk(SRTIO3, library, 40, np.random.default_rng(0))
    np.testing.assert_allclose(bulk.patch.mean(axis=(1, 2)), 1.0, rtol=1e-5)
    # Sr, the brighter, at the corners of the central cell (px 10 and 30), Ti in its middle
    corners, middle = bulk.patch[:, 9:11, 9:11].mean((1, 2)), bulk.patch[:, 19:21, 19:21].mean((1, 2))
    assert (corners > middle).all() and (middle > bulk.patch[:, 14:16, 19:21].mean((1, 2))).all()
    mixed = next(simulated_batches(SRTIO3, 64, 1, library))
    assert mixed.patch.shape == (64, 40, 40) and np.isfinite(mixed.patch).all()
