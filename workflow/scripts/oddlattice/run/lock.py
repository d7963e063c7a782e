"""One run at a time in a working folder, and nothing in the way of the next one when a run was killed."""

import fcntl
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from oddlattice.storage.atomic import sweep

_PRODUCT = re.compile(r"results/[0-5]_")
_kept: list[int] = []  # open for as long as this process lives: so long the lock is held


class NotAloneError(RuntimeError):
    """Another run is at work in the same folder; the message says which."""


def be_alone(results: Path, state: Path) -> None:
    """Keep other runs out of `results` until this process ends, and clear away what a killed one left.

    Snakemake's own lock is a file that outlives a killed run, and is looked for before it is written, so that two runs
    started at once may miss each other. This one belongs to the process. Where it can be had, and the last run to have
    it was on this machine, that run is dead, and what Snakemake keeps locked for it is nobody's.

    Parameters
    ----------
    results : Path
        Folder of the results; where there is none yet, none is made.
    state : Path
        Snakemake's own folder (``.snakemake``).

    Raises
    ------
    NotAloneError
        If another run is at work.
    OSError
        If the folder cannot be written to.
    """
    handle = os.open(state / "oddlattice.run", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
        os.close(handle)
        raise NotAloneError(f"{results}: found another run at work here ({who}); needed it to end first") from None
    except OSError:  # a file system without locks: Snakemake's has to do
        os.close(handle)
        return
    _kept.append(handle)
    last = os.read(handle, 200).decode("utf-8", "replace")
    here = socket.gethostname()
    if f" on {here}\n" in last:
        for lock in (state / "locks").glob("*.lock"):
            with suppress(FileNotFoundError):
                if any(_PRODUCT.match(line) for line in lock.read_text(errors="replace").splitlines()):
                    lock.unlink()
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {here}\n".encode(), 0)
    sweep(results)
