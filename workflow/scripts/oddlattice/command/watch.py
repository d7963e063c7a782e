"""`oddlattice watch`: what lands in a folder of microscope files has its page within seconds.

The folder is listed about every half second. A file that has not changed for some seconds, and is whole by its own
header, is named to the next scan as complete; then Snakemake runs as it would by hand, a fork of a process that has
loaded it. All that is known lies in the results: a watch that was killed goes on as if it had not been.
"""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from oddlattice.archive.complete import Version, write_complete
from oddlattice.archive.entries import Entry, known_entries, read_entries
from oddlattice.archive.listing import ArchiveError, list_archive
from oddlattice.archive.names import escape, unescape
from oddlattice.command.places import HERE, Mistake
from oddlattice.process import warm
from oddlattice.read.whole import are_whole
from oddlattice.run import retention
from oddlattice.run.dependencies import newest_ns
from oddlattice.run.warm_jobs import modules_of_scripts
from oddlattice.storage.atomic import write_if_changed

POLL_S = 0.5
LONGEST_PART = 0.2  # of the time, for listing: a large archive is looked at less often
AGAIN_S = 30.0  # after a run that did not end well
LATEST = 20  # files on the page
SNAKEMAKE = ("snakemake.cli", "snakemake.api", "snakemake.workflow", "snakemake.dag", "snakemake.executors.local")
PAGE = Path(__file__).with_name("watch.html")


@dataclass
class Looks:
    """What a watch has seen of the files that no run has taken yet.

    Attributes
    ----------
    unchanged_s : float
        So long must a file stay as it is [s].
    settle_s : float
        So old is a file that is taken whatever its header says [s], as in any run.
    is_whole : callable
        Those of some files that are whole by their own headers.
    """

    unchanged_s: float
    settle_s: float
    is_whole: Callable[[list[str]], set[str]]
    since: dict[Version, float] = field(default_factory=dict)  # when each was seen first [s]
    asked: set[Version] = field(default_factory=set)
    complete: set[Version] = field(default_factory=set)

    def look(self, listed: Sequence[Version], taken: set[Version], now_s: float) -> bool:
        """Look at what is listed now; whether there is something for a run to take."""
        new = [version for version in listed if version not in taken]
        self.since = {version: self.since.get(version, now_s) for version in new}
        self.complete &= self.since.keys()
        ask = [v for v in new if v not in self.asked and now_s - self.since[v] >= self.unchanged_s]
        self.asked = (self.asked & self.since.keys()) | set(ask)
        whole = self.is_whole([version.path for version in ask])
        self.complete |= {version for version in ask if version.path in whole}
        old = {v for v in new if now_s - max(v.mtime_ns / 1e9, self.since[v] - self.settle_s) >= self.settle_s}
        return bool(self.complete | old)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep other watches out of a folder of results.

    Raises
    ------
    Mistake
        If one is there.
    """
    with open(folder / "lock", "a") as lock:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Mistake(f"{folder}: found another watch at work here; needed it to end first") from None
        yield


@dataclass
class Watch:
    """A folder of microscope files and the results that are made of it.

    Attributes
    ----------
    archive, results : Path
    config : mapping
        Checked.
    order : list of str
        Snakemake's command line, without Python's own part.
    say : callable
        Takes lines for the terminal.
    """

    archive: Path
    results: Path
    config: Mapping[str, Any]
    order: Sequence[str]
    say: Callable[[str], None]
    landed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Where the watch keeps its own files."""
        return self.results / "watch"

    def listed(self) -> list[Version]:
        """The files that are there now."""
        found = list_archive(self.archive, self.config["include"], self.config["exclude"]).files
        return [Version(escape(path), size_bytes, mtime_ns) for path, size_bytes, mtime_ns in found]

    def taken(self) -> set[Version]:
        """What the shards hold."""
        return {Version(*entry.file[1:]) for entry in known_entries(self.results)}

    def is_whole(self, paths: list[str]) -> set[str]:
        """Those of some files that are whole by their own headers."""
        places = {os.fsdecode(os.path.join(os.fsencode(self.archive), unescape(path))): path for path in paths}
        return {places[place] for place in are_whole(list(places))}

    def show(self, words: str) -> None:
        """Tell the page what is going on."""
        report = self.results / "5_report/index.html"
        beat = report.stat().st_mtime_ns if report.exists() else 0
        told = {"report": str(beat), "says": words, "archive": str(self.archive), "landed": self.landed[-LATEST:]}
        write_if_changed(self.home / "latest.js", f"latest({json.dumps(told)})\n")

    def run(self) -> int:
        """One run of Snakemake; its exit code. OSError where the warm process is gone."""
        with open(self.home / "run.log", "wb") as log, open(os.devnull, "rb") as nothing:
            order = {"call": "snakemake.cli:main", "words": list(self.order), "modules": SNAKEMAKE}
            return warm.fork(order, (nothing.fileno(), log.fileno(), log.fileno())).wait()

    def states(self) -> dict[str, Entry]:
        """The files that are done or rejected, by id."""
        entries = read_entries(self.results / "0_archive/inventory.tsv")
        return {entry.file.file_id: entry for entry in entries if entry.state in ("done", "rejected")}

    def take(self, looks: Looks) -> bool:
        """Have Snakemake take what is complete; whether it did, to the end."""
        before, since = self.states(), dict(looks.since)
        write_complete(self.results / "0_archive", looks.complete)
        self.show("analysing " + (", ".join(sorted(v.path for v in looks.complete)[:3]) or "what is not done yet"))
        status = self.run()
        retention.drop_stages(self.results, self.config["schedule"]["drop"])
        for file_id, entry in self.states().items():
            if file_id not in before:
                self.landed.append({"path": entry.file.path, "state": entry.state, "reason": entry.reason})
                seen_s = since.get(Version(*entry.file[1:]))
                waited = f", {time.time() - seen_s:.1f} s after its last change was seen" if seen_s else ""
                self.say(f"{entry.file.path}: {entry.state}{waited}{': ' * bool(entry.reason)}{entry.reason}")
        if status:
            self.say(f"the run did not end well (exit code {status}); what it printed: {self.home / 'run.log'}")
        return status == 0


