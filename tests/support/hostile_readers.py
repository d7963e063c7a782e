"""Readers that misbehave on files of a certain name; they run in the child process."""

import ctypes
import os
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from oddlattice.archive import transient
from oddlattice.process.sandbox import Refused
from oddlattice.read.read_file import Row, read_file


def hang(path: str) -> NoReturn:
    time.sleep(600)
    raise AssertionError


def spin(path: str) -> NoReturn:
    while True:
        pass


def segfault(path: str) -> NoReturn:
    ctypes.string_at(8)
    raise AssertionError


def eat(path: str) -> NoReturn:
    hoard = []
    while True:
        hoard.append(bytearray(b"x" * (1 << 24)))


def recurse(path: str) -> NoReturn:
    recurse(path)


def leave(path: str) -> NoReturn:
    os._exit(7)


def quit_politely(path: str) -> NoReturn:
    raise SystemExit(3)


def fail(path: str) -> NoReturn:
    raise UnboundLocalError("cannot access local variable\n'data'")


def fail_on_change(path: str) -> NoReturn:
    os.utime(path, ns=(1, 1))
    raise OSError("could not read")


def fill_disk(path: str) -> NoReturn:
    raise RuntimeError("while writing") from OSError(28, "No space left on device")


AT_ONCE = {"hangs": hang, "spins": spin, "segfaults": segfault, "eats": eat, "recurses": recurse, "exits": leave}
AT_ONCE |= {"quits": quit_politely, "raises": fail}
IN_THE_END = {"late": segfault, "grows": fail_on_change, "full": fill_disk}  # with the images written


def read(file: Mapping[str, Any], path: str, folder: str, settings: Mapping[str, Any], threads: int = 1) -> list[Row]:
    name = os.path.basename(path).removesuffix(".dm4")
    if name in AT_ONCE:
        AT_ONCE[name](path)
    rows = read_file(file, path, folder, settings, threads)
    if name in IN_THE_END:
        IN_THE_END[name](path)
    return rows


def fail_to_read(
    file: Mapping[str, Any], path: str, folder: str, settings: Mapping[str, Any], threads: int = 1
) -> list[Row]:
    """A file on a disk that cannot give all of it."""
    raise Refused(f"{transient.UNREADABLE}: Input/output error")
