"""TIFF (.tif, .tiff), plain or with the scale that ImageJ, OME, Gatan or Thermo Fisher programs write into it.

`tifffile` itself and not RosettaSciIO's reader, which knows no OME-XML and loses the unit that ImageJ wrote. Resolution
tags alone are no scale: most programs put the printer's dots per inch there.
"""

import html
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oddlattice.process.sandbox import Refused
from oddlattice.read.amounts import amount, dimensions
from oddlattice.read.claims import check_claim
from oddlattice.read.metadata import limited, text
from oddlattice.read.signals import Axis, Signal

MODULES = ("tifffile", "imagecodecs", "dask.array")
_MOST_PAGES = 100_000
_COLOURS = ("RGB", "PALETTE", "YCBCR", "CIELAB", "SEPARATED")


class Scale(NamedTuple):
    """Length of a pixel along rows and columns, and their units; ("", 1.0) where the file does not tell."""

    rows: float = 1.0
    cols: float = 1.0
    row_units: str = ""
    col_units: str = ""


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is a TIFF or a BigTIFF of either byte order."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def check(path: Path) -> None:
    """Refuse a file whose pages claim pixels that it does not hold."""
    import tifffile

    size = os.path.getsize(path)
    claimed = stored = 0
    with tifffile.TiffFile(path) as file:
        if not len(file.pages):
            raise Refused("is a TIFF without a page: damaged, or never written to its end")
        for number, page in enumerate(file.pages):
            if number >= _MOST_PAGES:
                raise Refused(f"holds more than {_MOST_PAGES} pages")
            ends = [start + n for start, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
            if max(ends, default=0) > size:
                raise Refused(f"is truncated: {amount(max(ends) - size)} are missing at its end")
            claimed += page.nbytes
            stored += sum(page.databytecounts)
    check_claim(claimed, stored, "the pages")


def load(path: Path) -> list[Signal]:
    """Read all images of a checked file; pages alike are the frames of a stack."""
    import tifffile

    file = tifffile.TiffFile(path)  # stays open: its pixels are read later
    scale = scale_of(file)
    first: Any = file.pages[0]
    tags = {tag.name: tag.value for tag in first.tags.values() if not isinstance(tag.value, bytes)}
    at = _iso(text(tags.get("DateTime", "")))
    fei = file.fei_metadata or {}
    found_by = text(fei.get("Detectors", {}).get("Name")) if isinstance(fei.get("Detectors"), dict) else ""
    original = limited({"Thermo Fisher": fei} | tags)
    signals = []
    for index, series in enumerate(file.series):
        axes = _axes(series, scale)
        dimension = sum(not axis.navigate for axis in axes)
        data = None if (refusal := _colours(series)) else _pixels(path, series)
        signals.append(Signal(index, "", found_by, data, axes, dimension, refusal, at, original))
    return signals


def scale_of(file: Any) -> Scale:
    """The size of a pixel as the program that wrote the file tells it."""
    page = file.pages[0]
    tags = {tag.code: tag.value for tag in page.tags.values()}
    fei = file.fei_metadata or {}
    if isinstance(fei.get("Scan"), dict) and "PixelWidth" in fei["Scan"]:
        return Scale(_number(fei["Scan"].get("PixelHeight")), _number(fei["Scan"]["PixelWidth"]), "m", "m")
    if 65009 in tags and 65010 in tags:  # Gatan's tags, as RosettaSciIO takes them
        return Scale(_number(tags[65009]), _number(tags[65010]), text(tags.get(65003, "")), text(tags.get(65004, "")))
    if file.ome_metadata:
        return _ome_scale(file.ome_metadata)
    if file.imagej_metadata and file.imagej_metadata.get("unit"):
        unit = text(_unescaped(str(file.imagej_metadata["unit"])))
        return Scale(_per_pixel(tags.get(283)), _per_pixel(tags.get(282)), unit, unit)
    return Scale()


def _ome_scale(xml: str) -> Scale:
    """Scale of the first image that OME-XML describes; its attributes are found without an XML parser."""
    element = re.search(r"<(?:\w+:)?Pixels\b([^<>]*)>", xml)
    said = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', element[1])) if element else {}
    if "PhysicalSizeX" not in said:
        return Scale()
    size = [_number(said.get(f"PhysicalSize{axis}", said["PhysicalSizeX"])) for axis in "YX"]
    units = [text(html.unescape(said.get(f"PhysicalSize{axis}Unit", "µm"))) for axis in "YX"]  # µm by the standard
    return Scale(size[0], size[1], units[0], units[1])


def _number(value: object) -> float:
    """A number from a tag; 0, which is no length, where it is none."""
    try:
        return float(np.asarray(value).ravel()[0])
    except (TypeError, ValueError, IndexError):
        return 0.0


def _per_pixel(resolution: object) -> float:
    """Units a pixel from a resolution tag, a fraction in pixels a unit."""
    pair = np.asarray(resolution, float).ravel() if resolution is not None else np.zeros(0)
    return float(pair[1] / pair[0]) if pair.size == 2 and pair[0] else 0.0


def _unescaped(unit: str) -> str:
    r"""ImageJ writes µ as \u00B5."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit)


def _iso(date: str) -> str:
    found = re.fullmatch(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d:\d\d:\d\d)", date)
    return f"{found[1]}-{found[2]}-{found[3]}T{found[4]}" if found else ""


def _axes(series: Any, scale: Scale) -> tuple[Axis, ...]:
    known = {"Y": ("y", scale.rows, scale.row_units, False), "X": ("x", scale.cols, scale.col_units, False)}
    made = []
    for name, size in zip(series.axes, series.shape, strict=True):
        label, step, units, navigate = known.get(name, (name.lower(), 1.0, "", True))
        made.append(Axis(label, int(size), step, units, navigate))
    return tuple(made)


def _colours(series: Any) -> str:
    page = series.keyframe
    if "S" not in series.axes and page.photometric.name not in _COLOURS:
        return ""
    size = dimensions((page.imagelength, page.imagewidth))
    colours = page.photometric.name
    return f"is a colour picture ({colours}, {size} px) such as a screenshot or an export, not detector counts"


def _pixels(path: Path, series: Any) -> Any:
    """Pixels of a series: mapped where they lie in one piece as they are, else unpacked page by page when asked for."""
    if series.dataoffset is not None:
        dtype = series.dtype.newbyteorder(series.keyframe.parent.byteorder)
        return np.memmap(path, dtype, "r", series.dataoffset, series.shape)
    from dask import array, delayed  # type: ignore[attr-defined]

    da: Any = array
    page = series.keyframe
    pages = [one for one in series.pages if one is not None]
    frames = [da.from_delayed(delayed(one.asarray)(), page.shape, page.dtype) for one in pages]
    return da.stack(frames).reshape(series.shape) if len(frames) > 1 else frames[0].reshape(series.shape)
