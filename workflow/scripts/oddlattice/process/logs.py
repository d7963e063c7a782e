"""Where a job's words go: everything a script and its children print ends up in the log file of its rule."""

import errno
import os
import sys
from pathlib import Path
from types import TracebackType

from oddlattice.process.parent_death import die_with_parent

_terminal = 2  # where words went before they went to the log
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def log_to(path: str | Path) -> None:
    """Send what this process prints from now on, tracebacks and child processes included, to a fresh file.

    A job also ends with the run that started it: were the run killed and started again, both would write.
    """
    die_with_parent(os.getppid())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    global _terminal
    _terminal = os.dup(2)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    sys.excepthook = say_plainly


def say_plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what a person can act on as one sentence; anything else, being a fault of ours, with its traceback."""
    if isinstance(error, OSError) and error.errno in NO_PLACE:
        reason = os.strerror(error.errno)
        sentence = f"The results cannot be written: {reason}. Nothing half-written is kept; run again later."
        try:
            print(sentence, flush=True)
        except OSError:  # the log lies on the same disk
            os.write(_terminal, f"{sentence}\n".encode())
    else:
        sys.__excepthook__(kind, error, trace)
