"""Python kept warm: one process loads what the jobs import, and each job is a fork of it.

A fresh Python spends one to four seconds on imports before a job does anything; a fork of one that has them takes some
hundredths. The process does no work of its own, and its forks know nothing of one another: a job is as alone as it
would be in a Python of its own. Where it cannot be had, callers start one as ever.

An order is a datagram on a socket that the server and all its forks share, with the ends of what the fork shall have
as standard input, output and error, and of a line between the two: the server says the fork's process id on it and its
exit status; when the one who asked is gone, the fork is killed.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from oddlattice.numerics.compiled import each_kernel
from oddlattice.process.parent_death import die_with_parent

LARGEST_ORDER = 1 << 16
_STREAMS = 3  # input, output, error
_END = object()

_orders: socket.socket | None = None  # where this process can ask for forks
_server: "subprocess.Popen[bytes] | None" = None  # the warm process, where this one has started it


@dataclass
class Forked:
    """A fork and the line to the server.

    Attributes
    ----------
    pid : int
    """

    pid: int
    _line: socket.socket

    def wait(self) -> int:
        """Wait until it ends; its exit status as of `subprocess.Popen`. OSError where the server is gone."""
        try:
            return int(_said(self._line))
        finally:
            self._line.close()

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)


def fork(
    order: Mapping[str, Any], streams: Sequence[int] = (0, 1, 2), environment: Mapping[str, str] | None = None
) -> Forked:
    """Ask for a fork of the warm process.

    Parameters
    ----------
    order : mapping
        ``script``: a file to run as Python would; or ``call``: "module:function"; ``words``: ``sys.argv`` behind the
        first; ``modules``: what the warm process imports before, for later forks too; ``own_forks``: whether what the
        fork asks for shall descend from it.
    streams : sequence of int
        Handles that become its standard input, output and error.
    environment : mapping, optional
        What differs from the warm process's own.

    Raises
    ------
    OSError
        If there is none, or it is gone.
    """
    if _orders is None:
        raise FileNotFoundError("no process is kept warm")
    ours, theirs = socket.socketpair()
    with theirs:
        message = {**order, "environment": dict(environment or {}), "folder": os.getcwd()}
        socket.send_fds(_orders, [json.dumps(message).encode()], [theirs.fileno(), *streams])
    try:
        return Forked(int(_said(ours)), ours)
    except OSError:
        ours.close()
        raise


def _said(line: socket.socket) -> str:
    """One line of the server; ConnectionResetError where it is gone."""
    text = b""
    while not text.endswith(b"\n"):
        byte = line.recv(1)
        if not byte:
            raise ConnectionResetError("the process that is kept warm is gone")
        text += byte
    return text.decode()


def keep_warm(modules: Sequence[str]) -> bool:
    """Start a process that loads modules, in order, for the forks that this one asks for; whether one can be had.

    It dies with this process. Jobs need not wait until all is loaded: what a fork lacks, it imports itself.
    """
    global _orders, _server
    if _orders is not None:
        return True
    if not hasattr(os, "pidfd_open") or sys.platform != "linux":
        return False
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    about = {"paths": [path or os.getcwd() for path in sys.path], "modules": list(modules), "parent": os.getpid()}
    about |= {"inbox": theirs.fileno(), "outbox": ours.fileno()}
    code = (
        "import sys, json; about = json.loads(sys.argv[1]); sys.path[:] = about['paths']; "
        "from oddlattice.process.warm import main; main(about)"
    )
    # as the jobs would set it, before anything is loaded that reads it
    environment = os.environ | {"HDF5_USE_FILE_LOCKING": "FALSE", "OMP_NUM_THREADS": "1"}
    with theirs:
        _server = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(about)],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), ours.fileno()),
        )
    _orders = ours
    return True


def stop() -> None:
    """End the warm process that this one has started, and with it all forks."""
    global _orders, _server
    if _server is not None:
        _server.kill()
        _server.wait()
    _orders = _server = None


# ---------------------------------------------------------------- the warm process


def main(about: Mapping[str, Any]) -> None:
    """Serve; in each fork, do as ordered."""
    global _orders
    die_with_parent(int(about["parent"]))
    _orders = socket.socket(fileno=int(about["outbox"]))
    order = _serve(socket.socket(fileno=int(about["inbox"])), _warm_up(about["modules"]))
    if order.get("own_forks") and (inbox := _begin_own_server()) is not None:
        order = _serve(inbox, iter(()))
    status: object = 1
    try:
        _obey(order)
        status = 0
    except SystemExit as ending:
        status = ending.code
    finally:  # an error ends here too, as it would end Python
        kind, error, trace = sys.exc_info()
        if kind is not None and error is not None:
            sys.excepthook(kind, error, trace)
        _leave(status)


def _begin_own_server() -> socket.socket | None:
    """Fork a server for this process, so that what it asks for descends from it and is measured with it.

    Returns
    -------
    socket or None
        The inbox in the new server; None in this process.
    """
    global _orders
    _orders, inbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    parent = os.getpid()
    if os.fork() == 0:
        die_with_parent(parent)
        return inbox
    inbox.close()
    return None


def _obey(order: Mapping[str, Any]) -> None:
    """Run the script or call the function of an order."""
    sys.argv = [str(order.get("script", "")), *order.get("words", ())]
    if "script" in order:
        runpy.run_path(str(order["script"]), run_name="__main__")
    else:
        module, _, name = str(order["call"]).partition(":")
        getattr(importlib.import_module(module), name)()


def _leave(status: object) -> NoReturn:
    """End as Python would, without tidying up the memory that is shared with the warm process: that takes 0.4 s."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    if isinstance(status, str):
        print(status, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def _serve(inbox: socket.socket, warming: Iterator[None]) -> dict[str, Any]:
    """Warm up step by step, and fork as ordered, until the parent dies; returns in the forks, each with its order."""
    is_warm = False
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # typed at a terminal: the jobs have it, and end
    running: dict[int, tuple[int, socket.socket]] = {}  # by the handle of the process: its id, its line
    while True:
        lines = {line.fileno(): handle for handle, (_, line) in running.items()}
        ready, _, _ = select.select([inbox.fileno(), *running, *lines], [], [], None if is_warm else 0)
        if not ready:
            is_warm = next(warming, _END) is _END
        for handle in ready:
            if handle == inbox.fileno():
                order = _start(inbox, running)
                if order is not None:
                    return order
            elif handle in running:
                _tell_end(handle, *running.pop(handle))
            elif lines[handle] in running:  # it only ever ends: who asked for the fork is gone, or wants it gone
                pid, line = running[lines[handle]]
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(lines[handle])
                line.close()
                del running[lines[handle]]


def _warm_up(modules: Sequence[str]) -> Iterator[None]:
    """Import modules and then load their machine code, a step at a time: no order waits for long."""
    for name in modules:
        with suppress(ImportError):  # the job that needs it says so
            importlib.import_module(name)
        yield
    for _ in each_kernel():
        yield


def _start(inbox: socket.socket, running: dict[int, tuple[int, socket.socket]]) -> dict[str, Any] | None:
    """Take an order and fork; the order itself in the fork, None in the server."""
    text, handles, _, _ = socket.recv_fds(inbox, LARGEST_ORDER, 1 + _STREAMS)
    order: dict[str, Any] = json.loads(text)
    for name in order.get("modules", ()):
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # what is loaded here is garbage for no child: its pages stay shared
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(server)
        for handle, (_, other) in running.items():
            os.close(handle)
            other.close()
        inbox.close()
        _become(order, handles)
        return order
    line = socket.socket(fileno=handles[0])
    for handle in handles[1:]:
        os.close(handle)
    line.sendall(f"{pid}\n".encode())
    running[os.pidfd_open(pid)] = (pid, line)
    return None


def _become(order: Mapping[str, Any], handles: Sequence[int]) -> None:
    """Take the place, the environment and the streams that a fork is told."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, handle in enumerate(handles[1:]):
        os.dup2(handle, stream)
    for handle in handles:
        os.close(handle)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    time.tzset()
    tempfile.tempdir = None  # looked for again, in this environment


def _tell_end(handle: int, pid: int, line: socket.socket) -> None:
    """Say how a fork ended, as `subprocess.Popen` would."""
    os.close(handle)
    _, status = os.waitpid(pid, 0)
    with line, suppress(OSError):
        line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
