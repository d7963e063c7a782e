"""One stage, or all of them, on a shard: the functions that the rules call, without Snakemake.

`python -m bench.stages WORK STAGE...` runs stages of the shard in WORK and prints what each took as JSON; WORK holds
bench.yaml (archive and what differs from config.yaml) and gets results/ as a run would leave it.
"""

import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oddlattice.archive import inventory
from oddlattice.archive.shards import shard_names
from oddlattice.process.single_thread import one_thread
from oddlattice.run import settings
from oddlattice.run.stage_settings import SECTIONS

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/srtio3_001"
STAGES = ("read_images", "cut_tiles", "infer_differences", "find_defects", "measure_images", "write_pages")


def config_of(work: Path) -> dict[str, Any]:
    """The merged config of a working folder."""
    found = settings.load_yaml(ROOT / "config.yaml")
    for key, value in settings.load_yaml(work / "bench.yaml").items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    return found


def scan(work: Path) -> list[str]:
    """Look at the archive; names of the shards."""
    config = config_of(work)
    keys = (config[key] for key in ("include", "exclude", "settle_s"))
    packed = (config["shard"][key] for key in ("files", "size_mb"))
    found = inventory.scan_archive(Path(config["archive"]), work / "results", *keys, *packed, now_ns=time.time_ns())
    return found.shards


def calls(work: Path, shard: str, threads: int) -> Mapping[str, Callable[[], object]]:
    """Each stage as a call without arguments. Imports come with the call: a job pays for them too."""
    config, results = config_of(work), work / "results"
    shown = {key: config[key] for key in ("read", "models", "tile", "infer", "defects", "report", "seed")}
    given = {
        "read_images": SECTIONS["read"].of(config["read"]),
        "cut_tiles": SECTIONS["tile"].of(config["tile"]),
        "infer_differences": SECTIONS["infer"].of(config["infer"]),
        "find_defects": SECTIONS["defects"].of(config["defects"]),
    }
    zarrs = {
        "images_zarr": "1_images",
        "tiles_zarr": "2_tiles",
        "differences_zarr": "3_differences",
        "maps_zarr": "4_defects",
    }
    tables = {name: f"4_defects/{shard}.{name}.parquet" for name in ("images", "columns", "completeness", "places")}
    places = {
        "shard_tsv": f"0_archive/{shard}.tsv",
        "reviews_json": f"0_archive/{shard}.reviews.json",
        "defects": f"4_defects/{shard}.parquet",
        "maps": f"4_defects/{shard}.zarr",
        "statistics": f"4_defects/{shard}.statistics.json",
        "dir": f"5_report/{shard}",
        **{name: f"{folder}/{shard}.zarr" for name, folder in zarrs.items()},
        **tables,
    }
    outputs = {"read_images": "images_zarr", "cut_tiles": "tiles_zarr", "infer_differences": "differences_zarr"}
    known: dict[str, object] = {name: str(results / place) for name, place in places.items()}
    known |= {f"out_{name}": place for name, place in known.items()}
    known |= {
        "archive": config["archive"],
        "crystal_files": [str(MODEL / "crystal.yaml")],
        "crystals": [str(MODEL / "crystal.yaml")],
        "model_dirs": [str(MODEL)],
        "threads": threads,
    }
    reviews = results / places["reviews_json"]
    if not reviews.exists():
        reviews.write_text('{"statements": []}', encoding="ascii")

    def stage(name: str) -> Callable[[], object]:
        def call() -> object:
            main = importlib.import_module(name).main
            here = known | {"settings": given.get(name), "seed": config["seed"], "config": shown}
            if name in outputs:
                here["out_zarr"] = known[outputs[name]]
            wanted = inspect.signature(main).parameters.values()
            return main(**{p.name: here[p.name] for p in wanted if p.name in here or p.default is p.empty})

        return call

    return {name: stage(name) for name in STAGES}


def used_s() -> float:
    """Processor time of this process and of its ended children [s]."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def main(work: Path, stages: tuple[str, ...], threads: int = 1) -> dict[str, dict[str, float]]:
    """Run stages of all shards one after the other; processor and wall time of each stage [s]."""
    one_thread()
    took = {stage: {"cpu_s": 0.0, "wall_s": 0.0} for stage in stages}
    shards = shard_names(work / "results") or scan(work)
    for shard in shards:
        found = calls(work, shard, threads)
        for stage in stages:
            cpu, wall = used_s(), time.monotonic()
            found[stage]()
            took[stage]["cpu_s"] += used_s() - cpu
            took[stage]["wall_s"] += time.monotonic() - wall
    return took


if __name__ == "__main__":
    sys.stdout, shown = sys.stderr, sys.stdout  # what stages print is no JSON
    print(json.dumps(main(Path(sys.argv[1]), tuple(sys.argv[2:]) or STAGES)), file=shown)
