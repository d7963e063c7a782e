"""The size of a raw pixel: what the header says, and what the lattice makes of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

PixelNm = tuple[float, float]
DISAGREEMENT = 0.02  # of a length: header and lattice are said to disagree from here on


def header_nm(source: Mapping[str, Any]) -> PixelNm | None:
    """Pixel size (row, col) that the file states [nm], from what the read stage says of an image; None without."""
    found = source.get("pixel_nm_header")
    return None if not found else (float(found[0]), float(found[1]))


def mean_nm(pixel_nm: Sequence[float]) -> float:
    """One number for a pixel size (row, col) [nm]: the side of a square pixel of the same area."""
    return math.sqrt(pixel_nm[0] * pixel_nm[1])


def by_cell_nm(area_nm2: float, period_px: float) -> float:
    """Mean pixel size by a crystal's cell of this area, which is `period_px` squared in the image [nm]."""
    return math.sqrt(area_nm2) / period_px


def decided_nm(by_cell: float | None, header: Sequence[float] | None) -> float | None:
    """The mean pixel size of an image [nm]: by a cell of known lengths, else by the header; None without both."""
    if by_cell is not None:
        return by_cell
    return mean_nm(header) if header is not None else None


def reckoned_nm(lattice: Mapping[str, Any], header: Sequence[float] | None) -> PixelNm:
    """Pixel size (row, col) [nm] to reckon with, from what the tile stage says: nominal where none is known."""
    return by_lattice_nm(lattice["pixel_nm"] or lattice["nominal_pixel_nm"], header)


def by_lattice_nm(mean_pixel_nm: float, header: Sequence[float] | None) -> PixelNm:
    """Pixel size (row, col) [nm] of a fitted lattice's mean pixel: split between the directions as the header says."""
    ratio = math.sqrt(header[0] / header[1]) if header else 1.0
    return mean_pixel_nm * ratio, mean_pixel_nm / ratio


def pixel_nm(mean_pixel_nm: float | None, header: Sequence[float] | None) -> PixelNm | None:
    """Pixel size (row, col) [nm]: by the fitted lattice where there is one, else the header's; None without both."""
    if mean_pixel_nm is not None:
        return by_lattice_nm(mean_pixel_nm, header)
    return (float(header[0]), float(header[1])) if header else None
