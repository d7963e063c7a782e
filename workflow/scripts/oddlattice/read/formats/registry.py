"""The formats that are read: a new one is a module beside this one and a line in `FORMATS`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from oddlattice.process.sandbox import Refused
from oddlattice.read.formats import dm, emd_ncem, emd_velox, hdf5
from oddlattice.read.signals import Signal

#: What files that are none of ours start with.
_STRANGERS = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"II*\x00": "a TIFF picture",
    b"MM\x00*": "a TIFF picture",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip-compressed file",
    b"%PDF": "a PDF document",
    b"<": "a web page or XML text",
    b"\x97\x01": "a TIA series (.ser)",
    b"BM": "a bitmap picture",
}


class Format(NamedTuple):
    """How files of a format are told, checked and read.

    Attributes
    ----------
    name : str
        For people.
    endings : tuple of str
        Of the names of its files, in lower case.
    starts : function
        Whether a file whose first 4096 bytes are given may be one.
    check : function
        Refuses a file that is not safe to parse; formats in the same container share it.
    is_one : function
        Whether a checked file is one.
    load : function
        All signals of a checked file, as lazy as the reader can.
    modules : tuple of str
        What `load` imports: loaded once for all files.
    """

    name: str
    endings: tuple[str, ...]
    starts: Callable[[bytes], bool]
    check: Callable[[Path], None]
    is_one: Callable[[Path], bool]
    load: Callable[[Path], list[Signal]]
    modules: tuple[str, ...] = ()


def any_file(_path: Path) -> bool:
    """A format that its first bytes tell."""
    return True


FORMATS = (
    Format("DigitalMicrograph", (".dm3", ".dm4"), dm.starts, dm.check, any_file, dm.load, dm.MODULES),
    Format("Velox", (".emd",), hdf5.starts, hdf5.check, emd_velox.is_one, emd_velox.load, emd_velox.MODULES),
    Format("NCEM EMD", (".emd",), hdf5.starts, hdf5.check, any_file, emd_ncem.load, emd_ncem.MODULES),
)
_NEEDED = "need a DigitalMicrograph file (.dm3, .dm4) or an HDF5-based .emd"


def candidates(handle: int) -> tuple[Format, ...]:
    """The formats that an open file may have by its first bytes; they share container and check.

    Raises
    ------
    Refused
        If there is none; the reason says what the file looks like.
    """
    head = os.pread(handle, 4096, 0)
    size = os.fstat(handle).st_size
    if head.startswith(b"version https://git-lfs"):
        raise Refused("is a Git-LFS pointer, not the data: fetch the file itself (git lfs pull)")
    if head.startswith(b"\x00\x05\x16\x07"):
        raise Refused("is what macOS keeps beside a file (AppleDouble, its name starts with ._), not the file itself")
    if found := tuple(known for known in FORMATS if known.starts(head)):
        return found
    if not any(head):
        raise Refused(f"holds zeros where the header should be ({size} bytes): probably never written out; {_NEEDED}")
    for magic, name in _STRANGERS.items():
        if head.startswith(magic):
            raise Refused(f"looks like {name}; {_NEEDED}")
    raise Refused(f"has no known signature (starts with {head[:8].hex(' ')}); {_NEEDED}")


def load(path: Path, formats: tuple[Format, ...]) -> list[Signal]:
    """Check a file, tell its format and read all of its signals, as lazy as the reader can.

    Parameters
    ----------
    path : Path
        A plain name, see checks.safe_name.
    formats : tuple of Format
        See `candidates`.

    Raises
    ------
    Refused
        If the file is not safe to parse, claims more data than it is long, or has none of the formats.
    Exception
        Whatever the reader raises.
    """
    formats[0].check(path)
    for known in formats:
        if known.is_one(path):
            return known.load(path)
    raise Refused(f"has the container but not the content of {' or '.join(known.name for known in formats)}")
