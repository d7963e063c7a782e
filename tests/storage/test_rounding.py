"""Numbers of tables in fewer digits: how many, and that nothing else changes."""

import numpy as np
import polars as pl

from oddlattice.storage.rounding import rounded


def test_numbers_keep_eight_digits_and_all_else_stays() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, 1000) * 10.0 ** rng.integers(-300, 300, 1000)
    odd = [None, float("nan"), float("inf"), -float("inf"), 0.0, 1.0, 0.5, -3.0]
    frame = pl.DataFrame({"number": [*values, *odd], "count": range(1008), "site": ["Sr"] * 1008})
    found = rounded(frame)
    assert found.schema == frame.schema
    assert found.drop("number").equals(frame.drop("number"))
    assert found["number"][1000:].equals(frame["number"][1000:], null_equal=True)
    kept = found["number"][:1000].to_numpy()
    assert 0 < np.abs(kept / values - 1).max() <= 2.0**-27
    assert rounded(found).equals(found)
    assert rounded(frame.clear()).equals(frame.clear())
