"""One scheduled run, for cron or a systemd timer: `schedule_once.py --directory WORK --configfile my.yaml`.

It takes a lock, runs Snakemake, tidies up and says what came out, in WORK/results/schedule/:

- ``summary.json`` for programs and ``summary.txt``, one line, for people;
- ``logs/``: what each run that did something printed, the newest `schedule.keep_logs` of them;
- ``state.json``: what has been told already, so that only what is new is told; ``lock``.

Exit codes: 0, all that could be done was done; 1, a person is needed, and the line says what for; 75, another run is
going on and nothing was touched. Whatever kills a run, the next one goes on from there: what it left running is
stopped, Snakemake's lock is taken away, and half-finished jobs are done again.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "scripts"))

from oddlattice.archive.entries import read_entries
from oddlattice.archive.shards import SHARD_NAME
from oddlattice.run import retention, settings
from oddlattice.storage.atomic import write_text

REPOSITORY = Path(__file__).resolve().parents[1]
DONE, PERSON, BUSY = 0, 1, 75  # 75 is EX_TEMPFAIL of sysexits.h: try again later
MARK = "ODDLATTICE_RUN"  # in the environment of everything a run starts, so that a later run knows it again
TIDY_S = 60.0  # how often a run that goes on drops what it no longer needs
NOTIFY_S = 120.0  # a notification that takes longer has failed
GONE_S = 180.0  # so long may what an earlier run left take to end
MOST = 100  # rejections that a summary spells out; all are in the inventory


class PersonNeeded(RuntimeError):
    """The run cannot go on; the message says what was found and what is needed."""


class Busy(RuntimeError):
    """Another run is going on; the message says which."""


@dataclass
class Summary:
    """What a run says of itself; every field stands in ``summary.json``."""

    result: str = "done"  # done, or person needed
    exit_code: int = DONE
    reason: str = ""  # what a person is needed for
    directory: str = ""
    archive: str = ""
    started: str = ""
    seconds: float = 0.0
    files: dict[str, int] = field(default_factory=dict)  # by state
    images: int = 0
    defects: int = 0
    jobs: dict[str, int] = field(default_factory=dict)  # finished in this run, by rule
    new_done: int = 0  # files done since the summary before
    new_rejected: int = 0  # files rejected and not told of before
    rejections: list[dict[str, str]] = field(default_factory=list)  # path and reason of the new ones, at most MOST
    failures: list[dict[str, str]] = field(default_factory=list)  # rule, shard and log of jobs that failed
    new_failures: int = 0
    recovered: str = ""  # what an earlier run that was cut off had left
    dropped: int = 0  # stores of intermediate stages
    disk_mb: dict[str, float] = field(default_factory=dict)  # by stage
    disk_free_mb: float = 0.0
    log: str = ""
    notified: bool = False


# ---------------------------------------------------------------- texts


def failures_in(text: str, exists: Callable[[str], bool]) -> list[dict[str, str]]:
    """Find the jobs that failed for good in what Snakemake printed; those a later try finished are left out.

    Parameters
    ----------
    text : str
    exists : callable
        Whether a path below the working folder is there: the first output of a job that was tried again.
    """
    found: dict[str, dict[str, str]] = {}
    for block in re.split(r"^(?=Error in (?:rule|group) )", text, flags=re.MULTILINE)[1:]:
        rule = re.match(r"Error in (?:rule|group) (\S+?):?\s", block)
        output = re.search(r"^    output: ([^,\n]+)", block, flags=re.MULTILINE)
        log = re.search(r"^    log: ([^,\n]+?)(?: \(check|,|$)", block, flags=re.MULTILINE)
        if rule is None or (output is not None and exists(output[1])):
            continue
        made = output[1] if output else ""
        shard = re.search(rf"({SHARD_NAME})", made)
        found[f"{rule[1]} {made}"] = {
            "rule": rule[1],
            "shard": shard[1] if shard else "",
            "log": log[1] if log else "",
        }
    return list(found.values())


def jobs_in(text: str) -> dict[str, int]:
    """Count the jobs that were finished, by rule, from the lines of progress."""
    found: Counter[str] = Counter()
    for line in re.findall(r"^\[ *\d+/\d+ +\d+ %\] (.+)$", text, flags=re.MULTILINE):
        found.update(job.split()[0] for job in line.split(", "))
    return {rule: number for rule, number in sorted(found.items()) if rule not in ("all", "job")}


def sentence_of(text: str) -> str:
    """Give the last thing that was printed, in one line: where a run ends before any job, that is the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:1000] if lines else "Snakemake ended without a word"


