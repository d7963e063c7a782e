"""Results of an older version stay where the config says so."""

import re
from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from oddlattice.archive.kept import kept_shards, made_by_rules
from oddlattice.archive.shards import SHARD_NAME
from oddlattice.storage.products import read_table

NAMES = st.from_regex(rf"\A{SHARD_NAME}\Z")


def put(results: Path, shard: str, version: str | None, page: bool = True) -> None:
    (results / "4_defects").mkdir(parents=True, exist_ok=True)
    (results / "0_archive").mkdir(exist_ok=True)
    more = {} if version is None else {"version": [version]}
    pl.DataFrame({"file_id": ["a"]} | more).write_parquet(results / f"4_defects/{shard}.images.parquet")
    if page:
        (results / "5_report" / shard).mkdir(parents=True)


def test_shards_of_that_version_with_a_page_are_kept(tmp_path: Path) -> None:
    put(tmp_path, "a-00000001", "0.1.0")
    put(tmp_path, "b-00000002", "0.2.0")
    put(tmp_path, "c-00000003", None)
    put(tmp_path, "d-00000004", "0.1.0", page=False)
    assert kept_shards(tmp_path, "0.1.0") == ["a-00000001"]
    assert kept_shards(tmp_path, "0.2.0") == ["b-00000002"]
    assert kept_shards(tmp_path, "") == kept_shards(tmp_path, "0.3.0") == []


def test_a_table_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: object) -> None:
    put(tmp_path, "a-00000001", "0.1.0")
    assert kept_shards(tmp_path, "0.1.0") == ["a-00000001"]
    before = (tmp_path / "0_archive/versions.tsv").read_text()
    assert kept_shards(tmp_path, "0.1.0") == ["a-00000001"]
    assert (tmp_path / "0_archive/versions.tsv").read_text() == before
    pl.DataFrame({"version": ["0.2.0"]}).write_parquet(tmp_path / "4_defects/a-00000001.images.parquet")
    assert kept_shards(tmp_path, "0.1.0") == []


def test_nothing_is_kept_before_the_first_run(tmp_path: Path) -> None:
    assert kept_shards(tmp_path, "0.1.0") == []


@given(st.sets(NAMES, max_size=30), st.sets(NAMES, min_size=1, max_size=30))
def test_rules_make_every_shard_but_the_kept_ones(made: set[str], kept: set[str]) -> None:
    digits = {shard[-8:] for shard in kept}
    pattern = re.compile(rf"results/4_defects/({made_by_rules(SHARD_NAME, sorted(kept))})\.images\.parquet")
    for shard in made | kept:
        assert bool(pattern.fullmatch(f"results/4_defects/{shard}.images.parquet")) == (shard[-8:] not in digits)


def test_a_table_of_another_version_has_the_columns_of_this_one(tmp_path: Path) -> None:
    pl.DataFrame({"old": [1], "b": [2]}).write_parquet(tmp_path / "t.parquet")
    frame = read_table(tmp_path / "t.parquet", {"a": pl.String, "b": pl.Int64})
    assert frame.columns == ["a", "b", "version"] and frame.row(0) == (None, 2, None)
