"""The archive changes while it is worked on: states stay true, nothing is counted twice, finished results stay."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import zarr

import read_images
from oddlattice.archive.entries import read_entries
from oddlattice.archive.inventory import Scan, scan_archive
from oddlattice.archive.listing import ArchiveError, list_archive
from oddlattice.archive.verdicts import refresh_inventory
from oddlattice.storage import products
from oddlattice.storage.products import IMAGES, table, write_parquet
from support.raw_files import SETTINGS, counts, write_dm

INCLUDE = ["**/*.dm4"]
NOW_NS = 1_800_000_000 * 10**9
ORIGINAL_NS = NOW_NS - 10**15
ROOT = Path(__file__).parents[2]


def test_braces_in_paths_are_no_wildcards(tmp_path: Path) -> None:
    archive, work = tmp_path / "a{}b{shard}", tmp_path / "w{}{c}"
    archive.mkdir()
    work.mkdir()
    write_dm(archive / "x{y}.dm4", counts((64, 72)))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    told = [f"archive={archive}", "settle_s=0"]
    for more in (["--until", "read_images"], ["--dry-run"]):  # what a run writes, and that all of its jobs can be told
        done = subprocess.run(
            [*command, "--cores", "1", *more, "--config", *told], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (out,) = (work / "results/1_images").iterdir()
    assert zarr.open_group(out, mode="r").attrs["images"][0]["path"] == "x{y}.dm4"


class Place:
    """An archive of small images and its results; analysis is replaced by: what could be read is analysed."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.results = folder / "archive", folder / "results"
        self.archive.mkdir(exist_ok=True)
        self.now_s = 0.0

    def put(self, name: str, seed: int = 0) -> Path:
        path = self.archive / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dm(path, counts((64, 72), seed=seed))
        os.utime(path, ns=(ORIGINAL_NS, ORIGINAL_NS))
        return path

    def scan(self, include: list[str] | None = None, later_s: float = 1000.0, settle_s: float = 300.0) -> Scan:
        self.now_s += later_s
        now_ns = NOW_NS + int(self.now_s * 1e9)
        found = scan_archive(self.archive, self.results, include or INCLUDE, [], settle_s, 32, 1000, now_ns)
        refresh_inventory(self.results)
        return found

    def read(self, call: str = "oddlattice.read.read_file:read_file") -> None:
        """Read, as Snakemake would: what has not been read, and what is to be read again."""
        for tsv in sorted((self.results / "0_archive").glob("*-????????.tsv")):
            out, again = self.results / f"1_images/{tsv.stem}.zarr", tsv.with_suffix(".again")
            if out.exists() and not (again.exists() and again.stat().st_mtime_ns > out.stat().st_mtime_ns):
                continue
            read_images.main(tsv, self.archive, out, SETTINGS, log=self.results / "log", threads=2, call=call)
            rows = [dict(row) for row in zarr.open_group(out, mode="r").attrs["images"]]
            rows = [row | {"state": row["state"].replace("read", "analysed")} for row in rows]
            write_parquet(table(rows, IMAGES), self.results / f"4_defects/{tsv.stem}.images.parquet")
        refresh_inventory(self.results)

    def states(self) -> dict[str, str]:
        """State by name; with " again" for a further version of a file. Checks that the inventory adds up."""
        inventory = products.read_tsv(self.results / "0_archive/inventory.tsv", products.INVENTORY)
        discovered = products.read_tsv(self.results / "0_archive/discovered.tsv", products.INVENTORY)
        keys = ["path", "size_bytes", "mtime_ns"]
        assert inventory.height == inventory.unique(keys).height == inventory.unique("file_id").height, "counted twice"
        assert inventory.select(keys).equals(discovered.select(keys))
        count = Counter(inventory["state"])
        assert sum(count[s] for s in ("waiting", "ready", "done", "rejected")) == inventory.height
        assert all(inventory.filter(pl.col("state").is_in(["waiting", "rejected"]))["reason"])
        known = {
            (e.file.path, e.file.size_bytes, e.file.mtime_ns)
            for e in read_entries(self.results / "0_archive/discovered.tsv")
        }
        if self.archive.is_dir():  # every file there is, as it is now, has a row
            listed = list_archive(self.archive, INCLUDE, []).files
            assert {(f.path.decode(), f.size_bytes, f.mtime_ns) for f in listed} <= known
        found: dict[str, str] = {}
        inventory = inventory.sort("path", pl.col("mtime_ns") != ORIGINAL_NS)  # the first version first
        for path, state in inventory.select("path", "state").iter_rows():
            found[path + " again" * (path in found)] = state
        return found

    def reason(self, name: str) -> str:
        inventory = products.read_tsv(self.results / "0_archive/inventory.tsv", products.INVENTORY)
        return " ".join(inventory.filter((pl.col("path") == name) & (pl.col("state") == "rejected"))["reason"])

    def pixels(self) -> dict[str, str]:
        """Hashes of all images that were read."""
        return {
            str(p.relative_to(self.results)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted((self.results / "1_images").rglob("c/*/*"))
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


#: What becomes of the file's first row, and of a second one after the next looks.
CHANGED, VANISHED = "changed while being read", "vanished"
FATES = {
    "before-grow": (CHANGED, "done"),
    "before-truncate": (CHANGED, "rejected"),
    "before-replace": (CHANGED, "done"),
    "before-delete": (VANISHED, None),
    "before-rename": (VANISHED, None),
    "during-grow": (CHANGED, "done"),
    "during-truncate": (CHANGED, "rejected"),
    "during-replace": ("", "done"),
    "during-delete": ("", None),
    "during-rename": ("", None),
    "during-forbid": ("", None),
}


def test_files_that_change_between_the_look_and_the_end_of_reading(place: Place) -> None:
    for number, name in enumerate([*FATES, "sound"]):
        place.put(f"{name}.dm4", seed=number)
    place.scan()
    assert place.states() == {f"{name}.dm4": "ready" for name in [*FATES, "sound"]}
    place.read("support.changing_files:read")
    first = {f"{name}.dm4": "rejected" if why else "done" for name, (why, _) in FATES.items()} | {"sound.dm4": "done"}
    inventory = products.read_tsv(place.results / "0_archive/inventory.tsv", products.INVENTORY)
    assert dict(inventory.select("path", "state").iter_rows()) == first
    for name, (why, _) in FATES.items():
        assert why in place.reason(f"{name}.dm4")
    before = place.pixels()
    for _ in range(3):  # seen changed, seen settled, nothing more
        place.scan()
    place.read()
    later = place.states()
    for name, (_, second) in FATES.items():
        assert later.pop(f"{name}.dm4") == first[f"{name}.dm4"], name
        assert later.pop(f"{name}.dm4 again", None) == second, name
    assert later == {"sound.dm4": "done"} | {f"renamed {w}-rename.dm4": "done" for w in ("before", "during")}
    assert before.items() <= place.pixels().items(), "finished results stay"
    again = place.scan()
    assert again.new_shards == 0


def date(path: Path, s: float) -> None:
    """Have a file modified `s` seconds after the beginning of all tests."""
    os.utime(path, ns=(NOW_NS + int(s * 1e9), NOW_NS + int(s * 1e9)))


def test_a_file_that_grows_all_the_time_waits_and_is_read_once(place: Place) -> None:
    path = place.put("slow.dm4")
    whole = path.read_bytes()
    for part in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(part * len(whole))])
        date(path, place.now_s + 99)
        place.scan(later_s=100)
        assert place.states() == {"slow.dm4": "waiting"}
    path.write_bytes(whole)
    date(path, place.now_s + 99)
    place.scan(later_s=100)
    place.scan(later_s=400)
    place.read()
    assert place.states() == {"slow.dm4": "done"}


