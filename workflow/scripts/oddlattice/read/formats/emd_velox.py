"""Velox (.emd): an HDF5 file whose images hold the metadata of their microscope."""

import json
from pathlib import Path
from typing import Any

from oddlattice.process.sandbox import result_or_fault
from oddlattice.read.amounts import dimensions
from oddlattice.read.signals import Signal, broken, signal_of_dict

MODULES = ("rsciio.emd._api", "rsciio.emd._emd_velox")


def is_one(path: Path) -> bool:
    """Whether an HDF5-based file was written by Velox."""
    import h5py

    with h5py.File(path, "r") as file:
        if "Version" not in file or not isinstance(file["Version"], h5py.Dataset):
            return False
        version = json.loads(file["Version"][0])
        return isinstance(version, dict) and version.get("format") in ("Velox", "DevelopersKit")


def load(path: Path) -> list[Signal]:
    """Read the images of a checked file, lazily; spectra are named, and so is an entry that cannot be understood."""
    import h5py
    from rsciio.emd._emd_velox import FeiEMDReader

    file = h5py.File(path, "r")  # stays open: its frames are read later
    reader = FeiEMDReader(lazy=True, load_SI_image_stack=True)
    reader._read_data = _nothing  # all entries or none; here one by one: a broken one costs itself alone
    reader.read_file(file)
    # Spectrum images are named but not loaded: building their cubes takes seconds and memory.
    entries = file["Data"].get("Image", {})
    signals = [_image(index, reader, entries, key) for index, key in enumerate(entries)]
    for name, refusal in _spectra(path):
        signals.append(Signal(len(signals), name, "", None, (), 1, refusal, "", {}))
    return signals


def _nothing(_select_type: str | None) -> None:
    """In place of reading all entries."""


def _image(index: int, reader: Any, entries: Any, key: str) -> Signal:
    found, fault = result_or_fault(_read_image, reader, entries, key)
    if fault is not None:
        return broken(index, f"entry {key[:8]}", fault.words)
    assert found is not None
    if "PixelSize" not in found["original_metadata"]["BinaryResult"]:
        for axis in found["axes"]:  # the reader says 1 of whatever unit then
            axis["units"] = axis["units"] if axis["navigate"] else ""
    return signal_of_dict(index, found)


def _read_image(reader: Any, entries: Any, key: str) -> dict[str, Any]:
    if 0 in entries[key]["Data"].shape:
        raise ValueError(f"no pixels: {dimensions(entries[key]['Data'].shape)}")
    try:
        found: dict[str, Any] = reader._read_image(entries, key)
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(str(error)) from error  # HDF5's word for a damaged block; the disk's own errors have a number
    return found


def _spectra(path: Path) -> list[tuple[str, str]]:
    import h5py

    kinds = {
        "Spectrum": ("EDS", "is a spectrum, not an image"),
        "SpectrumStream": ("EDS", "is an EDS spectrum image (a spectrum at every pixel), not an image"),
        "EelsSpectrumImage": ("EELS", "is an EELS spectrum image (a spectrum at every pixel), not an image"),
    }
    with h5py.File(path, "r") as file:
        data = file["Data"]
        return [kinds[kind] for kind in kinds if kind in data and len(data[kind])]
