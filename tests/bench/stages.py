"""One stage, or all of them, on a shard: the functions that the rules call, without Snakemake.

`python -m bench.stages WORK STAGE...` runs stages of the shard in WORK and prints what each took as JSON; WORK holds
bench.yaml (archive and what differs from config.yaml) and gets results/ as a run would leave it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oddlattice import archive, settings
from oddlattice.onethread import one_thread

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/srtio3_001"
STAGES = ("read_images", "cut_tiles", "infer_differences", "find_defects", "write_pages")


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
    found = archive.scan_archive(Path(config["archive"]), work / "results", *keys, *packed, now_ns=time.time_ns())
    return found.shards


def calls(work: Path, shard: str, threads: int) -> Mapping[str, Callable[[], object]]:
    """Each stage as a call without arguments. Imports come with the call: a job pays for them too."""
    config, results = config_of(work), work / "results"
    place = {
        n: str(results / folder / f"{shard}.zarr")
        for n, folder in enumerate(("0_archive", "1_images", "2_tiles", "3_differences", "4_defects"))
    }
    tables = {name: str(results / f"4_defects/{shard}{name}.parquet") for name in ("", ".images", ".columns")}

    def read() -> None:
        import read_images

        tsv = results / f"0_archive/{shard}.tsv"
        read_images.main(tsv, config["archive"], place[1], config["read"], threads=threads)

    def tile() -> None:
        import cut_tiles

        cut_tiles.main(place[1], [str(MODEL / "crystal.yaml")], place[2], config["tile"], threads)

    def infer() -> None:
        import infer_differences

        infer_differences.main(place[2], [str(MODEL)], place[3], config["infer"] | {"seed": config["seed"]}, threads)

    def defects() -> None:
        import find_defects

        given = config["defects"] | {"seed": config["seed"]}
        find_defects.main(place[1], place[2], place[3], *tables.values(), place[4], given)

    def pages() -> None:
        import write_pages

        shown = {key: config[key] for key in ("read", "models", "tile", "infer", "defects", "report", "seed")}
        given = config["report"] | {"published_band_std": config["defects"]["published_band_std"], "config": shown}
        out = results / f"5_report/{shard}"
        write_pages.main(*(place[n] for n in (1, 2, 3, 4)), *tables.values(), out, given)

    return dict(zip(STAGES, (read, tile, infer, defects, pages), strict=True))


def used_s() -> float:
    """Processor time of this process and of its ended children [s]."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def main(work: Path, stages: tuple[str, ...], threads: int = 1) -> dict[str, dict[str, float]]:
    """Run stages of all shards one after the other; processor and wall time of each stage [s]."""
    one_thread()
    took = {stage: {"cpu_s": 0.0, "wall_s": 0.0} for stage in stages}
    shards = archive.shard_names(work / "results") or scan(work)
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
