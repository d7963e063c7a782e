"""What a GPU brings, and whether it agrees with the processor: `sh tests/device_check.sh > device.json`.

Needed: PyTorch, numpy and this repository. A part that needs more (yaml, safetensors, scipy, numba; zarr for the stage;
snakemake, hyperspy and the rest of envs/requirements.txt for the whole run) is skipped where that is missing, and says
so. Without a GPU the processor is measured, which says so too: then it shows that the check itself runs. Under six
minutes; `--tiny` takes seconds but for the whole run. The exit code is 1 where a GPU disagrees or does not fall back.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

# as in the jobs: many images side by side, each with one thread; numpy and PyTorch read this when they are imported
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
import torch

MODEL = Path(__file__).parents[1] / "models/srtio3_001"
WIDTH_CELLS, FDR = 5.0, 0.05  # as shipped: infer.smooth_cells, defects.fdr
PRECISIONS = ("float32", "bfloat16")
# Largest difference of a prediction from the processor's in float32 [local mean]: what tests/predict allows bfloat16.
TOLERANCE = {"float32": 0.002, "bfloat16": 0.05}
LATENT_TOLERANCE = 0.05  # as much of the latents' spread: the processor goes on in its own precision
ODD_EVERY, ODD_LOSS = 9, 0.5  # cells between columns that lose a part of their intensity
MB = 1 << 20


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes
    ----------
    side : int
        Cells along a field, as of an image of 4,096 px and more.
    images : int
        Fields that go through the whole loop.
    at_once : int
        Of those, side by side.
    batches : tuple of int
        Patches at once.
    least_s : float
        Every rate is the best of the runs that fit into so many seconds.
    steps, patches : int
        Of training, and in each of them.
    archive : tuple of int
        Images of the whole run, and their side [px].
    """

    side: int
    images: int
    at_once: int
    batches: tuple[int, ...]
    least_s: float
    steps: int
    patches: int
    archive: tuple[int, int]


FULL = Size(208, 48, 8, (256, 1024, 4096, 16_384), 1.5, 200, 256, (64, 2048))
TINY = Size(24, 3, 2, (100, 576), 0.0, 2, 16, (1, 256))


def device() -> str:
    """``cuda`` where PyTorch can use a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the GPU has done what it was told."""
    if device() == "cuda":
        torch.cuda.synchronize()


def rate(call: Callable[[], object], count: int, least_s: float) -> float:
    """`count` over the seconds of the fastest call, after a first one that does not count."""
    call()
    wait()
    fastest, until = np.inf, time.monotonic() + least_s
    while fastest == np.inf or time.monotonic() < until:
        start = time.perf_counter()
        call()
        wait()
        fastest = min(fastest, time.perf_counter() - start)
    return round(count / fastest, 1)


def machine() -> dict[str, object]:
    """Card, processor and versions."""
    found: dict[str, object] = {
        "card": "none: PyTorch finds no usable GPU; all figures are the processor's",
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    if device() == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": card.name,
            "card_memory_mb": card.total_memory // MB,
            "compute_capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
        }
    return found


