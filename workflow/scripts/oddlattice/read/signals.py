"""The signals of a file and their axes, as HyperSpy reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddlattice.read.metadata import acquired, detector, limited, text


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


def loaded(path: Path, **options: Any) -> list[Any]:
    """HyperSpy's signals of a file, lazy unless told otherwise."""
    import hyperspy.api as hs

    found = hs.load(str(path), **({"lazy": True} | options))
    return list(found) if isinstance(found, list) else [found]


def signal_of(index: int, signal: Any) -> Signal:
    """A signal from HyperSpy's."""
    original = signal.original_metadata.as_dictionary()
    axes = tuple(
        Axis(text(a.name), int(a.size), float(a.scale), text(a.units), bool(a.navigate))
        for a in signal.axes_manager._axes
    )
    title = text(signal.metadata.get_item("General.title", default=""))
    name = "" if title in ("input", "__unnamed__") else title
    dimension = int(signal.axes_manager.signal_dimension)
    date, time = (text(signal.metadata.get_item(f"General.{key}", default="")) for key in ("date", "time"))
    found_by, at = detector(original, name), acquired(date, time, original)
    return Signal(index, name, found_by, signal.data, axes, dimension, "", at, limited(original))


def signal_of_dict(index: int, found: Mapping[str, Any]) -> Signal:
    """A signal from one dictionary of a RosettaSciIO reader, without making HyperSpy's signal of it."""
    original, general = found["original_metadata"], found["metadata"].get("General", {})
    axes = tuple(
        Axis(text(a.get("name")), a["size"], float(a.get("scale", 0.0)), text(a.get("units")), bool(a.get("navigate")))
        for a in found["axes"]
    )
    name = text(general.get("title"))
    dimension = sum(not axis.navigate for axis in axes)
    at = acquired(text(general.get("date")), text(general.get("time")), original)
    return Signal(index, name, detector(original, name), found["data"], axes, dimension, "", at, limited(original))


def broken(index: int, name: str, why: str) -> Signal:
    """An entry of a file that is named, for its reader could not understand it."""
    refusal = f"could not be understood by its reader, probably it is damaged ({why})"
    return Signal(index, name, "", None, (), 2, refusal, "", {})
