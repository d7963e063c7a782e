"""From the signals of a file to images: which are real-space images; their scale, frames and pixels."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from oddlattice.read.reader import Axis, Signal
from oddlattice.storage.omezarr import CHUNK_PX, computed

Array = npt.NDArray[Any]

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
_RECIPROCAL = re.compile(r"^1/|[/ ]?(nm|pm|m|å|a|um|µm|angstrom)(\^|\*\*)?-1$|⁻¹|rad|^1\s*/", re.IGNORECASE)
_ANGLE = re.compile(r"^(deg|degrees?|°|[mµu]?rad)$", re.IGNORECASE)
_ENERGY = re.compile(r"^[kKmM]?eV$")
_DARK_FIELD = re.compile(r"(?<![a-z])[hml]?aadf|(?<![a-z])adf|annular dark|dark[ -]?field", re.IGNORECASE)

#: An image is refused when more than this fraction of it is cut off at the top of its range.
LARGEST_SATURATED = 0.02
#: ... and its reader warned above this.
NOTABLE_SATURATED = 1e-4
#: An image is refused when more than this fraction of it is not a number.
LARGEST_NAN = 0.01
#: A frame of at most this many bytes is read at once; a larger one in bands of rows.
AT_ONCE_BYTES = 256 << 20
_GROUP_BYTES = 32 << 20
_ALIGN_PX = 1024
# ASSUME: between two frames of a stack the specimen drifts by less than half a unit cell; the width of the prior [px].
_DRIFT_PX = 16.0
#: Brightness that varies over more than about this length is not used for alignment [px].
_BACKGROUND_PX = 20.0
_BLUR_PX = 1.5


def length_nm(scale: float, units: str) -> float | None:
    """Pixel size in nanometres, or None where scale and units give none.

    `n_m`, `[nm]`, µm, pm, Å and so on are understood; "", `[]` and px are not a length.
    """
    factor = _NM.get(_plain(units))
    if factor is None or not np.isfinite(scale) or scale == 0:
        return None
    return abs(scale) * factor


def _plain(units: str) -> str:
    return re.sub(r"[\s_\[\]()]", "", units).lower()


def pixel_size_nm(rows: Axis, cols: Axis) -> tuple[tuple[float, float] | None, list[str]]:
    """Pixel size (row, col) [nm] by the header, None where it has none, and warnings in sentences."""
    sizes = (length_nm(rows.scale, rows.units), length_nm(cols.scale, cols.units))
    shown = f"{rows.scale:g} {rows.units!r} by {cols.scale:g} {cols.units!r}"
    if sizes[0] is None and sizes[1] is None:
        if _plain(rows.units) in _NO_UNITS and _plain(cols.units) in _NO_UNITS:
            return None, ["The file has no pixel size; lengths come from the fitted lattice alone."]
        return None, [f"The file's pixel size ({shown}) is no length; lengths come from the fitted lattice alone."]
    if sizes[0] is None or sizes[1] is None:
        known = sizes[0] if sizes[0] is not None else sizes[1]
        assert known is not None
        return (known, known), [f"Only one direction has a pixel size ({shown}); square pixels are assumed."]
    warnings = []
    if abs(sizes[0] / sizes[1] - 1) > 1e-3:
        warnings.append(f"Pixels are not square by the file: {sizes[0]:.6g} nm by {sizes[1]:.6g} nm.")
    return (sizes[0], sizes[1]), warnings


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
    if any(_ENERGY.match(axis.units) for axis in signal.axes) or (signal.dimension == 1 and len(shape) > 1):
        return _spectra(shape, any(_ENERGY.match(axis.units) for axis in signal.axes))
    if len(shape) < 2:
        return f"is a line profile or plot ({size} points), not an image"
    rows, cols = image_axes(signal)
    if any(_RECIPROCAL.search(_plain(axis.units)) for axis in (rows, cols)):
        what = "Fourier transform" if signal.data.dtype.kind == "c" else "diffraction pattern or Fourier transform"
        return f"is a {what} (axes in {cols.units}), not a real-space image"
    if signal.data.dtype.kind == "c":
        return "has complex values (a Fourier transform, a wave function or DPC vectors); needs plain intensities"
    if len(shape) > 3:
        return f"is a {len(shape)}-dimensional data set ({size}), such as 4D-STEM, not an image or a stack of images"
    if len(shape) == 3 and _ANGLE.match(_plain(stack_axis(signal).units)):
        return f"is a tilt series ({shape[0]} tilts): no view along one crystal axis"
    if min(rows.size, cols.size) < min_px:
        return f"is too small ({rows.size} x {cols.size} px); needs at least {min_px} px in both directions"
    return ""


def _spectra(shape: tuple[int, ...], energies: bool) -> str:
    channels = f"{shape[-1]} channels"
    if len(shape) == 1:
        return f"is a {'spectrum' if energies else 'line profile or plot'} ({channels}), not an image"
    where = " x ".join(str(n) for n in shape[:-1])
    return f"is a spectrum image ({where} spectra of {channels}), not an image"


def frame_axis(signal: Signal) -> int:
    """Find the axis of three that counts frames: the one to navigate, the one unlike the two others, or the first."""
    for place, axis in enumerate(signal.axes):
        if axis.navigate:
            return place
    keys = [(_plain(axis.units), round(axis.scale, 12)) for axis in signal.axes]
    for place in (2, 0):
        others = [key for n, key in enumerate(keys) if n != place]
        if others[0] == others[1] != keys[place] and length_nm(1.0, others[0][0]) is not None:
            return place
    return 0


def stack_axis(signal: Signal) -> Axis:
    """The axis of a 3-D signal that counts the frames."""
    return signal.axes[frame_axis(signal)]


def image_axes(signal: Signal) -> tuple[Axis, Axis]:
    """Axes of the rows and the columns of a signal with two or more dimensions."""
    axes = list(signal.axes)
    if len(axes) == 3:
        del axes[frame_axis(signal)]
    return axes[-2], axes[-1]


def frames_first(signal: Signal) -> Any:
    """Data of a 2-D or 3-D signal with shape (frames, rows, cols), as lazy as it was."""
    if signal.data.ndim == 2:
        return signal.data[None]
    place = frame_axis(signal)
    rest = [n for n in range(3) if n != place]
    return signal.data.transpose([place, *rest])


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
        wanted = [bool(_DARK_FIELD.search(f"{s.detector} {s.name}".replace("_", " "))) for s in signals]
        wanted = wanted if any(wanted) else [True] * len(signals)
    elif isinstance(detectors, str):
        raise ValueError(f"read.detectors: {detectors!r}; need auto, all or a list of names")
    else:
        names = {name.casefold() for name in detectors}
        wanted = [s.detector.casefold() in names or s.name.casefold() in names for s in signals]
    taken = [s for s, is_wanted in zip(signals, wanted, strict=True) if is_wanted]
    return taken, [s for s, is_wanted in zip(signals, wanted, strict=True) if not is_wanted]


def frames(data: Any) -> Iterator[tuple[int, Iterator[Array]]]:
    """Each frame of (frames, rows, cols) as its number and its bands of rows, top to bottom.

    Frames that share a chunk of the file are read together, so that no chunk is unpacked twice, as far as
    `AT_ONCE_BYTES` allows; a frame larger than that is read in bands of rows.
    """
    frame_bytes = data.nbytes // data.shape[0]
    if is_large(data):
        for number in range(data.shape[0]):
            yield number, _bands(data[number])
        return
    chunk = _frames_per_chunk(data)
    several = max(1, _GROUP_BYTES // (frame_bytes * chunk)) * chunk  # small frames: asking dask costs more than reading
    group = min(several, max(1, AT_ONCE_BYTES // frame_bytes))
    for start in range(0, data.shape[0], group):
        block = computed(data[start : start + group])
        for number, frame in enumerate(block, start):
            yield number, _bands(frame)


def is_large(data: Any) -> bool:
    """Whether the frames of (frames, rows, cols) are read in bands of rows, one after the other."""
    return bool(data.nbytes // data.shape[0] > AT_ONCE_BYTES or _comes_in_bands(data))


def _comes_in_bands(data: Any) -> bool:
    """Whether the pieces of a lazy array (frames, rows, cols) are the bands in which images are written."""
    rows = data.chunks[1] if hasattr(data, "chunks") else ()
    return len(rows) > 1 and set(rows[:-1]) == {CHUNK_PX}


def _frames_per_chunk(data: Any) -> int:
    return int(data.chunks[0][0]) if hasattr(data, "chunks") else 1


def _bands(frame: Any) -> Iterator[Array]:
    for start in range(0, frame.shape[0], CHUNK_PX):
        yield computed(frame[start : start + CHUNK_PX])


@dataclass
class Survey:
    """What is counted while the bands of an image pass by."""

    pixels: int = 0
    not_finite: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    at_highest: int = 0
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype("float32"))

    def watch(self, bands: Iterator[Array]) -> Iterator[Array]:
        """Hand the bands on, floats as float32, and count."""
        for band in bands:
            if band.dtype.kind == "f" and band.dtype != np.float32:
                with np.errstate(over="ignore"):
                    band = band.astype(np.float32)
            self._count(band)
            yield band

    def _count(self, band: Array) -> None:
        self.dtype = band.dtype
        self.pixels += band.size
        lowest, highest = band.min(), band.max()
        finite = band
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            finite = band[np.isfinite(band)]
            self.not_finite += band.size - finite.size
            if finite.size == 0:
                return
            lowest, highest = finite.min(), finite.max()
        self.lowest = min(self.lowest, lowest)
        if highest > self.highest:
            self.highest, self.at_highest = highest, 0
        if highest == self.highest:
            self.at_highest += int(np.count_nonzero(finite == highest))

    @property
    def saturated(self) -> float:
        """Fraction of the pixels that hold the very highest value."""
        return self.at_highest / max(1, self.pixels)


def refusal_of_pixels(survey: Survey) -> str:
    """Why the pixels of an image are of no use, for a microscopist; "" if they are. Saturation is judged apart."""
    if survey.not_finite > LARGEST_NAN * survey.pixels:
        return f"{100 * survey.not_finite / survey.pixels:.0f} % of its pixels are not numbers (NaN or infinite)"
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


def refusal_of_saturation(survey: Survey) -> str:
    """Sentence for an image cut off at the top, "" if it is not."""
    if survey.saturated <= LARGEST_SATURATED:
        return ""
    share = f"{100 * survey.saturated:.0f} %"
    return f"is saturated: {share} of its pixels sit at the highest value ({survey.highest:g}); the columns are cut off"


def aligned_sum(data: Any) -> tuple[Array, npt.NDArray[np.int64]]:
    """Sum of a stack's frames after rigid alignment by whole pixels, cut to the field that all frames share.

    Whole pixels keep counts whole and the noise of neighbouring pixels independent.

    Parameters
    ----------
    data : numpy or dask array of shape (frames, rows, cols)
        Read frame by frame.

    Returns
    -------
    total : ndarray of shape (rows', cols')
        int32 for integers (int64 where that is too small), else float32.
    shifts_px : ndarray of shape (frames, 2)
        Place (row, col) of each frame's origin in the first frame [px].
    """
    wide = np.dtype("int64") if data.dtype.kind in "biu" else np.dtype("float64")
    rows, cols = data.shape[1:]
    total = np.zeros((rows, cols), wide)
    reference, weight = np.zeros(0), np.zeros(0)
    shifts = np.zeros((data.shape[0], 2), np.int64)
    for number, bands in frames(data):
        frame = np.concatenate(list(bands))
        view = _middle(frame)
        if number == 0:
            reference, weight = np.zeros_like(view), np.zeros_like(view)
        else:
            shifts[number] = frame_shift_px(reference / np.maximum(weight, 1), view, shifts[number - 1])
        _add_shifted(total, frame, shifts[number])
        _add_shifted(reference, view, shifts[number])
        _add_shifted(weight, np.ones_like(view), shifts[number])
    low, high = shifts.max(axis=0), shifts.min(axis=0)
    top, left = np.maximum(low, 0)
    bottom, right = rows + min(0, int(high[0])), cols + min(0, int(high[1]))
    if wide.kind == "i" and np.abs(total).max() < 1 << 31:
        total = total.astype(np.int32)
    common = total[top : max(bottom, top), left : max(right, left)]
    return (common if wide.kind == "i" else common.astype(np.float32)), shifts


def _middle(frame: Array) -> Array:
    top, left = (max(0, (n - _ALIGN_PX) // 2) for n in frame.shape)
    return frame[top : top + _ALIGN_PX, left : left + _ALIGN_PX].astype(np.float32)


def frame_shift_px(reference: Array, frame: Array, expected_px: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Find where the origin of `frame` lies in `reference`, both of shape (rows, cols), in whole pixels (row, col).

    A lattice repeats itself, so of the many maxima of the cross-correlation the one near `expected_px` counts. What
    the two do not share is cut off, and the search repeated there until nothing moves: an edge seen by one alone
    pulls towards no shift.
    """
    shift = expected_px
    for _ in range(4):
        parts = _overlap(reference.shape, shift)
        if min(len(range(*part.indices(n))) for part, n in zip(parts[0], reference.shape, strict=True)) < 16:
            return expected_px  # nothing left to compare
        step = _correlation_peak(reference[parts[0]], frame[parts[1]])
        if not step.any():
            break
        shift = shift + step
    return shift


