"""Columns of a real scan edited in place are found as far as its own scatter allows; skipped where there is no scan."""

import polars as pl
import pytest

from edit_real_scan import EDITS, SCAN, run

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not SCAN.is_file(), reason=f"no real scan at {SCAN}"),
]


def test_edited_columns_are_found_as_far_as_the_scan_allows() -> None:
    table = run(SCAN, copies=4, seed=2)
    assert set(table["edit"]) == set(EDITS) and table["n"].min() >= 10
    assert (table.filter(pl.col("edit") == "emptied")["recall"] == 1.0).all()
    pooled = table.group_by("edit").agg(
        *((pl.col(key) * pl.col("n")).sum() / pl.col("n").sum() for key in ("recall", "limit_both"))
    )
    for edit, recall, limit in pooled.iter_rows():
        assert recall > limit - 0.25, (edit, recall, limit)  # 10 points, and twice the scatter of 40 columns
