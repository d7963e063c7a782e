"""Files of an archive as paths that readers open: local ones where they lie, remote ones copied to scratch ahead."""

import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from oddlattice.archive.names import unescape
from oddlattice.archive.remote import Remote
from oddlattice.read.formats.registry import FORMATS

AHEAD = 8  # files copied, or being copied, that nobody has read yet
AT_ONCE = 4  # copies under way
File = Mapping[str, Any]


class Staged(NamedTuple):
    """A file that may be opened at `path`, or why it could not be copied there."""

    file: File
    path: str
    fault: str = ""


class Local:
    """Files below a folder."""

    def __init__(self, archive: Path) -> None:
        self._archive = os.fsencode(archive)

    def of(self, files: Sequence[File]) -> Iterator[Staged]:
        """Every file, in order."""
        return (Staged(file, self.path_of(file)) for file in files)

    def path_of(self, file: File) -> str:
        """Where a file is; odd bytes as surrogate escapes."""
        return os.fsdecode(os.path.join(self._archive, unescape(file["path"])))

    def done(self, file: File) -> None:
        """Nothing is to be tidied."""

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing."""


class Scratch(Local):
    """Files of a remote archive, copied to a folder of their own each, in order and ahead of who reads them.

    In a `with` statement: at its end, however it ends, the copies are gone and nothing is copied any more.
    """

    def __init__(self, archive: Remote) -> None:
        self._remote = archive
        self._folder = tempfile.TemporaryDirectory(prefix="oddlattice-")
        super().__init__(Path(self._folder.name))
        self._free = threading.Semaphore(AHEAD)
        self._over = False
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def path_of(self, file: File) -> str:
        """Where the copy of a file is; formats are told by what a file holds, its ending is kept for their readers."""
        name = os.fsdecode(os.path.basename(unescape(file["path"])))
        return os.path.join(os.fsdecode(self._archive), str(file["file_id"]), name)

    def of(self, files: Sequence[File]) -> Iterator[Staged]:
        """Every file, in order, as soon as it has been copied.

        Raises
        ------
        OSError
            If the archive does not answer, or there is no place for a copy.
        """
        under_way: deque[Future[Staged]] = deque()
        for file in files:
            free = self._free.acquire(blocking=False)
            while not free:
                if under_way:
                    yield under_way.popleft().result()
                free = self._free.acquire(blocking=not under_way)
            if self._over:
                return
            under_way.append(self._pool.submit(self._copied, file))
        while under_way and not self._over:
            yield under_way.popleft().result()

    def _copied(self, file: File) -> Staged:
        path = Path(self.path_of(file))
        path.parent.mkdir(exist_ok=True)
        name = os.fsdecode(unescape(file["path"]))
        fault = self._remote.fetch(name, file["size_bytes"], file["mtime_ns"], path)
        if not fault and (beside := _BESIDE.get(path.suffix.lower())):
            self._remote.fetch_beside(name, beside, path.parent)
        return Staged(file, str(path), fault)

    def done(self, file: File) -> None:
        """Drop the copy of a file that has been read: another one may be copied."""
        folder = Path(self.path_of(file)).parent
        for copy in folder.glob("*"):
            copy.unlink()
        self._free.release()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over = True
        self._free.release()
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


#: Endings of files that tell more of one, by its ending.
_BESIDE = {ending: known.beside for known in FORMATS if known.beside for ending in known.endings}


def staged(archive: "Path | Remote") -> Local:
    """The files of an archive, for a `with` statement."""
    return Scratch(archive) if isinstance(archive, Remote) else Local(archive)
