"""What a command takes: wall and processor time, and the memory of its whole family of processes."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
EVERY_S = 0.1


@dataclass(frozen=True)
class Taken:
    """What a command took.

    Attributes
    ----------
    wall_s, cpu_s : float
    peak_mb : float
        Largest resident memory of the command and its children together, pages they share counted once for each; not a
        number where memory was not watched.
    pss_mb : float
        The same with shared pages counted once; looked at less often.
    out : str
        Standard output.
    said : str
        Standard error.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    pss_mb: float
    out: str
    said: str


class Watch(threading.Thread):
    """Samples the memory of a process and its children until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.peak_mb, self.pss_mb = psutil.Process(pid), 0.0, 0.0

    def run(self) -> None:
        for number in range(1 << 40):
            with suppress(psutil.Error):
                family = [self.root, *self.root.children(recursive=True)]
                self.peak_mb = max(self.peak_mb, sum(map(_rss, family)) / 1e6)
                if number % 30 == 0:
                    self.pss_mb = max(self.pss_mb, sum(map(_pss, family)) / 1e6)
            if not self.root.is_running() or self.root.status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(EVERY_S)


def _rss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _pss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def run(
    command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None, *, memory: bool = True
) -> Taken:
    """Run a command and measure it; its `memory`, too, which takes some hundredths of a processor by itself.

    Raises
    ------
    RuntimeError
        If it fails; with the end of what it said.
    """
    before, start = os.times(), time.monotonic()
    with subprocess.Popen(
        command, cwd=cwd, env=os.environ | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watch = Watch(process.pid) if memory else None
        if watch is not None:
            watch.start()
        out, said = process.communicate()
    wall, after = time.monotonic() - start, os.times()
    if watch is not None:
        watch.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {process.returncode}\n{said[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    peak_mb, pss_mb = (watch.peak_mb, watch.pss_mb) if watch is not None else (math.nan, math.nan)
    return Taken(wall, cpu, peak_mb, pss_mb, out, said)


def python(*arguments: str, cwd: Path | None = None, memory: bool = True) -> Taken:
    """Run this Python with the house's modules in reach."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("workflow/scripts", "tests"))
    paths = os.pathsep.join([paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    return run([sys.executable, *arguments], cwd, {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}, memory=memory)


def stage(work: Path, *stages: str) -> tuple[Taken, dict[str, dict[str, float]]]:
    """Run stages of a working folder in one process of their own; see stages.py."""
    taken = python("-m", "bench.stages", str(work), *stages)
    return taken, json.loads(taken.out)


def snakemake(work: Path, *arguments: str, cores: int = 2, memory: bool = True) -> Taken:
    """Run the workflow in a working folder that holds bench.yaml."""
    given = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(work), "--cores", str(cores)]
    return python("-m", "snakemake", *given, "--configfile", str(work / "bench.yaml"), *arguments, memory=memory)
