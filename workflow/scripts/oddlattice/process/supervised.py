"""A stage that outlives its images: one that takes the process with it, or hangs, costs itself alone.

The stage goes on in a child process, as fast as it can, and says which image it is at. Only if that process dies is the
shard gone through again, by a fresh one that does nothing ahead or behind, so that the image it dies at is the one to
blame; and once more without that image. The others are worked on as in an undisturbed run: the same bytes.
"""

import faulthandler
import gc
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from oddlattice.process.parent_death import die_with_parent
from oddlattice.process.sandbox import Fault, Given, Result, result_or_fault

LONGEST_S = 1800.0  # an image that takes longer is given up; twice that, and the rest, fits into a job's `runtime`
#: Signals by which a process dies of what it does; by any other one somebody wants the run to end.
_DEATHS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGKILL}
_KILLED = 128 + signal.SIGKILL  # exit status, as a shell gives it


@dataclass
class Watch:
    """What a stage has to know of its earlier attempts, and the line to the process that watches it.

    Attributes
    ----------
    lost : dict of str to str
        Why an image is given up, in words, by its id.
    careful : bool
        Whether to work on one image at a time, with nothing done ahead or behind.
    line : int or None
        Pipe that takes the id of the image at work; None where nobody watches.
    """

    lost: dict[str, str] = field(default_factory=dict)
    careful: bool = False
    line: int | None = None

    def result_or_fault(
        self, image_id: str, call: Callable[Given, Result], *arguments: Given.args, **keywords: Given.kwargs
    ) -> tuple[Result, None] | tuple[None, Fault]:
        """As `children.result_or_fault`, said to be about one image; an image that is given up is not tried again."""
        if image_id in self.lost:
            return None, Fault(self.lost[image_id], f"{image_id} is given up")
        self._say(image_id)
        found = result_or_fault(call, *arguments, **keywords)
        self._say("")
        return found

    def _say(self, image_id: str) -> None:
        if self.line is not None:
            os.write(self.line, f"{image_id}\n".encode())


@dataclass(frozen=True)
class _Death:
    """How an attempt ended before its time: the image it was at, if any, of what in words, and the status it left."""

    image_id: str
    words: str
    status: int


def go_on_watched(longest_s: float = LONGEST_S) -> Watch:
    """Go on in a child process; this one stays behind, watches it, and ends as it ends.

    To be called before the process has threads or a GPU. An image at which the process dies, or spends more than
    `longest_s`, is given up in a further attempt. One SIGKILL is forgiven: perhaps the machine was short of memory.

    Returns
    -------
    Watch
        For the stage; only ever in a child.
    """
    lost: dict[str, str] = {}
    killed: set[str] = set()
    careful = False
    gc.freeze()  # what is loaded by now is garbage for no child: its pages stay shared, nothing looks through it again
    while True:
        line, watched = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(line)
            die_with_parent(parent)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.enable()  # the log shows where it died
            return Watch(lost, careful, watched)
        os.close(watched)
        death = _wait(child, line, longest_s)
        os.close(line)
        print(f"{death.image_id or 'between images'}: {death.words}")
        if careful and not death.image_id:
            _leave(death.status)
        if careful and (death.status != _KILLED or death.image_id in killed):
            lost[death.image_id] = death.words
        if death.status == _KILLED:
            killed.add(death.image_id)
        careful = True
        print("the shard is gone through again, one image at a time")


def _wait(child: int, line: int, longest_s: float) -> _Death:
    """Wait until a child dies, by itself or because it takes too long; where it ends in another way, end so too."""
    image_id, is_late = _follow(line, longest_s)
    if is_late:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if is_late:
        return _Death(image_id, f"not done within {longest_s / 60:.0f} minutes", 1)
    if not os.WIFSIGNALED(status):
        _leave(os.WEXITSTATUS(status))
    number = signal.Signals(os.WTERMSIG(status))
    if number not in _DEATHS:
        print(f"this job was ended by {number.name}")
        _leave(128 + number)
    return _Death(image_id, f"its process died ({number.name})", 128 + number)


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(status)


def _follow(line: int, longest_s: float) -> tuple[str, bool]:
    """The image a child was at when it ended, "" for none; and whether it has been at it for too long instead."""
    at, unread = "", b""
    until = None
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([line], [], [], left)[0]:
            return at, True
        said = os.read(line, 1 << 16)
        if not said:
            return at, False
        *lines, unread = (unread + said).split(b"\n")
        if lines:
            at = lines[-1].decode()
            until = time.monotonic() + longest_s if at else None
