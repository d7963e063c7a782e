"""The false-discovery rate of an image: which of its columns, and of the places between them, are listed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Array

EXTRA_SHARE = 0.1  # part of the false alarms that may be extra columns


@dataclass(frozen=True)
class Decision:
    """What Benjamini-Hochberg makes of all that was tested in an image.

    Attributes
    ----------
    q, q_extra : ndarray of shape (n,) and (m,)
        Adjusted p-values of the columns, and of the places between them.
    cut : float
        Largest p-value of a column that is listed, or the one that a further defect would need.
    """

    q: Array
    q_extra: Array
    cut: float


def q_values(p_values: Array, tests: int | None = None) -> Array:
    """Benjamini-Hochberg adjusted p-values of `tests` hypotheses; those not among `p_values` have a p-value of 1.

    Source: doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    order, n = np.argsort(p_values, kind="stable"), len(p_values)
    raised = p_values[order] * (n if tests is None else tests) / np.arange(1, n + 1)
    q = np.empty(n)
    q[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return np.minimum(q, 1.0)


def decide(p: Array, p_extra: Array, extra_tests: int, fdr: float, column_tests: int | None = None) -> Decision:
    """One Benjamini-Hochberg over the columns of an image and the cells between whose columns something extra may be.

    The p-values are weighted so that at any threshold EXTRA_SHARE of the false alarms are extra columns; source:
    Genovese et al. 2006, doi:10.1093/biomet/93.3.509.

    Parameters
    ----------
    p : ndarray of shape (n,)
        Of every tested column; or, of `column_tests` of them, of those with the smallest p-values.
    p_extra : ndarray of shape (m,)
        Of the cells in which something stands out, of the `extra_tests` that were looked at.
    """
    columns = len(p) if column_tests is None else column_tests
    share, tests = (EXTRA_SHARE if extra_tests else 0.0), columns + extra_tests
    weight = (1 - share) * tests / max(columns, 1)
    extra_weight = share * tests / max(extra_tests, 1)
    q = q_values(np.concatenate([p / weight, p_extra / max(extra_weight, 1e-300)]), tests)
    listed: npt.NDArray[np.bool_] = q <= fdr
    most = float(p[listed[: len(p)]].max(initial=0.0))
    cut = max(most, fdr * (int(listed.sum()) + 1) / max(tests, 1) * weight)
    return Decision(q[: len(p)], q[len(p) :], cut)
