"""An archive behind a URL: listed, copied to scratch ahead of its readers, never written to.

The store of most tests is a mock; two are of OpenStack Swift as Debian ships it, through its S3 interface.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zarr

import read_images
from oddlattice.archive.inventory import scan_archive
from oddlattice.archive.listing import ArchiveError
from oddlattice.archive.remote import Remote, place_of
from oddlattice.archive.shards import read_shard
from oddlattice.read.staging import AHEAD, Scratch
from oddlattice.storage.products import SHARD, read_tsv
from support import swift_store
from support.object_store import Store, serving
from support.other_files import npy
from support.raw_files import SETTINGS, counts, shard_of, write_ncem

OLD_S = 1_700_000_000
INCLUDE = ["**/*.emd", "**/*.npy"]


def made(folder: Path, number: int, shape: tuple[int, int] = (80, 90)) -> Path:
    (folder / "day é 1").mkdir(parents=True)
    for n in range(number):
        write_ncem(folder / f"day é 1/scan {n:03d}.emd", counts(shape, seed=n))
    npy(folder / "day é 1/other.npy", counts(shape, seed=99))
    for path in folder.rglob("*"):
        os.utime(path, (OLD_S, OLD_S))
    return folder


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def store(tmp_path: Path, account: Path) -> Iterator[Store]:
    with serving(made(tmp_path / "bucket", 3)) as found:
        yield found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def scan(archive: Path | Remote, results: Path) -> list[str]:
    return scan_archive(archive, results, INCLUDE, [], 300, 32, 1000, now_ns=time.time_ns()).shards


def test_a_remote_archive_gives_the_products_of_a_local_one(store: Store, tmp_path: Path, account: Path) -> None:
    made_of = {}
    for name, archive in (("near", place_of(str(store.folder))), ("far", place_of(store.url))):
        results = tmp_path / name
        (shard,) = scan(archive, results)
        read_images.main(
            results / f"0_archive/{shard}.tsv", archive, results / "images.zarr", SETTINGS, tmp_path / "log", threads=2
        )
        made_of[name] = contents(results / "images.zarr") | {"": (results / "0_archive/discovered.tsv").read_bytes()}
    assert made_of["near"] == made_of["far"]
    assert len(zarr.open_group(tmp_path / "far/images.zarr", mode="r").attrs["images"]) == 4
    assert b"HAADF" in b"".join(value for key, value in made_of["far"].items() if "other" in key), "with its sidecar"
    assert set(store.asked) == {"GET", "HEAD"}, "nothing is written"
    assert not list(account.iterdir()), "no copy is left"
    assert scan(place_of(store.url), tmp_path / "far") == [shard], "found again as it was"


def test_what_became_of_a_file_is_said_and_costs_it_alone(store: Store, tmp_path: Path) -> None:
    archive = place_of(store.url)
    (shard,) = scan(archive, tmp_path / "results")
    folder = store.folder / "day é 1"
    (folder / "scan 000.emd").unlink()
    write_ncem(folder / "scan 001.emd", counts((99, 80)))
    store.forbidden.add("day é 1/scan 002.emd")
    out = tmp_path / "images.zarr"
    read_images.main(tmp_path / f"results/0_archive/{shard}.tsv", archive, out, SETTINGS, tmp_path / "log")
    rows = {Path(row["path"]).name: row for row in zarr.open_group(out, mode="r").attrs["images"]}
    assert rows["other.npy"]["state"] == "read"
    reasons = [rows[f"scan {n:03d}.emd"]["reason"] for n in range(3)]
    for reason, words in zip(reasons, ("vanished", "changed while being read", "could not be opened"), strict=True):
        assert words in reason, reason


def test_an_archive_that_is_away_is_no_fault_of_its_files(store: Store, tmp_path: Path) -> None:
    archive = place_of(store.url)
    (shard,) = scan(archive, tmp_path / "results")
    with pytest.raises(ArchiveError, match="needed a remote folder that can be listed"):
        scan(place_of("nowhere://archive"), tmp_path / "other")
    away = Remote("s3://archive?endpoint_override=127.0.0.1:9&scheme=http")
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        read_images.main(tmp_path / f"results/0_archive/{shard}.tsv", away, tmp_path / "i.zarr", SETTINGS)
    assert not (tmp_path / "i.zarr").exists()
    assert len(read_shard(tmp_path / "results", shard)) == 4


def test_other_urls_go_by_fsspec(tmp_path: Path, account: Path) -> None:
    folder = made(tmp_path / "tree", 1)
    archive = place_of(f"local://{folder}")
    assert isinstance(archive, Remote)
    (shard,) = scan(archive, tmp_path / "results")
    with Scratch(archive) as stage:
        files = [file._asdict() for file in read_shard(tmp_path / "results", shard)]
        for one in stage.of(files):
            assert Path(one.path).read_bytes() == (folder / one.file["path"]).read_bytes()
    assert len(files) == 2


def test_no_more_is_copied_ahead_than_is_read(tmp_path: Path, account: Path) -> None:
    folder = made(tmp_path / "bucket", 3 * AHEAD, (64, 64))
    shard_of(folder, tmp_path / "shard.tsv")
    files = read_tsv(tmp_path / "shard.tsv", SHARD).to_dicts()
    with serving(folder) as store, Scratch(Remote(store.url)) as stage:
        seen = []
        for one in stage.of(files):
            assert not one.fault and Path(one.path).exists()
            seen.append(one.file["file_id"])
            copies = [path for path in account.rglob("*") if path.is_file() and path.suffix != ".yaml"]
            assert len(copies) <= AHEAD
            stage.done(one.file)
        assert seen == [file["file_id"] for file in files]
    assert not list(account.iterdir())


@pytest.fixture
def swift(tmp_path: Path, account: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a real object store."""
    if not swift_store.here():
        pytest.skip("SKIPPED LOUDLY: no python3-swift here, no real object store is asked")
    for name, value in swift_store.ACCOUNT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    with swift_store.swift(tmp_path / "swift") as port:
        yield port


