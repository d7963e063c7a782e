"""A small disk, to be filled: a tmpfs."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs mounted at `folder`."""

    def __init__(self, folder: Path, kb: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={kb}k", "small")

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(self.folder)], check=True, capture_output=True)

    def change(self, kb: int, how: str = "rw") -> None:
        """Give it another size, or make it read-only ("ro")."""
        self._mount("-o", f"remount,{how},size={kb}k")

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(folder: Path, kb: int) -> Iterator[SmallDisk]:
    """Mount one, or skip the test where that is not allowed."""
    try:
        disk = SmallDisk(folder, kb)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"SKIPPED LOUDLY: no file system can be mounted here ({error}), full disks are not tested")
    try:
        yield disk
    finally:
        disk.close()
