"""The archive: which files it holds, which of them are settled, and the shards they are worked on in.

The archive is only ever listed and read. What is known of it lives in ``results/0_archive/``:

- ``{shard}.tsv`` (products.SHARD): the files of a shard. Frozen: never rewritten, and the truth about what is taken.
- ``discovered.tsv`` (products.INVENTORY; state ready or waiting): every file, rewritten only when it changes.
- ``waiting.tsv``: since when each waiting file has looked as it does (first_seen_ns); no product depends on it.
- ``{shard}.again``: how often the shard is read again, because files that were out of reach have come back.
- ``inventory.tsv`` (products.INVENTORY): a view with the states after analysis, refreshed before and after a run.
- ``judged.tsv``: which version of each shard's results (mtime_ns) that view shows.
- ``reviews.json`` and ``{shard}.reviews.json``: what people said about earlier reports, see review_files.
- ``archive.txt``: the folder the relative paths belong to.

Plain Python on purpose: this runs while the workflow is parsed, where importing a table library would cost more than
listing the archive.
"""

import fcntl
import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from oddlattice.archive.names import escape, slug, unescape
from oddlattice.archive.review_files import Reviews, by_shard, dumped
from oddlattice.archive.transient import may_pass
from oddlattice.storage.atomic import write_text

SHARD_NAME = r"[a-z0-9-]+-[0-9a-f]{8}"
_SHARD_FILE = re.compile(SHARD_NAME + r"\.tsv")
_SHARD_HEADER = "file_id\tpath\tsize_bytes\tmtime_ns\n"
_INVENTORY_HEADER = "file_id\tpath\tsize_bytes\tmtime_ns\tstate\treason\tshard\n"
_JUDGED_HEADER = "shard\tmtime_ns\n"
_LOOKS_HEADER = "file_id\tpath\tfirst_seen_ns\n"
_NS = 1_000_000_000
#: So often a shard is read again: a bad disk must not keep every run busy for ever.
_MOST_TRIES = 3


class ArchiveError(ValueError):
    """The archive cannot be used; the message says what was found and what is needed."""


class File(NamedTuple):
    """One version of one file; `path` is escaped and relative to the archive."""

    file_id: str
    path: str
    size_bytes: int
    mtime_ns: int


class Entry(NamedTuple):
    """One row of the inventory: a version of a file, its state and the shard it belongs to ("" while waiting)."""

    file: File
    state: str
    reason: str
    shard: str


class Listed(NamedTuple):
    """What one look at the archive shows of a file; `path` in the bytes of the file system, relative to the archive."""

    path: bytes
    size_bytes: int
    mtime_ns: int


class Look(NamedTuple):
    """How a waiting file looked, and since when [ns since 1970]."""

    file_id: str
    first_seen_ns: int


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
    """

    files: list[Listed]
    unreadable: dict[bytes, str]
    outside: int


@dataclass(frozen=True)
class Scan:
    """What a scan left in ``results/0_archive/``.

    Attributes
    ----------
    entries : list of Entry
        The rows of ``discovered.tsv``.
    shards : list of str
        All shards, in order of name.
    new_shards : int
        How many of them this scan made.
    warnings : list of str
        Sentences for the terminal.
    notes : list of str
        The same, of what is no fault.
    """

    entries: list[Entry]
    shards: list[str]
    new_shards: int
    warnings: list[str]
    notes: list[str]


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
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = folder + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path + b"/")
                        continue
                    if wanted is None or not wanted.fullmatch(path) or (unwanted and unwanted.fullmatch(path)):
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
    return Listing(files, unreadable, outside)


def _stays_inside(link: bytes, home: bytes) -> bool:
    target = os.path.realpath(link)
    return target.startswith(home.rstrip(b"/") + b"/") and os.path.isfile(target)


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
    return [_file(line.split("\t")) for line in lines]


def read_entries(path: Path) -> list[Entry]:
    """Read ``discovered.tsv`` or ``inventory.tsv``; none where there is no such file yet."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        return []
    rows = (line.split("\t") for line in lines)
    return [Entry(_file(row), row[4], row[5], row[6]) for row in rows]


