"""Nion Swift's large data items (.h5): HDF5 of one array and its properties."""

import json
from pathlib import Path
from typing import Any

from oddlattice.read.formats.zipped import nion_signal
from oddlattice.read.signals import Signal

MODULES = ("h5py", "dask.array")


def is_one(path: Path) -> bool:
    """Whether an HDF5 file holds a data item of Nion Swift."""
    import h5py

    with h5py.File(path, "r") as file:
        data = file.get("data")
        return isinstance(data, h5py.Dataset) and "properties" in data.attrs


def load(path: Path) -> list[Signal]:
    """Read the data item of a checked file, lazily."""
    import h5py
    from dask import array

    da: Any = array
    data = h5py.File(path, "r")["data"]  # stays open: its frames are read later
    said = json.loads(data.attrs["properties"])
    chunks = data.chunks or ((1, *data.shape[1:]) if data.ndim > 2 else data.shape)
    return [nion_signal(da.from_array(data, chunks=chunks), said if isinstance(said, dict) else {})]
