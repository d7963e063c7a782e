"""The signals of a file and their axes, as HyperSpy reads them."""

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
    found_by, at = detector(original, name), acquired(signal.metadata, original)
    return Signal(index, name, found_by, signal.data, axes, dimension, "", at, limited(original))
