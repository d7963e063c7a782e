"""The false-discovery rate of an image: which p-values are flagged."""

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Array


def q_values(p_values: Array) -> Array:
    """Benjamini-Hochberg adjusted p-values. Source: doi:10.1111/j.2517-6161.1995.tb02031.x."""
    order, n = np.argsort(p_values, kind="stable"), len(p_values)
    raised = p_values[order] * n / np.arange(1, n + 1)
    q = np.empty(n)
    q[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return np.minimum(q, 1.0)


def smallest_cut(p: Array, flagged: npt.NDArray[np.bool_], fdr: float) -> float:
    """Largest p-value flagged, or the one that a further defect would need."""
    most = float(p[flagged].max()) if flagged.any() else 0.0
    return max(most, fdr * (int(flagged.sum()) + 1) / max(len(p), 1))