def test_an_archive_unmounted_while_it_is_read(place: Place) -> None:
    for number in range(3):
        place.put(f"{number}.dm4", number)
    place.put("during-unmount.dm4", 9)
    place.scan()
    away = place.archive.with_name("away")
    with pytest.raises(FileNotFoundError, match="the archive is not there; need the folder that was scanned"):
        place.read("support.changing_files:read")
    assert not list((place.results / "1_images").iterdir()), "no file is blamed, nothing half-read is kept"
    with pytest.raises(ArchiveError, match="found no folder"):
        place.scan()
    place.archive.mkdir()  # the empty mount point
    with pytest.raises(ArchiveError, match="is it mounted"):
        place.scan()
    with pytest.raises(FileNotFoundError, match="the archive is empty; is it mounted"):
        place.read()
    assert set(place.states().values()) == {"ready"}
    place.archive.rmdir()
    away.rename(place.archive)
    assert place.scan().new_shards == 0
    place.read()
    assert set(place.states().values()) == {"done"}


def test_a_folder_of_the_archive_that_was_away_while_it_was_read_is_read_again(place: Place) -> None:
    for name in ("day 1/a.dm4", "day 2/b.dm4", "day 2/c.dm4"):
        place.put(name)
    place.scan()
    day, away = place.archive / "day 2", place.archive.parent / "away"
    day.rename(away)
    place.read()
    lost = {"day 1/a.dm4": "done", "day 2/b.dm4": "rejected", "day 2/c.dm4": "rejected"}
    assert place.states() == lost
    place.scan()
    place.read()
    assert place.states() == lost, "as long as it is away"
    before = place.pixels()
    away.rename(day)
    assert place.scan().new_shards == 0
    place.read()
    assert set(place.states().values()) == {"done"}
    assert before.items() <= place.pixels().items()
    again = sorted((place.results / "0_archive").glob("*.again"))
    place.scan()
    assert [path.read_text() for path in again] == ["1\n"], "once"


