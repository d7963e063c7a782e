"""Imports are found by reading, through other modules, and for functions that are called by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from oddlattice.run.dependencies import described, imported

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "script.py": "import os\nfrom oddlattice import one\nimport oddlattice.two\n",
        "lazy.py": "def f():\n    from oddlattice.two import x\n",
        "named.py": 'CALL = "oddlattice.three:run"\nTEXT = "oddlattice.one is a module"\n',
        "page.py": "from oddlattice.pages.html import render\n",
        "module_of_a_package.py": "from oddlattice.pages import html\n",
        "other_script.py": "from script import x\nimport lazy\n",
        "templates.py": 'PAGE = "page.j2"\n',
        "nothing.py": "import oddlattice\nimport numpy.linalg\n",
        "oddlattice/__init__.py": "",
        "oddlattice/one.py": "from oddlattice.three import x\n",
        "oddlattice/two.py": "",
        "oddlattice/three.py": "from oddlattice.one import y\n",  # a circle ends
        "oddlattice/unused.py": "",
        "oddlattice/pages/__init__.py": "",
        "oddlattice/pages/html.py": "",
        "oddlattice/pages/other.py": "",
        "oddlattice/pages/page.css": "",
        "oddlattice/pages/page.j2": '{% include "part.j2" %}',
        "oddlattice/pages/part.j2": "",
        "oddlattice/pages/unused.js": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("script", ["one.py", "three.py", "two.py"]),
        ("lazy", ["two.py"]),
        ("named", ["one.py", "three.py"]),
        ("page", ["pages/__init__.py", "pages/html.py"]),
        ("module_of_a_package", ["pages/__init__.py", "pages/html.py"]),
        ("templates", ["pages/page.j2", "pages/part.j2"]),
        ("nothing", []),
    ],
)
def test_modules_of_a_script(root: Path, script: str, expected: list[str]) -> None:
    assert imported(root / f"{script}.py", root) == [Path("oddlattice") / name for name in expected]


def test_a_script_that_imports_another_follows_it(root: Path) -> None:
    names = [path.as_posix() for path in imported(root / "other_script.py", root)]
    assert names == ["lazy.py", *(f"oddlattice/{name}.py" for name in ("one", "three", "two")), "script.py"]


def test_an_edit_of_the_viewer_concerns_the_pages_alone() -> None:
    using = {path.stem for path in SCRIPTS.glob("*.py") if any(p.name == "viewer.js" for p in imported(path, SCRIPTS))}
    assert using == {"write_pages"}


def test_the_reader_in_the_child_process_is_found() -> None:
    names = {path.name for path in imported(SCRIPTS / "read_images.py", SCRIPTS)}
    assert {"sandbox.py", "read_file.py", "registry.py"} <= names


def test_what_only_waits_for_its_children_loads_little() -> None:
    code = (
        "import sys, cut_tiles, read_images; print(*sorted({'hyperspy', 'numba', 'scipy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_reports_templates_are_found() -> None:
    names = {path.suffix for path in imported(SCRIPTS / "write_pages.py", SCRIPTS)}
    assert {".py", ".css", ".js", ".j2"} <= names


def test_description_changes_with_what_is_imported_and_with_nothing_else(root: Path) -> None:
    before = described(root / "script.py", root)
    lines = before.splitlines()
    assert [line.split()[0] for line in lines] == [path.as_posix() for path in imported(root / "script.py", root)]
    assert all(len(line.split()[1]) == 64 for line in lines)
    path = root / lines[0].split()[0]
    path.touch()
    assert described(root / "script.py", root) == before
    path.write_text(path.read_text() + "\n# an edit\n")
    assert described(root / "script.py", root) != before