def field(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of SrTiO3 in the lattice frame with some weak columns, float32, and its mask."""
    from oddlattice.crystal import CELL_PX, load_crystal
    from oddlattice.model.simulated_bulk import draw_bulk

    rng = np.random.default_rng(seed)
    patch = draw_bulk(load_crystal(MODEL / "crystal.yaml"), 60, np.random.default_rng(0)).patch
    half = CELL_PX // 2
    middle = patch[int(np.argsort(patch.std(axis=(1, 2)))[30]), half : half + CELL_PX, half : half + CELL_PX]
    tiles = np.tile(middle / middle.mean(), (side, side)).astype(np.float32)
    line = np.arange(-6, 6) + 0.5
    lost = ODD_LOSS * np.exp(-(line[:, None] ** 2 + line[None, :] ** 2) / (2 * 2.5**2))
    for i in range(5, side - 3, ODD_EVERY):
        for j in range(5 + i % 3, side - 3, ODD_EVERY):
            part = np.s_[CELL_PX * i - 6 : CELL_PX * i + 6, CELL_PX * j - 6 : CELL_PX * j + 6]
            tiles[part] *= (1 - lost).astype(np.float32)
    tiles += 0.15 * rng.standard_normal(tiles.shape, dtype=np.float32)
    mask = np.ones((side, side), np.uint8)
    mask[:4, :5] = 0
    return tiles, mask


def careful_engine(where: str, precision: str, batch: int, say: Callable[[str], None] = lambda _: None) -> Any:
    """The shipped network on a device, its batches watched as in the pipeline."""
    from oddlattice.model.folder import load_model
    from oddlattice.predict.gpu import Careful, Engine

    return Careful(Engine.start(load_model(MODEL).vae, where, precision), batch, say)


def contrast(tiles: np.ndarray, mask: np.ndarray) -> float:
    """Of the field's mean cell."""
    from oddlattice.lattice.columns import mean_cell

    return float(mean_cell(tiles, mask).std())


def network_rates(size: Size) -> dict[str, dict[str, float]]:
    """Cells per second of network and smoothing, everything on the device: by precision, then by batch."""
    from oddlattice.predict.gpu import OnDevice
    from oddlattice.predict.network import network_on_gpu

    tiles, mask = field(size.side)
    seen, known = torch.from_numpy(tiles).to(device()), contrast(tiles, mask)
    cells = int(mask.sum())
    found: dict[str, dict[str, float]] = {}
    for precision in PRECISIONS:
        found[precision] = {}
        for batch in size.batches:
            careful = careful_engine(device(), precision, batch)
            there = OnDevice(careful.engine, mask, WIDTH_CELLS)
            call = lambda careful=careful, there=there: network_on_gpu(careful, seen, there, known)
            found[precision][str(batch)] = rate(call, cells, size.least_s)
    return found


def loop_rates(size: Size) -> dict[str, dict[str, object]]:
    """The whole loop, fields side by side from arrays to arrays: by precision cells/s, busy share and bytes."""
    from oddlattice.predict.network import predict_on_gpu
    from oddlattice.process.prefetch import side_by_side

    source = [field(size.side, seed) for seed in range(2)]
    known = contrast(*source[0])
    cells = size.images * int(source[0][1].sum())
    found: dict[str, dict[str, object]] = {}
    for precision in PRECISIONS:
        engine = careful_engine(device(), precision, size.batches[-1])

        def one(k: int, engine: Any = engine) -> float:
            return float(predict_on_gpu(engine, *source[k % 2], WIDTH_CELLS, known)[1].sum())

        def loop(one: Callable[[int], float] = one) -> None:
            calls = [partial(one, k) for k in range(size.images)]
            for result in side_by_side(calls, size.at_once):
                result()

        loop()
        wait()
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        loop()
        wait()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        rates = {"cells_per_s": round(cells / wall_s, 1), "cores_busy": round(cpu_s / wall_s, 1)}
        found[precision] = {**rates, **watched(loop, cells)}
    return found


def watched(loop: Callable[[], None], cells: int) -> dict[str, object]:
    """Share of the time in which the GPU works or copies, and bytes to and from it per cell, by PyTorch's profiler."""
    if device() != "cuda":
        return {"busy_share": None, "bytes_to_card_per_cell": None, "bytes_from_card_per_cell": None}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        start = time.perf_counter()
        loop()
        wait()
        wall_us = 1e6 * (time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    work = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    busy_us, end = 0.0, 0.0
    for first, last in sorted((float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in work):
        busy_us += max(0.0, last - max(first, end))
        end = max(end, last)
    moved = {way: sum(int(e["args"].get("bytes", 0)) for e in work if way in e["name"]) for way in ("HtoD", "DtoH")}
    return {
        "busy_share": round(busy_us / wall_us, 3),
        "bytes_to_card_per_cell": round(moved["HtoD"] / cells, 1),
        "bytes_from_card_per_cell": round(moved["DtoH"] / cells, 1),
    }


def listed(tiles: np.ndarray, mask: np.ndarray, prediction: np.ndarray) -> set[tuple[str, int, int]]:
    """Defects (site, cell) that the detection lists with a prediction."""
    from oddlattice.crystal import CELL_PX, load_crystal
    from oddlattice.defects.fdr import q_values
    from oddlattice.defects.noise import estimate_noise
    from oddlattice.defects.null import judge_columns
    from oddlattice.lattice.columns import mean_cell
    from oddlattice.lattice.shapes import fit_shapes

    known = np.repeat(np.repeat(mask, CELL_PX, 0), CELL_PX, 1)
    difference = ((tiles - prediction) * known).astype(np.float32)
    noise, crystal = estimate_noise(difference, mask), load_crystal(MODEL / "crystal.yaml")
    shapes = fit_shapes(mean_cell(prediction, mask), crystal.columns)
    vectors_pm, nothing = crystal.vectors_nm * 1000, np.zeros_like(tiles)
    kinds = [judge_columns(difference, mask, noise, shape, vectors_pm, (1.0, 1.0), nothing) for shape in shapes]
    columns = [(site.shape.site, *map(int, cell)) for site in kinds if site is not None for cell in site.cells]
    p = np.concatenate([site.verdict.p_value for site in kinds if site is not None])
    return {columns[k] for k in np.flatnonzero(q_values(p) <= FDR)}


def agreement(size: Size) -> dict[str, object]:
    """Predictions of the device against the processor's in float32, and the defects that follow from both."""
    from oddlattice.crystal import CELL_PX
    from oddlattice.predict.network import predict_bulk, predict_on_gpu
    from oddlattice.predict.own_residual import own_residual

    tiles, mask = field(min(size.side, 96), 7)
    raw = predict_bulk(careful_engine("cpu", "float32", 1024), tiles, mask, WIDTH_CELLS, os.cpu_count() or 1)
    known = np.repeat(np.repeat(mask, CELL_PX, 0), CELL_PX, 1)
    reference = raw + own_residual(((tiles - raw) * known).astype(np.float32), mask, WIDTH_CELLS)
    expected = listed(tiles, mask, reference)
    found: dict[str, object] = {"defects_by_processor": len(expected)}
    for precision in PRECISIONS:
        engine = careful_engine(device(), precision, size.batches[-1])
        plain, prediction = predict_on_gpu(engine, tiles, mask, WIDTH_CELLS, contrast(tiles, mask))
        off, defects = np.abs(np.stack([plain - raw, prediction - reference])), listed(tiles, mask, prediction)
        found[precision] = {
            "largest_difference": float(f"{off.max():.3g}"),
            "rms_difference": float(f"{np.sqrt((off**2).mean()):.3g}"),
            "tolerance": TOLERANCE[precision],
            "defects": len(defects),
            "defects_not_in_both": sorted(map(list, defects ^ expected)),
            "agrees": bool(off.max() < TOLERANCE[precision] and defects == expected),
        }
    return found


@contextmanager
def memory_limit(more_mb: int) -> Iterator[None]:
    """Let PyTorch take so much more of the GPU than it holds now; with 0 not even what it holds and does not use."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more_mb * MB) / total)
    taken = []
    try:
        with suppress(torch.OutOfMemoryError):
            while more_mb == 0:
                taken.append(torch.empty(MB // 16, dtype=torch.uint8, device="cuda"))
        yield
    finally:
        taken.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@contextmanager
def stand_in_limit(careful: Any, patches: int) -> Iterator[None]:
    """Without a GPU: an engine that says it is one, and is out of memory above so many patches at once."""
    real = careful.engine

    class SmallGpu:
        device, bf16, vae = "cuda", False, real.vae

        def encode_at(self, cells: torch.Tensor, *others: Any) -> None:
            if len(cells) > patches:
                raise torch.OutOfMemoryError("a stand-in for a small GPU")
            real.encode_at(cells, *others)

    careful.engine = SmallGpu()
    yield


def fall_back(size: Size) -> dict[str, object]:
    """What happens when the GPU's memory is short: smaller batches, then the processor, and the same latents."""
    from oddlattice.model.patches import padded

    tiles, mask = field(min(size.side, 96), 3)
    rimmed = torch.from_numpy((padded(tiles) - 1) / contrast(tiles, mask)).float().to(device())
    cells, latents = torch.from_numpy(np.argwhere(mask)).to(device()), {}
    found: dict[str, object] = {"forced_by": "a limit of PyTorch's" if device() == "cuda" else "a stand-in"}
    for name, more_mb, patches in (("plenty", None, 0), ("little", 48, 250), ("none", 0, 40)):
        said: list[str] = []
        careful = careful_engine(device(), "float32", len(cells), said.append)
        latents[name] = torch.zeros((*mask.shape, careful.engine.vae.config.latent), device=device())
        if more_mb is None:
            careful.each("encode_at", cells, rimmed, latents[name])
            continue
        with memory_limit(more_mb) if device() == "cuda" else stand_in_limit(careful, patches):
            careful.each("encode_at", cells, rimmed, latents[name])
        off = float((latents[name] - latents["plenty"]).abs().max() / latents["plenty"].std())
        found[name] = {
            "said": said,
            "batch": f"{len(cells)} -> {careful.batch}",
            "ends_on": careful.engine.device,
            "largest_difference": float(f"{off:.3g}"),
            "tolerance": LATENT_TOLERANCE,
            "agrees": bool(said and off < LATENT_TOLERANCE),
        }
    return found


def training_steps(size: Size, where: str, precision: str) -> Callable[[], None]:
    """A call that does `size.steps` steps of training on patches that are on the device; a tenth on the processor."""
    from oddlattice.crystal import load_crystal
    from oddlattice.model.simulated_bulk import simulated_batches
    from oddlattice.model.vae import VAE, VAEConfig, loss_terms

    batch = next(simulated_batches(load_crystal(MODEL / "crystal.yaml"), size.patches, seed=0))
    parts = [torch.from_numpy(x)[:, None].to(where) for x in (batch.patch, batch.target, batch.variance)]
    torch.manual_seed(0)
    vae, generator = VAE(VAEConfig()).to(where), torch.Generator(where).manual_seed(1)
    optimiser = torch.optim.Adam(vae.parameters(), lr=1e-4)

    def steps() -> None:
        for _ in range(size.steps):
            with torch.autocast(where, torch.bfloat16, enabled=precision == "bfloat16"):
                misfit, divergence = loss_terms(vae, *parts, generator)
            optimiser.zero_grad()
            (misfit + divergence).mean().backward()
            optimiser.step()

    return steps


def training_rates(size: Size) -> dict[str, object]:
    """Training steps per second by device and precision."""
    found: dict[str, object] = {"patches_a_step": size.patches}
    torch.set_num_threads(os.cpu_count() or 1)
    for where in sorted({"cpu", device()}):
        own = size if where == "cuda" else replace(size, steps=max(1, size.steps // 50))
        found[where] = {
            precision: rate(training_steps(own, where, precision), own.steps, size.least_s) for precision in PRECISIONS
        }
    torch.set_num_threads(1)
    return found


def stage(size: Size) -> dict[str, object]:
    """The inference stage as its rule runs it, from a store of tiles to one of differences; by images side by side."""
    from device_runs import stage_rate

    fields = [field(size.side, seed) for seed in range(2)]
    with redirect_stdout(sys.stderr):
        return {str(n): stage_rate(fields, size.images // 2, n) for n in (1, size.at_once, 2 * size.at_once)}


def pipeline(size: Size) -> dict[str, object]:
    """The whole pipeline, from raw files to the report, on all cores."""
    from device_runs import whole_run

    return whole_run(*size.archive, os.cpu_count() or 1)


PARTS: dict[str, Callable[[Size], object]] = {
    "network_cells_per_s": network_rates,
    "loop": loop_rates,
    "agreement": agreement,
    "memory": fall_back,
    "training_steps_per_s": training_rates,
    "stage": stage,
    "pipeline": pipeline,
}


def check(size: Size, parts: list[str]) -> dict[str, Any]:
    """The parts named; one whose module is missing says which, and one that fails says why."""
    torch.manual_seed(0)
    found: dict[str, Any] = {"machine": machine()}
    for name in parts:
        part = PARTS[name]
        start = time.perf_counter()
        try:
            found[name] = part(size)
        except ModuleNotFoundError as error:
            found[name] = f"SKIPPED: needs {error.name}, which is not installed here"
        except (RuntimeError, ValueError) as error:
            found[name] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        found.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)
    return found


def wrong(found: Any) -> bool:
    """Whether a part failed, or somewhere the GPU and the processor disagree."""
    if isinstance(found, dict):
        return found.get("agrees") is False or any(wrong(value) for value in found.values())
    return isinstance(found, str) and found.startswith("failed: ")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds: shows that the check runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="these only")
    given = parser.parse_args()
    found = check(TINY if given.tiny else FULL, given.parts)
    print(json.dumps(found, indent=1))
    return int(wrong(found))


if __name__ == "__main__":
    sys.exit(main())
