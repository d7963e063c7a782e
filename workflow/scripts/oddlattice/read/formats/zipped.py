"""Arrays in a zip archive: Nion Swift's .ndata1 and .prz of Panta Rhei."""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.process.sandbox import Refused
from oddlattice.read.amounts import dimensions
from oddlattice.read.claims import check_claim
from oddlattice.read.metadata import limited, text
from oddlattice.read.signals import Axis, Signal, signal_of_dict

PRZ_MODULES = ("rsciio.pantarhei._api",)
_MOST_ENTRIES = 100


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is a zip archive."""
    return head[:4] == b"PK\x03\x04"


def check(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it is."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise Refused(f"is a zip archive of {len(entries)} entries, not an image")
    for entry in entries:
        check_claim(entry.file_size, entry.compress_size, "in a zip archive")


def _holds(path: Path, *names: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        return set(names) <= set(archive.namelist())


def is_ndata(path: Path) -> bool:
    """Whether a zip archive was written by Nion Swift."""
    return _holds(path, "data.npy", "metadata.json")


def is_prz(path: Path) -> bool:
    """Whether a zip archive was written by Panta Rhei."""
    return _holds(path, "data.npy") and not is_ndata(path)


def load_prz(path: Path) -> list[Signal]:
    """Read the data set of Panta Rhei; of versions before 24.03, whose metadata are a pickle, the pixels alone."""
    from rsciio.pantarhei import file_reader

    return [signal_of_dict(index, one) for index, one in enumerate(file_reader(str(path)))]


def load_ndata(path: Path) -> list[Signal]:
    """Read the data item of Nion Swift."""
    with zipfile.ZipFile(path) as archive:
        with archive.open("data.npy") as file:
            data = np.lib.format.read_array(file, allow_pickle=False)
        said = json.loads(archive.read("metadata.json"))
    return [nion_signal(data, said)]


def nion_signal(data: Any, said: dict[str, Any]) -> Signal:
    """A signal of Nion Swift from its array and properties.

    Raises
    ------
    Refused
        If the properties are of another array.
    """
    told = said.get("dimensional_calibrations") or said.get("spatial_calibrations") or [{}] * data.ndim
    if len(told) != data.ndim:
        raise Refused(f"calibrates {len(told)} axes of an array of {dimensions(data.shape)}: damaged")
    datum = int(said.get("datum_dimension_count") or min(2, data.ndim))
    axes = tuple(
        Axis("", size, _scale(one), text(one.get("units")), place < data.ndim - datum)
        for place, (size, one) in enumerate(zip(data.shape, told, strict=True))
    )
    metadata = said.get("metadata") if isinstance(said.get("metadata"), dict) else {}
    hardware = (metadata or {}).get("hardware_source", {})
    detector = text(hardware.get("channel_name")) if isinstance(hardware, dict) else ""
    at = text(said.get("created") or said.get("timestamp") or "").partition(".")[0]
    name = text(said.get("title"))
    return Signal(0, name, detector, data, axes, datum, "", at if "T" in at else "", limited(said))


def _scale(calibration: dict[str, Any]) -> float:
    scale = float(calibration.get("scale") or 1.0)
    return scale if math.isfinite(scale) else 0.0
