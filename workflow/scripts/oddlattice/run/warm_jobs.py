"""Snakemake's Python scripts as forks of one warm process: an order of magnitude less time before a job begins."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from oddlattice.process import warm
from oddlattice.run.dependencies import PACKAGE, imported, newest_ns

#: What every script begins with, whatever it is about.
FIRST = ("snakemake.script", "snakemake.logging", "snakemake.iocontainers")
#: Scripts in the order in which they run.
SCRIPTS = (
    "read_images",
    "cut_tiles",
    "infer_differences",
    "find_defects",
    "measure_images",
    "write_pages",
    "gather_defects",
    "compare_images",
    "write_statistics",
    "write_index",
    "write_crate",
)
#: Of these, the ones whose work is done by processes that they ask for.
FORKING = ("read_images", "cut_tiles")


def modules_of_scripts(root: Path) -> list[str]:
    """The modules of ours that the jobs import, in the order in which they are needed.

    Parameters
    ----------
    root : Path
        Folder of the scripts and the package.
    """
    files = [path for name in SCRIPTS for path in imported(root / f"{name}.py", root)]
    names = (path.with_suffix("").parts for path in files if path.suffix == ".py" and path.stem != "__init__")
    return [*FIRST, *dict.fromkeys(".".join(parts) for parts in names if parts[0] == PACKAGE)]


def keep_jobs_warm(root: Path) -> None:
    """Have this Snakemake run its Python scripts as forks of a process that has loaded what they import.

    They do the same as in a Python of their own. Where there is no such process, or a module has been changed since it
    began, that is what they get.
    """
    from snakemake.script import PythonScript

    if not warm.keep_warm(modules_of_scripts(root)):
        return
    ordinary, as_of_ns = PythonScript.execute_script, newest_ns(root)

    def execute_script(script: Any, fname: str, edit: bool = False) -> None:
        if newest_ns(root) != as_of_ns:
            ordinary(script, fname, edit)
            return
        try:
            order = {"script": fname, "own_forks": Path(script.path.get_filename()).stem in FORKING}
            job = warm.fork(order, environment=_environment(script.threads, script.resources))
        except OSError:
            ordinary(script, fname, edit)
            return
        with _measured(job.pid, script.bench_record):
            status = job.wait()
        if status:
            raise subprocess.CalledProcessError(status, f"{sys.executable} {fname}")

    PythonScript.execute_script = execute_script


def _environment(threads: int, resources: Any) -> dict[str, str]:
    """What Snakemake sets for a job."""
    names = ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR")
    found = {f"{name}_NUM_THREADS" if name != "VECLIB" else "VECLIB_MAXIMUM_THREADS": str(threads) for name in names}
    place = resources.get("tmpdir")
    return found | dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), place) if place else found


def _measured(pid: int, record: Any) -> Any:
    """Snakemake's own measurement of a job's time and memory, where its rule asks for it."""
    from snakemake.benchmark import benchmarked

    return nullcontext() if record is None else benchmarked(pid, record)