def _file(row: list[str]) -> File:
    return File(row[0], row[1], int(row[2]), int(row[3]))


def scan_archive(
    archive: Path,
    results: Path,
    include: Sequence[str],
    exclude: Sequence[str],
    settle_s: float,
    shard_files: int,
    shard_mb: float,
    now_ns: int,
) -> Scan:
    """Look at the archive and bring ``results/0_archive/`` up to date; files found settled make new shards.

    A file is settled when it looks as it did at the previous look (or was not there then), and either was modified
    at least `settle_s` ago or has been seen unchanged for `settle_s`. So a modification time in the future delays a
    file, but never for ever. A file that looks different from its last known version waits for the next look, whatever
    its age, and then becomes a new version: a new row in a new shard. Rows of shards stay, even when the file is gone.

    A folder that cannot be listed, and a file that cannot be opened, is a waiting row with the reason; a later scan
    tries again. A file that was out of reach when it was to be read, and is there again, has its shard read again.

    What `include` and `exclude` no longer ask for: results stay, with their rows; a shard of nothing else that has not
    been analysed is forgotten.

    Parameters
    ----------
    archive, results : Path
    include, exclude : sequence of str
        Path patterns, see `pattern`.
    settle_s : float
        Age from which a file is taken as complete [s].
    shard_files : int
        Most files in a shard.
    shard_mb : float
        Most megabytes in a shard.
    now_ns : int
        The time of this look [ns since 1970].

    Returns
    -------
    Scan

    Raises
    ------
    ArchiveError
        If the archive is missing, cannot be listed, is another one than before, or is empty though it was not before.
    """
    home = results / "0_archive"
    listing = list_archive(archive, include, exclude)
    with _one_at_a_time(home):
        known = known_entries(results)
        _same_archive(archive, home, known)
        unasked = _unasked(known, include, exclude)
        if not listing.files and len(known) > len(unasked):
            raise ArchiveError(
                f"found no file in {escape(archive)}, though {len(known)} were found earlier; "
                "needed the archive as it was (is it mounted?); nothing was touched"
            )
        known = _forget(results, known, unasked)
        waiting, settled, looks = sort_out(archive, listing, known, _read_looks(home), settle_s, now_ns)
        shards = dict(pack(settled, shard_files, shard_mb))
        _write_shards(home, shards)
        _try_again(archive, results, listing)
        taken = [*known, *(Entry(file, "ready", "", shard) for shard, files in shards.items() for file in files)]
        entries = sorted(taken + waiting, key=lambda entry: (entry.file.path, entry.file.mtime_ns, entry.file.file_id))
        _write_looks(home, looks)
        write_if_changed(home / "archive.txt", escape(archive) + "\n")
        write_if_changed(home / "discovered.tsv", _inventory_text(entries))
    return Scan(
        entries, shard_names(results), len(shards), _warnings(archive, listing), _notes(archive, listing, known)
    )


def known_entries(results: Path) -> list[Entry]:
    """Give the rows that shards hold, from ``discovered.tsv`` as far as it agrees with the shards that are there."""
    shards = set(shard_names(results))
    entries = [e for e in read_entries(results / "0_archive" / "discovered.tsv") if e.shard in shards]
    missing = shards - {entry.shard for entry in entries}
    return entries + [Entry(file, "ready", "", name) for name in sorted(missing) for file in read_shard(results, name)]


