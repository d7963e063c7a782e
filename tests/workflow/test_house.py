"""The house's rules that no linter knows: names, logs, declared inputs, and what must not be in the repository."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow/scripts"
RULE_FILES = sorted((ROOT / "workflow/rules").glob("*.smk"))
LARGEST_MB = 6  # the shipped models and libraries are below 5 MB each


def rules() -> dict[str, str]:
    """The text of every rule that runs a script, by name."""
    found = {}
    for file in RULE_FILES:
        for block in re.split(r"^rule ", file.read_text(), flags=re.MULTILINE)[1:]:
            name, _, body = block.partition(":")
            if "script:" in body:
                found[name] = body
    return found


RULES = rules()
STEPS = {"read_images", "cut_tiles", "infer_differences", "find_defects", "gather_defects", "write_pages"}


def test_all_steps_are_there() -> None:
    assert set(RULES) >= STEPS | {"write_index", "train_model"}


@pytest.mark.parametrize("name", RULES)
def test_rule_script_log_and_benchmark_share_a_name(name: str) -> None:
    body = RULES[name]
    assert f'script:\n        "../scripts/{name}.py"' in body
    assert (SCRIPTS / f"{name}.py").is_file()
    assert re.search(rf'log:\n        f?"results/logs/{name}[./]', body)
    if "benchmark:" in body:
        assert re.search(rf'benchmark:\n        f?"results/benchmarks/{name}[./]', body)


@pytest.mark.parametrize("name", RULES)
def test_rule_declares_what_its_script_imports_and_needs(name: str) -> None:
    body = RULES[name]
    assert f'modules=modules_of("{name}")' in body
    for directive in ("threads:", "mem_mb=", "runtime="):
        assert directive in body, directive


def test_a_seed_is_given_to_what_draws_and_to_nothing_else() -> None:
    """Else a new seed would redo an archive."""
    drawn = {name for name, body in RULES.items() if re.search(r"\bseed=", body)}
    assert drawn == {path.stem for path in SCRIPTS.glob("*.py") if "snakemake.params.seed" in path.read_text()}
    assert not drawn & STEPS


def test_every_script_is_a_rule() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_snakemake_appears_only_in_the_guard(name: str) -> None:
    text = (SCRIPTS / f"{name}.py").read_text()
    before, guard, after = text.partition('\nif "snakemake" in globals():\n')
    assert guard
    assert not re.search(r"\bsnakemake\.(input|output|params|log|wildcards|config)", before)
    assert "log_to(snakemake.log[0])" in after
    assert "def main(" in before


@pytest.mark.parametrize("name", ["infer_differences", "find_defects", "measure_images", "write_pages"])
def test_a_stage_outlives_its_images(name: str) -> None:
    before, _, after = (SCRIPTS / f"{name}.py").read_text().partition('\nif "snakemake" in globals():\n')
    assert "watch.result_or_fault(" in before
    assert after.count("go_on_watched()") == 1


def test_scripts_and_functions_are_short() -> None:
    long = {path.name: n for path in SCRIPTS.glob("*.py") if (n := path.read_text().count("\n")) > 120}
    for path in sorted((SCRIPTS / "oddlattice").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long[f"{path.name}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert not long


def test_the_map_of_the_house_names_its_rooms_and_files_that_are_there() -> None:
    text = (ROOT / "docs/house.md").read_text()
    rooms = [path for path in (SCRIPTS / "oddlattice").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert not {f"`{room.name}/`" for room in rooms if f"`{room.name}/`" not in text}
    named = re.findall(rf"`((?:{'|'.join(room.name for room in rooms)})/\w+\.py)`", text)
    assert len(named) > 10 and not [name for name in named if not (SCRIPTS / "oddlattice" / name).is_file()]


def test_one_wildcard() -> None:
    for file in RULE_FILES:
        for text in re.findall(r'(?<![f\w])"([^"\n]*)"', re.sub(r'""".*?"""', "", file.read_text(), flags=re.DOTALL)):
            assert set(re.findall(r"{(\w+)}", text)) <= {"shard"}, f"{file.name}: {text}"


@pytest.mark.parametrize("file", RULE_FILES, ids=lambda file: file.name)
def test_rule_file_opens_with_its_contract(file: Path) -> None:
    assert re.match(r'""".+?^In: .+?^Out: .+?"""', file.read_text(), flags=re.DOTALL | re.MULTILINE)


def sources() -> list[Path]:
    return [ROOT / "Snakefile", *RULE_FILES, *sorted(SCRIPTS.rglob("*.py"))]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\bconfig\.get\(", "it hides a missing key"),
        (r"import (pickle|joblib)|pickle\.load|allow_pickle=True", "unpickling runs code"),
        (r"torch\.load\(|torch\.save\(", "weights are safetensors"),
        (r"\byaml\.(load|unsafe_load|full_load)\((?!.*_PlainLoader)", "only the safe loader"),
        (r"\b(TODO|FIXME|XXX)\b", "finish it"),
        (r"\beval\((?!\))|\bexec\(", "text is no code"),
        (r"to_zarr\(", "dask writes wrong chunks; the writer has its own loop"),
    ],
)
def test_never(pattern: str, why: str) -> None:
    for path in sources():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not re.search(pattern, line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}: {why}"


def test_exception_is_caught_in_one_place_only() -> None:
    places = {
        str(path.relative_to(SCRIPTS))
        for path in SCRIPTS.rglob("*.py")
        if re.search(r"except (Base)?Exception\b|except:", path.read_text())
    }
    assert places == {"oddlattice/process/sandbox.py"}


# ---- packages


def pinned() -> dict[str, str]:
    lines = (ROOT / "envs/requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [
        Requirement(text) for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    ]


def test_the_lock_is_in_step_with_pyproject() -> None:
    versions = pinned()
    for requirement in required():
        name = requirement.name.lower().replace("_", "-")
        assert name in versions, f"{name}: not in envs/requirements.txt; run make lock"
        assert versions[name] in requirement.specifier, f"{requirement}: {versions[name]} is locked; run make lock"


def test_every_line_of_the_lock_is_exact() -> None:
    for line in (ROOT / "envs/requirements.txt").read_text().splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+", line), line


def test_no_package_that_brings_an_old_zarr_or_malware() -> None:
    versions = pinned()
    assert versions["zarr"].startswith("3.")
    assert not {"lightning", "pytorch-lightning"} & set(versions)


# ---- the repository


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git working tree: what is in the repository cannot be listed")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_nothing_large_is_in_git() -> None:
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size for path in tracked() if path.stat().st_size > LARGEST_MB * 1e6
    }
    assert not large


def test_no_microscope_file_and_no_pickle_is_in_git() -> None:
    wrong = {".dm3", ".dm4", ".emd", ".ser", ".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz"}
    assert not [path for path in tracked() if path.suffix.lower() in wrong]


def test_the_licence_is_gpl_3() -> None:
    assert "Version 3, 29 June 2007" in (ROOT / "LICENSE").read_text()
    assert "GPL-3.0-or-later" in (ROOT / "pyproject.toml").read_text()


def test_ci_runs_make_test_and_nothing_else() -> None:
    commands = [
        line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith(("#", "set", "cd"))
    ]
    assert commands == ["exec make test"]
