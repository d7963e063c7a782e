"""DigitalMicrograph (.dm3, .dm4)."""

import os
from pathlib import Path
from typing import Any

from oddlattice.process.sandbox import Refused
from oddlattice.read.amounts import amount, dimensions
from oddlattice.read.signals import Signal, loaded, signal_of

#: Rows of an image that are read together: those of a chunk that is written.
BAND_ROWS = 1024
MODULES = ("rsciio.digitalmicrograph._api",)


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is a DM3 or DM4."""
    version = int.from_bytes(head[:4], "big")
    if version not in (3, 4):
        return False
    place = 8 if version == 3 else 12
    return int.from_bytes(head[place : place + 4], "big") in (0, 1) and len(head) >= place + 4


def missing_bytes(handle: int) -> int:
    """How many bytes a DM file lacks of the length in its header; 0 where that is not told."""
    head = os.pread(handle, 12, 0)
    version = int.from_bytes(head[:4], "big")
    if version not in (3, 4):
        return 0
    claimed = int.from_bytes(head[4:8], "big") + 16 if version == 3 else int.from_bytes(head[4:12], "big") + 24
    missing = claimed - os.fstat(handle).st_size
    return missing if 64 < missing < 1 << 40 else 0  # writers differ by some bytes in what they count


def check(path: Path) -> None:
    """Nothing before parsing: what a file claims is known when its tags are read, before its pixels are."""


def load(path: Path) -> list[Signal]:
    """Read all signals of a file, lazily.

    Raises
    ------
    Refused
        If the file claims more data than it is long.
    """
    try:
        # Pieces along the first axis alone: rows and frames come straight from the mapped file, without a copy.
        found = loaded(path, file_format="DigitalMicrograph", chunks={0: BAND_ROWS})
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        found = loaded(
            path, file_format="DigitalMicrograph", lazy=False
        )  # colour pictures are read at once or not at all
    size = os.path.getsize(path)
    for signal in found:
        # A packed Fourier transform is unpacked to twice its size.
        if signal.data.nbytes > (2 if signal.data.dtype.kind == "c" else 1) * size:
            claim = f"claims {amount(signal.data.nbytes)} of data"
            raise Refused(f"{claim} ({dimensions(signal.data.shape)}) but is {amount(size)} long: damaged or forged")
    if not _is_little(path):
        for signal in found:
            signal.data = _swapped(signal.data)
    return [signal_of(i, s) for i, s in enumerate(found)]


def _is_little(path: Path) -> bool:
    """Whether the numbers of a file are little-endian, as its header tells; RosettaSciIO takes pixels for little."""
    with open(path, "rb") as file:
        head = file.read(16)
    place = 8 if head[3] == 3 else 12
    return int.from_bytes(head[place : place + 4], "big") == 1


def _swapped(data: Any) -> Any:
    """An array whose values were read in the other byte order."""
    if hasattr(data, "map_blocks"):
        return data.map_blocks(_swapped, dtype=data.dtype)
    return data.byteswap()
