"""One writer at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """Keep a second scan of the same results out while this one writes; a file system without locks goes without."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "a") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