def sort_out(
    archive: Path,
    listing: Listing,
    known: list[Entry],
    looks: dict[str, Look],
    settle_s: float,
    now_ns: int,
) -> tuple[list[Entry], list[File], dict[str, Look]]:
    """Sort what a listing shows and no shard holds into waiting and settled; see `scan_archive` for the rule.

    Parameters
    ----------
    looks : dict of str to Look
        By path, the files that waited at the previous look.

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
        if path in seen and not unchanged:
            reason = "changed since the previous look; taken when it has stopped changing"
        elif now_ns - mtime_ns < settle_ns and (not unchanged or now_ns - since_ns < settle_ns):
            reason = f"may still be being written; taken once unchanged for {settle_s:g} s"
        elif mtime_ns > now_ns and not unchanged:
            reason = "its time of modification lies in the future; taken when the next look finds it unchanged"
        elif not os.access(os.path.join(os.fsencode(archive), name), os.R_OK):
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


def _unasked(known: list[Entry], include: Sequence[str], exclude: Sequence[str]) -> set[str]:
    """Ids of the files that `include` and `exclude` do not ask for."""
    wanted, unwanted = any_of(include), any_of(exclude)

    def asked(path: bytes) -> bool:
        return wanted is not None and bool(wanted.fullmatch(path)) and not (unwanted and unwanted.fullmatch(path))

    return {entry.file.file_id for entry in known if not asked(unescape(entry.file.path))}


def _forget(results: Path, known: list[Entry], unasked: set[str]) -> list[Entry]:
    """Forget the shards that nobody asks for any more and nobody has analysed; give the rows of the others."""
    keep = {entry.shard for entry in known if entry.file.file_id not in unasked} | _analysed(results).keys()
    for shard in {entry.shard for entry in known} - keep:
        (results / "0_archive" / f"{shard}.tsv").unlink()
    return [entry for entry in known if entry.shard in keep]


def _try_again(archive: Path, results: Path, listing: Listing) -> None:
    """Have the shards read again whose files were out of reach and are as they were."""
    home = results / "0_archive"
    lost = {
        e.file[1:]: e.shard
        for e in read_entries(home / "inventory.tsv")
        if e.state == "rejected" and may_pass(e.reason)
    }
    if not lost:
        return
    back = {
        lost[found]
        for name, *version in listing.files
        if (found := (escape(name), *version)) in lost and os.access(os.path.join(os.fsencode(archive), name), os.R_OK)
    }
    for shard in back:
        path = home / f"{shard}.again"
        tries = len(path.read_text().splitlines()) if path.exists() else 0
        if (home / f"{shard}.tsv").exists() and tries < _MOST_TRIES and not _is_due(results, shard):
            write_text(path, "".join(f"{n + 1}\n" for n in range(tries + 1)))


def _is_due(results: Path, shard: str) -> bool:
    """Whether a shard is to be read again already, and has not been."""
    again, read = results / "0_archive" / f"{shard}.again", results / "1_images" / f"{shard}.zarr" / "zarr.json"
    return again.exists() and (not read.exists() or read.stat().st_mtime_ns < again.stat().st_mtime_ns)


def again(results: Path, shard: str) -> list[str]:
    """The file that has a shard read again, where there is one."""
    path = results / "0_archive" / f"{shard}.again"
    return [str(path)] if path.exists() else []


def refresh_inventory(results: Path) -> Counter[str]:
    """Bring ``inventory.tsv`` up to date with what the analysis left, and count its states.

    A file is rejected when none of its images got beyond state ``rejected``, else done; before its shard has been
    analysed it is ready. Only tables that have changed are read.

    Returns
    -------
    Counter of str
        Rows by state; their sum is the number of files discovered.
    """
    home = results / "0_archive"
    with _one_at_a_time(home):
        discovered = read_entries(home / "discovered.tsv")
        before = {entry.file.file_id: entry for entry in read_entries(home / "inventory.tsv")}
        judged_before = {entry.shard for entry in before.values() if entry.state in ("done", "rejected")}
        shown_ns = _read_judged(home)
        analysed_ns = _analysed(results)
        # Compared for being the same, not for being older: clocks jump.
        stale = {s for s, when_ns in analysed_ns.items() if shown_ns.get(s) != when_ns or s not in judged_before}
        verdicts = _verdicts(results, sorted(stale & {entry.shard for entry in discovered}))

        def judged(entry: Entry) -> Entry:
            if entry.shard not in analysed_ns:
                return entry
            if entry.shard in stale:
                state, reason = verdicts.get(entry.file.file_id, ("rejected", "its shard has no result for it"))
                return entry._replace(state=state, reason=reason)
            return before[entry.file.file_id]

        entries = [judged(entry) for entry in discovered]
        write_if_changed(home / "inventory.tsv", _inventory_text(entries))
        lines = (f"{shard}\t{when_ns}\n" for shard, when_ns in sorted(analysed_ns.items()))
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


def _analysed(results: Path) -> dict[str, int]:
    """Modification time [ns] of the images table of every analysed shard."""
    folder, ending = results / "4_defects", ".images.parquet"
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {e.name[: -len(ending)]: e.stat().st_mtime_ns for e in entries if e.name.endswith(ending)}


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


def _inventory_text(entries: Iterable[Entry]) -> str:
    rows = (f"{i}\t{p}\t{s}\t{m}\t{state}\t{reason}\t{shard}\n" for (i, p, s, m), state, reason, shard in entries)
    return _INVENTORY_HEADER + "".join(rows)


def _shard_text(files: Iterable[File]) -> str:
    return _SHARD_HEADER + "".join(f"{i}\t{p}\t{s}\t{m}\n" for i, p, s, m in files)


def _read_looks(home: Path) -> dict[str, Look]:
    try:
        lines = (home / "waiting.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        return {}
    rows = (line.split("\t") for line in lines)
    return {path: Look(identity, int(since_ns)) for identity, path, since_ns in rows}


def _write_looks(home: Path, looks: dict[str, Look]) -> None:
    rows = (f"{look.file_id}\t{path}\t{look.first_seen_ns}\n" for path, look in sorted(looks.items()))
    write_if_changed(home / "waiting.tsv", _LOOKS_HEADER + "".join(rows))


def write_if_changed(path: Path, text: str) -> None:
    """Write a file only if its content changes, so that nothing that depends on it runs again for nothing."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except FileNotFoundError:
        pass
    write_text(path, text)


