"""What lies in an archive: its files by patterns, listed and never opened."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from oddlattice.archive.names import escape


class ArchiveError(ValueError):
    """The archive cannot be used; the message says what was found and what is needed."""


class Listed(NamedTuple):
    """What one look at the archive shows of a file; `path` in the bytes of the file system, relative to the archive."""

    path: bytes
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """One look at the archive.

    Attributes
    ----------
    files : list of Listed
    unreadable : dict of bytes to str
        Folders that could not be listed, and why.
    outside : int
        Symbolic links that point outside the archive or nowhere; they are not followed.
    others : Counter of str
        How many files are not asked for, by the ending of their names.
    """

    files: list[Listed]
    unreadable: dict[bytes, str]
    outside: int
    others: Counter[str]


@lru_cache(maxsize=64)
def pattern(glob: str) -> re.Pattern[bytes]:
    """Compile a path pattern: ``*`` and ``?`` stay within a folder, ``**`` crosses folders, case does not matter.

    ``**/`` also stands for no folder at all, so ``**/*.dm4`` finds files at the top too.
    """
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", glob.removeprefix("/"), flags=re.DOTALL)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def translate(part: str) -> str:
        if part in special:
            return special[part]
        if len(part) > 2 and part[0] == "[":
            body = part[1:-1].replace("\\", "\\\\")
            return "[" + ("^" + body[1:] if body[0] == "!" else body.replace("^", "\\^", 1)) + "]"
        return re.escape(part)

    text = "".join(translate(part) for part in parts)
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"), re.IGNORECASE | re.DOTALL)
    except re.error as error:
        raise ArchiveError(f"found the pattern {glob!r} ({error}); needed one like **/*.dm4") from None


def any_of(globs: Sequence[str]) -> re.Pattern[bytes] | None:
    """Join patterns into one, for speed; None when there are none."""
    if not globs:
        return None
    return re.compile(b"|".join(b"(?:" + pattern(glob).pattern + b")" for glob in globs), re.IGNORECASE | re.DOTALL)


def list_archive(archive: Path, include: Sequence[str], exclude: Sequence[str]) -> Listing:
    """List the files of an archive that match `include` and not `exclude`; folders behind links are not entered.

    A link to a file counts as a file when it stays inside the archive.

    Raises
    ------
    ArchiveError
        If the archive is no folder or cannot be listed.
    """
    root = os.fsencode(archive)
    home = os.path.realpath(root)
    wanted, unwanted = any_of(include), any_of(exclude)
    files: list[Listed] = []
    unreadable: dict[bytes, str] = {}
    outside = 0
    others: Counter[str] = Counter()
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = folder + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if not (unwanted and unwanted.fullmatch(path + b"/")):  # nothing below it can be wanted
                            folders.append(path + b"/")
                        continue
                    if wanted is None or not wanted.fullmatch(path) or (unwanted and unwanted.fullmatch(path)):
                        others[escape(os.path.splitext(entry.name)[1])[:20]] += 1
                        continue
                    with suppress(FileNotFoundError):  # gone since it was listed
                        if entry.is_symlink() and not _stays_inside(entry.path, home):
                            outside += 1
                        elif entry.is_file():
                            stat = entry.stat()
                            files.append(Listed(path, stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            if not folder:
                raise ArchiveError(f"found no folder {escape(root)}; needed the folder of microscope files") from None
        except OSError as error:
            if not folder:
                raise ArchiveError(f"found {escape(root)}: {error.strerror}; needed a readable folder") from None
            unreadable[folder] = error.strerror or type(error).__name__
    return Listing(files, unreadable, outside, others)


def _stays_inside(link: bytes, home: bytes) -> bool:
    target = os.path.realpath(link)
    return target.startswith(home.rstrip(b"/") + b"/") and os.path.isfile(target)
