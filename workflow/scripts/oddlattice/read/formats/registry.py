"""The formats that are read: a new one is a module beside this one and a line in `FORMATS`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from oddlattice.process.sandbox import Refused
from oddlattice.read.formats import (
    dm,
    emd_ncem,
    emd_velox,
    hdf5,
    hspy,
    mib,
    mrc,
    nion_h5,
    npy,
    tia,
    tiff,
    zipped,
)
from oddlattice.read.signals import Signal

#: What files that are none of ours start with.
_STRANGERS = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"\x1f\x8b": "a gzip-compressed file",
    b"%PDF": "a PDF document",
    b"<": "a web page or XML text",
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
    beside : tuple of str
        Endings of a file of the same name that tells more of it, if it is there.
    """

    name: str
    endings: tuple[str, ...]
    starts: Callable[[bytes], bool]
    check: Callable[[Path], None]
    is_one: Callable[[Path], bool]
    load: Callable[[Path], list[Signal]]
    modules: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def any_file(_path: Path) -> bool:
    """A format that its first bytes tell."""
    return True


_HDF5 = (hdf5.starts, hdf5.check)
_ZIP = (zipped.starts, zipped.check)
FORMATS = (
    Format("DigitalMicrograph", (".dm3", ".dm4"), dm.starts, dm.check, any_file, dm.load, dm.MODULES),
    Format("Velox", (".emd",), *_HDF5, emd_velox.is_one, emd_velox.load, emd_velox.MODULES),
    Format("HyperSpy", (".hspy",), *_HDF5, hspy.is_one, hspy.load, hspy.MODULES),
    Format("Nion Swift", (".h5",), *_HDF5, nion_h5.is_one, nion_h5.load, nion_h5.MODULES),
    Format("NCEM EMD", (".emd",), *_HDF5, emd_ncem.is_one, emd_ncem.load, emd_ncem.MODULES),
    Format("TIFF", (".tif", ".tiff"), tiff.starts, tiff.check, any_file, tiff.load, tiff.MODULES),
    Format("TIA", (".ser",), tia.starts, tia.check, any_file, tia.load, tia.MODULES, (".emi",)),
    Format("MRC", (".mrc",), mrc.starts, mrc.check, any_file, mrc.load, mrc.MODULES),
    Format("Merlin", (".mib",), mib.starts, mib.check, any_file, mib.load, mib.MODULES, (".hdr",)),
    Format("NumPy", (".npy",), npy.starts, npy.check, any_file, npy.load, npy.MODULES, npy.SIDECARS),
    Format("Nion Swift", (".ndata1",), *_ZIP, zipped.is_ndata, zipped.load_ndata),
    Format("Panta Rhei", (".prz",), *_ZIP, zipped.is_prz, zipped.load_prz, zipped.PRZ_MODULES),
)
_ENDINGS = dict.fromkeys(ending for known in FORMATS for ending in known.endings)
_NEEDED = f"need a microscope file ({', '.join(_ENDINGS)})"


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


def ending_of(path: str, formats: tuple[Format, ...]) -> str:
    """The ending of a name where it is one of its candidates', else that of the first: some readers go by it."""
    known = [ending for one in formats for ending in one.endings]
    found = os.path.splitext(path)[1].lower()
    return found if found in known else known[0]


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
    container = "is a zip archive that" if formats[0].check is zipped.check else "is an HDF5 file that"
    raise Refused(f"{container} holds no image of {' or '.join(known.name for known in formats)}; {_NEEDED}")
