"""Scheduled runs: one at a time, what they say, what they tidy away, and how they go on after one that was cut off."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import schedule_once
from oddlattice.run import retention
from schedule_once import BUSY, DONE, PERSON, Summary, failures_in, jobs_in, line_of, only_one, processes_of
from support.fault_runs import SHIPPED_MODEL, install
from workflow.test_workflow import contents, lay_out_archive

FAILED = """\
[Sun Nov 22 18:31:45 2026]
Error in rule find_defects:
    message: None
    jobid: 8
    input: results/1_images/top-9056d59a.zarr
    output: results/4_defects/top-9056d59a.parquet, results/4_defects/top-9056d59a.zarr
    log: results/logs/find_defects/top-9056d59a.log (check log file(s) for error details)
Trying to restart job 8.
Error in rule cut_tiles:
    message: SLURM-job '6' failed, SLURM status is: 'FAILED'.
several lines
    jobid: 9
    output: results/2_tiles/bad-4a5cd4ac.zarr
    log: results/logs/cut_tiles/bad-4a5cd4ac.log, /w/.snakemake/slurm_logs/6.log (check log file(s) for error details)
[ 1/12   8 %] read_images bad-4a5cd4ac  5 s, read_images top-9056d59a  6 s
[13/13 100 %] all  0 s
"""


def wait_until(found: Callable[[], bool], what: str, limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < end, f"waited {limit_s} s for {what}"
        time.sleep(0.05)


# ---- what is read from Snakemake's words


def test_failed_jobs_are_named_with_their_shard_and_log() -> None:
    first, second = failures_in(FAILED, lambda path: False)
    log = "results/logs/find_defects/top-9056d59a.log"
    assert first == {"rule": "find_defects", "shard": "top-9056d59a", "log": log}
    assert second["log"] == "results/logs/cut_tiles/bad-4a5cd4ac.log"


def test_a_job_that_a_later_try_finished_has_not_failed() -> None:
    [left] = failures_in(FAILED, lambda path: path == "results/2_tiles/bad-4a5cd4ac.zarr")
    assert left["rule"] == "find_defects"


def test_finished_jobs_are_counted() -> None:
    assert jobs_in(FAILED) == {"read_images": 2}


def test_the_line_for_people_is_one_line_and_says_what_is_new() -> None:
    summary = Summary(started="2026-11-22T10:00:00Z", files={"done": 3, "rejected": 1, "ready": 0}, new_rejected=1)
    summary.disk_mb, summary.disk_free_mb = {"1_images": 10.0, "2_tiles": 5.0}, 900.0
    assert line_of(summary) == (
        "2026-11-22T10:00:00Z done in 0 s; 3 done, 1 rejected; 1 newly rejected; 15 MB used, 900 MB free"
    )


# ---- the lock


def test_the_lock_is_held_as_long_as_a_child_lives_that_was_given_it(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock") as handle:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(handle,))
    with pytest.raises(schedule_once.Busy, match="another scheduled run is going on"), only_one(tmp_path / "lock"):
        pass
    child.kill()
    child.wait()
    with only_one(tmp_path / "lock"):
        pass


def test_a_shorter_record_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock") as handle:
        schedule_once.write_record(handle, {"run": "a" * 90})
        schedule_once.write_record(handle, {"run": "b"})
        assert schedule_once.record_of(handle) == {"run": "b"}


def test_what_a_run_left_running_is_stopped_and_nothing_else() -> None:
    marked = subprocess.Popen(["sleep", "60"], env=os.environ | {schedule_once.MARK: "run-1"})
    other = subprocess.Popen(["sleep", "60"], env=os.environ | {schedule_once.MARK: "run-11"})
    try:
        deadline = time.monotonic() + 10
        while processes_of("run-1") != [marked.pid] and time.monotonic() < deadline:
            time.sleep(0.05)
        Waiter(marked)
        said = schedule_once.stop_leftovers({"run": "run-1", "started": "then", "ended": ""})
        assert said == "the run of then was cut off, 1 processes it had left were stopped"
        assert marked.wait(timeout=5) == -signal.SIGKILL
        assert other.poll() is None
        assert schedule_once.stop_leftovers({"run": "run-11", "started": "then", "ended": "later"}) == ""
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()


class Waiter:
    """Takes note of a child's end, as init does for a child whose parent was killed."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        import threading

        threading.Thread(target=child.wait, daemon=True).start()


# ---- retention


def store(folder: Path, name: str, when_s: int) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "c").write_bytes(b"x" * 10_000)
    os.utime(path, (when_s, when_s))
    return path


