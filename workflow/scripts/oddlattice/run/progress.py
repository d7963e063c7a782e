"""What a run prints: one line for each finished job instead of Snakemake's twenty; errors and warnings stay whole.

A job that takes long is named meanwhile, after 10 seconds, 30, a minute, and then every minute.

Snakemake's own log file (.snakemake/log/) keeps everything.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_LOOK_S = 2.0  # how often running jobs are looked at
_SAID_AFTER_S = (10, 30, 60)  # and every minute from then on
_WORDS = {"no_lattice": "without a lattice", "no_model": "without a model"}  # of the states of images

_CHATTER = (
    "Assuming ",
    "Building DAG",
    "Conda environments",
    "Using shell",
    "Select jobs",
    "Execute ",
    "host:",
    "Complete log",
)


class ProgressLines(logging.Filter):
    """Turns Snakemake's log records into lines a person can follow, and drops the others.

    Parameters
    ----------
    clock : callable
        Seconds; a test passes its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._running: dict[int, tuple[str, float]] = {}
        self._said: dict[int, int] = {}
        self._finished: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide whether a record is printed; that of a finished job is rewritten in place."""
        event = getattr(getattr(record, "event", None), "value", None)
        if event == "job_info":
            self._start(record.__dict__)
            return False
        if event == "job_finished":
            self._finish(record.__dict__)
            return False
        if event == "progress":
            record.msg, record.args, record.event = self._line(record.__dict__), (), None
            return True
        if record.levelno >= logging.WARNING or event in ("job_error", "group_error", "error"):
            return True
        return event is None and not record.getMessage().lstrip().startswith(_CHATTER)

    def _start(self, info: Mapping[str, Any]) -> None:
        wildcards = " ".join(str(value) for value in dict(info.get("wildcards") or {}).values())
        self._running[int(info["jobid"])] = (f"{info['rule_name']} {wildcards}".strip(), self._clock())

    def _finish(self, info: Mapping[str, Any]) -> None:
        now_s = self._clock()
        self._said.pop(int(info["job_id"]), None)
        name, since_s = self._running.pop(int(info["job_id"]), ("job", now_s))
        self._finished.append(f"{name}  {now_s - since_s:.0f} s")

    def _line(self, info: Mapping[str, Any]) -> str:
        done, total = int(info["done"]), int(info["total"])
        jobs = ", ".join(self._finished)
        self._finished.clear()
        return f"[{done:{len(str(total))}d}/{total} {100 * done // max(total, 1):3d} %] {jobs}"

    def still_running(self) -> list[str]:
        """A line for each job that has been running long enough to be named, or named again."""
        now_s, lines = self._clock(), []
        for job, (name, since_s) in list(self._running.items()):
            ran_s = now_s - since_s
            due = sum(ran_s >= after for after in _SAID_AFTER_S) + max(int(ran_s // 60) - 1, 0)
            if due > self._said.get(job, 0):
                self._said[job] = due
                lines.append(f"... {name}: {ran_s:.0f} s so far")
        return lines


def show_progress(logger: logging.Logger) -> None:
    """Put `ProgressLines` on the handler that writes to the terminal; another logger plugin is left as it is."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            lines = ProgressLines()
            handler.addFilter(lines)
            threading.Thread(target=_name_slow_jobs, args=(lines, logger), daemon=True).start()


def _name_slow_jobs(lines: ProgressLines, logger: logging.Logger) -> None:
    """Look at the running jobs for as long as the program lives."""
    while True:
        time.sleep(_LOOK_S)
        for line in lines.still_running():
            logger.info(line)


def images_said(index: Path) -> str:
    """How many images there are, and how many of them were analysed: a line from the index's JSON; "" without one."""
    try:
        with open(index, encoding="utf-8") as file:
            line = next((line for line in file if line.startswith('"states": ')), "")
    except FileNotFoundError:
        return ""
    states: dict[str, int] = json.loads(line.removeprefix('"states": ').rstrip().removesuffix(",") or "{}")
    total = sum(states.values())
    parts = ", ".join(f"{n} {_WORDS.get(state, state)}" for state, n in states.items())
    return f"{total} image{'' if total == 1 else 's'}: {parts}" if total else ""
