"""Read the files of one shard: every real-space image becomes an OME-Zarr image, everything else a reason.

Each file is parsed in a child process with limits on memory and time, so that whatever a file does to its reader costs
that file alone. In: results/0_archive/{shard}.tsv; out: results/1_images/{shard}.zarr (row, col), see products.READ.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import zarr

from oddlattice.archive import transient
from oddlattice.archive.names import unescape
from oddlattice.process.logs import log_to
from oddlattice.process.sandbox import Ending, Limits, run_limited
from oddlattice.read import reader
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.products import READ, SHARD, read_tsv, table
from oddlattice.storage.rows import Row

#: Imported once by the fork server, not once per file.
PRELOAD = (
    "hyperspy.api",
    "hyperspy._signals.lazy_complex_signal2d",
    "hyperspy._signals.lazy_signal1d",
    "hyperspy._signals.lazy_signal2d",
    "dask.array",
    "rsciio.digitalmicrograph._api",
    "rsciio.emd._api",
    "rsciio.emd._emd_ncem",
    "rsciio.emd._emd_velox",
)


def sentence(ending: Ending, file: Mapping[str, Any], path: str, settings: Mapping[str, Any]) -> str:
    """Why a file as a whole was refused, for a microscopist; "" if it was not.

    Parameters
    ----------
    ending : Ending
        Of the child that read it.
    file : mapping
        Its row of the shard's table (products.SHARD).
    path : str
        Where the file is.
    settings : mapping
        timeout_s and memory_mb of the configuration's section "read".
    """
    if ending.how not in ("returned", "refused") and has_changed(file, path):
        return f"The file {transient.CHANGED}."
    memory_mb, timeout_s = settings["memory_mb"], settings["timeout_s"]
    match ending.how:
        case "returned":
            return ""
        case "refused":
            return f"The file {ending.detail}."
        case "raised":
            return f"The file {damage(ending.detail, missing_bytes(path))}."
        case "memory":
            return f"The file needs more than {memory_mb} MB of memory to read: damaged, or raise read.memory_mb."
        case "time":
            return f"The file was not read within {timeout_s:g} s and was given up: damaged, or raise read.timeout_s."
        case "signal":
            return f"The file crashed its reader ({ending.detail}): probably damaged."
        case "silent":
            return f"The file made its reader stop without a word ({ending.detail}): probably damaged."
    raise ValueError(f"{path}: unknown ending {ending.how!r}")


def damage(detail: str, missing: int) -> str:
    """Words for an exception of a reader; `missing` bytes are known to lack at the end of the file."""
    if missing:
        return f"is truncated: {reader.amount(missing)} are missing at its end (the reader says {detail})"
    if lengths := re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", detail):
        missing = int(lengths[2]) - int(lengths[1])
        return f"is truncated: {reader.amount(missing)} are missing at its end"
    return f"could not be understood by its reader, probably it is damaged ({detail})"


def has_changed(file: Mapping[str, Any], path: str) -> bool:
    """Whether a file is there but no longer the one that was scanned; cut short while mapped it kills its reader."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) != (file["size_bytes"], file["mtime_ns"])


