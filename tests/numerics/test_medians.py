"""Medians that are found by partitioning once: numpy's own, to the last bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from oddlattice.numerics.medians import median


@settings(deadline=None)
@given(
    st.sampled_from([(1,), (2,), (9,), (3, 8), (4, 5, 6), (2, 401)]),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_medians_are_those_of_numpy(shape: tuple[int, ...], dtype: str, seed: int, is_coarse: bool) -> None:
    values = np.random.default_rng(seed).normal(0, 1e3, shape).astype(dtype)
    values = np.rint(values / 500) if is_coarse else values  # many alike
    for axis in range(-1, len(shape)):
        for keepdims in (False, True):
            expected = np.median(values, axis=axis, keepdims=keepdims)
            found = median(values, axis, keepdims=keepdims)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_infinite_values_are_values_and_what_is_given_stays() -> None:
    values = np.array([np.inf, 3.0, 1.0, -np.inf, 2.0])
    before = values.copy()
    assert median(values) == 2
    np.testing.assert_array_equal(values, before)
