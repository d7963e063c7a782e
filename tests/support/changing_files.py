"""Files that change under their reader: what happens to one is said by its name, such as ``during-truncate.dm4``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oddlattice.read.formats import registry
from oddlattice.read.read_file import Row, read_file
from oddlattice.read.signals import Signal


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\0" * 5000)


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


def replace(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes()[:-1] + b"\1\2")
    os.replace(new, path)


def delete(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("renamed " + path.name))


def forbid(path: Path) -> None:
    path.chmod(0)


def unmount(path: Path) -> None:
    path.parent.rename(path.parent.with_name("away"))


CHANGES = (grow, truncate, replace, delete, rename, forbid, unmount)


def read(file: Mapping[str, Any], path: str, folder: str, settings: Mapping[str, Any], threads: int = 1) -> list[Row]:
    """`read_file`, with the file changed before it is opened, or when it is open and its pixels are not read yet."""
    when, _, what = Path(path).stem.partition("-")
    change = {function.__name__: function for function in CHANGES}.get(what)
    if change is None:
        return read_file(file, path, folder, settings, threads)
    if when == "before":
        change(Path(path))
        return read_file(file, path, folder, settings, threads)
    load = registry.load

    def load_and_change(name: Path, formats: tuple[registry.Format, ...]) -> list[Signal]:
        found = load(name, formats)
        change(Path(path))
        return found

    registry.load = load_and_change  # this process reads one file and ends
    return read_file(file, path, folder, settings, threads)
