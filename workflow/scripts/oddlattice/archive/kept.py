"""Shards whose results an older version of the program made, and that a release shall not make stale.

`keep_results_of` in the config names the version. Such shards are no longer made by any rule: their files count as they
are, beside those of shards that the program of today makes.
"""

import re
from pathlib import Path

from oddlattice.archive.verdicts import analysed
from oddlattice.storage.atomic import write_if_changed

_HEADER = "shard\tmtime_ns\tversion\n"


def kept_shards(results: Path, version: str) -> list[str]:
    """Shards whose results `version` made, to the last page; only tables that have changed are read.

    Parameters
    ----------
    results : Path
    version : str
        As in the column `version` of the tables; "" keeps nothing.
    """
    if not version:
        return []
    known = _read_versions(results)
    found = {shard: (when_ns, known.get((shard, when_ns))) for shard, when_ns in sorted(analysed(results).items())}
    unread = [shard for shard, (_, made_by) in found.items() if made_by is None]
    found |= {shard: (found[shard][0], made_by) for shard, made_by in _versions_of(results, unread).items()}
    lines = (f"{shard}\t{when_ns}\t{made_by}\n" for shard, (when_ns, made_by) in found.items())
    write_if_changed(results / "0_archive/versions.tsv", _HEADER + "".join(lines))
    return [s for s, (_, made_by) in found.items() if made_by == version and (results / "5_report" / s).is_dir()]


def _read_versions(results: Path) -> dict[tuple[str, int], str]:
    try:
        lines = (results / "0_archive/versions.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        return {}
    return {(shard, int(when_ns)): made_by for shard, when_ns, made_by in (line.split("\t") for line in lines)}


def _versions_of(results: Path, shards: list[str]) -> dict[str, str]:
    """The version that made the images table of each shard; "" where a table has none."""
    if not shards:
        return {}
    import polars as pl  # 0.2 s that most runs need not spend

    found = {}
    for shard in shards:
        path = results / "4_defects" / f"{shard}.images.parquet"
        has_one = "version" in pl.read_parquet_schema(path)
        values = pl.read_parquet(path, columns=["version"])["version"].head(1).to_list() if has_one else []
        found[shard] = str(values[0] or "") if values else ""
    return found


def made_by_rules(name: str, kept: list[str]) -> str:
    """A regular expression of the shards that rules make: `name`, without those that are kept.

    A shard ends in eight digits that no other shard has. They are put as a tree, not a list, so that a name is told
    apart from thousands in eight steps.
    """
    if not kept:
        return name
    return f"(?![a-z0-9-]*-(?:{_tree(sorted(re.escape(shard[-8:]) for shard in kept))})(?![a-z0-9-])){name}"


def _tree(words: list[str]) -> str:
    """A regular expression of words of one length, common beginnings once."""
    if len(words) == 1 or not words[0]:
        return words[0]
    first = sorted({word[0] for word in words})
    return "(?:" + "|".join(c + _tree([word[1:] for word in words if word[0] == c]) for c in first) + ")"
