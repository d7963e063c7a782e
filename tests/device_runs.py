"""The inference stage from store to store, and a whole run of the pipeline: parts of `device_check` that need more."""

import csv
import importlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models/srtio3_001"
PIXEL_NM = 0.3905 / 20


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: the disk is not what is measured."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def write_tiles(path: Path, fields: list[tuple[np.ndarray, np.ndarray]], images: int) -> None:
    """A store of tiles as the tile stage leaves it, of so many images."""
    import zarr

    from oddlattice.crystal import PX_PER_CELL
    from oddlattice.predict.infer_image import new_map
    from oddlattice.storage import blocks

    store = zarr.open_group(path, mode="w", zarr_format=3)
    side = 20.0
    said = {"state": "tiled", "reason": "", "model": MODEL.name, "px_per_cell": list(PX_PER_CELL), "stretch": 0.0}
    said |= {"pixel_nm": PIXEL_NM, "nominal_pixel_nm": PIXEL_NM, "a_px": [side, 0.0], "b_px": [0.0, side]}
    names = [f"i{k:04d}" for k in range(images)]
    for k, name in enumerate(names):
        tiles, mask = fields[k % len(fields)]
        group = store.create_group(f"{name}/1", attributes={"oddlattice": said})
        blocks.write(new_map(group, "tiles", tiles.shape, PX_PER_CELL), (), tiles)
        group.create_array("mask", data=mask)
    store.update_attributes({"images": [{"image_id": name, "state": "tiled", "reason": ""} for name in names]})


def stage_rate(fields: list[tuple[np.ndarray, np.ndarray]], images: int, threads: int) -> dict[str, float]:
    """Cells per second of the inference stage from a store of tiles to one of differences, as the rule runs it."""
    import infer_differences
    from oddlattice.run.settings import load_yaml
    from oddlattice.run.stage_settings import InferSettings

    settings = InferSettings.of(load_yaml(ROOT / "config.yaml")["infer"])
    with scratch() as folder:
        write_tiles(folder / "tiles.zarr", fields, images)
        for number in range(2):  # the first also sets up the GPU
            wall_s, cpu = time.perf_counter(), os.times()
            out = folder / f"{number}.zarr"
            infer_differences.main(str(folder / "tiles.zarr"), [str(MODEL)], str(out), settings, threads)
            wall_s, after = time.perf_counter() - wall_s, os.times()
            shutil.rmtree(out)
    cells = sum(int(fields[k % len(fields)][1].sum()) for k in range(images))
    user, system = after.user - cpu.user, after.system - cpu.system
    cores = {"cores_busy_user": round(user / wall_s, 2), "cores_busy_system": round(system / wall_s, 2)}
    return {"cells_per_s": round(cells / wall_s, 1), "wall_s": round(wall_s, 2), **cores}


def whole_run(images: int, side: int, cores: int, *more: str) -> dict[str, object]:
    """`snakemake --cores N --workflow-profile gpu` of a synthetic archive: raw pixels per second from .dm4 to report.

    `more` are options of snakemake.

    Raises
    ------
    ModuleNotFoundError
        If something is missing that the jobs import.
    RuntimeError
        If the run fails; with the end of what it said.
    """
    for name in ("yaml", "snakemake", "hyperspy", "rsciio", "zarr", "polars", "psutil"):
        importlib.import_module(name)
    from bench.material import config_file, write_archive
    from bench.measure import snakemake
    from oddlattice.numerics.compiled import compile_all

    compile_all()
    with scratch() as folder:
        write_archive(folder / "archive", images, (side, side))
        (folder / "work").mkdir()
        config_file(folder / "work", folder / "archive", shard={"files": -(-images // cores), "size_mb": 100_000})
        profile = ("--workflow-profile", str(ROOT / "profiles/gpu"), *more)
        taken = snakemake(folder / "work", *profile, cores=cores, memory=False)
        results = folder / "work/results"
        with open(results / "0_archive/inventory.tsv", encoding="utf-8") as lines:
            states = Counter(row["state"] for row in csv.DictReader(lines, delimiter="\t"))
        return {
            "cores": cores,
            "images": images,
            "side_px": side,
            "wall_s": round(taken.wall_s, 1),
            "cpu_s": round(taken.cpu_s, 1),
            "mpx_per_s": round(images * side**2 / 1e6 / taken.wall_s, 2),
            "states": dict(states),
            "seconds_of_jobs": seconds_of_jobs(results / "benchmarks"),
        }


def seconds_of_jobs(benchmarks: Path) -> dict[str, dict[str, float]]:
    """By rule the number of its jobs, and the sum of their seconds on the clock."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(benchmarks.glob("*/*.tsv")):
        with open(path, encoding="utf-8") as lines:
            seconds = sum(float(row["s"]) for row in csv.DictReader(lines, delimiter="\t"))
        of_rule = found.setdefault(path.parent.name, {"jobs": 0, "seconds": 0.0})
        of_rule["jobs"] += 1
        of_rule["seconds"] = round(of_rule["seconds"] + seconds, 1)
    return found
