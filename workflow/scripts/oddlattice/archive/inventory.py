"""The archive: which files it holds, which of them are settled, and the shards they are worked on in.

The archive is only ever listed and read. What is known of it lives in ``results/0_archive/``:

- ``{shard}.tsv`` (products.SHARD): the files of a shard. Frozen: never rewritten, and the truth about what is taken.
- ``discovered.tsv`` (products.INVENTORY; state ready or waiting): every file, rewritten only when it changes.
- ``waiting.tsv``: since when each waiting file has looked as it does (first_seen_ns); no product depends on it.
- ``complete.tsv``: files that somebody who watches has seen to be complete: they need not settle.
- ``{shard}.again``: how often the shard is read again, because files that were out of reach have come back.
- ``inventory.tsv`` (products.INVENTORY): a view with the states after analysis, refreshed before and after a run.
- ``judged.tsv``: which version of each shard's results (mtime_ns) that view shows.
- ``reviews.json`` and ``{shard}.reviews.json``: what people said about earlier reports, see review_files.
- ``archive.txt``: the folder the relative paths belong to.

Plain Python on purpose: this runs while the workflow is parsed, where importing a table library would cost more than
listing the archive.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oddlattice.archive.complete import read_complete
from oddlattice.archive.entries import Entry, inventory_text, known_entries, read_entries
from oddlattice.archive.listing import ArchiveError, Listing, any_of
from oddlattice.archive.names import escape, unescape
from oddlattice.archive.remote import Remote, can_be_read, listed, still_there
from oddlattice.archive.review_files import Reviews, by_shard, dumped
from oddlattice.archive.settling import read_looks, sort_out, write_looks
from oddlattice.archive.shards import pack, shard_names, write_shards
from oddlattice.archive.transient import may_pass
from oddlattice.archive.verdicts import analysed
from oddlattice.storage.atomic import write_if_changed, write_text
from oddlattice.storage.locks import one_at_a_time

#: So often a shard is read again: a bad disk must not keep every run busy for ever.
_MOST_TRIES = 3
_MOST_ENDINGS = 5  # that are told of an archive without a file that is asked for


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


def scan_archive(
    archive: Path | Remote,
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

    What `include` and `exclude` no longer ask for keeps its results and rows, unless it has not been analysed.

    Parameters
    ----------
    archive : Path or Remote
    results : Path
    include, exclude : sequence of str
        Path patterns, see `pattern`.
    settle_s : float
        Age from which a file is taken as complete [s].
    shard_files, shard_mb : int, float
        Most files and most megabytes in a shard.
    now_ns : int
        The time of this look [ns since 1970].

    Raises
    ------
    ArchiveError
        If the archive is missing, cannot be listed, is another one than before, or is empty though it was not before.
    """
    home = results / "0_archive"
    listing = listed(archive, include, exclude)
    with one_at_a_time(home):
        known = known_entries(results)
        _same_archive(archive, home, known)
        unasked = _unasked(known, include, exclude)
        _not_emptied(archive, listing, known, unasked)
        known = _forget(results, known, unasked)
        before = read_looks(home), read_complete(home)
        waiting, settled, looks = sort_out(archive, listing, known, *before, settle_s, now_ns)
        shards = dict(pack(settled, shard_files, shard_mb))
        write_shards(home, shards)
        _try_again(archive, results, listing)
        taken = [*known, *(Entry(file, "ready", "", shard) for shard, files in shards.items() for file in files)]
        entries = sorted(taken + waiting, key=lambda entry: (entry.file.path, entry.file.mtime_ns, entry.file.file_id))
        write_looks(home, looks)
        write_if_changed(home / "archive.txt", escape(archive) + "\n")
        write_if_changed(home / "discovered.tsv", inventory_text(entries))
    notes = [*_notes(archive, listing, known), *_why_waiting(archive, waiting)]
    return Scan(entries, shard_names(results), len(shards), _warnings(archive, listing), notes)


def _not_emptied(archive: Path | Remote, listing: Listing, known: list[Entry], unasked: set[str]) -> None:
    """ArchiveError where an archive that held files is found empty."""
    if not listing.files and len(known) > len(unasked):
        raise ArchiveError(
            f"found no file in {escape(archive)}, though {len(known)} were found earlier; "
            "needed the archive as it was (is it mounted?); nothing was touched"
        )


