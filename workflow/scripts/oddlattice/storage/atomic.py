"""Products appear whole or not at all: written under a temporary name, flushed to disk, then renamed.

The temporary file or folder is locked by the process that writes it. So another one that makes the same product (a run
started again while a job of the one before still ends) waits for it, and what a killed process left can be told from
what is being written.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is(path: Path, handle: int) -> bool:
    """Whether `path` still names the open file or folder: its last owner may have renamed or removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def _owned(part: Path, is_folder: bool) -> Iterator[None]:
    """Make an empty file or folder `part` and keep it locked; waits while another process has it."""
    while True:
        if part.is_dir() != is_folder:
            _remove(part)
        if is_folder:
            part.mkdir(exist_ok=True)
        try:
            handle = os.open(part, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its owner has just finished
            continue
        with suppress(OSError):  # a file system without locks goes without
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{part}: another process is writing it; waiting for it to end", file=sys.stderr, flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
        if _is(part, handle):
            break
        os.close(handle)
    succeeded = False
    try:
        if is_folder:
            for left in part.iterdir():
                _remove(left)
        else:
            os.truncate(handle, 0)
        yield
        succeeded = True
    finally:
        if not succeeded:
            _remove(part)
        os.close(handle)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and becomes `path`, on error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    with _owned(part, is_folder=False):
        yield part
        _fsync(part)
        os.replace(part, path)
        _fsync(path.parent)


@contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is flushed and becomes `path`, on error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    with _owned(part, is_folder=True):
        yield part
        _fsync_tree(part)
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
        _fsync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) as a whole file."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_if_changed(path: Path, text: str) -> None:
    """Write a file only if its content changes, so that nothing that depends on it runs again for nothing."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except FileNotFoundError:
        pass
    write_text(path, text)


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left half-written in a folder and the folders in it; give what was removed."""
    removed = []
    for part in [*folder.glob(".*.part"), *folder.glob("*/.*.part")]:
        try:
            handle = os.open(part, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody is at it, or nobody can tell
            continue
        else:
            _remove(part)
            removed.append(part)
        finally:
            os.close(handle)
    return removed