def test_a_bad_disk_does_not_keep_every_run_busy(place: Place) -> None:
    place.put("bad.dm4")
    place.scan()
    for _ in range(6):
        place.read("support.hostile_readers:fail_to_read")
        assert place.states() == {"bad.dm4": "rejected"}
        place.scan()
    [again] = (place.results / "0_archive").glob("*.again")
    assert again.read_text() == "1\n2\n3\n"


def test_a_file_that_left_the_archive_after_it_was_done_keeps_its_row(place: Place) -> None:
    for name in ("goes.dm4", "stays.dm4"):
        place.put(name)
    place.scan()
    place.read()
    before = place.pixels()
    (place.archive / "goes.dm4").unlink()
    found = place.scan()
    place.read()
    assert place.states() == {"goes.dm4": "done", "stays.dm4": "done"}
    assert place.pixels() == before
    assert found.warnings == []
    assert found.notes == [
        f"{place.archive}: of the files found earlier 1 are gone from the archive; their results stay"
    ]


def test_narrowed_patterns_drop_what_is_not_done_and_keep_what_is(place: Place) -> None:
    place.put("a/done.dm4")
    place.scan()
    place.read()
    place.put("b/wanted.dm4")
    place.put("c/too much.dm4")
    place.scan()
    assert place.states() == {"a/done.dm4": "done", "b/wanted.dm4": "ready", "c/too much.dm4": "ready"}
    found = place.scan(["b/*.dm4"])
    inventory = products.read_tsv(place.results / "0_archive/inventory.tsv", products.INVENTORY)
    assert dict(inventory.select("path", "state").iter_rows()) == {"a/done.dm4": "done", "b/wanted.dm4": "ready"}
    why = "1 are no longer asked for by include and exclude; their results stay"
    assert found.notes == [f"{place.archive}: of the files found earlier {why}"]
    assert len(found.shards) == 2
    (warning,) = place.scan(["nothing/*.dm4"]).warnings
    assert warning.endswith("0 files; seen, and not asked for by include and exclude: 3 .dm4"), "no missing archive"
    place.scan()
    assert place.states() == {"a/done.dm4": "done", "b/wanted.dm4": "ready", "c/too much.dm4": "ready"}