def _unasked(known: list[Entry], include: Sequence[str], exclude: Sequence[str]) -> set[str]:
    """Ids of the files that `include` and `exclude` do not ask for."""
    wanted, unwanted = any_of(include), any_of(exclude)

    def asked(path: bytes) -> bool:
        return wanted is not None and bool(wanted.fullmatch(path)) and not (unwanted and unwanted.fullmatch(path))

    return {entry.file.file_id for entry in known if not asked(unescape(entry.file.path))}


def _forget(results: Path, known: list[Entry], unasked: set[str]) -> list[Entry]:
    """Forget the shards that nobody asks for any more and nobody has analysed; give the rows of the others."""
    keep = {entry.shard for entry in known if entry.file.file_id not in unasked} | analysed(results).keys()
    for shard in {entry.shard for entry in known} - keep:
        (results / "0_archive" / f"{shard}.tsv").unlink()
    return [entry for entry in known if entry.shard in keep]


def _try_again(archive: Path | Remote, results: Path, listing: Listing) -> None:
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
        if (found := (escape(name), *version)) in lost and can_be_read(archive, name)
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


def write_reviews(results: Path, found: Reviews) -> None:
    """Leave in ``0_archive`` what the reviews say, and of each shard what concerns it; files change only if it does."""
    home = results / "0_archive"
    shard_of = {entry.file.file_id: entry.shard for entry in known_entries(results)}
    said = by_shard(found.statements, shard_of, _shards_with(results, {s.get("scan_id") for s in found.statements}))
    write_if_changed(home / "reviews.json", dumped({"files": found.files, "statements": found.statements}))
    for shard in shard_names(results):
        write_if_changed(home / f"{shard}.reviews.json", dumped({"statements": said.get(shard, [])}))


def _shards_with(results: Path, scans: set[str | None]) -> dict[str, list[str]]:
    """The shards in which each of some scans was read, by what the reading stage lists; "" is none."""
    found: dict[str, list[str]] = {}
    for about in sorted((results / "1_images").glob("*.zarr/zarr.json")) if scans - {"", None} else []:
        listed = json.loads(about.read_bytes())["attributes"]["images"]
        for scan in sorted({row["scan_id"] for row in listed if row.get("scan_id")} & scans):
            found.setdefault(scan, []).append(about.parent.stem)
    return found


def _same_archive(archive: Path | Remote, home: Path, known: list[Entry]) -> None:
    try:
        before = (home / "archive.txt").read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        return
    if known and before != escape(archive):
        raise ArchiveError(
            f"found {escape(archive)}, but {home.parent} holds the results of {before}; needed a working folder of its "
            f"own (--directory) or, if the archive has moved, its new place written into {home / 'archive.txt'}"
        )


def _warnings(archive: Path | Remote, listing: Listing) -> list[str]:
    warnings = [
        f"{escape(archive)}/{escape(folder)}: folder cannot be listed: {why.lower()}; needed a readable folder"
        for folder, why in sorted(listing.unreadable.items())
    ]
    if listing.outside:
        warnings.append(f"{escape(archive)}: {listing.outside} links lead out of the archive or nowhere; not followed")
    if not listing.files and not listing.unreadable:
        most = sorted(listing.others.items(), key=lambda item: (-item[1], item[0]))[:_MOST_ENDINGS]
        seen = ", ".join(f"{n} {end or 'without an ending'}" for end, n in most)
        warnings.append(f"{escape(archive)}: 0 files; seen, and not asked for by include and exclude: {seen or 'none'}")
    return warnings


def _notes(archive: Path | Remote, listing: Listing, known: list[Entry]) -> list[str]:
    """Sentences about files that have rows and are not listed any more."""
    seen = {file.path for file in listing.files}
    paths = {unescape(entry.file.path) for entry in known} - seen
    there = still_there(archive, paths)
    says = {"are no longer asked for by include and exclude": there, "are gone from the archive": len(paths) - there}
    place = escape(archive)
    return [f"{place}: of the files found earlier {n} {why}; their results stay" for why, n in says.items() if n]


def _why_waiting(archive: Path | Remote, waiting: list[Entry]) -> list[str]:
    """A sentence for each reason that files wait for; the inventory names the files."""
    reasons = Counter(entry.reason for entry in waiting)
    files = {why: "1 file waits" if n == 1 else f"{n} files wait" for why, n in reasons.most_common(_MOST_ENDINGS)}
    return [f"{escape(archive)}: {n}: {why}" for why, n in files.items()]
