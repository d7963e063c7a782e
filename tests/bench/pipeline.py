"""The whole pipeline from .dm4 to the finished report, by stage, against a plain loop over the same functions."""

import shutil
from pathlib import Path

from bench.figures import Figure
from bench.material import config_file, write_archive
from bench.measure import Taken, snakemake, stage
from bench.stages import STAGES


def worked_through(work: Path, archive: Path, **sections: object) -> Taken:
    """A run of the workflow in a fresh working folder."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    config_file(work, archive, **sections)
    taken = snakemake(work, memory=False)
    assert (work / "results/5_report/index.html").is_file()
    return taken


def measure(quick: bool, place: Path) -> list[Figure]:
    """Throughput, orchestration, and how time grows with the number of images."""
    number, side = (2, 512) if quick else (100, 2048)
    archive, mpx = place / "archive", number * side**2 / 1e6
    write_archive(archive, number, (side, side))
    run = worked_through(place / "run", archive)
    loop = place / "loop"
    loop.mkdir()
    config_file(loop, archive)
    plain, took = stage(loop, *STAGES)
    shutil.rmtree(loop)
    shutil.rmtree(place / "run")
    shutil.rmtree(archive)
    work = sum(t["cpu_s"] for t in took.values())
    share = 100 * (run.cpu_s - work) / run.cpu_s
    what = f"{number} images of {side} x {side} px"
    found = [
        Figure("pipeline_mpx_per_s", f"whole pipeline on 2 cores, {what}", mpx / run.wall_s, "Mpx/s", 2.5),
        Figure(
            "pipeline_mpx_per_two_core_s",
            "the same by processor time, as two idle cores would do it",
            2 * mpx / run.cpu_s,
            "Mpx/s",
            2.5,
        ),
        Figure("loop_mpx_per_s", "plain loop in one process", mpx / plain.wall_s, "Mpx/s"),
        Figure("times_loop", "whole pipeline over the plain loop", plain.wall_s / run.wall_s, "x"),
        Figure(
            "orchestration_percent",
            f"orchestration at {what}: processor time that is not stage work",
            share,
            "%",
            15,
            least=False,
            note="start-up of jobs and their imports, scheduling, gathering and the index",
        ),
    ]
    for name, t in took.items():
        found.append(Figure(f"{name}_mpx_per_core_s", f"{name}, one core", mpx / t["cpu_s"], "Mpx/s"))
    return found + growth(quick, place)


def growth(quick: bool, place: Path) -> list[Figure]:
    """Time per image at ten times the images; small images, so that it ends."""
    few, many, side = (2, 6, 384) if quick else (100, 1000, 384)
    each: dict[int, Taken] = {}
    for number in (few, many):
        archive = place / "archive"
        write_archive(archive, number, (side, side))
        each[number] = worked_through(place / "run", archive)
        shutil.rmtree(place / "run")
        shutil.rmtree(archive)
    ratio = each[many].cpu_s / many / (each[few].cpu_s / few)
    walls = each[many].wall_s / many / (each[few].wall_s / few)
    return [
        Figure(
            "time_per_image_ratio",
            f"time per image at {many:,} over that at {few:,} images of {side} x {side} px, processor time",
            ratio,
            "x",
            1.1,
            least=False,
            note=f"wall time {walls:.2f} x",
        ),
        Figure(
            "time_per_small_image_s", f"processor time per image of {side} x {side} px", each[many].cpu_s / many, "s"
        ),
    ]
