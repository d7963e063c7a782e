"""One stage, or all of them, on a shard: the functions that the rules call, without Snakemake.

`python -m bench.stages WORK STAGE...` runs stages of the shard in WORK and prints what each took as JSON; WORK holds
bench.yaml (archive and what differs from config.yaml) and gets results/ as a run would leave it.
"""

import importlib
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
from oddlattice.storage.products import OF_SERIES

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/srtio3_001"
STAGES = ("read_images", "cut_tiles", "infer_differences", "find_defects", "measure_images", "write_pages")
STORES = ("1_images", "2_tiles", "3_differences", "4_defects")
OF_IMAGES = ("images", "columns", "completeness", "grains", "boundaries")  # tables of the defect stage
SHAPING = ("read", "models", "tile", "infer", "defects", "report", "seed")  # sections of the config


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


def given(work: Path, shard: str, threads: int) -> dict[str, dict[str, Any]]:
    """What each stage's `main` is given, as its rule gives it."""
    config, results = config_of(work), work / "results"

    def at(folder: str, ending: str) -> str:
        return str(results / folder / f"{shard}{ending}")

    images, tiles, differences, maps = (at(folder, ".zarr") for folder in STORES)
    table = {name: at("4_defects", f".{name}.parquet") for name in (*OF_IMAGES, "places", *OF_SERIES)}
    table["defects"] = at("4_defects", ".parquet")
    crystals, statistics = [str(MODEL / "crystal.yaml")], at("4_defects", ".statistics.json")
    stores = {"images_zarr": images, "tiles_zarr": tiles, "differences_zarr": differences}
    listed = {name: table[name] for name in ("defects", "images", "columns")}
    series = {name: table[name] for name in OF_SERIES}
    return {
        "read_images": {
            "shard_tsv": at("0_archive", ".tsv"),
            "archive": config["archive"],
            "out_zarr": images,
            "settings": SECTIONS["read"].of(config["read"]),
            "threads": threads,
        },
        "cut_tiles": {
            "images_zarr": images,
            "crystal_files": crystals,
            "out_zarr": tiles,
            "settings": SECTIONS["tile"].of(config["tile"]),
            "threads": threads,
            "misfit_limit": config["infer"]["misfit_limit"],
            "libraries": [str(ROOT / "crystals/library.json")],
        },
        "infer_differences": {
            "tiles_zarr": tiles,
            "model_dirs": [str(MODEL)],
            "out_zarr": differences,
            "settings": SECTIONS["infer"].of(config["infer"]),
            "threads": threads,
        },
        "find_defects": stores
        | {
            "out": {name: table[name] for name in ("defects", *OF_IMAGES)},
            "out_maps": maps,
            "settings": SECTIONS["defects"].of({k: v for k, v in config["defects"].items() if k != "fdr_over"}),
            "out_middles": at("4_middles", ".zarr.zip"),
        },
        "measure_images": stores
        | listed
        | {
            "crystals": crystals,
            "out_statistics": statistics,
            "out_places": table["places"],
            "out_series": series,
            "seed": config["seed"],
            "frames": config["read"]["frames"],
        },
        "write_pages": stores
        | listed
        | {
            "maps_zarr": maps,
            "statistics": statistics,
            "reviews_json": at("0_archive", ".reviews.json"),
            "out_dir": at("5_report", ""),
            "config": {key: config[key] for key in SHAPING},
            "series": series,
        },
    }


def calls(work: Path, shard: str, threads: int) -> Mapping[str, Callable[[], object]]:
    """Each stage as a call without arguments. Imports come with the call: a job pays for them too."""
    reviews = work / f"results/0_archive/{shard}.reviews.json"
    if not reviews.exists():
        reviews.write_text('{"statements": []}', encoding="ascii")
    (work / "results/4_middles").mkdir(exist_ok=True)

    def stage(name: str, arguments: dict[str, Any]) -> Callable[[], object]:
        return lambda: importlib.import_module(name).main(**arguments)

    return {name: stage(name, arguments) for name, arguments in given(work, shard, threads).items()}


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