def line_of(summary: Summary) -> str:
    """One line for a person."""
    files = ", ".join(f"{n} {state}" for state, n in summary.files.items() if n) or "no files"
    parts = [f"{summary.started} {summary.result} in {summary.seconds:.0f} s", files]
    news = [
        f"{number} {what}"
        for number, what in ((summary.new_done, "newly done"), (summary.new_rejected, "newly rejected"))
        if number
    ]
    parts += [", ".join(news) or "nothing new"]
    parts += [summary.reason] if summary.reason else []
    parts += [summary.recovered] if summary.recovered else []
    parts += [f"{sum(summary.disk_mb.values()):.0f} MB used, {summary.disk_free_mb:.0f} MB free"]
    return "; ".join(parts)


# ---------------------------------------------------------------- one at a time


@contextmanager
def only_one(path: Path) -> Iterator[int]:
    """Hold the lock; the handle is given to Snakemake too, so that it is held as long as either of them lives.

    Raises
    ------
    Busy
        If another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            run = record_of(handle)
            raise Busy(
                f"another scheduled run is going on, since {run.get('started', '?')} as process {run.get('pid', '?')} "
                f"on {run.get('host', '?')}; nothing was done"
            ) from None
        yield handle
    finally:
        os.close(handle)


def record_of(handle: int) -> dict[str, Any]:
    """Read what the lock says of the run that holds it or held it last."""
    try:
        found = json.loads(os.pread(handle, 65536, 0).decode() or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_record(handle: int, record: Mapping[str, Any]) -> None:
    """Write it, in place: the lock is on the file, not on its name."""
    os.pwrite(handle, json.dumps(record).ljust(1000).encode(), 0)  # padded: one write, never half of two records
    os.fsync(handle)


def processes_of(run: str) -> list[int]:
    """Processes on this machine that a run has started."""
    mark = f"{MARK}={run}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def stop_all(what: str, left: Callable[[], Sequence[Any]], stop: Callable[[Sequence[Any]], None]) -> int:
    """Stop processes or cluster jobs until none is left; how many there were. PersonNeeded when they do not end."""
    end = time.monotonic() + GONE_S
    seen: set[Any] = set()
    while found := left():
        if time.monotonic() > end:
            raise PersonNeeded(f"found {what} of an earlier run that do not end: {list(found)}; needed them gone")
        if new := [one for one in found if one not in seen]:
            stop(new)
            seen.update(new)
        time.sleep(0.2)
    return len(seen)


def kill(processes: Sequence[int]) -> None:
    """Kill processes; those that have ended meanwhile do not matter."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def stop_leftovers(record: Mapping[str, Any]) -> str:
    """Stop what a run that was cut off has left running on this machine; what was done, in words."""
    if not record or record.get("ended"):
        return ""
    run = str(record.get("run", ""))
    left = stop_all("processes", lambda: processes_of(run), kill)
    stopped = f", {left} processes it had left were stopped" if left else ""
    return f"the run of {record.get('started', '?')} was cut off{stopped}"


def job_prefix(directory: Path) -> str:
    """Begin the names of the cluster jobs of a working folder."""
    return "oddlattice-" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]


