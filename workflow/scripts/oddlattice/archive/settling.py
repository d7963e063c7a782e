"""Which listed files are complete: a file that may still be being written waits for a later look."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from oddlattice.archive.complete import Version
from oddlattice.archive.entries import Entry
from oddlattice.archive.listing import Listing
from oddlattice.archive.names import escape
from oddlattice.archive.remote import Remote, can_be_read
from oddlattice.archive.shards import File, file_id
from oddlattice.storage.atomic import write_if_changed

_LOOKS_HEADER = "file_id\tpath\tfirst_seen_ns\n"
_NS = 1_000_000_000


class Look(NamedTuple):
    """How a waiting file looked, and since when [ns since 1970]."""

    file_id: str
    first_seen_ns: int


def sort_out(
    archive: Path | Remote,
    listing: Listing,
    known: list[Entry],
    looks: dict[str, Look],
    complete: Collection[Version],
    settle_s: float,
    now_ns: int,
) -> tuple[list[Entry], list[File], dict[str, Look]]:
    """Sort what a listing shows and no shard holds into waiting and settled; see `scan_archive` for the rule.

    Parameters
    ----------
    looks : dict of str to Look
        By path, the files that waited at the previous look.
    complete : collection of Version
        Files that are known to be complete, whatever their age.

    Returns
    -------
    waiting : list of Entry
    settled : list of File
    looks : dict of str to Look
        The same for the next scan.
    """
    taken = {entry.file[1:] for entry in known}
    seen = {entry.file.path for entry in known} | looks.keys()
    settle_ns = int(settle_s * _NS)
    waiting: list[Entry] = []
    settled: list[File] = []
    new_looks: dict[str, Look] = {}
    for name, size_bytes, mtime_ns in listing.files:
        path = escape(name)
        if (path, size_bytes, mtime_ns) in taken:
            continue
        file = File(file_id(path, size_bytes, mtime_ns), path, size_bytes, mtime_ns)
        look = looks.get(path)
        unchanged = look is not None and look.file_id == file.file_id
        # never in the future: a clock that was ahead would have the file wait for ever
        since_ns = min(look.first_seen_ns, now_ns) if look is not None and unchanged else now_ns
        known_whole = (path, size_bytes, mtime_ns) in complete
        if not known_whole and path in seen and not unchanged:
            reason = "changed since the previous look; taken when it has stopped changing"
        elif not known_whole and now_ns - mtime_ns < settle_ns and (not unchanged or now_ns - since_ns < settle_ns):
            reason = f"may still be being written; taken once unchanged for {settle_s:g} s"
        elif not known_whole and mtime_ns > now_ns and not unchanged:
            reason = "its time of modification lies in the future; taken when the next look finds it unchanged"
        elif not can_be_read(archive, name):
            reason = "cannot be opened: permission denied; taken when it can be read"
        else:
            settled.append(file)
            continue
        waiting.append(Entry(file, "waiting", reason, ""))
        new_looks[path] = Look(file.file_id, since_ns)
    for name, why in listing.unreadable.items():
        path = escape(name)
        reason = f"folder cannot be listed: {why.lower()}; its files are taken when it can be read"
        waiting.append(Entry(File(file_id(path, 0, 0), path, 0, 0), "waiting", reason, ""))
    return waiting, settled, new_looks


def read_looks(home: Path) -> dict[str, Look]:
    """Read ``waiting.tsv``, by path; nothing where there is no such file yet."""
    try:
        lines = (home / "waiting.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        return {}
    rows = (line.split("\t") for line in lines)
    return {path: Look(identity, int(since_ns)) for identity, path, since_ns in rows}


def write_looks(home: Path, looks: dict[str, Look]) -> None:
    """Write ``waiting.tsv``."""
    rows = (f"{look.file_id}\t{path}\t{look.first_seen_ns}\n" for path, look in sorted(looks.items()))
    write_if_changed(home / "waiting.tsv", _LOOKS_HEADER + "".join(rows))
