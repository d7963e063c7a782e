"""A small archive that is worked through in seconds, and runs over it that can be killed at any moment."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from oddlattice.crystal import load_crystal
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.raw_files import write_dm, write_ncem

ROOT = Path(__file__).parents[2]
SHIPPED_MODEL = "models/srtio3_001"
CRYSTAL = ROOT / SHIPPED_MODEL / "crystal.yaml"
STAGES = ("0_archive", "1_images", "2_tiles", "3_differences", "4_defects", "5_report")
#: What is no product: locks, marks of Snakemake, and a table of times.
NO_PRODUCTS = {".lock", ".snakemake_timestamp", "judged.tsv"}


def write_scan(path: Path, side_px: int = 220, seed: int = 1) -> None:
    """A scan of the shipped model's crystal, large enough to be analysed."""
    conditions = Conditions(pixel_nm=0.02, rotation_deg=7.0 + seed, dose_e_px=2000.0, jitter_pm=3.0)
    counts = simulate_scan(load_crystal(CRYSTAL), conditions, (side_px, side_px), seed=seed).counts.astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    (write_ncem if path.suffix == ".emd" else write_dm)(path, counts, pixel=0.02)


def install(folder: Path, *also: str) -> Path:
    """Copy what a run needs, and `also`: an edit of the repository while tests run is no reason to do work again."""
    if not folder.exists():
        folder.mkdir()
        for name in ("Snakefile", "config.yaml"):
            shutil.copy(ROOT / name, folder / name)
        for name in ("crystals", "envs", "models/any_crystal", "profiles", "workflow", *also):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"), dirs_exist_ok=True)
    return folder


class Run:
    """A working folder, and what is started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installation = install(folder.with_name(f"{folder.name} installation"), SHIPPED_MODEL)
        (folder / "tmp").mkdir(parents=True, exist_ok=True)

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def start(self, *arguments: str, cores: int = 2) -> subprocess.Popen[str]:
        """Start a run as the leader of a process group of its own; its words go to a file."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.installation / "Snakefile")]
        command += ["--directory", str(self.folder), "--cores", str(cores), *arguments]
        if "--configfile" not in arguments:
            command += ["--config", "archive=archive", "settle_s=0"]
        self.said = self.folder / "said.txt"
        with open(self.said, "w") as said:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=os.environ | {"TMPDIR": str(self.folder / "tmp")},
            )

    def finish(self, *arguments: str, cores: int = 2) -> str:
        """A run that has to succeed; gives what it said."""
        code = self.start(*arguments, cores=cores).wait()
        assert code == 0, self.said.read_text()
        return self.said.read_text()

    def fail(self, *arguments: str) -> str:
        """A run that has to fail, and says so without a traceback of Python."""
        code = self.start(*arguments).wait()
        said = self.said.read_text()
        assert code != 0, said
        return said

    def wipe(self) -> None:
        """As if nothing had ever been done here."""
        shutil.rmtree(self.results, ignore_errors=True)
        shutil.rmtree(self.folder / ".snakemake", ignore_errors=True)

    def products(self) -> dict[str, bytes]:
        """Every product and the inventory, byte for byte."""
        found = {}
        for stage in STAGES:
            for path in sorted((self.results / stage).rglob("*")):
                if path.is_file() and path.name not in NO_PRODUCTS:
                    found[str(path.relative_to(self.results))] = path.read_bytes()
        return found

    def leftovers(self) -> list[str]:
        """Temporary files, and marks of unfinished work."""
        hidden = [p for p in self.results.rglob(".*") if p.name not in NO_PRODUCTS]
        parts = [p for p in self.results.rglob("*.part*") if p not in hidden]
        marks = [p for name in ("locks", "incomplete") for p in (self.folder / ".snakemake" / name).glob("*")]
        # Snakemake's own folder for temporary files, empty, outlives it when it is killed
        ours = [p for p in (self.folder / "tmp").iterdir() if not p.name.startswith("snakemake") or any(p.iterdir())]
        return [str(p.relative_to(self.folder)) for p in (*hidden, *parts, *marks, *ours)]

    def states(self) -> dict[str, str]:
        """State of every row of the inventory, by path and size."""
        lines = (self.results / "0_archive/inventory.tsv").read_text().splitlines()[1:]
        rows = [line.split("\t") for line in lines]
        found = {f"{row[1]} {row[2]}": row[4] for row in rows}
        assert len(found) == len(rows), "a file is counted twice"
        return found


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of the products that are missing, extra or other."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill(head: subprocess.Popen[str], what: str, rng: np.random.Generator) -> bool:
    """Kill the head, one of its descendants (a job or a part of it), or all of it, at once; False if there is none."""
    if head.poll() is not None:
        return False
    if what == "head":
        head.kill()
        head.wait()
    elif what == "group":
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
    else:
        while not (below := descendants(head.pid)):
            if head.poll() is not None:
                return False
            time.sleep(0.05)
        try:
            below[int(rng.integers(len(below)))].kill()
        except psutil.NoSuchProcess:
            return False
        head.wait()
    return True
