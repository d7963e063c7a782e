"""Calls that may raise, hang, crash or eat memory, each in a process of its own with limits.

A fork server, a fresh and single-threaded Python or a fork of one (process/warm.py), loads the modules once and forks
one child per job. A child that dies takes nothing with it. This module holds the one place of the package where
`Exception` is caught.
"""

import errno
import gc
import importlib
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, NamedTuple, ParamSpec, TypeVar

from oddlattice.numerics.compiled import load_kernels
from oddlattice.process import warm
from oddlattice.process.parent_death import die_with_parent
from oddlattice.process.single_thread import one_thread
from oddlattice.process.warm import Forked

Given = ParamSpec("Given")
Result = TypeVar("Result")

#: Errors of the file system that is written to: no fault of the job, so they stop the caller.
DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_ORDERS = 0  # standard input


@dataclass(frozen=True)
class Limits:
    """What one child may use.

    Attributes
    ----------
    memory_mb : int
        Private memory that it may take beside what it begins with [MiB].
    wall_s, cpu_s : float
        Time on the clock and on the processors [s].
    """

    memory_mb: int
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes
    ----------
    key : str
        Key of the job.
    how : str
        "returned", "refused" (the call raised `Refused`), "raised", "memory", "time", "signal" or "silent".
    value : object
        What the call returned, when it returned.
    detail : str
        The refusal, the exception or the signal in words.
    seconds : float
        Time on the clock [s].
    """

    key: str
    how: str
    value: Any
    detail: str
    seconds: float


class Fault(NamedTuple):
    """What went wrong with one image: in words, and the traceback for the log."""

    words: str
    trace: str


class Refused(Exception):
    """A job's own refusal; its text is meant for people."""


def run_limited(
    call: str,
    jobs: Iterable[tuple[str, Mapping[str, object]]],
    limits: Limits,
    *,
    at_once: int = 1,
    preload: tuple[str, ...] = (),
) -> Iterator[Ending]:
    """Call a function once per job, each in its own child process; yield the endings as they come.

    Parameters
    ----------
    call : str
        "module:function"; called with the job's items as keywords, returns something JSON can hold.
    jobs : iterable of str and mapping
        Key and keywords (JSON) of each call; taken in another thread. Their error comes out when all else has ended.
    limits : Limits
        Of each child.
    at_once : int
        Children running at the same time.
    preload : tuple of str
        Modules that the server imports before it forks.

    Raises
    ------
    OSError
        If a child could not write because the disk is full, over quota or read-only.
    RuntimeError
        If the server itself ended early.
    """
    server = _server((*preload, call.partition(":")[0]))
    order = {"call": call, "limits": asdict(limits), "at_once": at_once, "preload": preload, "parent": server.parent}
    feed = _Feed(server.stdin, order, jobs)
    ended = set()
    try:
        feed.start()
        for line in server.stdout:
            ending = Ending(**json.loads(line))
            if ending.how == "disk":
                raise OSError(ending.value, ending.detail)
            ended.add(ending.key)
            yield ending
        if status := server.wait():
            raise RuntimeError(f"the process that runs the jobs ended early (status {status})")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    feed.join()
    if feed.error is not None:
        raise feed.error
    assert ended == feed.keys


class _Feed(threading.Thread):
    """Hands an order and then its jobs to the server, a line each."""

    def __init__(self, to: IO[bytes], order: object, jobs: Iterable[tuple[str, Mapping[str, object]]]) -> None:
        super().__init__(daemon=True)
        self.keys: set[str] = set()
        self.error: Exception | None = None
        self._to, self._order, self._jobs = to, order, jobs

    def run(self) -> None:
        """Until there are no more jobs, or the server is gone."""
        with suppress(BrokenPipeError), self._to:
            self._send(self._order)
            try:
                for key, job in self._jobs:
                    self.keys.add(key)
                    self._send([key, job])
            except BrokenPipeError:
                raise
            except Exception as error:
                self.error = error

    def _send(self, message: object) -> None:
        self._to.write(json.dumps(message).encode() + b"\n")
        self._to.flush()


