"""Inference: unit cells per second of our path, of the published network and of principal components, same cells."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from bench.figures import Figure
from bench.material import CRYSTAL, ROOT
from oddlattice.benchmark.published import PublishedVAE, patches_at, prepared
from oddlattice.crystal import CELL_PX, load_crystal
from oddlattice.model.folder import load_model
from oddlattice.model.patches import padded, patches_of
from oddlattice.model.simulated_bulk import draw_bulk
from oddlattice.predict.gpu import Careful, Engine
from oddlattice.predict.methods import COMPONENTS
from oddlattice.predict.network import CHUNK_CELLS, mean_cell, predict_bulk, predict_on_gpu
from oddlattice.process.prefetch import side_by_side
from oddlattice.process.single_thread import one_thread

MODEL = ROOT / "models/srtio3_001"


def field(cells: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of bulk in the lattice frame, every cell analysed."""
    rng = np.random.default_rng(seed)
    patch = draw_bulk(load_crystal(CRYSTAL), 60, rng).patch
    half = CELL_PX // 2
    middle = patch[int(np.argsort(patch.std(axis=(1, 2)))[30]), half : half + CELL_PX, half : half + CELL_PX]
    tiles = np.tile(middle / middle.mean(), (cells, cells)).astype(np.float32)
    tiles += 0.1 * rng.standard_normal(tiles.shape, dtype=np.float32)
    return tiles, np.ones((cells, cells), np.uint8)


def rate(call: Callable[[], object], cells: int, least_s: float) -> tuple[float, float]:
    """Cells per second of wall time and per second of one core, the best of the runs that fit into `least_s`."""
    call()
    best, best_cpu, until = 0.0, 0.0, time.monotonic() + least_s
    while time.monotonic() < until:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        best = max(best, cells / (time.perf_counter() - wall))
        best_cpu = max(best_cpu, cells / max(time.process_time() - cpu, 1e-9))
    return best, best_cpu


def measure(quick: bool) -> list[Figure]:
    """Cells per second; ratios by the processor time of one thread, which neighbours on the machine disturb least."""
    side, least_s, cores = (32, 0.5, 2) if quick else (96, 8.0, 2)
    one_thread()
    torch.set_num_threads(1)
    tiles, mask = field(side)
    cells = np.argwhere(mask)
    careful = Careful(Engine.start(load_model(MODEL).vae, "cpu"))
    loop, _ = rate(lambda: predict_bulk(careful, tiles, mask, 5.0, cores), len(cells), least_s)
    _, per_core = rate(lambda: predict_bulk(careful, tiles, mask, 5.0, 1), len(cells), least_s)

    patches = patches_of(padded(tiles), cells[: CHUNK_CELLS**2])
    latents = careful.run("encode", patches)
    _, network = rate(lambda: (careful.run("encode", patches), careful.run("decode", latents)), len(patches), least_s)

    published = PublishedVAE().eval()
    inner = cells[((cells > 2) & (cells < side - 3)).all(axis=1)][:256]
    wide = torch.from_numpy(patches_at(prepared(tiles), inner + 0.5))[:, None]
    with torch.inference_mode():
        _, one_by_one = rate(lambda: [published(patch[None]) for patch in wide[:32]], 32, least_s)
        _, batched = rate(lambda: published(wide), len(wide), least_s)

    flat = patches.reshape(len(patches), -1)
    mean = flat.mean(axis=0)
    basis = np.linalg.eigh(np.cov((flat - mean).T))[1][:, -COMPONENTS:].astype(np.float32)
    middle = np.arange(4 * CELL_PX**2).reshape(2 * CELL_PX, -1)[10:30, 10:30].ravel()
    with threadpool_limits(1):
        _, pca = rate(lambda: mean[middle] + (flat - mean) @ basis @ basis[middle].T, len(flat), least_s)

    found = [
        Figure("inference_cells_per_s", f"inference, whole loop on {cores} cores", loop, "cells/s", 40_000),
        Figure(
            "inference_cells_per_two_core_s",
            "the same by processor time, as two idle cores would do it",
            cores * per_core,
            "cells/s",
            40_000,
        ),
        Figure("network_cells_per_core_s", "network alone, one core", network, "cells/s"),
        Figure("published_cells_per_core_s", "published network as published, one core", one_by_one, "cells/s"),
        Figure("published_batched_cells_per_core_s", "published network, 256 a call, one core", batched, "cells/s"),
        Figure("pca_cells_per_core_s", "20 principal components in numpy, one core", pca, "cells/s"),
        Figure("times_published", "inference over the published network as published", per_core / one_by_one, "x", 200),
        Figure("times_published_batched", "inference over the published network batched", per_core / batched, "x"),
        Figure("times_pca", "inference over principal components", per_core / pca, "x"),
    ]
    return found + (on_gpu(quick) if torch.cuda.is_available() else [])


def on_gpu(quick: bool) -> list[Figure]:
    """The inference loop on a GPU, images side by side; how busy it is meanwhile."""
    side, images = (64, 4) if quick else (208, 24)
    careful = Careful(Engine.start(load_model(MODEL).vae, "cuda"), 16_384)
    source = [field(side, seed) for seed in range(2)]
    contrast = float(mean_cell(*source[0]).std())

    def one(k: int) -> float:
        return float(predict_on_gpu(careful, *source[k % 2], 5.0, contrast)[1].sum())

    def loop() -> None:
        for result in side_by_side([partial(one, k) for k in range(images)], 8):
            result()

    loop()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        start = time.perf_counter()
        loop()
        torch.cuda.synchronize()
        wall = time.perf_counter() - start
    busy = sum(event.device_time_total for event in profile.key_averages()) / 1e6 / wall
    start = time.perf_counter()
    loop()
    torch.cuda.synchronize()
    cells = images * side**2 / (time.perf_counter() - start)
    return [
        Figure("gpu_cells_per_s", "inference loop on the GPU", cells, "cells/s", 1_000_000),
        Figure("gpu_busy", "GPU busy while it runs", 100 * busy, "%", 80),
    ]
