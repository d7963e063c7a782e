"""Files that somebody who watches the archive has seen to be complete: they need not settle (``complete.tsv``).

No product depends on the list; a scan without it takes the same files, later.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from oddlattice.storage.atomic import write_if_changed

_HEADER = "path\tsize_bytes\tmtime_ns\n"


class Version(NamedTuple):
    """One version of a file; `path` is escaped and relative to the archive."""

    path: str
    size_bytes: int
    mtime_ns: int


def read_complete(home: Path) -> set[Version]:
    """The versions of files that are complete, as far as somebody watches; `home` is ``results/0_archive``."""
    try:
        lines = (home / "complete.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        return set()
    rows = (line.split("\t") for line in lines)
    return {Version(path, int(size_bytes), int(mtime_ns)) for path, size_bytes, mtime_ns in rows}


def write_complete(home: Path, versions: Iterable[Version]) -> None:
    """Write the list for the next scan."""
    lines = (f"{path}\t{size_bytes}\t{mtime_ns}\n" for path, size_bytes, mtime_ns in sorted(versions))
    write_if_changed(home / "complete.tsv", _HEADER + "".join(lines))
