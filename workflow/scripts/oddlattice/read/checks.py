"""What is checked of a file before it is parsed: that it is there and is the one that was scanned.

Files are hostile: all of this belongs into a child process with limits (process/sandbox.py).
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from oddlattice.archive import transient
from oddlattice.process.sandbox import Refused

_LARGEST_BESIDE = 64 << 20


def open_checked(path: str, size_bytes: int, mtime_ns: int) -> int:
    """Open a file for reading, having made sure that it is still the one that was scanned.

    Returns
    -------
    int
        File descriptor.

    Raises
    ------
    Refused
        If it is gone, not readable, no plain file, empty or changed.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # NONBLOCK: a named pipe would wait for ever
    except FileNotFoundError:
        raise Refused(transient.VANISHED) from None
    except PermissionError:
        raise Refused(transient.FORBIDDEN) from None
    except OSError as error:
        raise Refused(f"{transient.UNOPENED}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused("is no plain file")
    check_unchanged(handle, size_bytes, mtime_ns)
    if size_bytes == 0:
        raise Refused("is empty (0 bytes)")
    return handle


def check_unchanged(handle: int, size_bytes: int, mtime_ns: int) -> None:
    """Raise `Refused` if the open file is no longer the one that was scanned."""
    now = os.fstat(handle)
    if (now.st_size, now.st_mtime_ns) != (size_bytes, mtime_ns):
        raise Refused(transient.CHANGED)


def sha256(handle: int) -> str:
    """SHA-256 of an open file, hexadecimal.

    Raises
    ------
    Refused
        If the file system cannot give all of it.
    """
    digest = hashlib.sha256()
    place = 0
    try:
        while block := os.pread(handle, 1 << 20, place):
            digest.update(block)
            place += len(block)
    except OSError as error:
        raise Refused(f"{transient.UNREADABLE}: {error.strerror}") from None
    return digest.hexdigest()


@contextlib.contextmanager
def safe_name(handle: int, ending: str, folder: Path, path: str = "", beside: tuple[str, ...] = ()) -> Iterator[Path]:
    """A plain name for an open file, ending in `ending`: HyperSpy takes `*` and `[` in names for patterns.

    It leads through /proc to the open file itself, so that what was checked is what is read, even if the archive
    changes meanwhile. Files of the same name as `path` with the endings `beside` are to be found beside it.
    """
    stem = re.sub(r"_\d+$", "", os.path.splitext(path)[0]) if ending == ".ser" else os.path.splitext(path)[0]
    others = {other: found for other in beside if (found := _small_file(stem + other)) is not None}
    links = {folder / f"input{end}": number for end, number in {ending: handle, **others}.items()}
    for link, number in links.items():
        link.symlink_to(f"/proc/self/fd/{number}")
    try:
        yield folder / f"input{ending}"
    finally:
        for link in links:
            link.unlink()
        for number in others.values():
            os.close(number)


def _small_file(path: str) -> int | None:
    """A plain file, no link, of a size that a description may have, opened for reading; None where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    about = os.fstat(handle)
    if stat.S_ISREG(about.st_mode) and about.st_size <= _LARGEST_BESIDE:
        return handle
    os.close(handle)
    return None
