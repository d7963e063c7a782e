"""Raw microscope files: what is checked before parsing, and their signals as HyperSpy reads them.

Files are hostile: `open_checked`, `check_hdf5` and `load` belong into a child process with limits (children.py).
"""

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.archive import transient
from oddlattice.process.sandbox import Refused

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
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
_NEEDED = "need a DigitalMicrograph file (.dm3, .dm4) or an HDF5-based .emd"
_LARGEST_TREE = 100_000
_DEEPEST_TREE = 64
#: A dataset that claims more than this [bytes] must be stored in at least 1/_LARGEST_RATIO of it.
_HARMLESS_BYTES = 256 << 20
_LARGEST_RATIO = 200
_METADATA_BYTES = 64_000
#: Rows of an image that are read together: those of a chunk that is written.
BAND_ROWS = 1024
_LONGEST_TEXT = 2_000
_LONGEST_LIST = 64


@dataclass(frozen=True)
class Axis:
    """One axis of a signal; `scale` in `units` per pixel."""

    name: str
    size: int
    scale: float
    units: str
    navigate: bool


@dataclass(frozen=True)
class Signal:
    """One signal of a file, as HyperSpy reads it.

    Attributes
    ----------
    index : int
        Place in the file.
    name, detector : str
        Title, and the detector where the file tells ("" where not).
    data : numpy or dask array, or None
        Pixels, axes as in `axes`; None where the signal is named but not loaded.
    axes : tuple of Axis
        One for each dimension of `data`.
    dimension : int
        HyperSpy's signal dimension (1 for spectra, 2 for images).
    refusal : str
        Why it cannot be an image, when that is known without its data; else "".
    acquired : str
        ISO time, "" where unknown; with a zone where the file tells.
    metadata : dict
        Original metadata, JSON-able, of limited size.
    """

    index: int
    name: str
    detector: str
    data: Any
    axes: tuple[Axis, ...]
    dimension: int
    refusal: str
    acquired: str
    metadata: dict[str, Any]


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


def family(handle: int) -> str:
    """Tell what an open file holds by its first bytes: "dm" or "emd".

    Raises
    ------
    Refused
        If it is neither; the reason says what it looks like.
    """
    head = os.pread(handle, 4096, 0)
    size = os.fstat(handle).st_size
    if head.startswith(b"version https://git-lfs"):
        raise Refused("is a Git-LFS pointer, not the data: fetch the file itself (git lfs pull)")
    for start in (0, 512, 1024, 2048):  # HDF5 allows a user block in front
        if head[start : start + 8] == HDF5_MAGIC:
            return "emd"
    if _is_dm_header(head):
        return "dm"
    if not any(head):
        raise Refused(f"holds zeros where the header should be ({size} bytes): probably never written out; {_NEEDED}")
    for magic, name in _STRANGERS.items():
        if head.startswith(magic):
            raise Refused(f"looks like {name}; {_NEEDED}")
    raise Refused(f"has no known signature (starts with {head[:8].hex(' ')}); {_NEEDED}")


def _is_dm_header(head: bytes) -> bool:
    version = int.from_bytes(head[:4], "big")
    if version not in (3, 4):
        return False
    place = 8 if version == 3 else 12
    return int.from_bytes(head[place : place + 4], "big") in (0, 1) and len(head) >= place + 4


def missing_bytes(handle: int) -> int:
    """How many bytes a DM file lacks of the length in its header; 0 where it is complete or does not tell."""
    head = os.pread(handle, 12, 0)
    version = int.from_bytes(head[:4], "big")
    claimed = int.from_bytes(head[4:8], "big") + 16 if version == 3 else int.from_bytes(head[4:12], "big") + 24
    missing = claimed - os.fstat(handle).st_size
    return missing if 64 < missing < 1 << 40 else 0  # writers differ by some bytes in what they count


