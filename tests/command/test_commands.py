"""The program `oddlattice` as a person types it, and the examples of all pages."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml
from click.testing import CliRunner, Result

from oddlattice.command import commands, doctor, export, watch
from oddlattice.command.places import HERE
from oddlattice.run.packages import packages_apart
from support.small_results import write_results

PAGE = (HERE / "docs/command.md").read_text(encoding="utf-8")
PAGES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with results, in which the test stands; Snakemake is not started, its order is printed."""
    write_results(tmp_path / "work/results")
    for name in ("microscope", "my images"):
        (tmp_path / name).mkdir()
    for name in ("scan7.dm4", "scan8.dm4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "become", lambda order: print(shlex.join(order[2:])))
    monkeypatch.setattr(
        watch, "watch", lambda one, unchanged_s: print(shlex.join(one.order), f"after {unchanged_s:g} s")
    )
    monkeypatch.setattr(commands.webbrowser, "open", lambda address: address.endswith("5_report/index.html"))
    return tmp_path / "work"


def typed(line: str) -> Result:
    return CliRunner().invoke(commands.oddlattice, shlex.split(line), prog_name="oddlattice")


def examples() -> list[str]:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix("oddlattice ") for line in lines if line.startswith("oddlattice ")]


def test_every_example_of_the_pages_and_of_the_help_works(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_out", lambda work: [doctor.Finding("Python", doctor.OK, "3.11")])
    lines = examples()
    helped = [text for name, command in commands.oddlattice.commands.items() for text in [command.help or ""]]
    for text in [commands.oddlattice.help or "", *helped]:
        lines += [
            re.split("   ", found)[0].removeprefix("oddlattice ")
            for found in re.findall(r"^oddlattice .*$", text, re.M)
        ]
    assert {line.split()[0] for line in lines} >= set(commands.oddlattice.commands)
    for line in lines:
        (work.parent / "oddlattice.yaml").unlink(missing_ok=True)
        if "--configfile" in line:
            typed("init microscope")
        (work.parent / "my.yaml").write_text("seed: 1\n")
        line = re.sub(r"/data/(microscope|my images|work)", r"\1", line).replace("scans/*.dm4", "scan7.dm4 scan8.dm4")
        if re.match("(open|export)(?! work)", line):  # of the folder in which one stands
            monkeypatch.chdir(work)
        done = typed(line.replace("scan-7-a1b2c3-haadf", "sized"))
        monkeypatch.chdir(work.parent)
        assert done.exit_code == 0, f"{line}: {done.output}"


@pytest.mark.parametrize("name", commands.oddlattice.commands)
def test_the_examples_of_the_help_stand_on_lines_of_their_own(name: str) -> None:
    said = typed(f"{name} --help").output
    assert re.search(rf"^  oddlattice {name}\b", said, flags=re.MULTILINE) and "\\b" not in said


def test_the_commands_and_their_exit_codes_are_on_the_page() -> None:
    assert set(re.findall(r"^\| `oddlattice (\w+)", PAGE, flags=re.MULTILINE)) == set(commands.oddlattice.commands)
    assert re.findall(r"^\| (\d+) \|", PAGE, flags=re.MULTILINE) == ["0", "1", "2"]


def test_run_passes_on_what_it_is_told(work: Path) -> None:
    done = typed("run microscope --into work --cores 3 --set defects.fdr=0.1 -- --dry-run")
    assert done.output.endswith(
        f'--directory work --cores 3 --dry-run --config \'defects={{"fdr": "0.1"}}\' archive={work.parent}/microscope\n'
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("run my images", "found my and behind it images; a path with a space needs quotes: 'my images'"),
        ("run microscope --cores many", "--cores: found many; needed a number of processor cores, or all"),
        ("open", ".: found no results/4_defects/images.parquet; needed the working folder of a run that has finished"),
        ("train scan9.dm4 --name a", "scan9.dm4: found no such file; needed an image of bulk"),
        ("train scan7.dm4 --name A", "--name: found A; needed a name of small letters, digits and underscores"),
        (
            "export work --format cif --element A=Qq",
            "--element: found A=Qq; needed SITE=ELEMENT with a chemical symbol, as A=Mo",
        ),
        (
            "export work --format cif --image x",
            "--image x: found no such image that was analysed; 4_defects/images.csv lists them",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(work: Path, line: str, sentence: str) -> None:
    done = typed(line)
    assert (done.exit_code, done.stderr) == (2, f"Error: {sentence}\n")


def test_training_takes_the_images_that_are_named(work: Path) -> None:
    (work / "deeper").mkdir()
    (work / "deeper/odd \\ name.dm3").touch()
    done = typed(r"train scan7.dm4 'work/deeper/odd \ name.dm3' --name mos2 --into work -- --dry-run")
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"--directory work --cores all train --dry-run --configfile {work}/train_mos2.yaml\n")
    written = yaml.safe_load((work / "train_mos2.yaml").read_text())
    assert written["archive"] == str(work.parent)
    assert written["train"]["bulk"] == [{"path": "scan7.dm4"}, {"path": r"work/deeper/odd \x5c name.dm3"}]


def test_the_first_config_changes_nothing_until_something_is_taken_out_of_its_comment(work: Path) -> None:
    assert typed("init 'my images' --file first.yaml").exit_code == 0
    text = Path("first.yaml").read_text()
    assert yaml.safe_load(text) == {"archive": "my images"}
    whole = yaml.safe_load(re.sub("^#(?! )|^#(?=  )", "", text, flags=re.MULTILINE))
    assert whole == yaml.safe_load((HERE / "config.yaml").read_text()) | {"archive": "my images"}
    assert (
        typed("init --file first.yaml").stderr
        == "Error: first.yaml: found a file of that name; needed another one (--file)\n"
    )


@pytest.mark.parametrize("kind", [kind for kind in export.FORMATS if kind != "strain"])
def test_export_writes_a_file_an_image_and_says_what_it_leaves_out(work: Path, kind: str) -> None:
    done = typed(f"export work --format {kind}")
    folder = work / "export" / kind
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {
        "csv": {"images.csv", "defects.csv", "grains.csv", "boundaries.csv", "columns/sized.csv"},
        "html": {"sized.html", "unsized.html"},
        "geojson": {"sized.geojson", "unsized.geojson"},
        "figure": {"sized.png", "sized.svg", "unsized.png", "unsized.svg"},
        "cif": {"sized.cif"},
        "xyz": {"sized.xyz"},
        "poscar": {"sized.vasp"},
    }
    assert names == expected[kind]
    number = len(names)
    assert done.stdout == f"work/export/{kind}: {number} {'file' if number == 1 else 'files'}\n"
    left_out = "unsized: found no pixel size; needed one in the file, or a crystal that is known; left out\n"
    assert done.stderr == ("" if kind in ("html", "geojson", "figure") else left_out)
    assert pl.read_csv(folder / "columns/sized.csv").height == 13 if kind == "csv" else True


def test_export_cuts_out_what_lies_around_each_defect(work: Path) -> None:
    assert typed("export work --format poscar --into cut --around 0.3 --image sized").exit_code == 0
    assert sorted(path.name for path in Path("cut").iterdir()) == ["sized_defect1.vasp", "sized_defect2.vasp"]


def test_nothing_written_is_no_success(work: Path) -> None:
    done = typed("export work --format strain")
    assert done.exit_code == 1
    assert done.stderr.startswith("sized: found no strain; needed columns side by side; left")
    assert typed("export work --format xyz --image unsized").exit_code == 1


def test_the_formats_of_the_command_are_those_that_are_written() -> None:
    (choice,) = (p.type for p in commands.export.params if p.name == "kind")
    assert tuple(choice.choices) == export.FORMATS


def test_packages_are_compared_with_what_was_tested() -> None:
    project = '[project]\ndependencies = ["zarr==3.1.6", "dask[array]==2026.8.*", "torch==2.13.0", "numpy>=2"]'
    has = {"zarr": "3.2", "torch": "2.13.0+cpu", "numpy": "2.4"}.get
    assert packages_apart(project, "zarr==3.1.6\ndask==2026.8.1\ntorch==2.13.0\n", has) == (
        ["dask"],
        ["zarr 3.2 (3.1.6)"],
    )


def torch_that_sees(number: int) -> SimpleNamespace:
    cuda = SimpleNamespace(
        is_available=lambda: number > 0, device_count=lambda: number, get_device_name=lambda k: f"GPU {k}"
    )
    return SimpleNamespace(cuda=cuda, __version__="2.13")


@pytest.mark.parametrize(("number", "says"), [(0, "none; the processor"), (2, "GPU 0, GPU 1 (PyTorch 2.13)")])
def test_the_doctor_finds_this_machine_fit(work: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees(number))
    monkeypatch.setattr(doctor.settings, "takes_gpu", lambda device, look: False)
    done = typed("doctor work")
    assert done.exit_code == 0, done.output
    assert says in done.output
    whats = [line.split()[1] for line in done.output.splitlines()]
    assert whats == "Python program packages models processor GPU disk fonts browser".split()


def test_the_doctor_says_what_does_not_work(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees(0))
    done = typed("doctor /proc/oddlattice")
    assert (done.exit_code, done.stderr) == (1, "Error: what does not work: disk\n")


def test_the_doctor_makes_no_folder(tmp_path: Path) -> None:
    assert "which can be written to" in doctor._disk(tmp_path / "not/there")[1]
    (tmp_path / "file").touch()
    assert doctor._disk(tmp_path / "file/there")[0] == doctor.BAD
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_program_starts_as_a_module_and_says_what_python_lacks(tmp_path: Path) -> None:
    lame = "import sys; sys.modules['click'] = None; from oddlattice.command.start import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", lame], env=os.environ | {"PYTHONPATH": str(HERE / "workflow/scripts")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert re.search("found no package click; needed the environment of the repository", done.stderr)
