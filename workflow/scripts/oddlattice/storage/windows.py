"""Arrays larger than memory: zarr read window by window, band by band, and every k-th pixel of it."""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from oddlattice.storage import blocks

MOST_BYTES = 192 << 20
BAND_ROWS = 1024  # as many as a chunk of an image has


class Windows:
    """A 2-D zarr array that is sliced often in small windows; holds the chunks used last.

    Parameters
    ----------
    array : zarr.Array[Any]
        Must not change meanwhile.
    most_bytes : int
        Of unpacked chunks that are kept.
    """

    def __init__(self, array: zarr.Array[Any], most_bytes: int = MOST_BYTES) -> None:
        self.shape, self.dtype = (array.shape[0], array.shape[1]), array.dtype
        rows, cols = self._chunk = (array.chunks[0], array.chunks[1])

        def chunk(i: int, j: int) -> npt.NDArray[Any]:
            return blocks.read(array, (slice(i * rows, (i + 1) * rows), slice(j * cols, (j + 1) * cols)))

        self._read = lru_cache(max(1, most_bytes // (rows * cols * array.dtype.itemsize)))(chunk)

    def __getitem__(self, window: slice | tuple[slice, slice]) -> npt.NDArray[Any]:
        if isinstance(window, slice):
            window = window, slice(None)
        (top, bottom), (left, right) = (s.indices(n)[:2] for s, n in zip(window, self.shape, strict=True))
        rows, cols = self._chunk
        out = np.empty((max(bottom - top, 0), max(right - left, 0)), self.dtype)
        for i in range(top // rows, -(-bottom // rows)):
            for j in range(left // cols, -(-right // cols)):
                r0, r1 = max(top, i * rows), min(bottom, (i + 1) * rows)
                c0, c1 = max(left, j * cols), min(right, (j + 1) * cols)
                part = self._read(i, j)[r0 - i * rows : r1 - i * rows, c0 - j * cols : c1 - j * cols]
                out[r0 - top : r1 - top, c0 - left : c1 - left] = part
        return out


class Transposed:
    """A 2-D array, or what is sliced like one, with rows and columns exchanged."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.dtype = (array.shape[1], array.shape[0]), array.dtype

    def __getitem__(self, window: slice | tuple[slice, slice]) -> npt.NDArray[Any]:
        rows, cols = (window, slice(None)) if isinstance(window, slice) else window
        return np.ascontiguousarray(self._array[cols, rows].T)


class Scaled:
    """A 2-D array, or what is sliced like one, each of its rows over a factor of its own (rows,)."""

    def __init__(self, array: Any, factor: npt.NDArray[np.floating]) -> None:
        self._array, self._factor = array, factor
        self.shape, self.dtype = (array.shape[0], array.shape[1]), np.dtype(np.float32)

    def __getitem__(self, window: slice | tuple[slice, slice]) -> npt.NDArray[Any]:
        rows = window if isinstance(window, slice) else window[0]
        return np.asarray(self._array[window] / self._factor[rows, None], dtype=np.float32)


def bands(array: Any, rows: int = BAND_ROWS) -> Iterator[npt.NDArray[Any]]:
    """Bands of rows of a 2-D array, or of what is sliced like one."""
    for start in range(0, array.shape[0], rows):
        yield array[start : min(start + rows, array.shape[0]), 0 : array.shape[1]]


def every(array: Any, step: int) -> npt.NDArray[Any]:
    """Every `step`-th row and column of a 2-D array, or of what is sliced like one."""
    height = step * max(BAND_ROWS // step, 1)  # so that every band begins with a row that is taken
    # copied: a view would keep its band, and all bands together are the image
    return np.concatenate([np.asarray(band)[::step, ::step].copy() for band in bands(array, height)])


def give_back() -> None:
    """Let the C library hand freed memory back to the system: of what many threads freed it would keep the most."""
    with suppress(AttributeError, OSError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)