def check_hdf5(path: str) -> None:
    """Refuse an HDF5 file that points outside itself, runs in circles or claims far more than it holds.

    RosettaSciIO follows external links, external storage and virtual datasets: a crafted file would put another
    file's bytes into an image.

    Raises
    ------
    Refused
        With the object's name and what is wrong with it.
    """
    import h5py

    size = os.path.getsize(path)
    with h5py.File(path, "r") as file:
        for where, dataset in _datasets(file):
            _check_dataset(where, dataset, size)


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield all datasets with their names; external links are looked at, never followed."""
    import h5py

    seen = 0
    soft: list[tuple[Any, str, str]] = []
    waiting: list[tuple[str, Any, frozenset[int]]] = [("", file, frozenset())]
    while waiting:
        where, group, above = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in above:
            raise Refused(f"is built in a circle: group {_shown(where)} contains itself")
        if len(above) >= _DEEPEST_TREE:
            raise Refused(f"nests groups deeper than {_DEEPEST_TREE} levels")
        for name in group:
            seen += 1
            if seen > _LARGEST_TREE:
                raise Refused(f"holds more than {_LARGEST_TREE} objects; an image file has some hundred")
            inside = f"{where}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise Refused(f"refers to another file ({_shown(inside)} is an external link); refused for safety")
            if isinstance(link, h5py.SoftLink):
                soft.append((group, name, inside))
                continue
            found = group[name]
            if isinstance(found, h5py.Dataset):
                yield inside, found
            elif isinstance(found, h5py.Group):
                waiting.append((inside, found, above | {address}))
    for group, name, inside in soft:  # only now that no link leads out of the file
        _check_soft_link(file, group, name, inside)


def _check_soft_link(file: Any, group: Any, name: str, inside: str) -> None:
    """A soft link may lead to a dataset of this file, not to a group around itself, nor to other links without end."""
    import h5py

    try:
        target = group[name]
    except (KeyError, RuntimeError) as error:
        if "too many links" in str(error):
            raise Refused(f"has a link in a circle ({_shown(inside)}); refused for safety") from None
        return  # leads nowhere: does no harm
    if isinstance(target, h5py.Group):
        goal = h5py.h5o.get_info(target.id).addr
        parts = inside.split("/")[1:-1]
        around = [file, *(file["/".join(parts[: n + 1])] for n in range(len(parts)))]
        if goal in (h5py.h5o.get_info(g.id).addr for g in around):
            raise Refused(f"has a link in a circle ({_shown(inside)}); refused for safety")


def _check_dataset(where: str, dataset: Any, file_bytes: int) -> None:
    shown = _shown(where)
    if dataset.is_virtual:
        raise Refused(f"refers to other files ({shown} is a virtual dataset); refused for safety")
    if dataset.external:
        raise Refused(f"refers to another file ({shown} has external storage); refused for safety")
    if dataset.shape is None:
        return
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    if dataset.chunks is None and claimed > file_bytes:
        raise Refused(f"claims {amount(claimed)} of data ({shown}) but is {amount(file_bytes)} long: damaged or forged")
    stored = dataset.id.get_storage_size()
    if claimed > _HARMLESS_BYTES and claimed > _LARGEST_RATIO * stored:
        raise Refused(f"claims {amount(claimed)} of data ({shown}) in {amount(stored)}: damaged or forged")


def _shown(where: str) -> str:
    printable = where.encode("ascii", "backslashreplace").decode()
    return printable if len(printable) <= 80 else printable[:77] + "..."


def amount(n_bytes: float) -> str:
    """A number of bytes in words, such as "40 GB"."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} {unit}" if unit == "bytes" or n_bytes >= 10 else f"{n_bytes:.1f} {unit}"


@contextlib.contextmanager
def safe_name(handle: int, kind: str, folder: Path) -> Iterator[Path]:
    """A plain name for an open file: HyperSpy takes `*` and `[` in names for patterns.

    It leads through /proc to the open file itself, so that what was checked is what is read, even if the archive
    changes meanwhile.
    """
    link = folder / f"input.{'dm4' if kind == 'dm' else 'emd'}"
    link.symlink_to(f"/proc/self/fd/{handle}")
    try:
        yield link
    finally:
        link.unlink()


def load(path: Path, kind: str) -> list[Signal]:
    """Read all signals of a checked file, lazily.

    Parameters
    ----------
    path : Path
        A plain name, see `safe_name`.
    kind : str
        "dm" or "emd", see `family`.

    Raises
    ------
    Refused
        If the file claims more data than it is long.
    Exception
        Whatever the reader raises.
    """
    if kind == "dm":
        return _load_dm(path)
    if is_velox(path):
        return _load_velox(path)
    return [_signal(i, s) for i, s in enumerate(_hyperspy(path, file_format="EMD", stack_group=False))]


def _hyperspy(path: Path, **options: Any) -> list[Any]:
    import hyperspy.api as hs

    found = hs.load(str(path), **({"lazy": True} | options))
    return list(found) if isinstance(found, list) else [found]


def _load_dm(path: Path) -> list[Signal]:
    try:
        # Pieces along the first axis alone: rows and frames come straight from the mapped file, without a copy.
        found = _hyperspy(path, file_format="DigitalMicrograph", chunks={0: BAND_ROWS})
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        found = _hyperspy(
            path, file_format="DigitalMicrograph", lazy=False
        )  # colour pictures are read at once or not at all
    size = os.path.getsize(path)
    for signal in found:
        # A packed Fourier transform is unpacked to twice its size.
        if signal.data.nbytes > (2 if signal.data.dtype.kind == "c" else 1) * size:
            claim = f"claims {amount(signal.data.nbytes)} of data"
            raise Refused(f"{claim} ({_dimensions(signal.data.shape)}) but is {amount(size)} long: damaged or forged")
    return [_signal(i, s) for i, s in enumerate(found)]


