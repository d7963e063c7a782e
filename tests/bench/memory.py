"""Peak memory of each job, for one huge image and for a long stack."""

import shutil
from pathlib import Path

import numpy as np

from bench.figures import Figure
from bench.material import CRYSTAL, Lattice, config_file, scan, write_scan
from bench.measure import stage
from bench.stages import STAGES
from bench.stages import scan as scan_archive
from oddlattice.crystal import load_crystal
from support.raw_files import write_dm

MOST_MB = 1500


def jobs(work: Path, name: str, what: str) -> list[Figure]:
    """Each stage of an archive in a process of its own."""
    config_file(work, work / "archive")
    scan_archive(work)
    found = []
    for number in STAGES:
        taken, _ = stage(work, number)
        print(f"  {number}, {what}: {taken.peak_mb:.0f} MB, {taken.cpu_s:.0f} s of one core", flush=True)
        found.append(
            Figure(
                f"{number}_{name}_mb",
                f"peak memory of {number}, {what}",
                taken.peak_mb,
                "MB",
                MOST_MB,
                least=False,
                note=f"{taken.cpu_s:.0f} s of one core",
            )
        )
    return found


def measure(quick: bool, place: Path) -> list[Figure]:
    """Peak memory of every stage."""
    side, frames, small = (1024, 6, 256) if quick else (16_384, 2000, 256)
    huge = place / "huge"
    write_scan(huge / "archive/huge.dm4", (side, side))
    found = jobs(huge, "image", f"one {side:,} x {side:,} px .dm4")
    shutil.rmtree(huge)
    stack = place / "stack"
    (stack / "archive").mkdir(parents=True)
    tall = scan((small * 8, small), 1, Lattice(12, 5)).reshape(8, small, small)
    pixel_nm = load_crystal(CRYSTAL).a_nm / Lattice(12, 5).cell_px
    write_dm(stack / "archive/stack.dm4", np.tile(tall, (-(-frames // 8), 1, 1))[:frames], pixel_nm, stack=True)
    found += jobs(stack, "stack", f"a .dm4 of {frames:,} frames of {small} x {small} px")
    shutil.rmtree(stack)
    return found
