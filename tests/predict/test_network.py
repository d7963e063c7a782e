"""Prediction of bulk: the same bytes whatever the cores, the same defects whatever the batch and number format."""

from pathlib import Path

import numpy as np
import pytest
import torch

from oddlattice.crystal import CELL_PX, PX_PER_CELL, load_crystal
from oddlattice.defects.fdr import q_values
from oddlattice.defects.noise import estimate_noise
from oddlattice.defects.null import judge_columns
from oddlattice.lattice.columns import as_cells, mean_cell
from oddlattice.lattice.shapes import fit_shape
from oddlattice.model.folder import load_model
from oddlattice.model.misfit import misfit
from oddlattice.model.patches import padded, patches_of, standardised
from oddlattice.model.simulated_bulk import correlated_noise, draw_bulk
from oddlattice.predict import network
from oddlattice.predict.gpu import Careful, Engine
from oddlattice.predict.latents import smooth_latents
from oddlattice.predict.methods import predict_pca, predict_template
from oddlattice.predict.network import chunk_cells, contrast_of, predict_bulk, predict_on_gpu
from oddlattice.predict.own_residual import own_residual
from oddlattice.predict.predictor import Predictor
from oddlattice.predict.readings import read_cells
from oddlattice.run.stage_settings import InferSettings
from support.settings import default

MODEL = Path(__file__).parents[2] / "models/srtio3_001"
CRYSTAL = load_crystal(MODEL / "crystal.yaml")
CELLS = 40