def watch(one: Watch, unchanged_s: float) -> None:
    """Watch until this process is ended."""
    (one.results / "0_archive").mkdir(parents=True, exist_ok=True)
    one.home.mkdir(exist_ok=True)
    with only_one(one.home):
        shutil.copyfile(PAGE, one.home / "index.html")
        if not warm.keep_warm([*SNAKEMAKE, *modules_of_scripts(HERE / "workflow/scripts")]):
            raise Mistake("found a system on which no process can be kept warm; needed Linux")
        one.say(f"watching {one.archive}; the page: {one.home.resolve() / 'index.html'}")
        code_ns = newest_ns(HERE / "workflow/scripts")
        looks = Looks(unchanged_s, one.config["settle_s"], one.is_whole)
        taken = one.taken()
        pending, not_before_s = bool(taken), 0.0  # what an earlier watch or run may have left half done
        while True:
            began_s = time.time()
            try:
                pending = looks.look(one.listed(), taken, began_s) or pending
                one.show(f"{len(looks.since)} files are not complete yet" if looks.since else "watching")
            except ArchiveError as error:
                one.show(str(error))
            if pending and began_s >= not_before_s:
                if newest_ns(HERE / "workflow/scripts") != code_ns:
                    start_again()
                try:
                    pending = not one.take(looks)
                except ConnectionError:  # somebody ended the warm process: perhaps the machine was short of memory
                    start_again()
                not_before_s = time.time() + AGAIN_S if pending else 0.0
                taken = one.taken()
            else:
                time.sleep(max(POLL_S, (time.time() - began_s) / LONGEST_PART))


def start_again() -> NoReturn:
    """Go on as a new process, with the program as it is now."""
    warm.stop()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (this very program)
