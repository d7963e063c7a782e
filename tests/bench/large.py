"""Large archives: what Snakemake takes to look at 100,000 files, and to find 10,000 done."""

import shutil
from pathlib import Path

import polars as pl

from bench.figures import Figure
from bench.material import config_file
from bench.measure import snakemake
from bench.stages import scan
from oddlattice.archive.shards import read_shard
from oddlattice.storage.products import IMAGES, table, write_parquet


def write_files(folder: Path, number: int) -> None:
    """Small files in folders of a thousand."""
    for k in range(number):
        if k % 1000 == 0:
            inside = folder / f"session {k // 1000:03d}"
            inside.mkdir(parents=True)
        (inside / f"{k:06d}.dm4").write_bytes(b"\0" * 64)


def measure(quick: bool, place: Path) -> list[Figure]:
    """Time and memory of a dry run, and of a run with nothing to do."""
    many, done = (300, 100) if quick else (100_000, 10_000)
    work = place / "many"
    write_files(work / "archive", many)
    config_file(work, work / "archive")
    dry = snakemake(work, "-n", "--quiet", "all")
    again = snakemake(work, "-n", "--quiet", "all")
    shutil.rmtree(work)
    work = place / "done"
    write_files(work / "archive", done)
    config_file(work, work / "archive")
    fill(work)
    idle = snakemake(work)
    assert "Nothing to be done" in idle.out + idle.said, (idle.out + idle.said)[-2000:]
    shutil.rmtree(work)
    return [
        Figure("dry_run_s", f"snakemake -n, {many:,} new files", dry.wall_s, "s", 60, least=False),
        Figure("dry_run_cpu_s", "the same, processor time", dry.cpu_s, "s"),
        Figure("dry_run_mb", "its memory", dry.peak_mb, "MB", 1000, least=False),
        Figure("dry_run_again_cpu_s", "snakemake -n again, processor time", again.cpu_s, "s"),
        Figure("no_op_s", f"a run with nothing to do, {done:,} files done", idle.wall_s, "s", 10, least=False),
        Figure("no_op_cpu_s", "the same, processor time", idle.cpu_s, "s"),
    ]


def fill(work: Path) -> None:
    """Leave behind what a finished run would: every output there and known to Snakemake, every file done."""
    shards = scan(work)
    for line in snakemake(work, "--summary").out.splitlines()[1:]:
        path = work / line.split("\t")[0]
        if path.suffix in ("", ".zarr"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for shard in shards:
        rows = [
            {
                "image_id": f.file_id,
                "file_id": f.file_id,
                "path": f.path,
                "frame": 0,
                "state": "rejected",
                "reason": "x",
            }
            for f in read_shard(work / "results", shard)
        ]
        write_parquet(table(rows, IMAGES), work / f"results/4_defects/{shard}.images.parquet")
    assert pl.read_parquet(next((work / "results/4_defects").glob("*.images.parquet"))).height
    snakemake(work, "--touch")
