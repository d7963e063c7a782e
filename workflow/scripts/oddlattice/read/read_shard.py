"""The files of a shard, each read in a child process with limits on memory and time.

Whatever a file does to its reader costs that file alone.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from oddlattice.archive.remote import Remote
from oddlattice.process.sandbox import Ending, Limits, run_limited
from oddlattice.read.endings import sentence
from oddlattice.read.formats.registry import FORMATS
from oddlattice.read.rows import row
from oddlattice.read.staging import Local, Staged, staged
from oddlattice.run.stage_settings import ReadSettings
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import new_store
from oddlattice.storage.omezarr import make_collection
from oddlattice.storage.products import READ, SHARD, read_tsv, table
from oddlattice.storage.rows import Row

#: Imported once by the fork server, not once per file.
PRELOAD = (
    "hyperspy.api",
    "hyperspy._signals.lazy_complex_signal2d",
    "hyperspy._signals.lazy_signal1d",
    "hyperspy._signals.lazy_signal2d",
    "dask.array",
)


def preloaded(files: list[dict[str, Any]]) -> tuple[str, ...]:
    """What the server imports: for all files, and for the formats that their names say; others load their own."""
    endings = {os.path.splitext(str(file["path"]))[1].lower() for file in files}
    formats = [known for known in FORMATS if endings & set(known.endings)]
    return (*PRELOAD, *sorted({module for known in formats for module in known.modules}))


def require_archive(archive: Path | Remote) -> None:
    """Raise if the archive is away: that is no reason against any of its files.

    Raises
    ------
    OSError
        If the folder is not there, or is empty, as a mount point is while nothing is mounted.
    """
    if isinstance(archive, Remote):
        archive.look()
        return
    if not archive.is_dir():
        raise FileNotFoundError(f"{archive}: the archive is not there; need the folder that was scanned")
    with os.scandir(archive) as entries:
        if next(entries, None) is None:
            raise FileNotFoundError(f"{archive}: the archive is empty; is it mounted?")


def read_all(
    files: list[dict[str, Any]], stage: Local, part: Path, settings: ReadSettings, threads: int, call: str
) -> Iterator[tuple[Ending, list[Row]]]:
    """Read files in children, at most `threads` at a time; yield each file's ending and rows as they come.

    A file's images appear in the store `part` when it has been read to its end, and not before.
    """
    at_once = max(1, min(threads, len(files)))
    of_file = max(1, threads // at_once)

    def job(one: Staged) -> tuple[str, dict[str, Any]]:
        name = str(one.file["file_id"])
        more = {"folder": str(part / f".{name}"), "settings": settings.as_dict(), "threads": of_file}
        fault = {"fault": one.fault} if one.fault else {}
        return name, {"file": one.file, "path": one.path} | more | fault

    by_id = {file["file_id"]: file for file in files}
    limits = Limits(settings.memory_mb, settings.timeout_s, settings.timeout_s * of_file)
    killed: list[dict[str, Any]] = []
    for is_last, some in ((False, files), (True, killed)):
        jobs = map(job, stage.of(some))
        for ending in (
            run_limited(call, jobs, limits, at_once=1 if is_last else at_once, preload=preloaded(files)) if some else ()
        ):
            file = by_id[ending.key]
            if ending.detail == "SIGKILL" and not is_last:
                killed.append(file)  # not by us: perhaps the machine was short of memory, once more
                stage.done(file)
                continue
            reason = sentence(ending, file, stage.path_of(file), settings)
            stage.done(file)
            rows = ending.value if ending.how == "returned" else [row(file, ending.key, "", 0, reason)]
            collect(rows, part, part / f".{ending.key}")
            yield ending, rows


def collect(rows: list[Row], part: Path, folder: Path) -> None:
    """Move the images that were read from a file's own store into the shard's; drop the rest."""
    for found in rows:
        if found["state"] == "read":
            os.rename(folder / str(found["image_id"]), part / str(found["image_id"]))
    shutil.rmtree(folder, ignore_errors=True)


def described(path: object, rows: list[Row], seconds: float) -> str:
    """One line for the log."""
    n_read = sum(found["state"] == "read" for found in rows)
    reasons = "".join(f"\n    {found['reason']}" for found in rows if found["reason"])
    return f"{path}: {n_read} read, {len(rows) - n_read} rejected, {seconds:.2f} s{reasons}\n"


def read_shard(
    shard_tsv: Path,
    archive: Path | Remote,
    out_zarr: Path,
    settings: ReadSettings,
    lines: IO[str],
    threads: int = 1,
    call: str = "oddlattice.read.read_file:read_file",
) -> None:
    """Read the files of a shard into a store of images; `lines` takes a line for each file.

    Parameters
    ----------
    shard_tsv : Path
        Files of the shard (products.SHARD), paths relative to `archive`.
    archive : Path or Remote
        Folder of the raw files; only read.
    out_zarr : Path
        Store to make; appears whole or not at all.
    settings : ReadSettings
    lines : text file
    threads : int
        Files read at the same time; the products do not depend on it.
    call : str
        "module:function" that reads one file in a child process; tests put hostile ones here.

    Raises
    ------
    FileNotFoundError
        If the archive is away.
    OSError
        If the products cannot be written.
    """
    files = read_tsv(shard_tsv, SHARD).to_dicts()
    require_archive(archive)
    rows: dict[str, list[Row]] = {}
    paths = {file["file_id"]: file["path"] for file in files}
    with whole_directory(out_zarr.absolute()) as part, staged(archive) as stage:
        group = new_store(part)
        for ending, found in read_all(files, stage, part, settings, threads, call):
            rows[ending.key] = found
            lines.write(described(paths[ending.key], found, ending.seconds))
            lines.flush()
        require_archive(archive)
        in_order = [found for file in files for found in rows[file["file_id"]]]
        table(in_order, READ)  # raises if a row is not as products.READ has it
        group.update_attributes({"images": in_order})
        make_collection(part, depth=1)
