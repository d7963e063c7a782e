"""What lands in a watched folder: when it is complete, that a run takes it, and that a kill loses nothing."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oddlattice.archive.complete import Version, read_complete, write_complete
from oddlattice.command.watch import Looks
from oddlattice.read.whole import are_whole
from support.fault_runs import descendants, write_scan

HALF = Version("half.dm4", 10, 10**18)
WHOLE = Version("whole.dm4", 20, 10**18)
NOW_S = 1e9 + 10.0


def looks(asked: list[str], settle_s: float = 300.0) -> Looks:
    def is_whole(paths: list[str]) -> set[str]:
        asked.extend(paths)
        return {"whole.dm4"} & set(paths)

    return Looks(2.0, settle_s, is_whole)


def test_a_file_is_complete_when_unchanged_and_whole_and_is_asked_once() -> None:
    asked: list[str] = []
    seen = looks(asked)
    assert not seen.look([HALF, WHOLE], set(), NOW_S)
    assert not seen.look([HALF, WHOLE], set(), NOW_S + 1.9)
    assert not asked
    assert seen.look([HALF, WHOLE], set(), NOW_S + 2.1)
    assert seen.look([HALF, WHOLE], set(), NOW_S + 3.0)
    assert (seen.complete, sorted(asked)) == ({WHOLE}, ["half.dm4", "whole.dm4"])
    assert not seen.look([HALF, WHOLE], {WHOLE}, NOW_S + 4.0)
    assert seen.complete == set()


def test_a_file_that_grows_is_another_version_and_one_that_stays_broken_is_taken_in_the_end() -> None:
    asked: list[str] = []
    seen = looks(asked)
    grown = WHOLE._replace(size_bytes=21)
    assert not seen.look([WHOLE], set(), NOW_S)
    assert not seen.look([grown], set(), NOW_S + 2.1)
    assert seen.look([grown], set(), NOW_S + 4.2)
    assert seen.complete == {grown}
    assert not seen.look([HALF], set(), NOW_S + 5.0)
    assert seen.look([HALF], set(), 1e9 + 301.0)  # as old as any run takes it, whatever its header says
    assert seen.complete == set()


def test_the_list_of_complete_files_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_complete(tmp_path) == set()
    write_complete(tmp_path, [WHOLE, HALF])
    assert read_complete(tmp_path) == {HALF, WHOLE}


@pytest.mark.parametrize("name", ["scan.dm4", "scan.emd", "scan.npy"])
def test_a_file_is_whole_when_its_last_byte_is_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, np.ones((100, 100), np.uint16))
    else:
        write_scan(path)
    content = path.read_bytes()
    assert are_whole([str(path)]) == {str(path)}
    path.write_bytes(content[: len(content) // 2])
    assert are_whole([str(path), str(tmp_path / "none.dm4")]) == set()


def wait_for(found: Callable[[], object], watch: "subprocess.Popen[bytes]", what: str) -> None:
    until_s = time.monotonic() + 240
    while not found():
        assert watch.poll() is None and time.monotonic() < until_s, f"no {what}"
        time.sleep(0.05)


@pytest.mark.workflow
@pytest.mark.timeout(600)
def test_a_watch_that_is_killed_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    archive, work = tmp_path / "archive", tmp_path / "work"
    archive.mkdir()
    command = [sys.executable, "-m", "oddlattice.command", "watch", str(archive), "--into", str(work), "--cores", "2"]
    write_scan(tmp_path / "scan.dm4")
    content = (tmp_path / "scan.dm4").read_bytes()
    told, tiles = work / "results/watch/latest.js", work / "results/2_tiles"

    watch = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    (archive / "scan.dm4").write_bytes(content[:-5000])
    wait_for(lambda: told.exists() and "1 files are not complete yet" in told.read_text(), watch, "look")
    os.truncate(archive / "scan.dm4", 0)
    (archive / "scan.dm4").write_bytes(content)
    wait_for(tiles.exists, watch, "tiles")
    left = descendants(watch.pid)
    watch.kill()
    watch.wait()
    while any(process.is_running() and process.status() != "zombie" for process in left):
        time.sleep(0.05)

    watch = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: '"state": "done"' in told.read_text(), watch, "page")
    latest = json.loads(re.fullmatch(r"latest\((.*)\)\n", told.read_text()).group(1))  # type: ignore[union-attr]
    assert latest["landed"] == [{"path": "scan.dm4", "state": "done", "reason": ""}]
    assert int(latest["report"]) == (work / "results/5_report/index.html").stat().st_mtime_ns
    inventory = (work / "results/0_archive/inventory.tsv").read_text().splitlines()
    assert [line.split("\t")[4] for line in inventory[1:]] == ["done"]  # the half was never taken
    watch.terminate()
    watch.wait()
