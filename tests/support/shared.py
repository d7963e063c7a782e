"""What several test files need and one of them makes: once in a test run, whichever of its processes asks first."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from build_demo_archive import build


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills; it is read by others too, so nobody may write to it."""
    own = factory.getbasetemp()
    top = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, part = top / f"shared {name}", top / f"shared {name}.part"
    with open(top / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.rename(folder)
    return folder


def demo_archive(factory: pytest.TempPathFactory) -> Path:
    """The folder with the demo archive, `archive`, and the table of what was put into it, `truth.csv`."""
    return once(factory, "demo", lambda folder: build(folder / "archive", folder / "truth.csv"))
