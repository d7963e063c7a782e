"""Medians of many values."""

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating]


def median(values: Values, axis: int = -1, *, keepdims: bool = False) -> Any:
    """`numpy.median` of values without NaN, to the last bit, several times faster.

    numpy asks for up to three places of the order at once; one place it finds with the processor's vectors.

    Parameters
    ----------
    values : ndarray
        At least one along `axis`.
    axis : int
    keepdims : bool
        Whether `axis` is kept with length 1.
    """
    lines = np.array(np.moveaxis(values, axis, -1), order="C")
    half = lines.shape[-1] // 2
    lines.partition(half, axis=-1)
    found = lines[..., half]
    if lines.shape[-1] % 2 == 0:
        found = (lines[..., :half].max(axis=-1) + found) / 2
    return np.expand_dims(found, axis) if keepdims else found


def robust_std(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation of the Gaussian that has the median deviation of `values`; 0 without any."""
    if not values.size:
        return 0.0
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
