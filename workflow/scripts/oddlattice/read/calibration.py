"""From units to nanometres, and what counts as a length, an angle or an energy."""

import re

import numpy as np

from oddlattice.read.signals import Axis

_NM = {
    "m": 1e9,
    "mm": 1e6,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "micrometer": 1e3,
    "nm": 1.0,
    "nanometer": 1.0,
    "å": 0.1,
    "a": 0.1,
    "ang": 0.1,
    "angstrom": 0.1,
    "angstroms": 0.1,
    "pm": 1e-3,
    "picometer": 1e-3,
}
_NO_UNITS = ("", "px", "pixel", "pixels", "none", "1", "dimensionless", "undefined")
RECIPROCAL = re.compile(r"^1/|[/ ]?(nm|pm|m|å|a|um|µm|angstrom)(\^|\*\*)?-1$|⁻¹|rad|^1\s*/", re.IGNORECASE)
ANGLE = re.compile(r"^(deg|degrees?|°|[mµu]?rad)$", re.IGNORECASE)
ENERGY = re.compile(r"^[kKmM]?eV$")


def length_nm(scale: float, units: str) -> float | None:
    """Pixel size in nanometres, or None where scale and units give none.

    `n_m`, `[nm]`, µm, pm, Å and so on are understood; "", `[]` and px are not a length.
    """
    factor = _NM.get(plain(units))
    if factor is None or not np.isfinite(scale) or scale == 0:
        return None
    return float(f"{abs(scale) * factor:.12g}")  # 1.95e-11 m and 0.0195 nm are the same number


def plain(units: str) -> str:
    """Units without spaces, brackets and underscores, in lower case."""
    return re.sub(r"[\s_\[\]()]", "", units).lower()


def pixel_size_nm(rows: Axis, cols: Axis) -> tuple[tuple[float, float] | None, list[str]]:
    """Pixel size (row, col) [nm] by the header, None where it has none, and warnings in sentences."""
    sizes = (length_nm(rows.scale, rows.units), length_nm(cols.scale, cols.units))
    shown = f"{rows.scale:g} {rows.units!r} by {cols.scale:g} {cols.units!r}"
    if sizes[0] is None and sizes[1] is None:
        if plain(rows.units) in _NO_UNITS and plain(cols.units) in _NO_UNITS:
            return None, ["The file has no pixel size."]
        return None, [f"The file's pixel size ({shown}) is no length."]
    if sizes[0] is None or sizes[1] is None:
        known = sizes[0] if sizes[0] is not None else sizes[1]
        assert known is not None
        return (known, known), [f"Only one direction has a pixel size ({shown}); square pixels are assumed."]
    warnings = []
    if abs(sizes[0] / sizes[1] - 1) > 1e-3:
        warnings.append(f"Pixels are not square by the file: {sizes[0]:.6g} nm by {sizes[1]:.6g} nm.")
    return (sizes[0], sizes[1]), warnings
