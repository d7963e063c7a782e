"""Products appear whole or not at all: written under a temporary name, flushed to disk, then renamed."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fsync_tree(folder: Path) -> None:
    """Flush a folder with all that is in it; side by side, so that the disk writes its journal once for many files."""
    paths = [Path(inside) / name for inside, _, names in os.walk(folder) for name in [*names, "."]]
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(_fsync, paths):
            pass


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and becomes `path`, on error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    part.unlink(missing_ok=True)
    try:
        yield part
        _fsync(part)
        os.replace(part, path)
        _fsync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is flushed and becomes `path`, on error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        _fsync_tree(part)
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) as a whole file."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