def write_reviews(results: Path, found: Reviews) -> None:
    """Leave in ``0_archive`` what the reviews say, and of each shard what concerns it; files change only if it does."""
    home = results / "0_archive"
    shard_of = {entry.file.file_id: entry.shard for entry in known_entries(results)}
    said = by_shard(found.statements, shard_of)
    write_if_changed(home / "reviews.json", dumped({"files": found.files, "statements": found.statements}))
    for shard in shard_names(results):
        write_if_changed(home / f"{shard}.reviews.json", dumped({"statements": said.get(shard, [])}))


def _write_shards(home: Path, shards: dict[str, list[File]]) -> None:
    """Write new shards whole; side by side, because each waits for the disk. Existing ones are left alone."""
    with ThreadPoolExecutor(16) as pool:
        paths = ((home / f"{shard}.tsv", _shard_text(files)) for shard, files in shards.items())
        for done in [pool.submit(write_text, path, text) for path, text in paths if not path.exists()]:
            done.result()


def _same_archive(archive: Path, home: Path, known: list[Entry]) -> None:
    try:
        before = (home / "archive.txt").read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        return
    if known and before != escape(archive):
        raise ArchiveError(
            f"found {escape(archive)}, but {home.parent} holds the results of {before}; needed a working folder of its "
            f"own (--directory) or, if the archive has moved, its new place written into {home / 'archive.txt'}"
        )


def _warnings(archive: Path, listing: Listing) -> list[str]:
    warnings = [
        f"{escape(archive)}/{escape(folder)}: folder cannot be listed: {why.lower()}; needed a readable folder"
        for folder, why in sorted(listing.unreadable.items())
    ]
    if listing.outside:
        warnings.append(f"{escape(archive)}: {listing.outside} links lead out of the archive or nowhere; not followed")
    return warnings


def _notes(archive: Path, listing: Listing, known: list[Entry]) -> list[str]:
    """Sentences about files that have rows and are not listed any more."""
    listed = {file.path for file in listing.files}
    paths = {unescape(entry.file.path) for entry in known} - listed
    there = sum(os.path.lexists(os.path.join(os.fsencode(archive), path)) for path in paths)
    says = {"are no longer asked for by include and exclude": there, "are gone from the archive": len(paths) - there}
    place = escape(archive)
    return [f"{place}: of the files found earlier {n} {why}; their results stay" for why, n in says.items() if n]


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """Keep a second scan of the same results out while this one writes; a file system without locks goes without."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "a") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
