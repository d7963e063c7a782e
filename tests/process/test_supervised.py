"""A stage whose process dies at an image, or hangs at it, gives up that image and does the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'workflow/scripts'}"}


def start(folder: Path, plan: dict[str, str], longest_s: float = 60.0) -> "subprocess.Popen[str]":
    program = [sys.executable, str(Path(__file__).parents[1] / "support/watched_stage.py"), str(folder)]
    return subprocess.Popen(
        [*program, str(longest_s), json.dumps(plan)], env=ENVIRONMENT, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


def run(folder: Path, plan: dict[str, str], longest_s: float = 60.0) -> tuple[int, str, list[str]]:
    """Exit status, words, and the attempts: fast or careful."""
    program = start(folder, plan, longest_s)
    said, _ = program.communicate()
    return program.returncode, said, [line.split()[0] for line in (folder / "attempts").read_text().splitlines()]


def found(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "found.json").read_text()))


DONE = {name: f"{name} done" for name in "abc"}


def test_a_sound_shard_is_gone_through_once(tmp_path: Path) -> None:
    assert run(tmp_path, {}) == (0, "the stage has ended\n", ["fast"])
    assert found(tmp_path) == DONE


@pytest.mark.parametrize(
    ("plan", "attempts", "lost"),
    [
        ({"b": "crash"}, ["fast", "careful", "careful"], {"b": "its process died (SIGSEGV)"}),
        ({"b": "be killed once"}, ["fast", "careful"], {}),
        ({"b": "be killed"}, ["fast", "careful", "careful"], {"b": "its process died (SIGKILL)"}),
        # it dies at a, by what is done ahead for b
        ({"b": "crash ahead"}, ["fast", "careful", "careful"], {"b": "its process died (SIGSEGV)"}),
        ({"between": "crash"}, ["fast", "careful"], {}),
        ({"a": "crash", "c": "crash"}, ["fast"] + 3 * ["careful"], dict.fromkeys("ac", "its process died (SIGSEGV)")),
        # the first kill of each is forgiven
        ({"a": "crash", "b": "be killed"}, ["fast"] + 4 * ["careful"], {"b": "its process died (SIGKILL)"}),
        ({"b": "raise"}, ["fast"], {"b": "ZeroDivisionError: nothing to divide by"}),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_the_image_at_fault_is_given_up(
    tmp_path: Path, plan: dict[str, str], attempts: list[str], lost: dict[str, str]
) -> None:
    code, said, made = run(tmp_path, plan)
    assert (code, made) == (0, attempts), said
    assert found(tmp_path).items() >= lost.items()
    crashed = [name for name, does in plan.items() if does == "crash" and name in "abc"]
    assert {k for k, v in found(tmp_path).items() if v != DONE[k]} == set(lost) | set(crashed)
    assert ("Segmentation fault" in said) == ("crash" in " ".join(plan.values())), "the log shows where it died"


def test_an_image_that_hangs_is_given_up(tmp_path: Path) -> None:
    code, said, made = run(tmp_path, {"c": "hang"}, longest_s=1.5)
    assert (code, made) == (0, ["fast", "careful", "careful"]), said
    assert found(tmp_path) == DONE | {"c": "not done within 0 minutes"}


@pytest.mark.parametrize(
    ("plan", "code", "attempts", "says"),
    [
        ({"b": "fill the disk"}, 1, ["fast"], "OSError: [Errno 28] No space left on device"),
        ({"b": "be told to end"}, 128 + signal.SIGTERM, ["fast"], "ended by SIGTERM"),
        ({"start": "crash"}, 128 + signal.SIGSEGV, ["fast", "careful"], "between images: its process died (SIGSEGV)"),
    ],
)
def test_what_is_no_fault_of_an_image_ends_the_job(
    tmp_path: Path, plan: dict[str, str], code: int, attempts: list[str], says: str
) -> None:
    status, said, made = run(tmp_path, plan)
    assert (status, made) == (code, attempts), said
    assert says in said
    assert not (tmp_path / "found.json").exists()


def test_the_stage_ends_with_the_process_that_watches_it(tmp_path: Path) -> None:
    program = start(tmp_path, {"b": "hang"})
    until_s = time.monotonic() + 60
    while not ((tmp_path / "attempts").exists() and (said := (tmp_path / "attempts").read_text()).endswith("\n")):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    stage = Path("/proc", said.split()[1])
    assert stage.exists()
    program.kill()
    program.communicate()
    while stage.exists() and "Z" not in (stage / "stat").read_text().split()[2]:
        assert time.monotonic() < until_s, "the stage goes on alone"
        time.sleep(0.02)
