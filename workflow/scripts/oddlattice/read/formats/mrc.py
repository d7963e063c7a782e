"""MRC (.mrc): an image or a stack behind a header of 1,024 bytes."""

import math
import os
import struct
from pathlib import Path

from oddlattice.process.sandbox import Refused
from oddlattice.read.amounts import dimensions
from oddlattice.read.claims import check_length
from oddlattice.read.signals import Signal, signal_of_dict

MODULES = ("rsciio.mrc._api",)
_BYTES_OF_MODE = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}
#: A pixel of 1 Å is what writers leave that know no scale [nm].
_NO_SCALE_NM = 0.1


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is an MRC of 2000 or later."""
    return head[208:211] == b"MAP"


def check(path: Path) -> None:
    """Refuse a file that is shorter than its header claims."""
    with open(path, "rb") as file:
        head = file.read(1024)
    words = struct.unpack(">24i" if head[212:214] == b"\x11\x11" else "<24i", head[:96])
    shape, mode, extended = (words[2], words[1], words[0]), words[3], words[23]
    if mode not in _BYTES_OF_MODE:
        raise Refused(f"holds pixels of MRC mode {mode}, which is none that is known")
    if min(shape) < 1 or extended < 0:
        raise Refused(f"claims an image of {dimensions(shape)} px: damaged or forged")
    check_length(1024 + extended + math.prod(shape) * _BYTES_OF_MODE[mode], os.path.getsize(path), dimensions(shape))


def load(path: Path) -> list[Signal]:
    """Read the image or stack of a checked file, lazily."""
    from rsciio.mrc import file_reader

    found = file_reader(str(path), lazy=True)
    for axis in (axis for one in found for axis in one["axes"] if not axis["navigate"]):
        if math.isclose(axis["scale"], _NO_SCALE_NM, rel_tol=1e-6) or axis["scale"] == 1:
            axis["units"] = ""
    return [signal_of_dict(index, one) for index, one in enumerate(found)]