def bulk_tiles(seed: int, electrons: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of one bulk cell in the lattice frame, and its mask with an unanalysed corner."""
    rng = np.random.default_rng(seed)
    patch = draw_bulk(CRYSTAL, 60, rng).patch
    contrast = patch.std(axis=(1, 2))
    half = CELL_PX // 2
    cell = patch[int(np.argsort(contrast)[30]), half : half + CELL_PX, half : half + CELL_PX]
    expected = np.tile(cell / cell.mean(), (CELLS, CELLS)).astype(np.float32)
    tiles = expected + correlated_noise((np.clip(expected, 0.02, None) / electrons)[None], rng)[0]
    mask = np.ones((CELLS, CELLS), np.uint8)
    mask[:6, :9] = 0
    return tiles.astype(np.float32), mask


def engine(precision: str = "float32", batch: int = 1024) -> Careful:
    return Careful(Engine.start(load_model(MODEL).vae, "cpu", precision), batch)


def test_chunks_cover_every_analysed_cell_once() -> None:
    _, mask = bulk_tiles(0)
    seen = np.zeros_like(mask)
    for cells in chunk_cells(mask):
        np.add.at(seen, tuple(cells.T), 1)
    np.testing.assert_array_equal(seen, mask)


def test_patches_are_centred_on_their_cells() -> None:
    tiles = np.arange(60 * 80, dtype=np.float32).reshape(60, 80)
    (patch,) = patches_of(padded(tiles), np.array([[1, 2]]))
    np.testing.assert_array_equal(patch[10:30, 10:30], tiles[20:40, 40:60])
    np.testing.assert_array_equal(patch, tiles[10:50, 30:70])


def test_every_other_cell_is_read_where_cells_are_many_and_the_prediction_is_as_near(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiles, mask = bulk_tiles(2)
    few = mask[:20, :20]
    assert read_cells(few, 5.0) is few and read_cells(mask, 2.0) is mask
    read = read_cells(mask, 5.0)
    assert (
        abs(2 * int(read.sum()) - int(mask.sum())) <= 10 and not (read[1:] & read[:-1]).any() and (read <= mask).all()
    )
    by_half = predict_bulk(engine(), tiles, mask, 5.0)
    monkeypatch.setattr(network, "read_cells", lambda mask, _: mask)
    off = by_half - predict_bulk(engine(), tiles, mask, 5.0)
    noise = (as_cells(tiles, PX_PER_CELL)[mask == 1] - mean_cell(tiles, mask)).std()
    assert 0 < off.std() < 0.02 * noise


def test_same_bytes_for_any_number_of_threads() -> None:
    tiles, mask = bulk_tiles(1)
    one, three = (predict_bulk(engine("auto"), tiles, mask, 5.0, threads) for threads in (1, 3))
    assert one.tobytes() == three.tobytes()
    assert not as_cells(one, PX_PER_CELL)[mask == 0].any() and as_cells(one, PX_PER_CELL)[mask == 1].all()


def flagged(tiles: np.ndarray, mask: np.ndarray, prediction: np.ndarray) -> set[tuple[str, int, int]]:
    grown = np.repeat(np.repeat(mask, CELL_PX, 0), CELL_PX, 1)
    prediction = prediction + own_residual(((tiles - prediction) * grown).astype(np.float32), mask, 5.0)
    difference = ((tiles - prediction) * grown).astype(np.float32)
    noise = estimate_noise(difference, mask)
    shapes = [fit_shape(mean_cell(prediction, mask), column) for column in CRYSTAL.tested]
    vectors = CRYSTAL.vectors_nm * 1000
    kinds = [judge_columns(difference, mask, noise, s, vectors, (1.0, 1.0), np.zeros_like(tiles)) for s in shapes]
    columns = [(site.shape.site, *map(int, cell)) for site in kinds if site is not None for cell in site.cells]
    p = np.concatenate([site.verdict.p_value for site in kinds if site is not None])
    return {columns[k] for k in np.flatnonzero(q_values(p) <= 0.05)}


#: Largest difference between predictions with other batches or number formats [local mean].
TOLERANCE = 0.05


def test_other_batch_or_precision_flags_the_same_defects() -> None:
    tiles, mask = bulk_tiles(2)
    for i, j in ((12, 20), (20, 12), (30, 30)):  # half of the brightness of a corner column is taken away
        line = np.arange(-6, 6) + 0.5
        peak = np.exp(-(line[:, None] ** 2 + line[None, :] ** 2) / (2 * 2.5**2))
        tiles[20 * i - 6 : 20 * i + 6, 20 * j - 6 : 20 * j + 6] *= (1 - 0.5 * peak).astype(np.float32)
    reference = predict_bulk(engine("float32"), tiles, mask, 5.0)
    found = flagged(tiles, mask, reference)
    assert {("Sr", 12, 20), ("Sr", 20, 12), ("Sr", 30, 30)} <= found
    for precision, batch in (("float32", 100), ("bfloat16", 1024), ("bfloat16", 77)):
        other = predict_bulk(engine(precision, batch), tiles, mask, 5.0)
        assert np.abs(other - reference).max() < TOLERANCE, (precision, batch)
        assert flagged(tiles, mask, other) == found, (precision, batch)


def test_the_way_of_a_gpu_gives_what_the_way_of_the_processor_gives() -> None:
    """On tensors of the CPU: the same cells, the same places, nothing on masked cells."""
    tiles, mask = bulk_tiles(5)
    mask[:3, 5:9] = 0
    here = predict_bulk(engine(), tiles, mask, 5.0)
    residual = np.where(np.repeat(np.repeat(mask, 20, 0), 20, 1) > 0, tiles - here, np.float32(0))
    whole = here + own_residual(residual, mask, 5.0)
    contrast = contrast_of(mean_cell(tiles, mask))
    for batch in (1024, 333):
        raw, prediction = predict_on_gpu(engine(batch=batch), tiles, mask, 5.0, contrast)
        assert prediction.shape == tiles.shape and not as_cells(prediction, PX_PER_CELL)[mask == 0].any()
        np.testing.assert_allclose(raw, here, atol=1e-4)
        np.testing.assert_allclose(prediction, whole, atol=1e-4)
    cells = np.array([[7, 9], [39, 39], [0, 20]])
    some, rimmed = engine().engine, standardised(padded(tiles), contrast)
    latents = torch.zeros((*mask.shape, some.vae.config.latent))
    some.encode_at(torch.from_numpy(cells), torch.from_numpy(rimmed), latents)
    np.testing.assert_allclose(latents[cells[:, 0], cells[:, 1]], some.encode(patches_of(rimmed, cells)), atol=1e-5)


def test_gpu_out_of_memory_halves_the_batch_and_then_takes_the_cpu() -> None:
    real = engine().engine
    calls: list[int] = []

    class SmallGpu:
        """Stands in for a GPU that fails above 40 patches."""

        device, bf16, vae = "cuda", False, real.vae

        def encode(self, patches: np.ndarray) -> np.ndarray:
            calls.append(len(patches))
            if len(patches) > 40:
                raise torch.OutOfMemoryError("made up")
            return real.encode(patches)

    said: list[str] = []
    careful = Careful(SmallGpu(), 512, said.append)  # type: ignore[arg-type]
    patches = np.random.default_rng(0).random((600, 40, 40), dtype=np.float32)
    out = careful.run("encode", patches)
    np.testing.assert_allclose(out, Engine.start(real.vae, "cpu").encode(patches), atol=0.02)
    assert calls == [512, 256, 128, 64] and careful.engine.device == "cpu"
    assert "halved" in said[0] and "CPU" in said[-1]


def test_out_of_memory_on_the_cpu_is_an_error() -> None:
    class Full:
        device = "cpu"

        def encode(self, patches: np.ndarray) -> np.ndarray:
            raise torch.OutOfMemoryError("made up")

    with pytest.raises(torch.OutOfMemoryError):
        Careful(Full()).run("encode", np.zeros((3, 40, 40), np.float32))  # type: ignore[arg-type]


def test_asking_for_a_missing_gpu_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match="no GPU is usable"):
        Engine.start(load_model(MODEL).vae, "cuda")


def test_latents_follow_a_slope_and_ignore_a_single_cell() -> None:
    rng = np.random.default_rng(0)
    u, v = np.meshgrid(np.arange(30), np.arange(30), indexing="ij")
    truth = np.stack([0.05 * u, 1 - 0.02 * v], -1)
    latents = (truth + 0.2 * rng.standard_normal(truth.shape)).astype(np.float32)
    latents[15, 15] = 40.0
    smooth = smooth_latents(latents, np.ones((30, 30), np.uint8), 4.0)
    assert np.abs(smooth - truth).max() < 0.15
    assert np.abs(smooth - truth).std() < 0.04


def test_own_mean_takes_the_common_part_and_leaves_the_odd_cell() -> None:
    rng = np.random.default_rng(1)
    cell = rng.standard_normal((CELL_PX, CELL_PX)).astype(np.float32)
    residual = np.tile(cell, (30, 30)) + 0.1 * rng.standard_normal((600, 600)).astype(np.float32)
    as_cells(residual, PX_PER_CELL)[10, 10] += 5.0
    mask = np.ones((30, 30), np.uint8)
    mask[20:, 20:] = 0
    left = residual - own_residual(residual, mask, 5.0)
    cells = as_cells(left, PX_PER_CELL)
    assert np.abs(np.median(cells[mask == 1], axis=0)).max() < 0.03
    assert cells[10, 10].mean() == pytest.approx(5.0, abs=0.1)
    assert not as_cells(own_residual(residual, mask, 5.0), PX_PER_CELL)[mask == 0].any()


def test_model_knows_its_own_crystal_and_no_other() -> None:
    tiles, mask = bulk_tiles(3, electrons=100.0)
    seen = mean_cell(tiles, mask)
    assert misfit(seen, mean_cell(predict_bulk(engine(), tiles, mask, 5.0), mask)) < 0.1
    other = np.roll(tiles, 5, axis=0)  # columns where this crystal has none
    assert misfit(mean_cell(other, mask), mean_cell(predict_bulk(engine(), other, mask, 5.0), mask)) > 0.3


@pytest.mark.parametrize("predict", [predict_template, predict_pca])
def test_baselines_predict_bulk(predict: object) -> None:
    tiles, mask = bulk_tiles(4, electrons=50.0)
    predicted = predict(tiles, mask)  # type: ignore[operator]
    assert misfit(mean_cell(tiles, mask), mean_cell(predicted, mask)) < 0.05


@pytest.mark.parametrize("method", ["vae", "pca"])
def test_what_lies_beyond_the_image_does_not_change_the_cells_at_its_rim(method: str) -> None:
    tiles, mask = bulk_tiles(7)
    half = mask.copy()
    half[:, 20:] = 0
    beyond = tiles.copy()
    beyond[:, 20 * CELL_PX :] = 0
    predictor = Predictor(load_model(MODEL), default(InferSettings, device="cpu", method=method), 1)
    seen, cut = predictor(tiles, half), predictor(beyond, half)
    rim, inner = (np.s_[8 * CELL_PX :, low * CELL_PX : (low + 1) * CELL_PX] for low in (19, 10))
    off = np.abs(seen - cut)
    assert off[rim].mean() < 2 * off[inner].mean() + 0.01
