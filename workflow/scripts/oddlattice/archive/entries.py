"""The rows of ``discovered.tsv`` and ``inventory.tsv``: versions of files and their states."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from oddlattice.archive.shards import File, file_of_row, read_shard, shard_names

_INVENTORY_HEADER = "file_id\tpath\tsize_bytes\tmtime_ns\tstate\treason\tshard\n"


class Entry(NamedTuple):
    """One row of the inventory: a version of a file, its state and the shard it belongs to ("" while waiting)."""

    file: File
    state: str
    reason: str
    shard: str


def read_entries(path: Path) -> list[Entry]:
    """Read ``discovered.tsv`` or ``inventory.tsv``; none where there is no such file yet."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        return []
    rows = (line.split("\t") for line in lines)
    return [Entry(file_of_row(row), row[4], row[5], row[6]) for row in rows]


def known_entries(results: Path) -> list[Entry]:
    """Give the rows that shards hold, from ``discovered.tsv`` as far as it agrees with the shards that are there."""
    shards = set(shard_names(results))
    entries = [e for e in read_entries(results / "0_archive" / "discovered.tsv") if e.shard in shards]
    missing = shards - {entry.shard for entry in entries}
    return entries + [Entry(file, "ready", "", name) for name in sorted(missing) for file in read_shard(results, name)]


def inventory_text(entries: Iterable[Entry]) -> str:
    """Entries as the text of their table."""
    rows = (f"{i}\t{p}\t{s}\t{m}\t{state}\t{reason}\t{shard}\n" for (i, p, s, m), state, reason, shard in entries)
    return _INVENTORY_HEADER + "".join(rows)
