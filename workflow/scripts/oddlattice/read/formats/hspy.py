"""HyperSpy's own files (.hspy): HDF5."""

from pathlib import Path

from oddlattice.read.metadata import text
from oddlattice.read.signals import Signal, signal_of_dict

MODULES = ("rsciio.hspy._api",)


def is_one(path: Path) -> bool:
    """Whether an HDF5 file was written by HyperSpy."""
    import h5py

    with h5py.File(path, "r") as file:
        said = file.attrs.get("file_format", "")
        return text(said.decode("utf-8", "replace") if isinstance(said, bytes) else said) == "HyperSpy"


def load(path: Path) -> list[Signal]:
    """Read the signals of a checked file, lazily."""
    from rsciio.hspy import file_reader

    return [signal_of_dict(index, one) for index, one in enumerate(file_reader(str(path), lazy=True))]
