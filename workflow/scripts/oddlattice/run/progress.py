"""What a run prints: one line for each finished job instead of Snakemake's twenty; errors and warnings stay whole.

Snakemake's own log file (.snakemake/log/) keeps everything.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

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
        name, since_s = self._running.pop(int(info["job_id"]), ("job", now_s))
        self._finished.append(f"{name}  {now_s - since_s:.0f} s")

    def _line(self, info: Mapping[str, Any]) -> str:
        done, total = int(info["done"]), int(info["total"])
        jobs = ", ".join(self._finished)
        self._finished.clear()
        return f"[{done:{len(str(total))}d}/{total} {100 * done // max(total, 1):3d} %] {jobs}"


def show_progress(logger: logging.Logger) -> None:
    """Put `ProgressLines` on the handler that writes to the terminal; another logger plugin is left as it is."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(ProgressLines())