def _correlation_peak(first: Array, second: Array) -> npt.NDArray[np.int64]:
    """Shift (row, col) [px] of `second` in `first`, the maximum of their correlation times a prior for small shifts."""
    rows, cols = first.shape
    window = np.outer(np.hanning(rows), np.hanning(cols)).astype(np.float32)
    spectra = [scipy.fft.rfft2((image - image.mean()) * window) for image in (first, second)]
    per_px = np.hypot(scipy.fft.fftfreq(rows)[:, None], scipy.fft.rfftfreq(cols)[None, :])
    # Slopes and clouds are no landmarks, and a pixel alone is mostly noise.
    detail = (1 - np.exp(-((per_px * _BACKGROUND_PX) ** 2) / 2)) * np.exp(-2 * (np.pi * per_px * _BLUR_PX) ** 2)
    correlation = scipy.fft.irfft2(spectra[0] * np.conj(spectra[1]) * detail.astype(np.float32), s=(rows, cols))
    away = [(np.arange(n) + n // 2) % n - n // 2 for n in (rows, cols)]
    prior = np.outer(*(np.exp(-(distance**2) / (2 * _DRIFT_PX**2)) for distance in away))
    row, col = np.unravel_index(np.argmax(correlation * prior), (rows, cols))
    return np.array([away[0][row], away[1][col]], np.int64)


def _overlap(shape: tuple[int, ...], shift_px: npt.NDArray[np.int64]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where two fields of one shape overlap when the second is shifted: slices of the first and of the second."""
    pairs = list(zip(shape, shift_px.tolist(), strict=True))
    first = tuple(slice(max(0, shift), max(0, min(n, n + shift))) for n, shift in pairs)
    second = tuple(slice(max(0, -shift), max(0, min(n, n - shift))) for n, shift in pairs)
    return first, second


def _add_shifted(total: Array, frame: Array, shift_px: npt.NDArray[np.int64]) -> None:
    first, second = _overlap(total.shape, shift_px)
    total[first] += frame[second]
