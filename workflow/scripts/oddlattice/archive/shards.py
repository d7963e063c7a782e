"""Shards, the units of work: frozen lists of a few files of one folder, in ``results/0_archive/{shard}.tsv``."""

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from oddlattice.archive.names import slug, unescape
from oddlattice.storage.atomic import write_text

SHARD_NAME = r"[a-z0-9-]+-[0-9a-f]{8}"
_SHARD_FILE = re.compile(SHARD_NAME + r"\.tsv")
_SHARD_HEADER = "file_id\tpath\tsize_bytes\tmtime_ns\n"


class File(NamedTuple):
    """One version of one file; `path` is escaped and relative to the archive."""

    file_id: str
    path: str
    size_bytes: int
    mtime_ns: int


def file_id(path: str, size_bytes: int, mtime_ns: int) -> str:
    """Give a version of a file its id: a slug of its name and 10 hex digits of a hash of path, size and mtime."""
    digest = hashlib.sha256(unescape(path) + f"\0{size_bytes}\0{mtime_ns}".encode()).hexdigest()
    name = path.rpartition("/")[2]
    return f"{slug(name.rpartition('.')[0] or name, 40)}-{digest[:10]}"


def pack(files: Iterable[File], most_files: int, most_mb: float) -> Iterator[tuple[str, list[File]]]:
    """Group files into shards: files of one folder, at most `most_files` and `most_mb` megabytes each.

    Yields
    ------
    name : str
        A slug of the folder and 8 hex digits of a hash of the ids of the files.
    files : list of File
        In order of path, in shards of about as many files each, so that no last one is worked on while all else is
        done; a file larger than `most_mb` stands alone.
    """
    by_folder: dict[str, list[File]] = defaultdict(list)
    for file in files:
        by_folder[file.path.rpartition("/")[0]].append(file)
    for folder in sorted(by_folder):
        group: list[File] = []
        size_mb, number = 0.0, len(by_folder[folder])
        most = math.ceil(number / math.ceil(number / most_files))
        for file in sorted(by_folder[folder], key=lambda file: file.path):
            file_mb = file.size_bytes / 1e6
            if group and (len(group) >= most or size_mb + file_mb > most_mb):
                yield shard_name(folder, group), group
                group, size_mb = [], 0.0
            group.append(file)
            size_mb += file_mb
        yield shard_name(folder, group), group


def shard_name(folder: str, files: Iterable[File]) -> str:
    """Name a shard after its folder and the ids of its files."""
    digest = hashlib.sha256("\n".join(file.file_id for file in files).encode()).hexdigest()
    return f"{slug(folder.rpartition('/')[2] or 'top', 30)}-{digest[:8]}"


def shard_names(results: Path) -> list[str]:
    """List the shards that a scan has made, in order of name."""
    folder = results / "0_archive"
    if not folder.is_dir():
        return []
    return sorted(name[:-4] for name in os.listdir(folder) if _SHARD_FILE.fullmatch(name))


def read_shard(results: Path, shard: str) -> list[File]:
    """Read the files of a shard."""
    lines = (results / "0_archive" / f"{shard}.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    return [file_of_row(line.split("\t")) for line in lines]


def file_of_row(row: list[str]) -> File:
    """A file from the first cells of a row of a table."""
    return File(row[0], row[1], int(row[2]), int(row[3]))


def write_shards(home: Path, shards: dict[str, list[File]]) -> None:
    """Write new shards whole; side by side, because each waits for the disk. Existing ones are left alone."""
    with ThreadPoolExecutor(16) as pool:
        paths = ((home / f"{shard}.tsv", _shard_text(files)) for shard, files in shards.items())
        for done in [pool.submit(write_text, path, text) for path, text in paths if not path.exists()]:
            done.result()


def _shard_text(files: Iterable[File]) -> str:
    return _SHARD_HEADER + "".join(f"{i}\t{p}\t{s}\t{m}\n" for i, p, s, m in files)
