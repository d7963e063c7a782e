"""NumPy arrays (.npy); a sidecar of the same name, YAML or JSON, may tell `pixel_nm`, `detector` and `acquired`."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.process.sandbox import Refused
from oddlattice.read.amounts import dimensions
from oddlattice.read.claims import check_length
from oddlattice.read.metadata import limited, text
from oddlattice.read.signals import Axis, Signal
from oddlattice.run.yaml_files import read_mapping

MODULES = ()
SIDECARS = (".yaml", ".yml", ".json")


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is an array of NumPy."""
    return head[:6] == b"\x93NUMPY"


def check(path: Path) -> None:
    """Refuse an array of Python objects, which only code that a file brings could read, and one that is cut."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        start = file.tell()
    if dtype.hasobject:
        raise Refused("holds Python objects, not numbers; refused for safety")
    check_length(start + math.prod(shape) * dtype.itemsize, os.path.getsize(path), dimensions(shape))


def load(path: Path) -> list[Signal]:
    """Map the array of a checked file; what the sidecar does not tell is not known."""
    data = np.load(path, mmap_mode="r", allow_pickle=False)
    said = sidecar(path)
    rows, cols = _pixel_nm(said.get("pixel_nm"))
    steps = [(1.0, "", True)] * (data.ndim - 2) + [(rows, "nm", False), (cols, "nm", False)][-data.ndim :]
    axes = tuple(
        Axis("", size, step, units if step else "", navigate)
        for size, (step, units, navigate) in zip(data.shape, steps, strict=True)
    )
    detector, acquired = text(said.get("detector")), text(said.get("acquired"))
    return [Signal(0, detector, detector, data, axes, min(data.ndim, 2), "", acquired, limited(dict(said)))]


def sidecar(path: Path) -> Mapping[str, Any]:
    """What stands in the sidecar of a file; nothing where it has none."""
    for ending in SIDECARS:
        if path.with_suffix(ending).exists():
            return read_mapping(path.with_suffix(ending))
    return {}


def _pixel_nm(told: object) -> tuple[float, float]:
    """Pixel size (row, col) [nm] as a number or two; 0 where it is not told.

    Raises
    ------
    Refused
        If it is neither.
    """
    if told is None:
        return 0.0, 0.0
    pair: list[Any] = told if isinstance(told, list) else [told, told]
    if len(pair) != 2 or not all(isinstance(one, int | float) and 0 < one < 1e6 for one in pair):
        raise Refused(f"has a sidecar whose pixel_nm is {told!r}; need a number above 0, or two for row and column")
    return float(pair[0]), float(pair[1])
