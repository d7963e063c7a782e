"""Tables as they are written: their columns, and the version of the program that made each row."""

from pathlib import Path

import polars as pl
import pytest

from oddlattice import __version__
from oddlattice.storage.products import PRECISION, table, write_csv, write_parquet


def test_a_table_says_what_version_made_it(tmp_path: Path) -> None:
    rows = [{"group": "all", "flagged": 3}]
    write_parquet(table(rows, PRECISION), tmp_path / "a.parquet")
    write_csv(table(rows, PRECISION), tmp_path / "a.csv")
    for found in (pl.read_parquet(tmp_path / "a.parquet"), pl.read_csv(tmp_path / "a.csv", infer_schema=False)):
        assert found.columns == [*PRECISION, "version"]
        assert found["version"].to_list() == [__version__]
    write_parquet(table([], PRECISION), tmp_path / "empty.parquet")
    assert pl.read_parquet(tmp_path / "empty.parquet").columns == [*PRECISION, "version"]


def test_rows_gathered_from_older_tables_keep_theirs(tmp_path: Path) -> None:
    rows = [{"group": "old", "version": "0.0.7"}, {"group": "new"}]
    write_parquet(table(rows, PRECISION), tmp_path / "a.parquet")
    again = table(pl.read_parquet(tmp_path / "a.parquet").to_dicts(), PRECISION)
    write_csv(again, tmp_path / "a.csv")
    assert pl.read_csv(tmp_path / "a.csv")["version"].to_list() == ["0.0.7", __version__]


def test_a_column_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown columns"):
        table([{"versions": "1"}], PRECISION)
