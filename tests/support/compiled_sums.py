"""Kernels for test_compiled.py: a module of its own, that can be copied to a folder that cannot be written."""

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.compiled import compiled


@compiled("float64(float64)")
def doubled(value: float) -> float:
    return 2 * value


@compiled("float64[::1](float32[:, ::1])")
def twice_row_sums(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Twice the sum of each row."""
    sums = np.zeros(image.shape[0])
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            sums[r] += image[r, c]
        sums[r] = doubled(sums[r])
    return sums
