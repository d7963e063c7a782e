"""Reading: raw files to zarr on a warm cache."""

import json
import time
from pathlib import Path

import h5py
import numpy as np

from bench.figures import Figure
from bench.material import config_file, scan, write_archive, write_scan
from bench.measure import python, stage
from bench.stages import scan as scan_archive
from support.raw_files import write_velox

ONE_FILE = """
import importlib, json, logging, os, sys, time
from bench.stages import config_of, used_s
from pathlib import Path
from oddlattice.read.read_shard import preloaded
logging.disable(50)
for name in preloaded([{"path": "a.dm4"}, {"path": "a.emd"}]):
    importlib.import_module(name)  # as the server has them before it forks a child for a file
from oddlattice.read.read_file import read_file
from oddlattice.run.stage_settings import ReadSettings
from support.settings import default
path, out, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
stat = os.stat(path)
file = {"file_id": "f", "path": "f", "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
settings = default(ReadSettings).as_dict()
best = {"wall_s": 1e9, "cpu_s": 1e9}
for turn in range(4):
    wall, cpu = time.perf_counter(), used_s()
    read_file(file, path, f"{out}/{turn}.zarr", settings, threads)
    taken = {"wall_s": time.perf_counter() - wall, "cpu_s": used_s() - cpu}
    best = {key: min(best[key], taken[key]) for key in best}
print(json.dumps(best))
"""


def one_file(path: Path, out: Path, threads: int) -> dict[str, float]:
    """Best times of four readings of one file, the last of warm caches [s]."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, float] = json.loads(python("-c", ONE_FILE, str(path), str(out), str(threads)).out)
    return found


def measure(quick: bool, place: Path) -> list[Figure]:
    """Megabytes of raw file per second."""
    side, number, small, frames = (1024, 2, 512, 6) if quick else (8192, 16, 2048, 64)
    large = place / "large.dm4"
    write_scan(large, (side, side))
    mb = large.stat().st_size / 1e6
    took = one_file(large, place / "one", 2)
    found = [
        Figure("dm4_mb_per_s", f"one .dm4 of {mb:.0f} MB to zarr, 2 threads", mb / took["wall_s"], "MB/s", 300),
        Figure("dm4_mb_per_core_s", "the same per second of one core", mb / took["cpu_s"], "MB/s"),
    ]
    work = place / "job"
    write_archive(work / "archive", number, (small, small))
    config_file(work, work / "archive")
    scan_archive(work)
    taken, _ = stage(work, "read_images")
    mb = sum(path.stat().st_size for path in (work / "archive").iterdir()) / 1e6
    found.append(
        Figure(
            "read_job_mb_per_s",
            f"a whole job of read_images, {number} .dm4 of {mb / number:.0f} MB, start-up and flush included",
            mb / taken.wall_s,
            "MB/s",
        )
    )
    return found + velox(place, frames, 256 if quick else 1024)


def velox(place: Path, frames: int, side: int) -> list[Figure]:
    """A Velox stack: frame by frame, in blocks, and by our reader."""
    path = place / "stack.emd"
    frame = scan((side, side), 2)
    write_velox(path, {"HAADF": np.repeat(frame[None], frames, axis=0)})
    mb = frames * frame.nbytes / 1e6

    def timed(block: int) -> float:
        best = 1e9
        for _ in range(3):
            start = time.perf_counter()
            with h5py.File(path) as file:
                (group,) = file["Data/Image"].values()
                for first in range(0, frames, block):
                    np.moveaxis(group["Data"][:, :, first : first + block], -1, 0).copy()
            best = min(best, time.perf_counter() - start)
        return best

    def fancy() -> float:
        start = time.perf_counter()
        with h5py.File(path) as file:
            (group,) = file["Data/Image"].values()
            group["Data"][:, :, np.arange(0, frames, 2)]
        return 2 * (time.perf_counter() - start)

    took = one_file(path, place / "velox", 2)
    return [
        Figure("velox_mb_per_s", f"Velox .emd of {frames} frames to zarr, 2 threads", mb / took["wall_s"], "MB/s"),
        Figure("velox_blocks_mb_per_s", "its frames by h5py in blocks of 8", mb / timed(8), "MB/s"),
        Figure("velox_single_mb_per_s", "its frames by h5py one by one", mb / timed(1), "MB/s"),
        Figure("velox_fancy_mb_per_s", "its frames by h5py with a list of indices", mb / fancy(), "MB/s"),
    ]
