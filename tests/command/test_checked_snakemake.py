"""Mistakes that Snakemake answers with a traceback before it reads a Snakefile: each is a sentence, exit code 1."""

import subprocess
import sys
from pathlib import Path
from sysconfig import get_path

import pytest

from oddlattice.command import checked_snakemake
from oddlattice.command.places import HERE, Mistake


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["--configfile", "missing.yaml"],
            "--configfile: missing.yaml: found No such file or directory; needed a readable YAML file",
        ),
        (["--configfile=no.yaml"], "--configfile: no.yaml: found "),
        (
            ["--config", "archive=/data/my", "images", "--cores", "1"],
            "found images; needed KEY=VALUE, in quotes where it holds a space, as 'reviews=my folder'",
        ),
        (
            ["-C", "defects.fdr=0.1"],
            "--config: found defects.fdr=0.1; needed --config 'defects={fdr: 0.1}', or a config file, as ",
        ),
        (["--directory", "/proc/nothing"], "/proc/nothing: found "),
        (["-d", "file/below"], "file/below: found Not a directory; needed a folder that can be written to"),
    ],
)
def test_a_mistake_is_a_sentence(
    typed: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "no.yaml").write_text("- a list")
    with pytest.raises(Mistake) as found:
        checked_snakemake.check(["--cores", "2", *typed])
    assert found.value.message.startswith(said)
    monkeypatch.setattr(sys, "argv", ["snakemake", *typed])
    with pytest.raises(SystemExit) as ended:
        checked_snakemake.main()
    assert ended.value.code == f"Error: {found.value.message}"


def test_all_else_goes_on_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("seed: 1")
    typed = ["--cores", "all", "--config", "archive=my images", "defects={fdr: 0.1}", "--configfile", "my.yaml", "-n"]
    typed += ["--directory", "work", "--set-resources", "infer_differences:slurm_partition=GPU"]
    went: list[list[str]] = []
    monkeypatch.setattr(checked_snakemake, "become", went.append)
    monkeypatch.setattr(sys, "argv", ["snakemake", *typed])
    checked_snakemake.main()
    assert went == [[sys.executable, "-m", "snakemake", *typed]]


def test_setup_puts_it_in_place_of_the_script_of_the_same_name(tmp_path: Path) -> None:
    """The lines of envs/setup.sh that write the programs, run as they stand."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    text = (HERE / "envs/setup.sh").read_text()
    lines = text[text.index("for program in ") : text.index("# without this the first jobs would")]
    subprocess.run(["sh", "-eu", "-c", lines], cwd=tmp_path, check=True)
    for name, module in (("snakemake", "checked_snakemake"), ("oddlattice", "")):
        program = tmp_path / ".venv/bin" / name
        assert program.read_text().endswith(f'-m oddlattice.command{"." + module if module else ""} "$@"\n')
    done = subprocess.run(
        [tmp_path / ".venv/bin/snakemake", "--configfile", "missing.yaml"], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={"PYTHONPATH": f"{HERE}/workflow/scripts:{get_path('purelib')}", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: --configfile: missing.yaml: found") and done.stderr.count("\n") == 1