def is_velox(path: Path) -> bool:
    """Whether an HDF5-based file was written by Velox."""
    import h5py

    with h5py.File(path, "r") as file:
        if "Version" not in file or not isinstance(file["Version"], h5py.Dataset):
            return False
        version = json.loads(file["Version"][0])
        return isinstance(version, dict) and version.get("format") in ("Velox", "DevelopersKit")


def _load_velox(path: Path) -> list[Signal]:
    # Spectrum images are named but not loaded: building their cubes takes seconds and memory.
    signals = [_signal(i, s) for i, s in enumerate(_hyperspy(path, file_format="EMD", select_type="images"))]
    for name, refusal in _velox_spectra(path):
        signals.append(Signal(len(signals), name, "", None, (), 1, refusal, "", {}))
    return signals


def _velox_spectra(path: Path) -> list[tuple[str, str]]:
    import h5py

    kinds = {
        "Spectrum": ("EDS", "is a spectrum, not an image"),
        "SpectrumStream": ("EDS", "is an EDS spectrum image (a spectrum at every pixel), not an image"),
        "EelsSpectrumImage": ("EELS", "is an EELS spectrum image (a spectrum at every pixel), not an image"),
    }
    with h5py.File(path, "r") as file:
        data = file["Data"]
        return [kinds[kind] for kind in kinds if kind in data and len(data[kind])]


def _signal(index: int, signal: Any) -> Signal:
    original = signal.original_metadata.as_dictionary()
    axes = tuple(
        Axis(text(a.name), int(a.size), float(a.scale), text(a.units), bool(a.navigate))
        for a in signal.axes_manager._axes
    )
    title = text(signal.metadata.get_item("General.title", default=""))
    name = "" if title in ("input", "__unnamed__") else title
    dimension = int(signal.axes_manager.signal_dimension)
    detector = _detector(original, name)
    acquired = _acquired(signal.metadata, original)
    return Signal(index, name, detector, signal.data, axes, dimension, "", acquired, limited(original))


def text(value: object) -> str:
    """A label from a file as text on one line; anything that is no text ("<undefined>" of traits) as nothing."""
    if not isinstance(value, str):
        return ""
    cleaned = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in cleaned).split())[:200]


def _detector(original: dict[str, Any], name: str) -> str:
    """The detector's name: Velox gives it as the title; DigitalMicrograph in one of several tags, if at all."""
    if "BinaryResult" in original:
        return text(original["BinaryResult"].get("Detector", "")) or name
    tags = original
    for key in ("ImageList", "TagGroup0", "ImageTags"):
        tags = tags.get(key, {}) if isinstance(tags, dict) else {}
    for way in (
        ("DataBar", "Signal Name"),
        ("DigiScan", "Signal Name"),
        ("QuickSaved", "Temp-Tags", "Detector"),
        ("Acquisition", "Device", "Name"),
    ):
        found: Any = tags
        for key in way:
            found = found.get(key) if isinstance(found, dict) else None
        if text(found):
            return text(found)
    return ""


def _acquired(metadata: Any, original: dict[str, Any]) -> str:
    date = text(metadata.get_item("General.date", default=""))
    time = text(metadata.get_item("General.time", default=""))
    if not date:
        return ""
    zone = "+00:00" if "BinaryResult" in original and time else ""  # Velox keeps seconds since 1970, read here in UTC
    return f"{date}T{time}{zone}" if time else date


def limited(metadata: dict[str, Any], budget: int = _METADATA_BYTES) -> dict[str, Any]:
    """Metadata as JSON can hold it, in about `budget` bytes; what is left out is counted under "_left_out".

    The image's own tags come before windows, rulers and printers.
    """
    left = [budget, 0]
    first = sorted(metadata, key=lambda key: key not in ("ImageList", "BinaryResult", "Scan", "Optics", "Detectors"))
    kept = {_key(key): _jsonable(metadata[key], left) for key in first if _spend(left, len(str(key)))}
    if left[1]:
        kept["_left_out"] = left[1]
    return kept


def _key(key: object) -> str:
    return str(key).encode("utf-8", "backslashreplace").decode("utf-8")[:_LONGEST_TEXT]


def _spend(left: list[int], cost: int) -> bool:
    """Take `cost` bytes from the budget; when it is used up count one item as left out."""
    left[0] -= cost + 6
    if left[0] < 0:
        left[1] += 1
    return left[0] >= 0


def _jsonable(value: Any, left: list[int], depth: int = 0) -> Any:
    if isinstance(value, dict):
        if depth > 30:
            return "..."
        return {
            _key(key): _jsonable(item, left, depth + 1) for key, item in value.items() if _spend(left, len(str(key)))
        }
    if isinstance(value, np.ndarray | list | tuple):
        if len(np.shape(value) if isinstance(value, np.ndarray) else ()) > 1 or len(value) > _LONGEST_LIST:
            return f"({len(value)} values)"
        return [_jsonable(item, left, depth + 1) for item in value if _spend(left, 8)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    kept = str(value)[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")
    return kept if _spend(left, len(kept)) else "..."


def _dimensions(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
