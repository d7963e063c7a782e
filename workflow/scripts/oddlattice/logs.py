"""Where a job's words go: everything a script and its children print ends up in the log file of its rule."""

import os
import sys
from pathlib import Path


def log_to(path: str | Path) -> None:
    """Send what this process prints from now on, tracebacks and child processes included, to a fresh file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
