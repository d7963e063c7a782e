"""Archives behind a URL: object stores and other remote trees. They are listed and copied from, never written to.

Arrow brings s3, gs and abfs; whatever else fsspec knows (sftp, webdav, ...) needs fsspec's package for it.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from oddlattice.archive import transient
from oddlattice.archive.listing import ArchiveError, Listed, Listing, any_of, list_archive
from oddlattice.archive.names import escape
from oddlattice.process.sandbox import DISK_ERRNOS

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
OF_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Remote:
    """A remote archive.

    Attributes
    ----------
    url : str
        Of the folder, such as ``s3://bucket/prefix``; more may be told, as ``?endpoint_override=host&scheme=http``.
        Accounts come from the environment.
    """

    url: str

    def __fspath__(self) -> str:
        """The URL, where a path would be shown."""
        return self.url

    @cached_property
    def _store(self) -> tuple[Any, str]:
        """A file system of Arrow, and the folder in it."""
        from pyarrow import fs  # here, not above: half a second that local archives need not spend

        if self.url.partition("://")[0].lower() in OF_ARROW:
            store, folder = fs.FileSystem.from_uri(self.url)
            return store, folder.rstrip("/")
        import fsspec

        found, folder = fsspec.core.url_to_fs(self.url)
        return fs.PyFileSystem(fs.FSSpecHandler(found)), folder.rstrip("/")

    def look(self) -> None:
        """Raise if the archive is away.

        Raises
        ------
        OSError
            If it is not there, or does not answer.
        """
        from pyarrow import fs

        store, folder = self._store
        if not any(store.get_file_info(fs.FileSelector(folder, recursive=False))):
            raise FileNotFoundError(f"{self.url}: the archive is empty; need what was scanned")

    def listed(self, include: Sequence[str], exclude: Sequence[str]) -> Listing:
        """List the files that match `include` and not `exclude`.

        Raises
        ------
        ArchiveError
            If the archive cannot be listed.
        """
        try:
            from pyarrow import fs

            store, folder = self._store
            found = store.get_file_info(fs.FileSelector(folder, recursive=True))
        except (OSError, ImportError, ValueError) as error:  # ValueError: Arrow's word for a URL that is none
            told = " ".join(str(error).split())
            raise ArchiveError(f"found {self.url}: {told[:300]}; needed a remote folder that can be listed") from None
        wanted, unwanted = any_of(include), any_of(exclude)
        files: list[Listed] = []
        others: Counter[str] = Counter()
        for one in found:
            if not one.is_file:
                continue
            path = one.path[len(folder) :].lstrip("/").encode("utf-8", "surrogateescape")
            if wanted is None or not wanted.fullmatch(path) or (unwanted and unwanted.fullmatch(path)):
                others[escape(os.path.splitext(path)[1])[:20]] += 1
            else:
                files.append(Listed(path, one.size or 0, one.mtime_ns or 0))
        return Listing(files, {}, 0, others)

    def there(self, paths: Iterable[bytes]) -> int:
        """How many of the paths are there."""
        store, folder = self._store
        names = [f"{folder}/{os.fsdecode(path)}" for path in paths]
        return sum(one.is_file for one in store.get_file_info(names)) if names else 0

    def fetch(self, path: str, size_bytes: int, mtime_ns: int, to: Path) -> str:
        """Copy a file; why it could not be, "" where it could.

        Only what was scanned is copied: a file of another size or time, before or after, has changed. The copy gets
        the time of the original.

        Raises
        ------
        OSError
            If the archive as a whole does not answer: no fault of the file.
        """
        store, folder = self._store
        try:
            if fault := self._fault(path, size_bytes, mtime_ns):
                return fault
            with store.open_input_stream(f"{folder}/{path}") as source, open(to, "wb") as copy:
                shutil.copyfileobj(source, copy, _BLOCK_BYTES)
            os.utime(to, ns=(mtime_ns, mtime_ns))
            return self._fault(path, to.stat().st_size, mtime_ns)
        except FileNotFoundError:
            return transient.VANISHED
        except OSError as error:
            if error.errno in DISK_ERRNOS:
                raise  # here, where the copy is written
            self.look()
            return f"{transient.UNOPENED}: {' '.join(str(error).split())[:200]}"

    def _fault(self, path: str, size_bytes: int, mtime_ns: int) -> str:
        store, folder = self._store
        (now,) = store.get_file_info([f"{folder}/{path}"])
        if not now.is_file:
            return transient.VANISHED
        return "" if (now.size, now.mtime_ns or 0) == (size_bytes, mtime_ns) else transient.CHANGED

    def fetch_beside(self, path: str, endings: Iterable[str], folder: Path) -> None:
        """Copy the files of the same name with other endings that are there."""
        store, root = self._store
        stem = os.path.splitext(path)[0]
        for one in store.get_file_info([f"{root}/{stem}{ending}" for ending in endings]):
            if one.is_file:
                with store.open_input_stream(one.path) as source, open(folder / Path(one.path).name, "wb") as copy:
                    shutil.copyfileobj(source, copy, _BLOCK_BYTES)


def place_of(archive: "str | Path | Remote") -> Path | Remote:
    """An archive by its path or URL; a path is made absolute."""
    if isinstance(archive, Remote):
        return archive
    text = os.fspath(archive)
    return Remote(text) if _URL.match(text) else Path(os.path.abspath(os.path.expanduser(text)))


def listed(archive: Path | Remote, include: Sequence[str], exclude: Sequence[str]) -> Listing:
    """One look at an archive, see `list_archive`."""
    if isinstance(archive, Remote):
        return archive.listed(include, exclude)
    return list_archive(archive, include, exclude)


def can_be_read(archive: Path | Remote, path: bytes) -> bool:
    """Whether this account may read a file; of a remote one that shows when it is read."""
    return isinstance(archive, Remote) or os.access(os.path.join(os.fsencode(archive), path), os.R_OK)


def still_there(archive: Path | Remote, paths: Collection[bytes]) -> int:
    """How many of the paths lead to something."""
    if isinstance(archive, Remote):
        return archive.there(paths)
    return sum(os.path.lexists(os.path.join(os.fsencode(archive), path)) for path in paths)