def cluster_jobs(directory: Path) -> list[str]:
    """Ids of this user's Slurm jobs that belong to a working folder."""
    command = ["squeue", "--me", "--noheader", "--format=%A|%j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise PersonNeeded(f"squeue: found {' '.join(str(said).split())}; needed the cluster's queue") from None
    rows = (line.split("|", 1) for line in done.stdout.splitlines())
    return sorted({row[0] for row in rows if row[-1].startswith(job_prefix(directory))})


def stop_cluster_jobs(directory: Path) -> str:
    """Cancel the jobs that a killed head has left in the queue; what was done, in words."""

    def cancel(jobs: Sequence[str]) -> None:
        subprocess.run(["scancel", *jobs], capture_output=True, check=False, timeout=60)

    left = stop_all("cluster jobs", lambda: cluster_jobs(directory), cancel)
    return f"{left} cluster jobs of an earlier run were cancelled" if left else ""


def refuse_beside_others(state: Path) -> None:
    """Leave where Snakemake is at work already, started by hand: it holds the lock of `oddlattice.run.lock`.

    Parameters
    ----------
    state : Path
        Snakemake's own folder (``.snakemake``).

    Raises
    ------
    Busy
    """
    with suppress(FileNotFoundError), open(state / "oddlattice.run", "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = file.read(200).decode("utf-8", "replace").strip() or "another process"
            raise Busy(f"a run started by hand is going on ({who}); nothing was done") from None


def clear_snakemake_lock(state: Path, unlock: Sequence[str]) -> None:
    """Take away Snakemake's lock that a scheduled run left which was cut off: that we hold ours proves that it is over.

    Raises
    ------
    PersonNeeded
        If Snakemake will not.
    """
    if any((state / "locks").glob("*")):
        done = subprocess.run(unlock, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PersonNeeded(sentence_of(done.stderr + done.stdout))


# ---------------------------------------------------------------- the run


@dataclass(frozen=True)
class Order:
    """What is to be run."""

    directory: Path
    configfiles: tuple[Path, ...]
    cores: str
    slurm: bool
    rest: tuple[str, ...]

    @property
    def home(self) -> Path:
        """Where the schedule keeps its own files."""
        return self.directory / "results/schedule"

    def command(self, *more: str) -> list[str]:
        """Give Snakemake's command line."""
        found = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        found += ["--directory", str(self.directory)]
        if self.configfiles:
            found += ["--configfile", *map(str, self.configfiles)]
        if self.slurm:
            found += ["--workflow-profile", "slurm", "--slurm-jobname-prefix", job_prefix(self.directory)]
        else:
            found += ["--cores", self.cores]
        return [*found, *self.rest, *more]


def run_snakemake(order: Order, handle: int, run: str, log: Path, tidy: Callable[[], None]) -> int:
    """Run Snakemake, all it prints into the log; tell it to stop when we are told to. Its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        child = subprocess.Popen(
            order.command(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {MARK: run},
            pass_fds=(handle,),
        )
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, lambda *_: child.terminate())
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return child.wait(timeout=TIDY_S)
                tidy()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def work(order: Order, config: Mapping[str, Any], handle: int, summary: Summary) -> None:
    """Clear up after a run that was cut off, run Snakemake, and drop what is no longer needed; into `summary`."""
    record = record_of(handle)
    refuse_beside_others(order.directory / ".snakemake")
    cancelled = stop_cluster_jobs(order.directory) if order.slurm else ""
    cut_off = stop_leftovers(record)
    if cut_off:
        clear_snakemake_lock(order.directory / ".snakemake", order.command("--unlock"))
    summary.recovered = ", ".join(filter(None, (cut_off, cancelled)))

    run = uuid.uuid4().hex
    record = {"run": run, "pid": os.getpid(), "host": socket.gethostname(), "started": summary.started, "ended": ""}
    write_record(handle, record)
    since_ns = os.fstat(handle).st_mtime_ns
    log = order.home / "logs" / f"{summary.started.replace(':', '')}.log"
    results, stages = order.directory / "results", config["schedule"]["drop"]
    gone: list[Path] = []
    code = run_snakemake(order, handle, run, log, lambda: gone.extend(retention.drop_stages(results, stages, since_ns)))
    gone += retention.drop_stages(results, stages)
    summary.dropped = len(gone)

    text = log.read_text(encoding="utf-8", errors="replace")
    summary.log, summary.jobs = str(log.relative_to(order.directory)), jobs_in(text)
    if code != 0:
        summary.failures = failures_in(text, lambda path: (order.directory / path).exists())
        failed = [f"{one['rule']} {one['shard']}".strip() + f" (see {one['log']})" for one in summary.failures]
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        summary.reason = f"failed: {', '.join(failed[:3])}{more}" if failed else sentence_of(text)
        summary.result, summary.exit_code = "person needed", PERSON
    elif not summary.jobs and not summary.recovered and not gone:
        log.unlink()  # nothing was done: a log every ten minutes would push out those that say something
        summary.log = ""
    write_record(handle, record | {"ended": now()})


def count(order: Order, summary: Summary, state: dict[str, Any]) -> None:
    """Count files, images, defects and the disk, and what of them is new, into `summary` and `state`."""
    results = order.directory / "results"
    entries = read_entries(results / "0_archive/inventory.tsv")
    counts = Counter(entry.state for entry in entries)
    summary.files = {name: counts[name] for name in ("done", "rejected", "ready", "waiting")}
    summary.new_done = max(0, counts["done"] - int(state.get("done", 0)))
    rejected = {entry.file.file_id: entry for entry in entries if entry.state == "rejected"}
    new = [entry for file_id, entry in rejected.items() if file_id not in set(state.get("rejected", []))]
    summary.new_rejected = len(new)
    summary.rejections = [{"path": entry.file.path, "reason": entry.reason} for entry in new[:MOST]]
    failed = [f"{one['rule']} {one['shard']}" for one in summary.failures] or [summary.reason] * bool(summary.reason)
    summary.new_failures = len(set(failed) - set(state.get("failed", [])))
    summary.images, summary.defects = images_and_defects(results / "4_defects/images.parquet")

    known = {name: (int(when), int(size)) for name, (when, size) in state.get("sizes", {}).items()}
    sizes = retention.disk_used(results, known)
    summary.disk_mb = retention.by_stage_mb(sizes)
    summary.disk_free_mb = round(shutil.disk_usage(order.directory).free / 1e6, 1)
    state |= {"sizes": sizes, "done": counts["done"]}
    state["told"] = {"rejected": sorted(rejected), "failed": sorted(failed)}


def images_and_defects(table: Path) -> tuple[int, int]:
    """Count the analysed images and their defects."""
    if not table.exists():
        return 0, 0
    import polars as pl  # 0.2 s that a run without results need not spend

    found = pl.read_parquet(table, columns=["state", "defects"]).filter(pl.col("state") == "analysed")
    return found.height, int(found["defects"].sum())


def notify(command: str, summary_json: Path, summary: Summary) -> str:
    """Run the hook of the config with the summary on its standard input; why it failed, or nothing."""
    try:
        done = subprocess.run(
            shlex.split(command),
            input=json.dumps(asdict(summary), indent=1),
            env=os.environ | {"ODDLATTICE_SUMMARY": str(summary_json)},
            capture_output=True,
            text=True,
            check=False,
            timeout=NOTIFY_S,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"schedule.notify: found {' '.join(str(error).split())}; needed a command that can be run"
    if done.returncode != 0:
        return f"schedule.notify: found exit code {done.returncode} of {command}: {sentence_of(done.stderr)}"
    return ""


def now() -> str:
    """Give the time as it stands in summaries."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_state(path: Path) -> dict[str, Any]:
    """Read what earlier runs have told; nothing where it is missing or broken: then it is told again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def schedule(order: Order) -> Summary:
    """Do one scheduled run.

    Raises
    ------
    Busy
        If another run is going on; nothing was touched.
    """
    started, since_s = now(), time.monotonic()
    summary = Summary(directory=str(order.directory), started=started)
    config: dict[str, Any] = {}
    with only_one(order.home / "lock") as handle:
        try:
            config = settings.load_config(REPOSITORY, order.configfiles)
            summary.archive = config["archive"]
            work(order, config, handle, summary)
        except (PersonNeeded, settings.SettingsError) as error:
            summary.result, summary.exit_code, summary.reason = "person needed", PERSON, str(error)
        state = read_state(order.home / "state.json")
        count(order, summary, state)
        told = state.pop("told")
        if config:
            keep = config["schedule"]["keep_logs"]
            retention.keep_newest((order.home / "logs").glob("*.log"), keep)
            retention.keep_newest((order.directory / ".snakemake/log").glob("*.snakemake.log"), keep)
        summary.seconds = round(time.monotonic() - since_s, 1)
        tell(config, order.home / "summary.json", summary)
        if summary.notified or not config or not config["schedule"]["notify"]:
            state |= told
        write_text(order.home / "summary.json", json.dumps(asdict(summary), indent=1) + "\n")
        write_text(order.home / "summary.txt", line_of(summary) + "\n")
        write_text(order.home / "state.json", json.dumps(state) + "\n")
    return summary


def tell(config: Mapping[str, Any], summary_json: Path, summary: Summary) -> None:
    """Notify where there is something new; a hook that fails is itself something a person is needed for."""
    command = config["schedule"]["notify"] if config else ""
    if not command:
        return
    if not (summary.new_rejected or summary.new_failures):
        summary.notified = True  # nothing to tell
        return
    write_text(summary_json, json.dumps(asdict(summary), indent=1) + "\n")
    failed = notify(command, summary_json, summary)
    summary.notified = not failed
    if failed:
        summary.result, summary.exit_code = "person needed", PERSON
        summary.reason = "; ".join(filter(None, [summary.reason, failed]))


def parse(arguments: Sequence[str]) -> Order:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="One scheduled run. Exit codes: 0 done, 1 a person is needed, 75 another run is going on.",
        epilog="What follows -- is given to snakemake as it is.",
    )
    parser.add_argument("--directory", type=Path, default=Path(), help="working folder; results go to its results/")
    parser.add_argument("--configfile", type=Path, action="append", default=[], help="as of snakemake; may be repeated")
    parser.add_argument("--cores", default="all", help="as of snakemake")
    parser.add_argument("--slurm", action="store_true", help="run the jobs on a Slurm cluster: profiles/slurm")
    parser.add_argument("rest", nargs="*", metavar="-- ARGUMENT", help="for snakemake")
    found = parser.parse_args(arguments)
    if any(name.startswith("--configf") for name in found.rest):  # Snakemake takes any beginning of --configfile(s)
        parser.error("a config file is named before --, not after it: it is checked before Snakemake reads it")
    configfiles = tuple(file.resolve() for file in found.configfile)
    return Order(found.directory.resolve(), configfiles, found.cores, found.slurm, tuple(found.rest))


def main(arguments: Sequence[str]) -> int:
    """Run, print one line, to standard error where a person is needed, and give the exit code."""
    order = parse(arguments)
    try:
        summary = schedule(order)
    except Busy as busy:
        print(busy)
        return BUSY
    except OSError as error:
        name = error.filename or order.home
        print(f"{name}: found {error.strerror}; needed a place for results that can be written to", file=sys.stderr)
        return PERSON
    print(line_of(summary), file=sys.stderr if summary.exit_code else sys.stdout)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
