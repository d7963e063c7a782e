"""TIA series (.ser), with what its .emi beside it tells."""

import math
import os
import struct
from pathlib import Path

from oddlattice.read.amounts import dimensions
from oddlattice.read.claims import check_length
from oddlattice.read.signals import Signal, signal_of_dict

MODULES = ("rsciio.tia._api",)
_IMAGES = 0x4122  # the kind of data; spectra are 0x4120
_LAST_OF_32_BIT = 0x210  # places in the file are of 8 bytes in later versions


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is a series of TIA."""
    return head[:4] == b"II\x97\x01"


def check(path: Path) -> None:
    """Refuse a file that is shorter than the images its header claims."""
    with open(path, "rb") as file:
        head = file.read(34)
        version, number = *struct.unpack_from("<H", head, 4), *struct.unpack_from("<I", head, 18)
        pointer = "<I" if version <= _LAST_OF_32_BIT else "<Q"
        file.seek(*struct.unpack_from(pointer, head, 22))
        file.seek(*struct.unpack(pointer, file.read(struct.calcsize(pointer))))
        element = file.read(50)
    if struct.unpack_from("<I", head, 6)[0] == _IMAGES:
        sides = struct.unpack_from("<II", element, 42)
        check_length(number * math.prod(sides), os.path.getsize(path), dimensions((number, *sides[::-1])))  # of a byte


def load(path: Path) -> list[Signal]:
    """Read the images of a file, lazily.

    Raises
    ------
    Refused
        If the file claims more data than it is long.
    """
    from rsciio.tia._api import get_xml_info_from_emi, ser_reader

    beside = path.with_suffix(".emi")
    objects = get_xml_info_from_emi(str(beside)) if beside.exists() else []
    found = ser_reader(str(path), objects or None, lazy=True)
    found = found if isinstance(found, list) else [found]
    size = os.path.getsize(path)
    for one in found:
        check_length(one["data"].nbytes, size, dimensions(one["data"].shape))
    return [signal_of_dict(index, one) for index, one in enumerate(found)]
