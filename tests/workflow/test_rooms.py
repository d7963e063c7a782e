"""Who may import whom: data flows one way, along the path of a pixel."""

import ast
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
PACKAGE = SCRIPTS / "oddlattice"
CELLAR = {"storage", "process", "numerics", "run"}
PATH = [
    "archive",
    "read",
    "lattice",
    "model",
    "predict",
    "defects",
    "series",
    "statistics",
    "report",
    "benchmark",
    "command",
]
BESIDE = {
    "simulate": {"lattice"},
    "model": {"simulate"},
    "benchmark": {"simulate"},
    "command": {"results"},
}  # also allowed
OPEN = {"__init__", "results"}  # the Python interface, for people: it may take from anywhere


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def allowed(room: str) -> set[str]:
    below = set(PATH[: PATH.index(room)]) if room in PATH else set()
    return CELLAR | ({"crystal"} | below | BESIDE.get(room, set()) if room not in CELLAR else set())


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("oddlattice.") and name != "oddlattice.__version__"}


def test_data_flows_one_way() -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in OPEN:
            wrong = {name for name in imports(file) if room_of(name) not in allowed(room) | {room}}
            assert not wrong, f"{file.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_rooms_are_empty_but_for_their_modules() -> None:
    assert not [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE and path.read_text().strip()]


def test_no_script_imports_another() -> None:
    names = {path.stem for path in SCRIPTS.glob("*.py")}
    for file in [*SCRIPTS.glob("*.py"), *PACKAGE.rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found = {node.module} if isinstance(node, ast.ImportFrom) else set()
            found |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            assert not found & names, f"{file.name} imports {found & names}"


def test_tests_stand_in_the_rooms_of_what_they_test() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    here = SCRIPTS.parents[1] / "tests"
    stray = {path.parent.name for path in here.rglob("test_*.py")} - rooms - {"workflow", "faults", "bench", "tests"}
    assert not stray
