"""Forks of a process that is kept warm: what they are given, how they end, and that none outlives who asked for it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ASKER = """
import json, os, sys, time
from oddlattice.process import warm
from oddlattice.process.sandbox import Limits, run_limited
assert warm.keep_warm(["no_such_module"])
"""
LIMITED = (
    'jobs = {str(n): {"value": n} for n in range(3)}; limits = Limits(400, 30.0, 30.0)\n'
    'print(sorted(e.value for e in run_limited("process.test_sandbox:double", jobs.items(), limits)))\n'
)


def start(folder: Path, text: str) -> subprocess.Popen[str]:
    """Start a process of its own that keeps another warm, and does what `text` says."""
    places = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", ASKER + text],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": places},
    )


def said(folder: Path, text: str) -> list[str]:
    asker = start(folder, text)
    out, _ = asker.communicate(timeout=60)
    assert asker.returncode == 0
    return out.splitlines()


def wait_for(path: Path) -> str:
    until_s = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until_s, f"{path.name} has not been written"
        time.sleep(0.02)
    return path.read_text()


def wait_until_gone(pid: int) -> None:
    until_s = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until_s, f"process {pid} goes on"
        time.sleep(0.02)


def test_a_script_is_run_as_python_would(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import json, os, sys\n"
        "told = [__name__, sys.argv, os.getcwd(), os.environ['TOLD'], 'colorsys' in sys.modules]\n"
        "print(json.dumps(told)); sys.exit(3)\n"
    )
    text = 'order = {"script": "script.py", "words": ["a"], "modules": ["colorsys"]}\n'
    first, status = said(tmp_path, text + 'print(warm.fork(order, environment={"TOLD": "so"}).wait())')
    assert json.loads(first) == ["__main__", ["script.py", "a"], os.fspath(tmp_path), "so", True]
    assert status == "3"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("pass", 0),
        ("raise KeyError('x')", 1),
        ("import sys; sys.exit('no')", 1),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()", 0),
    ],
)
def test_how_a_script_ends_is_told(tmp_path: Path, script: str, status: int) -> None:
    (tmp_path / "script.py").write_text(script)
    lines = said(tmp_path, 'print(warm.fork({"script": "script.py"}).wait())')
    assert lines == ["late"] * ("late" in script) + [str(status)]


@pytest.mark.parametrize("own", [False, True])
def test_a_fork_asks_for_forks(tmp_path: Path, own: bool) -> None:
    """As a job does that reads files, each in a child of its own; they descend from it where they are to."""
    tell = "import os; from oddlattice.process import warm\nopen('me', 'w').write(str(os.getpid()))\n"
    (tmp_path / "family.py").write_text(
        "import psutil; print(open('me').read() in {str(one.pid) for one in psutil.Process().parents()})\n"
    )
    (tmp_path / "script.py").write_text(
        f"{tell}warm.fork({{'script': 'family.py'}}).wait()\n"
        f"from oddlattice.process.sandbox import Limits, run_limited\n{LIMITED}"
    )
    text = f'print(warm.fork({{"script": "script.py", "own_forks": {own}}}).wait())'
    assert said(tmp_path, text) == [str(own), "[0, 2, 4]", "0"]


@pytest.mark.parametrize("server_too", [False, True])
def test_no_fork_outlives_who_asked_for_it(tmp_path: Path, server_too: bool) -> None:
    (tmp_path / "script.py").write_text(
        "import os, time\nopen('pid', 'w').write(f'{os.getpid()} {os.getppid()}')\ntime.sleep(60)\n"
    )
    asker = start(tmp_path, 'warm.fork({"script": "script.py"}).wait()')
    pid, server = map(int, wait_for(tmp_path / "pid").split())
    if server_too:
        os.kill(server, signal.SIGKILL)
    asker.kill()
    asker.communicate()
    wait_until_gone(pid)
    wait_until_gone(server)


def test_where_the_warm_process_is_gone_a_fresh_one_does(tmp_path: Path) -> None:
    text = 'job = warm.fork({"call": "os:getpid"}); assert job.wait() == 0\n'
    text += "server = int(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read().split()[0])\n"
    text += "os.kill(server, 9); os.waitpid(server, 0)\n" + LIMITED
    text += 'try: warm.fork({"call": "os:getpid"})\nexcept OSError: print("gone")'
    assert said(tmp_path, text) == ["[0, 2, 4]", "gone"]
