"""The environments for --sdm conda and for Apptainer: in step with what .venv holds, and whole."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOCK = re.findall(r"^[a-z0-9].*$", (ROOT / "envs/requirements.txt").read_text(), flags=re.MULTILINE)
RECIPE = (ROOT / "envs/oddlattice.def").read_text()
CONDA = yaml.safe_load((ROOT / "envs/conda.yaml").read_text())


def section(name: str) -> list[str]:
    """The lines of a section of the recipe."""
    found = re.search(rf"^%{name}\n((?:(?!%).*\n)*)", RECIPE, flags=re.MULTILINE)
    assert found is not None, name
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def test_conda_pins_what_the_lock_pins() -> None:
    assert CONDA["dependencies"][-1] == {"pip": LOCK}
    assert len(LOCK) > 50


def test_conda_and_the_image_have_the_python_that_is_tested() -> None:
    assert CONDA["dependencies"][0] == "python=3.11"
    assert "From: python:3.11-slim-bookworm\n" in RECIPE


def found_by_setup(tmp_path: Path, pythons: dict[str, str], said: str = "") -> str:
    """What setup says where the programs `pythons` stand for versions, none of which can make an environment."""
    (tmp_path / "envs").mkdir(parents=True)
    shutil.copy(ROOT / "envs/setup.sh", tmp_path / "envs")
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in ("dirname", "sh"):
        (programs / tool).symlink_to(shutil.which(tool) or tool)
    (programs / "id").write_text("#!/bin/sh\necho 1000\n")
    for name, version in pythons.items():
        answer = f"case $2 in *version_info*) echo {version};; *) exit 1;; esac" if version else "exit 127"
        (programs / name).write_text(f"#!{programs}/sh\n{answer}\n")
    for program in programs.iterdir():
        if not program.is_symlink():
            program.chmod(0o755)
    done = subprocess.run(
        [str(programs / "sh"), str(tmp_path / "envs/setup.sh")],
        env={"PATH": str(programs), "PYTHON": said}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    return done.stderr.removeprefix("envs/setup.sh: ").strip()


def test_setup_takes_the_python_it_finds(tmp_path: Path) -> None:
    takes = lambda number, pythons, said="": found_by_setup(tmp_path / str(number), pythons, said)
    # none of these can make an environment, so the sentence names the one that was taken
    assert takes(1, {"python3.11": "3.11", "python3.12": "3.12"}).startswith("found no ensurepip in python3.11;")
    assert "python3.12-venv" in takes(2, {"python3.11": "", "python3.12": "3.12"})  # a shim that leads nowhere
    assert "python3.13-venv" in takes(3, {"python3": "3.13"})
    assert "python3.12-venv" in takes(4, {"python3.11": "3.11", "mine": "3.12"}, said="mine")
    needed = "needed one of Python 3.11 3.12 3.13 (make PYTHON=/path/to/python3.12)"
    assert takes(5, {"python3": "3.10"}) == f"found python3, which is Python 3.10; {needed}"
    assert takes(6, {}) == f"found no Python; {needed}"
    assert takes(7, {"python3": "3.12"}, said="/no/python") == f"found no /no/python; {needed}"


def test_the_lock_is_one_for_every_python() -> None:
    assert not [line for line in LOCK if ";" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert 'pythons="3.11 3.12 3.13"' in (ROOT / "envs/setup.sh").read_text()


def test_every_rule_that_runs_a_script_names_the_environment() -> None:
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        text = file.read_text()
        named = re.findall(r'conda:\n        "([^"]+)"', text)
        assert len(named) == len(re.findall(r"^    script:", text, flags=re.MULTILINE)), file.name
        assert all((file.parent / name).resolve() == ROOT / "envs/conda.yaml" for name in named), file.name


def test_the_image_installs_the_lock_and_nothing_else() -> None:
    installs = [line for line in section("post") if re.search(r"pip|apt|conda", line)]
    assert installs == ["pip install --no-cache-dir --requirement /opt/oddlattice/envs/requirements.txt"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the recipe, laid out as it says."""
    top = tmp_path_factory.mktemp("image")
    for line in section("files"):
        source, target = line.split()
        place = top / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)
    (top / "archive").mkdir()
    (top / "archive/a.dm4").write_bytes(b"")
    return top


@pytest.mark.parametrize("arguments", [["--cores", "1"], ["--cores", "8", "--workflow-profile", "gpu"]])
def test_what_the_image_holds_is_enough_to_run(image: Path, arguments: list[str]) -> None:
    [command] = section("runscript")
    program = command.removeprefix("exec python ").removesuffix(' "$@"').replace("/opt/", f"{image}/opt/").split()
    wanted = [*program, "--dry-run", "--directory", str(image / "work"), *arguments]
    done = subprocess.run(
        [sys.executable, *wanted, "--config", f"archive={image}/archive", "settle_s=0"],
        cwd=image,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^write_index +1$", done.stdout, flags=re.MULTILINE)
    assert re.search(
        r"rule infer_differences:\n(    .*\n)*    resources: .*\bgpu=0\b", done.stdout
    )  # it takes processors
    profile = "gpu" if "gpu" in arguments else "default"
    assert f"workflow specific profile {image}/opt/oddlattice/profiles/{profile}" in done.stderr


@pytest.mark.parametrize("name", ["default", "gpu", "slurm"])
def test_every_profile_lets_the_others_go_on_and_takes_up_what_a_kill_left(name: str) -> None:
    profile = yaml.safe_load((ROOT / f"profiles/{name}/config.yaml").read_text())
    assert (profile["keep-going"], profile["rerun-incomplete"], profile["scheduler"]) == (True, True, "greedy")
    assert ("gpu" in profile.get("resources", {})) == (name != "slurm")  # a cluster counts its GPUs itself
    assert not {"default-resources", "set-resources"} & profile.keys()  # account and partitions are the site's


def test_every_job_asks_for_more_memory_when_it_is_tried_again() -> None:
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        asked = re.findall(r"mem_mb=(\w+)", file.read_text())
        assert set(asked) <= {"grown"}, file.name
