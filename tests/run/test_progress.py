"""A finished job is one line; what is wrong stays whole."""

import logging
import subprocess
import sys
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from oddlattice.run.progress import ProgressLines, images_said, show_progress


class Lines(logging.Handler):
    """Keeps what is printed."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def logger() -> tuple[logging.Logger, Lines]:
    found, lines = logging.Logger("test"), Lines()
    seconds = iter(range(0, 1000, 3))
    lines.addFilter(ProgressLines(clock=lambda: float(next(seconds))))
    found.addHandler(lines)
    return found, lines


def say(to: logging.Logger, event: LogEvent | None, level: int = logging.INFO, text: str = "", **extra: object) -> None:
    to.log(level, text, extra={"event": event, **extra})


def test_a_job_is_one_line_with_its_place_and_time() -> None:
    log, printed = logger()
    say(log, LogEvent.JOB_INFO, jobid=3, rule_name="cut_tiles", wildcards={"shard": "day-12345678"})
    say(log, LogEvent.JOB_INFO, jobid=4, rule_name="gather_defects", wildcards={})
    say(log, LogEvent.JOB_FINISHED, job_id=3)
    say(log, LogEvent.PROGRESS, done=3, total=120)
    say(log, LogEvent.JOB_FINISHED, job_id=4)
    say(log, LogEvent.PROGRESS, done=4, total=120)
    assert printed.lines == [
        "[  3/120   2 %] cut_tiles day-12345678  6 s",
        "[  4/120   3 %] gather_defects  6 s",
    ]


def test_chatter_is_dropped_and_news_are_not() -> None:
    log, printed = logger()
    for text in (
        "Building DAG of jobs...",
        "Select jobs to execute...",
        "Nothing to be done (all ...)",
        "12 files: 12 done",
    ):
        say(log, None, text=text)
    say(log, LogEvent.RUN_INFO, text="Job stats: ...")
    assert printed.lines == ["Nothing to be done (all ...)", "12 files: 12 done"]


def test_errors_and_warnings_stay() -> None:
    log, printed = logger()
    say(log, LogEvent.JOB_ERROR, logging.ERROR, "Error in rule cut_tiles")
    say(log, None, logging.WARNING, "Building DAG failed")
    assert printed.lines == ["Error in rule cut_tiles", "Building DAG failed"]


def test_a_slow_job_is_named_meanwhile_and_ever_more_rarely() -> None:
    now = [0.0]
    lines = ProgressLines(clock=lambda: now[0])
    log, printed = logging.Logger("test"), Lines()
    printed.addFilter(lines)
    log.addHandler(printed)
    say(log, LogEvent.JOB_INFO, jobid=3, rule_name="cut_tiles", wildcards={"shard": "day"})
    named = []
    for second in range(0, 250, 2):
        now[0] = float(second)
        named += lines.still_running()
    assert named == [f"... cut_tiles day: {s} s so far" for s in (10, 30, 60, 120, 180, 240)]
    say(log, LogEvent.JOB_FINISHED, job_id=3)
    now[0] = 900.0
    assert lines.still_running() == []


def test_the_end_says_how_many_images_were_analysed(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    assert images_said(index) == ""
    index.write_text('{\n"figures": [\n],\n"states": {"analysed":1,"no_lattice":4},\n"lines": []\n}\n')
    assert images_said(index) == "5 images: 1 analysed, 4 without a lattice"
    index.write_text('{\n"states": {"rejected":1}\n}\n')
    assert images_said(index) == "1 image: 1 rejected"


def test_only_the_terminal_is_changed() -> None:
    found, terminal, file = logging.Logger("test"), Lines(), Lines()
    terminal.name = "DefaultStreamHandler"
    found.addHandler(terminal)
    found.addHandler(file)
    show_progress(found)
    assert (len(terminal.filters), len(file.filters)) == (1, 0)


def test_log_to_takes_output_children_and_tracebacks(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "from oddlattice.process.logs import log_to\n"
        "print('before')\n"
        "log_to(sys.argv[1])\n"
        "print('mine', flush=True)\n"
        "subprocess.run(['echo', 'of a child'])\n"
        "raise ValueError('the end')\n"
    )
    log = tmp_path / "logs/job.log"
    log.parent.mkdir()
    log.write_text("of an earlier run\n" * 100)
    scripts = Path(__file__).parents[2] / "workflow/scripts"
    done = subprocess.run([sys.executable, "-c", code, log], capture_output=True, text=True, cwd=scripts, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("before\n", "", 1)
    lines = log.read_text().splitlines()
    assert lines[:2] == ["mine", "of a child"]
    assert lines[-1] == "ValueError: the end"
