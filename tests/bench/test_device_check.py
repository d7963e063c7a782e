"""The check of a GPU runs on any machine, and knows agreement from disagreement; what it measures is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import device_check

TESTS = Path(__file__).parents[1]


def test_it_runs_in_a_tiny_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    parts = [name for name in device_check.PARTS if name != "pipeline"]
    command = ["sh", TESTS / "device_check.sh", "--tiny", "--parts", *parts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert set(found) == {"machine", "seconds", *parts}
    assert all(taken["cells_per_s"] > 0 for taken in found["stage"].values())
    assert not [name for name, part in found.items() if isinstance(part, str)], found
    if device_check.device() == "cpu":
        assert found["machine"]["card"].startswith("none: ")
        assert found["memory"]["forced_by"] == "a stand-in"
    for precision in device_check.PRECISIONS:
        assert min(found["network_cells_per_s"][precision].values()) > 0
        assert found["loop"][precision]["cells_per_s"] > 0
        assert found["training_steps_per_s"]["cpu"][precision] > 0
        agreement = found["agreement"][precision]
        assert agreement["agrees"] and agreement["defects"] == found["agreement"]["defects_by_processor"] >= 4
    assert "halved" in found["memory"]["little"]["said"][0] and found["memory"]["none"]["ends_on"] == "cpu"


def test_what_a_part_needs_and_is_missing_is_named() -> None:
    without = "import sys, runpy; sys.modules['yaml'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", without, str(TESTS / "device_check.py"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["machine"]["torch"]
    assert {found[name] for name in device_check.PARTS} == {"SKIPPED: needs yaml, which is not installed here"}


def test_a_disagreement_or_a_failure_is_an_error() -> None:
    assert not device_check.wrong({"agreement": {"float32": {"agrees": True}}, "loop": "SKIPPED: needs yaml"})
    assert device_check.wrong({"agreement": {"float32": {"agrees": True}, "bfloat16": {"agrees": False}}})
    assert device_check.wrong({"loop": "failed: RuntimeError: no"})
