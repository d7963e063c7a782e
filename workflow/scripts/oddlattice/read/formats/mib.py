"""Quantum Detectors' Merlin (.mib): patterns of a pixelated detector, as 4D-STEM where the scan's shape is told."""

import os
from dataclasses import replace
from pathlib import Path

from oddlattice.process.sandbox import Refused
from oddlattice.read.claims import check_length
from oddlattice.read.signals import Signal, signal_of_dict

MODULES = ("rsciio.quantumdetector._api",)
BYTES_OF = {"U08": 1, "U16": 2, "U32": 4}
LARGEST_SIDE_PX = 8192


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is a MIB."""
    return head.startswith(b"MQ1,")


def check(path: Path) -> None:
    """Refuse a file whose first header is none, or that is shorter than one pattern.

    Raises
    ------
    Refused
        With what is wrong with it.
    """
    with open(path, "rb") as file:
        told = file.read(384).split(b",")
    try:
        head_bytes, cols, rows = (int(told[k]) for k in (2, 4, 5))
        kind = told[6].decode("ascii")
    except (IndexError, ValueError):
        raise Refused("has no header of a MIB file: damaged or forged") from None
    if kind not in BYTES_OF:
        raise Refused(f"has pixels of the kind {kind!r}; needs {', '.join(BYTES_OF)} (raw patterns are not read)")
    if head_bytes not in (384, 768) or not (0 < rows <= LARGEST_SIDE_PX and 0 < cols <= LARGEST_SIDE_PX):
        raise Refused(f"claims patterns of {rows} x {cols} px after a header of {head_bytes} bytes: damaged or forged")
    check_length(head_bytes + rows * cols * BYTES_OF[kind], os.path.getsize(path), f"a pattern of {rows} x {cols} px")


def load(path: Path) -> list[Signal]:
    """Read a checked file, lazily; patterns without the shape of their scan are no image."""
    from rsciio.quantumdetector import file_reader

    found = [signal_of_dict(k, one) for k, one in enumerate(file_reader(str(path), lazy=True))]
    return [one if one.data.ndim == 4 else replace(one, refusal=_no_scan(one)) for one in found]


def _no_scan(signal: Signal) -> str:
    if signal.data.ndim == 2:
        return "is one diffraction pattern, not an image"
    number = signal.data.shape[0]
    return f"holds {number} diffraction patterns and not the shape of their scan: put the .hdr file beside it"
