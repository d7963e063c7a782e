"""Calls in child processes: how they end, their limits, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

from oddlattice.process.sandbox import Limits, Refused, run_limited

LIMITS = Limits(memory_mb=400, wall_s=30.0, cpu_s=30.0)


def double(value: int) -> int:
    return 2 * value


def refuse() -> None:
    raise Refused("is not wanted")


def fail(text: str) -> None:
    raise KeyError(text)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def much() -> str:
    return "x" * 3_000_000


def sleep_and_write(path: str, seconds: float) -> None:
    Path(path + ".started").touch()
    time.sleep(seconds)
    Path(path).touch()


def tell_memory() -> str:
    kept = bytearray(10 << 20)
    return f"{len(kept)}"


def tell_threads() -> list[int]:
    return [int(library["num_threads"]) for library in threadpool_info()]


def endings(call: str, jobs: dict, limits: Limits = LIMITS, at_once: int = 1):
    return {e.key: e for e in run_limited(f"process.test_sandbox:{call}", jobs.items(), limits, at_once=at_once)}


@pytest.mark.parametrize("at_once", [1, 4])
def test_every_job_is_called_once_with_its_own_keywords(at_once):
    found = endings("double", {str(n): {"value": n} for n in range(12)}, at_once=at_once)
    assert {key: (e.how, e.value) for key, e in found.items()} == {str(n): ("returned", 2 * n) for n in range(12)}


def test_refusals_exceptions_and_deaths_are_told_apart():
    assert endings("refuse", {"a": {}})["a"].how == "refused"
    assert endings("refuse", {"a": {}})["a"].detail == "is not wanted"
    failed = endings("fail", {"a": {"text": "no\nsuch\x1b key"}})["a"]
    assert (failed.how, failed.detail) == ("raised", r"KeyError: 'no\nsuch\x1b key'")
    killed = endings("kill_itself", {"a": {}})["a"]
    assert (killed.how, killed.detail) == ("signal", "SIGKILL")


def test_long_answers_arrive_whole():
    assert len(endings("much", {"a": {}})["a"].value) == 3_000_000


def test_a_slow_call_is_stopped_while_the_others_go_on(tmp_path):
    jobs = {n: {"path": str(tmp_path / n), "seconds": 60.0 if n == "slow" else 0.1} for n in ("slow", "b", "c")}
    started = time.monotonic()
    found = endings("sleep_and_write", jobs, Limits(400, 1.5, 10.0), at_once=2)
    assert {key: e.how for key, e in found.items()} == {"slow": "time", "b": "returned", "c": "returned"}
    assert time.monotonic() - started < 20
    assert not (tmp_path / "slow").exists()


def test_linear_algebra_keeps_to_one_thread_whatever_the_surroundings_say(monkeypatch):
    # a job of two threads that runs before its libraries are loaded: other threads, other sums, other bytes
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    jobs = {"a": {}}
    ending = next(
        run_limited("process.test_sandbox:tell_threads", jobs.items(), LIMITS, preload=["numpy", "scipy.linalg"])
    )
    assert len(ending.value) >= 2
    assert set(ending.value) == {1}


def test_memory_is_limited():
    assert endings("tell_memory", {"a": {}}, Limits(400, 30.0, 30.0))["a"].how == "returned"
    assert endings("tell_memory", {"a": {}}, Limits(8, 30.0, 30.0))["a"].how in ("memory", "signal", "silent")


def test_no_child_outlives_a_killed_parent(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from oddlattice.process.sandbox import Limits, run_limited\n"
        "jobs = {'a': {'path': sys.argv[1], 'seconds': 3.0}}\n"
        "list(run_limited('process.test_sandbox:sleep_and_write', jobs.items(), Limits(400, 30.0, 30.0)))\n"
    )
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "workflow/scripts")]
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "late"), *paths])
    deadline = time.monotonic() + 60
    while not (tmp_path / "late.started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    time.sleep(3.5)
    assert not (tmp_path / "late").exists()


def test_a_server_that_cannot_start_is_an_error():
    with pytest.raises(RuntimeError, match="ended early"):
        endings("no_such_function", {"a": {}})
