"""Stacks: the axis that counts frames, frame after frame, and the sum of aligned frames."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from oddlattice.numerics.arrays import Array
from oddlattice.read.calibration import length_nm, plain
from oddlattice.read.signals import Axis, Signal
from oddlattice.storage.omezarr import CHUNK_PX, computed

#: A frame of at most this many bytes is read at once; a larger one in bands of rows.
AT_ONCE_BYTES = 256 << 20
_GROUP_BYTES = 32 << 20
_ALIGN_PX = 1024
# ASSUME: between two frames of a stack the specimen drifts by less than half a unit cell; the width of the prior [px].
_DRIFT_PX = 16.0
#: Brightness that varies over more than about this length is not used for alignment [px].
_BACKGROUND_PX = 20.0
_BLUR_PX = 1.5


def frame_axis(signal: Signal) -> int:
    """Find the axis of three that counts frames: the one to navigate, the one unlike the two others, or the first."""
    for place, axis in enumerate(signal.axes):
        if axis.navigate:
            return place
    keys = [(plain(axis.units), round(axis.scale, 12)) for axis in signal.axes]
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
