"""kill -9 of the head, of a job or of the whole group at random moments: the next run ends as if nothing had been."""

import subprocess
import time
from contextlib import suppress

import numpy as np
import pytest

from support.fault_runs import Run, descendants, differing, kill, write_scan

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]
WHAT = ("head", "job", "group")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, bytes], float]:
    """A working folder, the products of an undisturbed run in it, and how long that took [s]."""
    run = Run(tmp_path_factory.mktemp("kills"))
    write_scan(run.archive / "a.emd", seed=1)
    write_scan(run.archive / "b.dm4", seed=2)
    (run.archive / "c.dm3").write_text("no image")
    began_s = time.monotonic()
    run.finish()
    took_s = time.monotonic() - began_s
    products = run.products()
    assert len(products) > 60
    assert run.leftovers() == []
    return run, products, took_s


def kill_and_restart(run: Run, kills: list[str], longest_s: float, rng: np.random.Generator) -> list[str]:
    """Start runs one after another, each killed at a random moment, and let the last one end; what was killed."""
    done = []
    run.wipe()
    for what in kills:
        head = run.start()
        with suppress(subprocess.TimeoutExpired):
            head.wait(rng.uniform(0.5, longest_s))
        if not kill(head, what, rng):
            break
        done.append(what)
    run.finish()
    return done


def check_as_undisturbed(run: Run, expected: dict[str, bytes]) -> None:
    assert differing(run.products(), expected) == []
    assert run.leftovers() == []
    states = run.states()
    assert states == {name: "rejected" if name.startswith("c.dm3") else "done" for name in states}


def test_three_kills_leave_no_trace(undisturbed: tuple[Run, dict[str, bytes], float]) -> None:
    run, expected, took_s = undisturbed
    done = kill_and_restart(run, ["group", "job", "head"], 0.8 * took_s, np.random.default_rng(20261122))
    assert done
    check_as_undisturbed(run, expected)


def test_jobs_end_with_the_run_that_started_them(undisturbed: tuple[Run, dict[str, bytes], float]) -> None:
    run, _, took_s = undisturbed
    run.wipe()
    head = run.start()
    until_s = time.monotonic() + 60 + 10 * took_s
    log = run.results / "logs/cut_tiles"
    while not (log.is_dir() and descendants(head.pid)):  # a job that has begun
        assert head.poll() is None and time.monotonic() < until_s
        time.sleep(0.02)
    jobs = descendants(head.pid)
    head.kill()
    head.wait()
    while any(job.is_running() and job.status() != "zombie" for job in jobs):
        assert time.monotonic() < until_s, "a job goes on without its run"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(10))
def test_fifty_kills_leave_no_trace(undisturbed: tuple[Run, dict[str, bytes], float], first: int) -> None:
    """Ten times five kills in a row."""
    run, expected, took_s = undisturbed
    rng = np.random.default_rng([20261122, first])
    done: list[str] = []
    while len(done) < 5:
        done += kill_and_restart(run, [str(what) for what in rng.choice(WHAT, 5 - len(done))], took_s, rng)
        check_as_undisturbed(run, expected)
    print(f"killed: {done}")