class _Server:
    """The process that forks the children: a fresh Python, or, where one is kept warm, a fork of that."""

    def __init__(self, process: "subprocess.Popen[bytes] | Forked", stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.parent = None if isinstance(process, Forked) else os.getpid()
        self._process = process
        self._status: int | None = None

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        if self._status is None:
            self._process.kill()

    def wait(self) -> int:
        """Its exit status."""
        if self._status is None:
            try:
                self._status = self._process.wait()
            except ConnectionResetError:  # killed
                self._status = -signal.SIGKILL
        return self._status


def _server(modules: Sequence[str]) -> _Server:
    """Start the process that forks the children; it waits for its order."""
    # Archives are often mounted read-only without locks, which HDF5 would ask for; times are kept in UTC everywhere.
    environment = {"HDF5_USE_FILE_LOCKING": "FALSE", "TZ": "UTC", "OMP_NUM_THREADS": "1"}
    (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
    process: subprocess.Popen[bytes] | Forked
    try:
        order = {"call": "oddlattice.process.sandbox:serve", "modules": modules}
        process = warm.fork(order, (theirs_in, theirs_out, 2), environment)
    except OSError:  # none is kept warm
        code = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
        code += "from oddlattice.process.sandbox import serve; serve()"
        paths = json.dumps([path or os.getcwd() for path in sys.path])
        process = subprocess.Popen(
            [sys.executable, "-c", code, paths], stdin=theirs_in, stdout=theirs_out, env=os.environ | environment
        )
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    return _Server(process, open(ours_in, "wb"), open(ours_out, "rb"))


def result_or_fault(
    call: Callable[Given, Result], *arguments: Given.args, **keywords: Given.kwargs
) -> tuple[Result, None] | tuple[None, Fault]:
    """Call a function for one image in this process; what goes wrong in it is told and costs that image alone.

    Raises
    ------
    OSError
        If a product could not be read or written: no fault of the image.
    """
    try:
        return call(*arguments, **keywords), None
    except OSError:
        raise
    except MemoryError:
        return None, Fault("it needs more memory than there is", traceback.format_exc())
    except Exception as error:
        if _disk_errno(error):
            raise
        return None, Fault(_words(error), traceback.format_exc())


@dataclass
class _Child:
    key: str
    pid: int
    pipe: int
    started: float
    said: bytearray


class _Orders:
    """What comes in on standard input, a line of JSON each."""

    def __init__(self) -> None:
        self.open = True
        self.waiting: deque[Any] = deque()
        self._said = b""

    def take(self) -> None:
        """Take what has come."""
        found = os.read(_ORDERS, 1 << 16)
        self.open = bool(found)
        *lines, self._said = (self._said + found).split(b"\n")
        self.waiting.extend(json.loads(line) for line in lines)

    def first(self) -> Any:
        """Wait for the first line."""
        while self.open and not self.waiting:
            self.take()
        return self.waiting.popleft()


def serve() -> None:
    """Body of the fork server: read the order from standard input, answer one JSON line per ended child."""
    orders = _Orders()
    order = orders.first()
    if order["parent"] is not None:  # a fork of a warm process dies when the one who asked for it does
        die_with_parent(order["parent"])
    _hush()
    for name in order["preload"]:
        importlib.import_module(name)
    module, _, name = order["call"].partition(":")
    function = getattr(importlib.import_module(module), name)
    one_thread()  # what was loaded here or will be: the surroundings may name the threads of the whole job
    load_kernels()
    limits = Limits(**order["limits"])
    gc.freeze()  # what is loaded here is garbage for no child: its pages stay shared
    running: dict[int, _Child] = {}
    while orders.open or orders.waiting or running:
        while orders.waiting and len(running) < order["at_once"]:
            child = _start(function, *orders.waiting.popleft(), limits=limits)
            running[child.pipe] = child
        for child, late in _finished(running, limits, orders):
            ending = _ending(child, late)
            sys.stdout.write(json.dumps(asdict(ending)) + "\n")
            sys.stdout.flush()


def _start(function: Callable[..., object], key: str, job: dict[str, Any], *, limits: Limits) -> _Child:
    ours, theirs = os.pipe()
    server = os.getpid()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            _live(function, job, limits, theirs, server)
        finally:  # not even SystemExit leads back into the server's code
            os._exit(1)
    os.close(theirs)
    return _Child(key, pid, ours, started, bytearray())


def _live(function: Callable[..., object], job: dict[str, Any], limits: Limits, pipe: int, server: int) -> None:
    """Live the child's life: limits, the call, its answer into the pipe."""
    die_with_parent(server)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    memory = (limits.memory_mb << 20) + _data_bytes()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))  # not RLIMIT_AS: mapped files cost no memory
    cpu_s = int(limits.cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    try:
        answer = ["returned", function(**job), ""]
    except Refused as refusal:
        answer = ["refused", None, str(refusal)]
    except MemoryError:
        answer = ["memory", None, ""]
    except Exception as error:
        number = _disk_errno(error)
        answer = ["disk", number, str(error)] if number else ["raised", None, _words(error)]
    text = json.dumps(answer).encode()
    while text:
        text = text[os.write(pipe, text) :]


def _data_bytes() -> int:
    """Private memory that this process holds already, shared with the server as it may be; 0 where nobody tells."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return 0


def _finished(running: dict[int, _Child], limits: Limits, orders: _Orders) -> Iterator[tuple[_Child, bool]]:
    """Wait, then yield the children that ended and those that are late (killed here); more orders end the wait, too."""
    now = time.monotonic()
    last = min((child.started for child in running.values()), default=now + 1e6) + limits.wall_s
    wanted = [_ORDERS] if orders.open and not orders.waiting else []
    ready, _, _ = select.select([*running, *wanted], [], [], max(0.0, last - now))
    for pipe in ready:
        if pipe == _ORDERS:
            orders.take()
            continue
        said = os.read(pipe, 1 << 16)
        running[pipe].said += said
        if not said:
            yield running.pop(pipe), False
    now = time.monotonic()
    for child in [c for c in running.values() if now - c.started >= limits.wall_s]:
        os.kill(child.pid, signal.SIGKILL)
        yield running.pop(child.pipe), True


def _ending(child: _Child, late: bool) -> Ending:
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    seconds = time.monotonic() - child.started
    if late:
        return Ending(child.key, "time", None, "", seconds)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = "time" if number == signal.SIGXCPU else "signal"
        return Ending(child.key, how, None, signal.Signals(number).name, seconds)
    if not child.said:
        return Ending(child.key, "silent", None, f"status {os.WEXITSTATUS(status)}", seconds)
    how, value, detail = json.loads(child.said)
    return Ending(child.key, how, value, detail, seconds)


def _hush() -> None:
    """Readers warn at length; what matters comes back as a reason."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def _disk_errno(error: BaseException | None) -> int | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _words(error: Exception) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in str(error)).split())
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name
