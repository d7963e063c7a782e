"""Which signals of a file are real-space images, which of them are wanted, and whether their pixels are of use."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oddlattice.numerics.arrays import Array
from oddlattice.read.calibration import ANGLE, ENERGY, RECIPROCAL, plain
from oddlattice.read.signals import Axis, Signal
from oddlattice.read.stacks import image_axes, stack_axis

DARK_FIELD = re.compile(r"(?<![a-z])[hml]?aadf|(?<![a-z])adf|annular dark|dark[ -]?field", re.IGNORECASE)
#: An image is refused when more than this fraction of it is cut off at the top of its range.
LARGEST_SATURATED = 0.02
PATCH_PX = 16  # a patch of saturated pixels is wider
#: ... and its reader warned above this.
NOTABLE_SATURATED = 1e-4
#: An image is refused when more than this fraction of it is not a number.
LARGEST_NAN = 0.01
#: ... or when whole rows and columns of such pixels are more than this fraction of it.
LARGEST_NAN_EDGE = 0.3


def refusal(signal: Signal, min_px: int) -> str:
    """Why a signal cannot be analysed as a real-space image, for a microscopist; "" if nothing speaks against it.

    Judged by its axes and dtype alone.
    """
    if signal.refusal:
        return signal.refusal
    shape = signal.data.shape
    size = " x ".join(str(n) for n in shape)
    if signal.data.dtype.names is not None:
        if {"r", "g", "b"} <= {str(name).lower() for name in signal.data.dtype.names}:
            return f"is a colour picture (RGB, {size} px) such as a screenshot or an export, not detector counts"
        return "is a table of values, not an image"
    if signal.data.dtype.kind not in "biufc":
        return "holds text or other objects, not an image"
    if any(ENERGY.match(axis.units) for axis in signal.axes) or (signal.dimension == 1 and len(shape) > 1):
        return _spectra(shape, any(ENERGY.match(axis.units) for axis in signal.axes))
    if len(shape) < 2:
        return f"is a line profile or plot ({size} points), not an image"
    rows, cols = image_axes(signal)
    if any(RECIPROCAL.search(plain(axis.units)) for axis in (rows, cols)):
        what = "Fourier transform" if signal.data.dtype.kind == "c" else "diffraction pattern or Fourier transform"
        return f"is a {what} (axes in {cols.units}), not a real-space image"
    if signal.data.dtype.kind == "c":
        return "has complex values (a Fourier transform, a wave function or DPC vectors); needs plain intensities"
    if len(shape) > 3:
        return f"is a {len(shape)}-dimensional data set ({size}), not an image or a stack of images"
    if len(shape) == 3 and (reason := _angles(stack_axis(signal))):
        return reason
    if min(rows.size, cols.size) < min_px:
        return f"is too small ({rows.size} x {cols.size} px); needs at least {min_px} px in both directions"
    return ""


def _angles(axis: Axis) -> str:
    """Why a stack over an axis of angles is no stack of frames; "" for any other axis."""
    units = plain(axis.units)
    if not ANGLE.match(units):
        return ""
    if units.endswith("rad"):  # tilts are kept in degrees, scattering angles in mrad
        return f"is a stack over detector angles ({axis.size} rings in {axis.units}); export the image of one detector"
    return f"is a tilt series ({axis.size} tilts): no view along one crystal axis"


def _spectra(shape: tuple[int, ...], energies: bool) -> str:
    channels = f"{shape[-1]} channels"
    if len(shape) == 1:
        return f"is a {'spectrum' if energies else 'line profile or plot'} ({channels}), not an image"
    where = " x ".join(str(n) for n in shape[:-1])
    return f"is a spectrum image ({where} spectra of {channels}), not an image"


def chosen(signals: Sequence[Signal], detectors: str | Sequence[str]) -> tuple[list[Signal], list[Signal]]:
    """Split usable signals into those to read and those to leave.

    Parameters
    ----------
    signals : sequence of Signal
        Usable ones.
    detectors : str or sequence of str
        "auto": annular dark field where there is one, else all; "all"; or names of detectors or signals.

    Raises
    ------
    ValueError
        If `detectors` is another word.
    """
    if detectors == "all":
        wanted = [True] * len(signals)
    elif detectors == "auto":
        wanted = [bool(DARK_FIELD.search(f"{s.detector} {s.name}".replace("_", " "))) for s in signals]
        wanted = wanted if any(wanted) else [True] * len(signals)
    elif isinstance(detectors, str):
        raise ValueError(f"read.detectors: {detectors!r}; need auto, all or a list of names")
    else:
        names = {name.casefold() for name in detectors}
        wanted = [s.detector.casefold() in names or s.name.casefold() in names for s in signals]
    taken = [s for s, is_wanted in zip(signals, wanted, strict=True) if is_wanted]
    return taken, [s for s, is_wanted in zip(signals, wanted, strict=True) if not is_wanted]


@dataclass
class Survey:
    """What is counted while the bands of an image pass by."""

    shape: tuple[int, int]
    pixels: int = 0
    not_finite: int = 0
    empty_rows: int = 0
    finite_in_col: Any = None
    lowest: float = np.inf
    highest: float = -np.inf
    at_highest: int = 0
    digest: Any = None
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype("float32"))

    def watch(self, bands: Iterator[Array]) -> Iterator[Array]:
        """Hand the bands on, floats as float32, and count."""
        for band in bands:
            if band.dtype.kind == "f" and band.dtype != np.float32:
                with np.errstate(over="ignore"):
                    band = band.astype(np.float32)
            self._hash(band)
            self._count(band)
            yield band

    @property
    def scan_id(self) -> str:
        """SHA-256 of dtype and shape in words, such as "<u2 96 128", a new line, and the pixels row by row."""
        return "" if self.digest is None else self.digest.hexdigest()

    def _hash(self, band: Array) -> None:
        little = band.dtype.newbyteorder("<")
        if self.digest is None:
            self.digest = hashlib.sha256(f"{little.str} {self.shape[0]} {self.shape[1]}\n".encode())
        self.digest.update(np.ascontiguousarray(band, little))

    def _count(self, band: Array) -> None:
        self.dtype = band.dtype
        self.pixels += band.size
        lowest, highest = band.min(), band.max()
        finite = band
        if self.finite_in_col is None:
            self.finite_in_col = np.zeros(band.shape[1], np.bool_)
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            is_finite = np.isfinite(band)
            finite = band[is_finite]
            self.not_finite += band.size - finite.size
            self.empty_rows += int(np.count_nonzero(~is_finite.any(axis=1)))
            self.finite_in_col = self.finite_in_col | is_finite.any(axis=0)
            if finite.size == 0:
                return
            lowest, highest = finite.min(), finite.max()
        else:
            self.finite_in_col[:] = True
        self.lowest = min(self.lowest, lowest)
        if highest > self.highest:
            self.highest, self.at_highest = highest, 0
        if highest == self.highest:
            self.at_highest += int(np.count_nonzero(finite == highest))

    @property
    def scattered(self) -> int:
        """Pixels that are no numbers, but for whole rows and columns of them, such as a drift correction leaves."""
        if not self.not_finite:
            return 0
        rows, cols = self.shape
        empty_cols = cols - int(np.count_nonzero(self.finite_in_col))
        return self.not_finite - (rows * cols - (rows - self.empty_rows) * (cols - empty_cols))

    @property
    def saturated(self) -> float:
        """Fraction of the pixels that hold the very highest value."""
        return self.at_highest / max(1, self.pixels)


def refusal_of_pixels(survey: Survey) -> str:
    """Why the pixels of an image are of no use, for a microscopist; "" if they are. Saturation is judged apart."""
    if survey.scattered > LARGEST_NAN * survey.pixels or survey.not_finite > LARGEST_NAN_EDGE * survey.pixels:
        share = f"{100 * survey.not_finite / survey.pixels:.0f} %"
        return f"holds no number in {share} of its pixels (NaN or infinite); at most 1 % may, but for whole lines"
    if survey.lowest == survey.highest:
        value = "zero" if survey.highest == 0 else f"{survey.highest:g}"
        return f"is blank: every pixel is {value}"
    return ""


def is_clipped(survey: Survey, just_below: int) -> bool:
    """Whether the highest value is where the detector or the digitiser stopped counting.

    The highest value of the dtype always is. Else a pile of pixels there, many times what lies in the 1/64 of the
    range below, tells it from an image of few counts, in which values thin out towards the highest.
    """
    if survey.dtype.kind in "iu" and survey.highest == np.iinfo(survey.dtype).max:
        return True
    return survey.at_highest > 10 * max(1, just_below)


def saturated_in_patches(bands: Iterable[Array], highest: float) -> int:
    """Pixels at the highest value in patches, such as of contamination: about squares of PATCH_PX full of them.

    No column is as wide.
    """
    number = 0
    for band in bands:
        rows, cols = (n - n % PATCH_PX for n in band.shape)
        cut = (band[:rows, :cols] == highest).reshape(rows // PATCH_PX, PATCH_PX, cols // PATCH_PX, PATCH_PX)
        full = np.pad(cut.all(axis=(1, 3)), 1)
        near = np.lib.stride_tricks.sliding_window_view(full, (3, 3)).any(axis=(2, 3))
        number += int(cut.sum(axis=(1, 3))[near].sum())
    return number


def refusal_of_saturation(survey: Survey, in_patches: int = 0) -> str:
    """Sentence for an image cut off at the top, "" if it is not; pixels `in_patches` are masked and cost no more."""
    if survey.at_highest - in_patches <= LARGEST_SATURATED * survey.pixels:
        return ""
    share = f"{100 * survey.saturated:.0f} %"
    return f"is saturated: {share} of its pixels sit at the highest value ({survey.highest:g}); the columns are cut off"