def test_a_shard_half_of_which_is_asked_for_stays_whole(place: Place) -> None:
    place.put("a.dm4")
    place.put("b.dm4")
    place.scan()
    place.scan(["a.dm4"])
    place.read()
    assert place.states() == {"a.dm4": "done", "b.dm4": "done"}


@pytest.mark.parametrize("jump_s", [-1.5e9, 1e8])
def test_a_clock_that_jumps(place: Place, jump_s: float) -> None:
    """A file first seen at a wrong time, and a results table of a wrong time."""
    place.put("old.dm4")
    place.scan()
    place.read()
    young = place.put("young.dm4", seed=1)
    date(young, place.now_s + jump_s)
    place.scan(later_s=jump_s)  # the clock is wrong
    assert place.states()["young.dm4"] == "waiting"
    place.scan(later_s=-jump_s)  # and right again
    place.scan(later_s=301)
    place.scan(later_s=301)
    place.read()
    assert place.states() == {"old.dm4": "done", "young.dm4": "done"}


@pytest.mark.parametrize("jump_s", [-1e8, 1e8])
def test_a_verdict_changed_while_the_clock_was_wrong_is_seen(place: Place, jump_s: float) -> None:
    place.put("a.dm4")
    place.scan()
    place.read()
    assert place.states() == {"a.dm4": "done"}
    [path] = (place.results / "4_defects").glob("*.images.parquet")
    table = pl.read_parquet(path).with_columns(state=pl.lit("rejected"), reason=pl.lit("too small"))
    write_parquet(table, path)
    when_ns = path.stat().st_mtime_ns + int(jump_s * 1e9)
    os.utime(path, ns=(when_ns, when_ns))
    refresh_inventory(place.results)
    assert place.states() == {"a.dm4": "rejected"}


# ---- without the superuser's rights

FORBIDDEN = """
import sys; sys.path[:0] = {paths!r}
from pathlib import Path
from faults.test_archive import Place
place = Place(Path({folder!r}))
place.put("early.dm4"); place.put("shut/in.dm4"); late = place.put("late.dm4"); place.put("sound.dm4")
(place.archive / "early.dm4").chmod(0); (place.archive / "shut").chmod(0)
place.scan()
lost = {{"early.dm4": "waiting", "late.dm4": "ready", "shut/": "waiting", "sound.dm4": "ready"}}
assert place.states() == lost, place.states()
late.chmod(0)
place.read()
lost |= {{"late.dm4": "rejected", "sound.dm4": "done"}}
assert place.states() == lost, place.states()
assert "permission denied" in place.reason("late.dm4")
place.scan(); place.read()
assert place.states() == lost, place.states()
before = place.pixels()
for name in ("early.dm4", "late.dm4", "shut"):
    (place.archive / name).chmod(0o755)
place.scan(); place.read()
done = dict.fromkeys(["early.dm4", "late.dm4", "shut/in.dm4", "sound.dm4"], "done")
assert place.states() == done, place.states()
assert before.items() <= place.pixels().items()
"""


def unprivileged() -> list[str]:
    """What a command has to begin with so that permissions hold for it, also where the tests run as root."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if not shutil.which("setpriv") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("SKIPPED LOUDLY: root's rights cannot be given up here, withdrawn permissions are not tested")
    return command


def test_permissions_withdrawn_and_given_back(tmp_path: Path) -> None:
    paths = [str(ROOT / "tests"), str(ROOT / "workflow/scripts")]
    code = FORBIDDEN.format(paths=paths, folder=str(tmp_path))
    done = subprocess.run([*unprivileged(), sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