def missing_bytes(path: str) -> int:
    """Bytes that a DigitalMicrograph file lacks of the length in its header; 0 for all other files."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return reader.missing_bytes(handle)
    finally:
        os.close(handle)


def require_archive(archive: Path) -> None:
    """Raise if the archive is away: that is no reason against any of its files.

    Raises
    ------
    FileNotFoundError
        If the folder is not there, or is empty, as a mount point is while nothing is mounted.
    """
    if not archive.is_dir():
        raise FileNotFoundError(f"{archive}: the archive is not there; need the folder that was scanned")
    with os.scandir(archive) as entries:
        if next(entries, None) is None:
            raise FileNotFoundError(f"{archive}: the archive is empty; is it mounted?")


def read_all(
    files: list[dict[str, Any]], archive: Path, part: Path, settings: Mapping[str, Any], threads: int, call: str
) -> Iterator[tuple[Ending, list[Row]]]:
    """Read files in children, at most `threads` at a time; yield each file's ending and rows as they come.

    A file's images appear in the store `part` when it has been read to its end, and not before.
    """
    at_once = max(1, min(threads, len(files)))
    paths = {file["file_id"]: os.fsdecode(os.path.join(os.fsencode(archive), unescape(file["path"]))) for file in files}
    jobs: dict[str, dict[str, Any]] = {
        file["file_id"]: {
            "file": file,
            "path": paths[file["file_id"]],
            "folder": str(part / f".{file['file_id']}"),
            "settings": dict(settings),
            "threads": max(1, threads // at_once),
        }
        for file in files
    }
    limits = Limits(settings["memory_mb"], settings["timeout_s"], settings["timeout_s"] * max(1, threads // at_once))
    killed: dict[str, Mapping[str, object]] = {}
    for is_last, some in ((False, jobs), (True, killed)):
        for ending in (
            run_limited(call, some, limits, at_once=1 if is_last else at_once, preload=PRELOAD) if some else ()
        ):
            if ending.detail == "SIGKILL" and not is_last:
                killed[ending.key] = jobs[ending.key]  # not by us: perhaps the machine was short of memory, once more
                continue
            file = jobs[ending.key]["file"]
            reason = sentence(ending, file, paths[ending.key], settings)
            rows = ending.value if ending.how == "returned" else refused(file, ending.key, reason)
            collect(rows, part, part / f".{ending.key}")
            yield ending, rows


def refused(file: Mapping[str, Any], key: str, reason: str) -> list[Row]:
    """The row of a file that gave none itself."""
    from oddlattice.read.read_file import row  # here, not above: it loads all that the children need

    return [row(file, key, "", 0, reason)]


def collect(rows: list[Row], part: Path, folder: Path) -> None:
    """Move the images that were read from a file's own store into the shard's; drop the rest."""
    for found in rows:
        if found["state"] == "read":
            os.rename(folder / str(found["image_id"]), part / str(found["image_id"]))
    shutil.rmtree(folder, ignore_errors=True)


def summary(path: object, rows: list[Row], seconds: float) -> str:
    """One line for the log."""
    n_read = sum(found["state"] == "read" for found in rows)
    reasons = "".join(f"\n    {found['reason']}" for found in rows if found["reason"])
    return f"{path}: {n_read} read, {len(rows) - n_read} rejected, {seconds:.2f} s{reasons}\n"


def main(
    shard_tsv: str | Path,
    archive: str | Path,
    out_zarr: str | Path,
    settings: Mapping[str, Any],
    log: str | Path | None = None,
    threads: int = 1,
    call: str = "oddlattice.read.read_file:read_file",
) -> None:
    """Read the files of a shard into a store of images.

    Parameters
    ----------
    shard_tsv : path
        Files of the shard (products.SHARD), paths relative to `archive`.
    archive : path
        Folder of the raw files; only read.
    out_zarr : path
        Store to make; appears whole or not at all.
    settings : mapping
        Section "read" of the configuration: detectors, frames, min_px, timeout_s, memory_mb.
    log : path, optional
        Takes a line for each file; without it they go to standard error.
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
    archive = Path(archive).absolute()
    files = read_tsv(shard_tsv, SHARD).to_dicts()
    require_archive(archive)
    rows: dict[str, list[Row]] = {}
    paths = {file["file_id"]: file["path"] for file in files}
    with whole_directory(Path(out_zarr).absolute()) as part, _opened(log) as lines:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        for ending, found in read_all(files, archive, part, settings, threads, call):
            rows[ending.key] = found
            lines.write(summary(paths[ending.key], found, ending.seconds))
            lines.flush()
        require_archive(archive)
        in_order = [found for file in files for found in rows[file["file_id"]]]
        table(in_order, READ)  # raises if a row is not as products.READ has it
        group.update_attributes({"images": in_order})


def archive_of(archive_txt: str | Path) -> str:
    """Read the archive's folder from results/0_archive/archive.txt."""
    return os.fsdecode(unescape(Path(archive_txt).read_text(encoding="utf-8").removesuffix("\n")))


def _opened(log: str | Path | None) -> Any:
    if log is None:
        return nullcontext(sys.stderr)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    return open(log, "w", encoding="utf-8")


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.shard_tsv,
        archive_of(snakemake.input.archive),
        snakemake.output.images_zarr,
        dict(snakemake.params.settings),
        threads=snakemake.threads,
    )
