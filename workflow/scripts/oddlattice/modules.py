"""Which shared modules a script imports, found by reading it: nothing is executed."""

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

PACKAGE = "oddlattice"
_CALL = re.compile(rf"{PACKAGE}(\.\w+)+:\w+")  # a function that a child process is told to call, by name


@cache
def imported(script: Path, root: Path) -> list[Path]:
    """List the modules of the package that a script imports, directly or through others.

    Parameters
    ----------
    script : Path
    root : Path
        Folder that holds the package.

    Returns
    -------
    list of Path
        Relative to `root`, sorted; without the package's own ``__init__.py``, which holds the version only.
        Files that a package below ours carries beside its modules (templates, styles) are included.
    """
    todo, found = [script], set()
    while todo:
        for path in _direct(todo.pop(), root):
            if path not in found:
                found.add(path)
                if path.suffix == ".py":
                    todo.append(root / path)
    return sorted(found)


def described(script: Path, root: Path) -> str:
    """A line for each module that a script imports (see `imported`): its path and the SHA-256 of what it holds."""
    hashes = ((path, hashlib.sha256((root / path).read_bytes()).hexdigest()) for path in imported(script, root))
    return "".join(f"{path.as_posix()} {digest}\n" for path, digest in hashes)


@cache
def _direct(file: Path, root: Path) -> frozenset[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _CALL.fullmatch(node.value):
            names.add(node.value.partition(":")[0])
    inside = [name for name in names if name.startswith(PACKAGE + ".")]
    return frozenset(path for name in inside for path in _files(name, root))


def _files(name: str, root: Path) -> list[Path]:
    """Files of a dotted name: a module, or all of a package with what lies beside its modules."""
    path = root.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        files = [path.with_suffix(".py")]
        if path.parent != root / PACKAGE:
            files.append(path.parent / "__init__.py")
    elif path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    else:
        files = []
    return [file.relative_to(root) for file in files]