def test_stages_are_dropped_once_the_pages_are_newer(tmp_path: Path) -> None:
    tiles = store(tmp_path / "2_tiles", "a.zarr", 100)
    differences = store(tmp_path / "3_differences", "a.zarr", 100)
    no_pages = store(tmp_path / "2_tiles", "b.zarr", 100)
    made_again = store(tmp_path / "2_tiles", "c.zarr", 300)
    for name in "ac":
        store(tmp_path / "5_report", name, 200)
    left = store(tmp_path / "2_tiles", ".z.zarr.dropped", 100)
    assert retention.drop_stages(tmp_path, ["tiles"], newer_than_ns=250 * 10**9) == []
    assert retention.drop_stages(tmp_path, ["tiles"]) == [tiles]
    assert [path.exists() for path in (tiles, differences, no_pages, made_again, left)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert retention.drop_stages(tmp_path, ["tiles", "differences"]) == [differences]


def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.log").touch()
        os.utime(tmp_path / f"{number}.log", (number, number))
    retention.keep_newest(tmp_path.glob("*.log"), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.log", "4.log"]


def test_the_disk_is_measured_once_for_what_does_not_change(tmp_path: Path) -> None:
    path = store(tmp_path / "1_images", "a.zarr", 100)
    first = retention.disk_used(tmp_path, {})
    assert retention.by_stage_mb(first) == {"1_images": pytest.approx(0.0123, abs=0.003)}
    (path / "c").unlink()
    os.utime(path, (100, 100))
    assert retention.disk_used(tmp_path, first) == first
    os.utime(path, (101, 101))
    assert retention.by_stage_mb(retention.disk_used(tmp_path, first)) == {"1_images": 0}


# ---- runs, with a stand-in for Snakemake

STAND_IN = """
import json, os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
if "--unlock" in sys.argv:
    [lock.unlink() for lock in (folder / ".snakemake/locks").iterdir()]
    sys.exit(0)
print(plan["say"], flush=True)
for name, text in plan["write"].items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
if plan["hang"]:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (folder / "started").touch()
    time.sleep(300)
sys.exit(plan["code"])
"""
REJECTED = {"a.dm4": "found nothing", "b.dm4": "found text"}


def inventory(rejected: dict[str, str], done: int = 1) -> str:
    rows = [f"{name}-id\t{name}\t1\t1\trejected\t{why}\ttop-00000000\n" for name, why in rejected.items()]
    rows += [f"good{n}-id\tgood{n}.emd\t1\t1\tdone\t\ttop-00000000\n" for n in range(done)]
    return "file_id\tpath\tsize_bytes\tmtime_ns\tstate\treason\tshard\n" + "".join(rows)


class Place:
    """A working folder, its config, and scheduled runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "results/schedule"
        self.stand_in = folder.parent / "stand_in.py"
        self.schedule: dict[str, object] = {}
        folder.mkdir()
        self.stand_in.write_text(STAND_IN)
        self.plan()

    def configure(self, **more: object) -> None:
        self.schedule |= more
        (self.folder / "my.yaml").write_text(yaml.safe_dump({"archive": "archive", "schedule": self.schedule}))

    def plan(self, say: str = "", code: int = 0, hang: bool = False, **write: str) -> None:
        """What the next runs of Snakemake do."""
        found = {"results/0_archive/inventory.tsv": write["inventory"]} if write else {}
        (self.folder / "plan.json").write_text(json.dumps({"say": say, "code": code, "hang": hang, "write": found}))

    def arguments(self) -> list[str]:
        self.configure()
        return ["--directory", str(self.folder), "--configfile", str(self.folder / "my.yaml")]

    def start(self) -> subprocess.Popen[bytes]:
        """A run in a process of its own."""
        program = (
            "import sys, schedule_once as s\n"
            f"start = [sys.executable, {str(self.stand_in)!r}]\n"
            "s.Order.command = lambda self, *more: [*start, str(self.directory), *more]\n"
            f"sys.exit(s.main({self.arguments()!r}))"
        )
        return subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": ":".join(sys.path)})

    @property
    def summary(self) -> dict[str, Any]:
        found = json.loads((self.home / "summary.json").read_text())
        assert isinstance(found, dict)
        return found

    @property
    def line(self) -> str:
        return (self.home / "summary.txt").read_text()

    def told(self) -> list[dict[str, Any]]:
        """What the hook was given, run by run."""
        return [json.loads(file.read_text()) for file in sorted((self.folder / "told").iterdir())]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(tmp_path / "work")

    def command(order: schedule_once.Order, *more: str) -> list[str]:
        return [sys.executable, str(found.stand_in), str(order.directory), *more]

    monkeypatch.setattr(schedule_once.Order, "command", command)
    return found


@pytest.fixture
def hook(place: Place) -> Place:
    """A working folder whose hook keeps what it is told."""
    told = place.folder / "told"
    told.mkdir()
    (place.folder / "hook.py").write_text(
        "import os, pathlib, sys\n"
        f"folder = pathlib.Path({str(told)!r})\n"
        "assert pathlib.Path(os.environ['ODDLATTICE_SUMMARY']).is_file()\n"
        "(folder / f'{len(list(folder.iterdir()))}.json').write_text(sys.stdin.read())\n"
    )
    place.configure(drop=[], keep_logs=2, notify=f"{sys.executable} '{place.folder}/hook.py'")
    return place


def run(place: Place, code: int) -> None:
    assert schedule_once.main(place.arguments()) == code, place.line


def test_a_run_says_what_came_out_in_one_line_and_as_json(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.plan(say=FAILED, inventory=inventory(REJECTED, done=3))
    run(place, DONE)
    said = capsys.readouterr()
    assert said.out == place.line and said.err == ""
    assert "; 3 done, 2 rejected; 3 newly done, 2 newly rejected; " in place.line and place.line.count("\n") == 1
    summary = place.summary
    assert summary["files"] == {"done": 3, "rejected": 2, "ready": 0, "waiting": 0}
    assert summary["rejections"] == [{"path": path, "reason": why} for path, why in REJECTED.items()]
    assert (summary["jobs"], summary["exit_code"], summary["result"]) == ({"read_images": 2}, 0, "done")
    assert summary["disk_mb"]["0_archive"] > 0 and summary["disk_free_mb"] > 0
    assert "cut_tiles" in (place.folder / str(summary["log"])).read_text()


def test_a_run_that_did_nothing_leaves_no_log(place: Place) -> None:
    run(place, DONE)
    assert place.summary["log"] == "" and not list((place.home / "logs").iterdir())


def test_only_what_is_new_is_told(hook: Place) -> None:
    hook.plan(inventory=inventory({"a.dm4": "why"}))
    run(hook, DONE)
    run(hook, DONE)
    hook.plan(inventory=inventory(REJECTED))
    run(hook, DONE)
    assert [[one["path"] for one in told["rejections"]] for told in hook.told()] == [["a.dm4"], ["b.dm4"]]


def test_a_failed_job_needs_a_person_is_told_once_and_again_after_it_went_well(
    hook: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    hook.plan(say=FAILED, code=1)
    run(hook, PERSON)
    assert "failed: find_defects top-9056d59a (see results/logs/find_defects/top-9056d59a.log), cut_tiles" in hook.line
    assert capsys.readouterr().err == hook.line  # cron mails what stands there
    assert hook.summary["result"] == "person needed" and len(hook.summary["failures"]) == 2
    run(hook, PERSON)
    assert len(hook.told()) == 1
    hook.plan()
    run(hook, DONE)
    hook.plan(say=FAILED, code=1)
    run(hook, PERSON)
    assert len(hook.told()) == 2


def test_a_run_that_ends_before_any_job_says_why(place: Place) -> None:
    place.plan(say="Using profile\nmy.yaml: archive: found no folder /a; needed the folder of microscope files", code=1)
    run(place, PERSON)
    assert "; my.yaml: archive: found no folder /a; needed the folder of microscope files; " in place.line


def test_a_bad_config_needs_a_person(place: Place) -> None:
    place.configure(drop=["images"])
    run(place, PERSON)
    assert 'my.yaml: schedule.drop[0]: found "images"; needed tiles, differences or maps' in place.line


def test_a_hook_that_fails_is_said_and_tells_again_next_time(hook: Place) -> None:
    good = hook.schedule["notify"]
    hook.configure(notify="false")
    hook.plan(inventory=inventory(REJECTED))
    run(hook, PERSON)
    assert "schedule.notify: found exit code 1 of false" in hook.line
    hook.configure(notify="/nowhere/to/be/found")
    run(hook, PERSON)
    assert "schedule.notify: found " in hook.line and "needed a command that can be run" in hook.line
    hook.configure(notify=good)
    run(hook, DONE)
    assert hook.told()[0]["new_rejected"] == 2


def test_logs_are_kept_as_many_as_the_config_says(hook: Place) -> None:
    for number in range(5):
        for log in (hook.home / f"logs/200{number}.log", hook.folder / f".snakemake/log/200{number}.snakemake.log"):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
    hook.plan(say=FAILED)
    run(hook, DONE)
    assert len(list((hook.home / "logs").iterdir())) == 2 and (hook.folder / hook.summary["log"]).exists()
    assert len(list((hook.folder / ".snakemake/log").iterdir())) == 2


def test_two_at_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """The second leaves at once, with a word and a code of its own; nothing is touched."""
    run(place, DONE)
    capsys.readouterr()
    with only_one(place.home / "lock") as handle:
        schedule_once.write_record(handle, {"run": "x", "pid": 7, "host": "there", "started": "then", "ended": "now"})
        before = contents(place.folder)
        run(place, BUSY)
        assert contents(place.folder) | {"my.yaml": 0} == before | {"my.yaml": 0}
    said = "another scheduled run is going on, since then as process 7 on there; nothing was done\n"
    assert capsys.readouterr() == (said, "")


def test_a_run_by_hand_is_left_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Snakemake holds a lock of its own while it works, however it was started (`oddlattice.run.lock`)."""
    (place.folder / ".snakemake").mkdir()
    with open(place.folder / ".snakemake/oddlattice.run", "w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 7 on there\n")
        file.flush()
        run(place, BUSY)
        assert not (place.home / "summary.json").exists()
    assert capsys.readouterr().out == "a run started by hand is going on (process 7 on there); nothing was done\n"
    run(place, DONE)


def test_a_run_that_was_killed_is_taken_up(place: Place) -> None:
    """While Snakemake lives the lock is held; when it is dead too, what it had started is stopped and its lock goes."""
    place.plan(hang=True)
    head = place.start()
    try:
        wait_until(lambda: (place.folder / "started").exists(), "a running job")
        record = json.loads((place.home / "lock").read_text())
        snakemake, job = sorted(processes_of(record["run"]))
        head.kill()
        head.wait()
        run_code = schedule_once.main(place.arguments())
        assert run_code == BUSY
        os.kill(snakemake, signal.SIGKILL)
        wait_until(lambda: processes_of(record["run"]) == [job], "the end of Snakemake")
    finally:
        head.kill()
    lock = place.folder / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    place.plan()
    run(place, DONE)
    assert f"; the run of {record['started']} was cut off, 1 processes it had left were stopped; " in place.line
    assert processes_of(record["run"]) == [] and not lock.exists()
    run(place, DONE)
    assert "cut off" not in place.line


def test_results_that_cannot_be_written_are_one_sentence(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "results").write_text("a file where a folder is needed")
    assert schedule_once.main(place.arguments()) == PERSON
    assert capsys.readouterr().err.endswith("; needed a place for results that can be written to\n")


# ---- a real run


@pytest.mark.workflow
@pytest.mark.timeout(1800)
def test_a_real_run_drops_stages_that_cost_no_work_again_and_can_be_made_again(tmp_path: Path) -> None:
    installation, work = install(tmp_path / "installation", SHIPPED_MODEL), tmp_path / "work"
    work.mkdir()
    lay_out_archive(work / "archive")
    (work / "archive/bad/text.dm3").rename(work / "archive/text.dm3")  # one shard is enough
    mine = {"archive": "archive", "settle_s": 0, "schedule": {"drop": ["tiles", "differences", "maps"]}}
    (work / "my.yaml").write_text(yaml.safe_dump(mine))
    (work / "other.yaml").write_text(yaml.safe_dump(mine | {"report": {"density_stands_out": 4.0}}))

    def scheduled() -> dict[str, Any]:
        script = [sys.executable, f"{installation}/workflow/schedule_once.py", "--directory", str(work), "--cores", "2"]
        subprocess.run([*script, "--configfile", f"{work}/my.yaml"], check=True)
        return dict(json.loads((work / "results/schedule/summary.json").read_text()))

    def would_run(config: str) -> set[str]:
        program = [sys.executable, "-m", "snakemake", "--snakefile", f"{installation}/Snakefile", "--dry-run"]
        wanted = [*program, "--directory", str(work), "--configfile", f"{work}/{config}"]
        text = subprocess.run(wanted, check=True, capture_output=True, text=True).stdout
        return {line.split()[0] for line in text.splitlines() if line[:1].islower() and line[-1:].isdigit()}

    first = scheduled()
    assert first["files"] == {"done": 1, "rejected": 2, "ready": 0, "waiting": 0}
    assert first["jobs"]["find_defects"] == first["jobs"]["write_index"] == 1
    assert (first["images"], first["dropped"]) == (1, 3)
    assert not [*work.glob("results/2_tiles/*"), *work.glob("results/3_differences/*")]
    assert not list((work / "results/4_defects").glob("*.zarr"))
    assert list((work / "results/4_middles").glob("*.zip"))
    before = contents(work / "results/5_report")
    second = scheduled()
    assert (second["jobs"], second["log"], second["new_done"], second["new_rejected"]) == ({}, "", 0, 0)
    assert contents(work / "results/5_report") == before
    assert would_run("my.yaml") == set()
    assert {"cut_tiles", "infer_differences", "find_defects", "write_pages"} <= would_run("other.yaml")
    new = work / "archive/new.dm3"
    new.write_text("no image")  # tables of all images are made again, of what every shard has kept
    assert would_run("my.yaml") >= {"read_images", "gather_defects", "write_index"}
    assert scheduled()["jobs"]["find_defects"] == 1
