"""Symmetric filters along rows and columns of large float32 maps, several times faster than by way of doubles."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Float, Index
from oddlattice.numerics.compiled import compiled

TRUNCATE = 4.0  # the kernel ends at so many rms widths


@compiled("void(float32[:, ::1], int64[::1], int64[::1], float32[::1], float32[:, ::1])")
def _blurred(image: Float, rows_at: Index, cols_at: Index, half: Float, out: Float) -> None:
    """Fill `out` with `image` under the symmetric kernel `half` (its middle, then one side).

    `rows_at` and `cols_at` are the places in the image of a line as much longer as the kernel reaches; -1 is 0.
    """
    rows, cols = out.shape
    reach = len(half) - 1
    nothing, line = np.zeros(cols, np.float32), np.zeros(len(cols_at), np.float32)
    inner = line[reach : reach + cols]
    for row in range(rows):
        middle = row + reach
        here = image[row]
        for col in range(cols):
            inner[col] = half[0] * here[col]
        for k in range(1, reach + 1):
            above = image[rows_at[middle - k]] if rows_at[middle - k] >= 0 else nothing
            below = image[rows_at[middle + k]] if rows_at[middle + k] >= 0 else nothing
            for col in range(cols):
                inner[col] += half[k] * (above[col] + below[col])
        for k in range(reach):
            for end in (k, reach + cols + k):
                line[end] = inner[cols_at[end]] if cols_at[end] >= 0 else np.float32(0)
        for col in range(cols):
            out[row, col] = half[0] * inner[col]
        for k in range(1, reach + 1):
            before, after = line[reach - k :], line[reach + k :]
            for col in range(cols):
                out[row, col] += half[k] * (before[col] + after[col])


def gaussian_blur(image: Float, sigma_px: float, *, mirrored: bool = True, truncate: float = TRUNCATE) -> Float:
    """An image under a Gaussian, as `scipy.ndimage.gaussian_filter` has it, to the rounding of float32.

    Parameters
    ----------
    image : ndarray of shape (rows, cols), float32
    sigma_px : float
    mirrored : bool
        Whether the image goes on beyond its edges as in a mirror, or with 0.
    truncate : float
        rms widths at which the kernel ends.
    """
    half = np.exp(-0.5 * (np.arange(int(truncate * sigma_px + 0.5) + 1) / sigma_px) ** 2)
    return weighted(image, half, "symmetric" if mirrored else "constant")


def weighted(image: Float, half: npt.NDArray[np.float64], beyond: Literal["symmetric", "reflect", "constant"]) -> Float:
    """An image (rows, cols) under a symmetric kernel along rows and columns.

    Parameters
    ----------
    half : ndarray of shape (reach + 1,)
        The kernel's middle and one side; what it adds up to does not matter.
    beyond : str
        How the image goes on beyond its edges, as `numpy.pad` has it.
    """
    half = half / (half[0] + 2 * half[1:].sum())
    reach, out = len(half) - 1, np.empty(image.shape, dtype=np.float32)
    rows_at, cols_at = (_at(n, reach, beyond) for n in image.shape)
    _blurred(np.ascontiguousarray(image, np.float32), rows_at, cols_at, half.astype(np.float32), out)
    return out


def _at(length: int, reach: int, beyond: Literal["symmetric", "reflect", "constant"]) -> Index:
    """Places in a line of `length` of the places -`reach` to `length` + `reach`; -1 where there is nothing."""
    line = np.arange(length)
    return np.pad(line, reach, constant_values=-1) if beyond == "constant" else np.pad(line, reach, mode=beyond)
