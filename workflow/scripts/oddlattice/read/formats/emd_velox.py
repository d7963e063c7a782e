"""Velox (.emd): an HDF5 file whose images hold the metadata of their microscope."""

import json
from pathlib import Path

from oddlattice.read.signals import Signal, loaded, signal_of

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
    """Read the images of a checked file, lazily; spectra are named."""
    # Spectrum images are named but not loaded: building their cubes takes seconds and memory.
    signals = [signal_of(i, s) for i, s in enumerate(loaded(path, file_format="EMD", select_type="images"))]
    for name, refusal in _spectra(path):
        signals.append(Signal(len(signals), name, "", None, (), 1, refusal, "", {}))
    return signals


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
