"""The scan: what is found, what waits, what is frozen, and that every file is counted once."""

import os
import stat
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddlattice.archive.entries import read_entries
from oddlattice.archive.inventory import Scan, scan_archive
from oddlattice.archive.listing import ArchiveError, list_archive, pattern
from oddlattice.archive.names import unescape
from oddlattice.archive.shards import File, pack, read_shard, shard_names
from oddlattice.archive.verdicts import refresh_inventory
from oddlattice.storage import products

NOW_NS = 1_800_000_000_000_000_000
S = 1_000_000_000
INCLUDE = ["**/*.dm3", "**/*.dm4", "**/*.emd"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def put(archive: Path, name: str | bytes, content: bytes = b"x", age_s: float = 1e6) -> bytes:
    """Write a file that was modified `age_s` before NOW."""
    path = os.path.join(os.fsencode(archive), os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    mtime_ns = NOW_NS - int(age_s * S)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def scan(archive: Path, after_s: float = 0, settle_s: float = 300, files: int = 32, size_mb: float = 1000) -> Scan:
    results = archive.parent / "results"
    return scan_archive(archive, results, INCLUDE, [], settle_s, files, size_mb, NOW_NS + int(after_s * S))


def states(found: Scan) -> dict[str, str]:
    return {entry.file.path: entry.state for entry in found.entries}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of every file below a folder."""
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def analysed(results: Path, shard: str, state_of: dict[str, tuple[str, str]]) -> None:
    """Write the images table of a shard; `state_of`: file_id -> (state, reason)."""
    rows = [
        {"image_id": file_id, "file_id": file_id, "state": state, "reason": reason}
        for file_id, (state, reason) in state_of.items()
    ]
    products.write_parquet(products.table(rows, products.IMAGES), results / "4_defects" / f"{shard}.images.parquet")


# ---- what is found


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("**/*.dm4", b"top.dm4", True),
        ("**/*.dm4", b"a/b/c.DM4", True),
        ("**/*.dm4", b"a.dm4/c.txt", False),
        ("*.dm4", b"a/c.dm4", False),
        ("2024-*/**", b"2024-05/a/b.dm4", True),
        ("**/calibration/**", b"x/Calibration/b.dm4", True),
        ("**/calibration/**", b"calibration/b.dm4", True),
        ("**/[!a]?.dm4", b"b1.dm4", True),
        ("**/[!a]?.dm4", b"a1.dm4", False),
        ("**/a+(b).dm4", b"a+(b).dm4", True),
        ("**/\u00e9*.dm4", "\u00e9t\u00e9.dm4".encode(), True),
        ("**/*.dm4", b"odd\nname\xff.dm4", True),
    ],
)
def test_patterns(glob: str, path: bytes, matches: bool) -> None:
    assert bool(pattern(glob).fullmatch(path)) == matches


def test_lists_what_is_included_and_not_excluded(archive: Path) -> None:
    for name in ("a.dm3", "sub/b.DM4", "sub/deep/c.emd", "sub/notes.txt", "calibration/d.dm4"):
        put(archive, name)
    found = list_archive(archive, INCLUDE, ["**/calibration/**"])
    assert sorted(file.path for file in found.files) == [b"a.dm3", b"sub/b.DM4", b"sub/deep/c.emd"]


def test_links_are_followed_only_to_files_inside(archive: Path, tmp_path: Path) -> None:
    put(archive, "sub/real.dm4")
    (tmp_path / "secret.dm4").write_bytes(b"other")
    (archive / "inside.dm4").symlink_to("sub/real.dm4")
    (archive / "outside.dm4").symlink_to(tmp_path / "secret.dm4")
    (archive / "broken.dm4").symlink_to("nowhere.dm4")
    (archive / "sub/loop").symlink_to(archive)
    os.mkfifo(archive / "pipe.dm4")
    found = list_archive(archive, INCLUDE, [])
    assert sorted(file.path for file in found.files) == [b"inside.dm4", b"sub/real.dm4"]
    assert found.outside == 2


@pytest.mark.parametrize(
    "name",
    [
        b"with space, comma.dm4",
        b"quote\"s and 's.dm4",
        b"new\nline\ttab.dm4",
        b"not utf-8 \xff\xfe.dm4",
        b"n" * 196 + b".dm4",
        b"<script>alert(1)</script>.dm4".replace(b"/", b"_"),
        b"{shard}.dm4",
        b"-rf ~ $HOME `x`.dm4",
        "束 µm.dm4".encode(),
    ],
)
def test_any_name_is_taken_and_comes_back(archive: Path, name: bytes) -> None:
    put(archive, name)
    found = scan(archive)
    [shard] = found.shards
    [file] = read_shard(archive.parent / "results", shard)
    assert unescape(file.path) == name
    assert set(file.file_id + shard) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(file.file_id) <= 51


def test_tables_read_back_as_products_say(archive: Path) -> None:
    put(archive, "a\nb.dm4", b"12345")
    put(archive, "young.dm4", age_s=1)
    found = scan(archive)
    home = archive.parent / "results/0_archive"
    shard = products.read_tsv(home / f"{found.shards[0]}.tsv", products.SHARD)
    assert shard.rows() == [tuple(found.entries[0].file)]
    discovered = products.read_tsv(home / "discovered.tsv", products.INVENTORY)
    assert discovered["size_bytes"].to_list() == [5, 1]
    assert discovered["state"].to_list() == ["ready", "waiting"]


def test_archive_is_not_written_to(archive: Path) -> None:
    put(archive, "sub/a.dm4")
    os.chmod(archive / "sub", stat.S_IRUSR | stat.S_IXUSR)
    before = snapshot(archive), (archive / "sub").stat().st_mtime_ns, archive.stat().st_mtime_ns
    scan(archive)
    assert (snapshot(archive), (archive / "sub").stat().st_mtime_ns, archive.stat().st_mtime_ns) == before


# ---- what waits


def test_young_file_waits_until_it_is_old_enough(archive: Path) -> None:
    put(archive, "young.dm4", age_s=299)
    assert states(scan(archive)) == {"young.dm4": "waiting"}
    assert states(scan(archive, after_s=1)) == {"young.dm4": "ready"}


def test_growing_file_waits_and_then_is_taken_once(archive: Path) -> None:
    put(archive, "a.dm4", b"1", age_s=10)
    assert states(scan(archive)) == {"a.dm4": "waiting"}
    put(archive, "a.dm4", b"12", age_s=-1000)
    assert states(scan(archive, after_s=2000)) == {"a.dm4": "waiting"}  # old enough, but it has changed
    assert states(scan(archive, after_s=2001)) == {"a.dm4": "ready"}
    assert scan(archive, after_s=9000).new_shards == 0


def test_changed_file_is_a_new_version_and_the_old_row_stays(archive: Path) -> None:
    put(archive, "a.dm4", b"1")
    old = scan(archive)
    put(archive, "a.dm4", b"22", age_s=5000)
    changed = scan(archive, after_s=1)
    assert [entry.state for entry in changed.entries] == ["ready", "waiting"]
    assert changed.shards == old.shards
    new = scan(archive, after_s=2)
    assert [(entry.file.size_bytes, entry.state) for entry in new.entries] == [(1, "ready"), (2, "ready")]
    assert len({entry.file.file_id for entry in new.entries}) == len(new.shards) == 2


def test_time_in_the_future_delays_but_not_for_ever(archive: Path) -> None:
    put(archive, "future.dm4", age_s=-1e9)
    assert states(scan(archive)) == {"future.dm4": "waiting"}
    assert states(scan(archive, after_s=299)) == {"future.dm4": "waiting"}
    assert states(scan(archive, after_s=300)) == {"future.dm4": "ready"}


def test_without_settle_time_a_present_file_is_taken_at_once(archive: Path) -> None:
    put(archive, "now.dm4", age_s=0)
    put(archive, "future.dm4", age_s=-100)
    assert states(scan(archive, settle_s=0)) == {"now.dm4": "ready", "future.dm4": "waiting"}
    assert states(scan(archive, settle_s=0)) == {"now.dm4": "ready", "future.dm4": "ready"}


def test_it_is_said_why_files_wait(archive: Path) -> None:
    put(archive, "a.dm4", age_s=10)
    put(archive, "b.dm4", age_s=10)
    (note,) = scan(archive).notes
    assert note == f"{archive}: 2 files wait: may still be being written; taken once unchanged for 300 s"
    assert scan(archive, after_s=1000).notes == []


def test_waiting_file_that_disappears_is_forgotten(archive: Path) -> None:
    put(archive, "stays.dm4")
    os.remove(put(archive, "goes.dm4", age_s=1))
    put(archive, "goes.dm4", age_s=1)
    scan(archive)
    (archive / "goes.dm4").unlink()
    assert states(scan(archive)) == {"stays.dm4": "ready"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder_and_file_wait_with_a_reason(archive: Path) -> None:
    put(archive, "good.dm4")
    put(archive, "shut/a.dm4")
    os.chmod(put(archive, "shut.dm4"), 0)
    os.chmod(archive / "shut", 0)
    found = scan(archive)
    os.chmod(archive / "shut", stat.S_IRWXU)
    os.chmod(archive / "shut.dm4", stat.S_IRWXU)
    assert states(found) == {"good.dm4": "ready", "shut.dm4": "waiting", "shut/": "waiting"}
    assert "permission denied" in found.warnings[0]
    assert set(states(scan(archive)).values()) == {"ready"}


def test_unlistable_folder_is_a_waiting_row(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(archive, "good.dm4")
    put(archive, "shut/a.dm4")
    listed = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"shut/"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = scan(archive)
    assert states(found) == {"good.dm4": "ready", "shut/": "waiting"}
    assert (
        found.entries[1].reason == "folder cannot be listed: permission denied; its files are taken when it can be read"
    )
    assert found.warnings == [f"{archive}/shut/: folder cannot be listed: permission denied; needed a readable folder"]
    monkeypatch.undo()
    assert states(scan(archive)) == {"good.dm4": "ready", "shut/a.dm4": "ready"}


def test_file_that_cannot_be_opened_waits_with_a_reason(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(archive, "a.dm4")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    [entry] = scan(archive).entries
    assert (entry.state, entry.reason) == ("waiting", "cannot be opened: permission denied; taken when it can be read")
    monkeypatch.undo()
    assert states(scan(archive)) == {"a.dm4": "ready"}


# ---- shards


@given(
    st.lists(st.tuples(st.sampled_from(["", "a/", "a/b/"]), st.integers(0, 3_000_000)), max_size=60),
    st.integers(1, 7),
    st.floats(0.1, 5),
)
def test_shards_partition_the_files(found: list[tuple[str, int]], most_files: int, most_mb: float) -> None:
    files = [File(f"id-{i}", f"{folder}{i}.dm4", size, 0) for i, (folder, size) in enumerate(found)]
    shards = list(pack(files, most_files, most_mb))
    assert sorted(file for _, group in shards for file in group) == sorted(files)
    assert len({name for name, _ in shards}) == len(shards)
    for _, group in shards:
        assert 1 <= len(group) <= most_files
        assert len(group) == 1 or sum(file.size_bytes for file in group) <= most_mb * 1e6 * (1 + 1e-9)
        assert len({file.path.rpartition("/")[0] for file in group}) == 1


def test_70_files_of_a_folder_are_three_shards(archive: Path) -> None:
    for i in range(70):
        put(archive, f"day/{i:02d}.dm4")
    found = scan(archive)
    sizes = sorted(len(read_shard(archive.parent / "results", shard)) for shard in found.shards)
    assert sizes == [22, 24, 24]  # alike: no small one is left while all else is done
    assert all(shard.startswith("day-") for shard in found.shards)


def test_new_files_make_new_shards_and_touch_no_old_one(archive: Path) -> None:
    put(archive, "day/a.dm4")
    old = scan(archive)
    home = archive.parent / "results/0_archive"
    before = snapshot(home)[str(home / f"{old.shards[0]}.tsv")]
    put(archive, "day/b.dm4")
    new = scan(archive)
    assert (new.new_shards, len(new.shards)) == (1, 2)
    assert snapshot(home)[str(home / f"{old.shards[0]}.tsv")] == before


def test_a_second_look_writes_nothing(archive: Path) -> None:
    put(archive, "a.dm4")
    put(archive, "young.dm4", age_s=1)
    scan(archive)
    home = archive.parent / "results/0_archive"
    before = snapshot(home)
    scan(archive, after_s=5)
    assert snapshot(home) == before


def test_the_shards_alone_are_enough_to_know_what_is_taken(archive: Path) -> None:
    put(archive, "a.dm4")
    put(archive, "b/c.dm4")
    first = scan(archive)
    (archive.parent / "results/0_archive/discovered.tsv").unlink()
    again = scan(archive)
    assert (again.new_shards, again.entries) == (0, first.entries)


def test_results_that_were_half_deleted_are_found_again(archive: Path) -> None:
    put(archive, "a.dm4")
    put(archive, "b/c.dm4")
    first = scan(archive)
    (archive.parent / f"results/0_archive/{first.shards[0]}.tsv").unlink()
    assert scan(archive).shards == first.shards  # the same files make the same shard


# ---- an archive that cannot be used


def test_missing_archive(archive: Path) -> None:
    with pytest.raises(ArchiveError, match=r"found no folder .*/nowhere; needed the folder of microscope files"):
        scan(archive / "nowhere")


def test_a_file_is_no_archive(archive: Path) -> None:
    put(archive, "a.dm4")
    with pytest.raises(ArchiveError, match="Not a directory; needed a readable folder"):
        scan_archive(archive / "a.dm4", archive.parent / "results", INCLUDE, [], 0, 1, 1, NOW_NS)


@pytest.mark.parametrize("how", ["gone", "emptied"])
def test_vanished_archive_touches_nothing(archive: Path, how: str) -> None:
    path = put(archive, "a.dm4")
    scan(archive)
    before = snapshot(archive.parent / "results")
    os.remove(path)
    if how == "gone":
        archive.rmdir()
    with pytest.raises(ArchiveError, match=r"found no (folder|file in)"):
        scan(archive)
    assert snapshot(archive.parent / "results") == before


def test_another_archive_needs_another_working_folder(archive: Path, tmp_path: Path) -> None:
    put(archive, "a.dm4")
    put(tmp_path / "other", "b.dm4")
    scan(archive)
    before = snapshot(tmp_path / "results")
    with pytest.raises(ArchiveError, match=r"holds the results of .*/archive; needed a working folder of its own"):
        scan_archive(tmp_path / "other", tmp_path / "results", INCLUDE, [], 0, 1, 1, NOW_NS)
    assert snapshot(tmp_path / "results") == before


def test_empty_archive_is_no_error(archive: Path) -> None:
    found = scan(archive)
    assert (found.entries, found.shards) == ([], [])
    assert shard_names(archive.parent / "results") == []


# ---- the inventory


def test_inventory_counts_every_file_once(archive: Path) -> None:
    results = archive.parent / "results"
    for name in ("a/good.dm4", "a/bad.dm4", "b/later.dm4"):
        put(archive, name)
    put(archive, "young.dm4", age_s=1)
    found = scan(archive)
    assert refresh_inventory(results) == {"ready": 3, "waiting": 1}
    [shard] = [shard for shard in found.shards if shard.startswith("a-")]
    bad, good = read_shard(results, shard)
    analysed(
        results, shard, {good.file_id: ("no_lattice", "no lattice found"), bad.file_id: ("rejected", "file\nis cut")}
    )
    counts = refresh_inventory(results)
    assert counts == {"ready": 1, "waiting": 1, "done": 1, "rejected": 1}
    inventory = products.read_tsv(results / "0_archive/inventory.tsv", products.INVENTORY)
    assert len(inventory) == counts.total()
    assert inventory.filter(pl.col("state") == "rejected")["reason"].to_list() == ["file is cut"]
    assert refresh_inventory(results) == counts


def test_a_file_with_one_usable_image_is_done(archive: Path) -> None:
    results = archive.parent / "results"
    put(archive, "a.dm4")
    [shard] = scan(archive).shards
    [file] = read_shard(results, shard)
    rows = [
        {"image_id": f"{file.file_id}-s{i}", "file_id": file.file_id, "state": state, "reason": "r"}
        for i, state in enumerate(["rejected", "analysed", "rejected"])
    ]
    products.write_parquet(products.table(rows, products.IMAGES), results / "4_defects" / f"{shard}.images.parquet")
    assert refresh_inventory(results) == {"done": 1}


def test_inventory_follows_a_shard_that_is_analysed_again_or_removed(archive: Path) -> None:
    results = archive.parent / "results"
    put(archive, "a.dm4")
    [shard] = scan(archive).shards
    [file] = read_shard(results, shard)
    analysed(results, shard, {file.file_id: ("rejected", "too small")})
    assert refresh_inventory(results) == {"rejected": 1}
    time.sleep(0.01)
    analysed(results, shard, {file.file_id: ("analysed", "")})
    assert refresh_inventory(results) == {"done": 1}
    (results / f"4_defects/{shard}.images.parquet").unlink()
    assert refresh_inventory(results) == {"ready": 1}


def test_inventory_does_not_change_what_products_depend_on(archive: Path) -> None:
    put(archive, "a.dm4")
    [shard] = scan(archive).shards
    results = archive.parent / "results"
    before = snapshot(results)
    analysed(results, shard, {read_shard(results, shard)[0].file_id: ("analysed", "")})
    refresh_inventory(results)
    after = snapshot(results)
    assert {path: after[path] for path in before} == before
    assert [entry.state for entry in read_entries(results / "0_archive/discovered.tsv")] == ["ready"]


def test_ten_thousand_files_take_seconds(archive: Path) -> None:
    for folder in range(20):
        (archive / f"day {folder}").mkdir()
        for i in range(500):
            (archive / f"day {folder}" / f"Acquisition {i}.dm4").touch()
    begin_s = time.perf_counter()
    found = scan_archive(archive, archive.parent / "results", INCLUDE, [], 0, 32, 1000, time.time_ns())
    counts = refresh_inventory(archive.parent / "results")
    assert counts == {"ready": 10_000}
    assert len(found.shards) == 20 * 16
    assert time.perf_counter() - begin_s < 10


def test_an_archive_without_a_file_of_a_known_kind_says_what_was_seen(archive: Path) -> None:
    assert scan(archive).warnings == [f"{archive}: 0 files; seen, and not asked for by include and exclude: none"]
    for name in ("a.tif", "deep/b.TIF", "c.tif", "notes"):
        put(archive, name)
    seen = "2 .tif, 1 without an ending, 1 .TIF"
    assert scan(archive).warnings == [f"{archive}: 0 files; seen, and not asked for by include and exclude: {seen}"]
    put(archive, "d.dm4")
    assert scan(archive).warnings == []
