"""Whether a file is whole by its own header: asked of one that may still be being written."""

import os
import tempfile
from pathlib import Path

from oddlattice.process.sandbox import Limits, Refused, run_limited
from oddlattice.read import checks
from oddlattice.read.endings import missing_bytes
from oddlattice.read.formats import registry

LIMITS = Limits(memory_mb=1024, wall_s=20.0, cpu_s=20.0)


def are_whole(paths: list[str]) -> set[str]:
    """The files among some that are as long as their headers say, and can be opened by what tells their format.

    Each is looked at in a child process: a file that is only half there may do anything to its reader.
    """
    jobs = ((path, {"path": path}) for path in paths)
    endings = run_limited("oddlattice.read.whole:check_whole", jobs, LIMITS) if paths else ()
    return {ending.key for ending in endings if ending.how == "returned"}


def check_whole(path: str) -> None:
    """Look at one file, in this process.

    Raises
    ------
    Refused
        If it is shorter than its header says, or is none of ours.
    Exception
        Whatever opening it raises.
    """
    about = os.stat(path)
    handle = checks.open_checked(path, about.st_size, about.st_mtime_ns)
    formats = registry.candidates(handle)
    if missing := missing_bytes(path) if formats[0].name == "DigitalMicrograph" else 0:
        raise Refused(f"lacks {missing} bytes")
    with (
        tempfile.TemporaryDirectory() as folder,
        checks.safe_name(handle, registry.ending_of(path, formats), Path(folder), path, formats[0].beside) as name,
    ):
        formats[0].check(name)