def read_both(near: Path, far: Remote, folder: Path, settle_s: int = 300) -> dict[str, dict[str, bytes]]:
    """Products of a local archive and of a remote one that holds the same, an hour after all was written."""
    found = {}
    for name, archive in (("near", near), ("far", far)):
        results, log = folder / name, folder / "log"
        now_ns = time.time_ns() + 3600 * 10**9
        (shard,) = scan_archive(archive, results, INCLUDE, [], settle_s, 200, 1000, now_ns=now_ns).shards
        read_images.main(results / f"0_archive/{shard}.tsv", archive, results / "i.zarr", SETTINGS, log, threads=2)
        found[name] = contents(results / "i.zarr") | {"": (results / "0_archive/discovered.tsv").read_bytes()}
    return found


def test_a_real_object_store_gives_the_products_of_a_local_archive(swift: int, tmp_path: Path, account: Path) -> None:
    folder = made(tmp_path / "bucket", 3)
    swift_store.upload(folder, swift)
    with swift_store.Late(swift, 0.02) as late:
        far = place_of(swift_store.url_of(late.port))
        assert isinstance(far, Remote)
        found = read_both(folder, far, tmp_path)
        assert found["near"] == found["far"]
        assert set(late.asked) == {"GET", "HEAD"}, "nothing is written"
        assert not scan_archive(far, tmp_path / "new", INCLUDE, [], 300, 32, 1000, now_ns=time.time_ns()).shards
    assert len(zarr.open_group(tmp_path / "far/i.zarr", mode="r").attrs["images"]) == 4
    assert not list(account.iterdir()), "no copy is left"


@pytest.mark.slow
@pytest.mark.parametrize("real", [True, False])
def test_reading_ahead_hides_answers_that_come_late(
    real: bool, request: pytest.FixtureRequest, tmp_path: Path, account: Path
) -> None:
    """100 files through 20 ms an answer, against the same files beside; Swift, and the mock."""
    folder = made(tmp_path / "bucket", 99, (512, 512))
    with ExitStack() as stack:
        if real:
            port = request.getfixturevalue("swift")
            swift_store.upload(folder, port)
            store: Store | swift_store.Late = stack.enter_context(swift_store.Late(port, 0.02))
            far = Remote(swift_store.url_of(store.port))
        else:
            store = stack.enter_context(serving(folder, delay_s=0.02))
            far = Remote(store.url)
        shard_of(folder, tmp_path / "shard.tsv")
        seconds = {}
        for name, archive in (("near", folder), ("far", far), ("near again", folder)):
            began = time.monotonic()
            read_images.main(tmp_path / "shard.tsv", archive, tmp_path / f"{name}.zarr", SETTINGS, tmp_path / "log")
            seconds[name] = time.monotonic() - began
        print(seconds, dict(store.asked))
    assert contents(tmp_path / "near.zarr") == contents(tmp_path / "far.zarr")
    assert seconds["far"] <= 1.3 * max(seconds["near"], seconds["near again"])
