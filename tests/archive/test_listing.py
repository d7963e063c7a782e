"""What the shipped patterns take from a share, and that folders left out whole are not entered."""

import os
from pathlib import Path

import pytest

from oddlattice.archive.listing import list_archive
from oddlattice.run.settings import load_yaml

CONFIG = load_yaml(Path(__file__).parents[2] / "config.yaml")
DATA = {"Session 1/HAADF 0001.dm4", "Session 1/haadf 0001.DM4", "Session 1/._HAADF 0001.dm4", "top.TIF"}
LITTER = {
    "#recycle/Session 1/HAADF 0001.dm4",
    "$RECYCLE.BIN/S-1-5-21/$RABC123.dm4",
    ".Trash-1000/files/HAADF 0001.dm4",
    ".snapshot/hourly.0/Session 1/HAADF 0001.dm4",
    "Session 1/@eaDir/HAADF 0001.dm4/SYNOINDEX.dm4",
    "lost+found/#1234.dm4",
    "Session 1/.~HAADF 0003.dm4",
    "Session 1/HAADF 0002.dm4.part",
    "Session 1/.DS_Store",
}


@pytest.fixture
def share(tmp_path: Path) -> Path:
    for name in DATA | LITTER:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_bins_snapshots_and_unfinished_copies_are_left_out(share: Path) -> None:
    found = list_archive(share, CONFIG["include"], CONFIG["exclude"])
    assert {os.fsdecode(file.path) for file in found.files} == DATA


def test_what_is_left_out_whole_is_not_listed(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []
    scandir = os.scandir

    def watched(path: bytes) -> object:
        entered.append(os.path.relpath(os.fsdecode(path), share))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    list_archive(share, ["**"], CONFIG["exclude"])
    assert sorted(entered) == [".", "Session 1"]
    entered.clear()
    list_archive(share, ["**"], ["**/*.part", "Session*"])  # patterns on files or on names leave no folder out
    assert "Session 1" in entered
