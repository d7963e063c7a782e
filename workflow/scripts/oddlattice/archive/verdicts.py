"""The states of files after analysis, shown in ``inventory.tsv``."""

import os
from collections import Counter
from pathlib import Path

from oddlattice.archive.entries import Entry, inventory_text, read_entries
from oddlattice.storage.atomic import write_if_changed
from oddlattice.storage.locks import one_at_a_time

_GATHERED = "4_defects/images.parquet"
_JUDGED_HEADER = "shard\tmtime_ns\n"


def refresh_inventory(results: Path) -> Counter[str]:
    """Bring ``inventory.tsv`` up to date with what the analysis left, and count its states.

    A file is rejected when none of its images got beyond state ``rejected``, else done; before its shard has been
    analysed it is ready. A file whose scans another file holds too is done, with that as the reason. Only tables that
    have changed are read.

    Returns
    -------
    Counter of str
        Rows by state; their sum is the number of files discovered.
    """
    home = results / "0_archive"
    with one_at_a_time(home):
        discovered = read_entries(home / "discovered.tsv")
        before = {entry.file.file_id: entry for entry in read_entries(home / "inventory.tsv")}
        judged_before = {entry.shard for entry in before.values() if entry.state in ("done", "rejected")}
        shown_ns = _read_judged(home)
        analysed_ns = analysed(results)
        # Compared for being the same, not for being older: clocks jump.
        stale = {s for s, when_ns in analysed_ns.items() if shown_ns.get(s) != when_ns or s not in judged_before}
        verdicts = _verdicts(results, sorted(stale & {entry.shard for entry in discovered}))
        gathered_ns = _gathered(results)
        if gathered_ns == shown_ns.get(_GATHERED):
            copies = {file_id: entry.reason for file_id, entry in before.items() if entry.state == "done"}
        else:
            copies = _copies(results)

        def judged(entry: Entry) -> Entry:
            if entry.shard not in analysed_ns:
                return entry
            if entry.shard in stale:
                state, reason = verdicts.get(entry.file.file_id, ("rejected", "its shard has no result for it"))
            else:
                state, reason = before[entry.file.file_id].state, before[entry.file.file_id].reason
            return entry._replace(state=state, reason=copies.get(entry.file.file_id, "") if state == "done" else reason)

        entries = [judged(entry) for entry in discovered]
        write_if_changed(home / "inventory.tsv", inventory_text(entries))
        shown = analysed_ns | ({} if gathered_ns is None else {_GATHERED: gathered_ns})
        lines = (f"{shard}\t{when_ns}\n" for shard, when_ns in sorted(shown.items()))
        write_if_changed(home / "judged.tsv", _JUDGED_HEADER + "".join(lines))
    counts = Counter(entry.state for entry in entries)
    assert sum(counts[state] for state in ("waiting", "ready", "done", "rejected")) == len(discovered)
    return counts


def _read_judged(home: Path) -> dict[str, int]:
    try:
        lines = (home / "judged.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        return {}
    return {shard: int(when_ns) for shard, when_ns in (line.split("\t") for line in lines)}


def analysed(results: Path) -> dict[str, int]:
    """Modification time [ns] of the images table of every analysed shard."""
    folder, ending = results / "4_defects", ".images.parquet"
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {e.name[: -len(ending)]: e.stat().st_mtime_ns for e in entries if e.name.endswith(ending)}


def _gathered(results: Path) -> int | None:
    """Modification time [ns] of the table of all images; None where there is none yet."""
    try:
        return (results / _GATHERED).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _copies(results: Path) -> dict[str, str]:
    """Why a file counts no further, by file_id: all of its images are in another file too."""
    import polars as pl  # 0.2 s that most scans need not spend

    path = results / _GATHERED
    if not path.exists() or "same_scan_how" not in pl.read_parquet_schema(path):
        return {}
    images = pl.read_parquet(path, columns=["file_id", "path", "image_id", "state", "same_scan_as", "same_scan_how"])
    path_of = dict(images.select("image_id", "path").iter_rows())
    counted: dict[str, list[tuple[str, str]]] = {}
    read = images.filter(pl.col("state") != "rejected").select("file_id", "same_scan_as", "same_scan_how")
    for file_id, same, how in read.iter_rows():
        counted.setdefault(file_id, []).append((same or "", how or ""))
    return {
        file_id: f"{same[0][1]} as {path_of[same[0][0]]}, which is counted"
        for file_id, same in counted.items()
        if all(one in path_of for one, _ in same)
    }


def _verdicts(results: Path, shards: list[str]) -> dict[str, tuple[str, str]]:
    """State and reason of every file of analysed shards, by file_id."""
    if not shards:
        return {}
    import polars as pl  # 0.2 s that most scans need not spend

    tables = [results / "4_defects" / f"{shard}.images.parquet" for shard in shards]
    verdicts: dict[str, tuple[str, str]] = {}
    for table in tables:
        for row in pl.read_parquet(table, columns=["file_id", "state", "reason"]).iter_rows():
            if row[1] != "rejected":
                verdicts[row[0]] = ("done", "")
            else:
                verdicts.setdefault(row[0], ("rejected", " ".join((row[2] or "").split())))
    return verdicts
