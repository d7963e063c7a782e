"""Which of our files a script uses, found by reading it: nothing is executed."""

import hashlib
import re
from functools import cache
from pathlib import Path

PACKAGE = "oddlattice"
_QUOTED = re.compile(r"""["']([^"'\n]+)["']""")
#: A function that a child process is told to call, by name.
_CALL = re.compile(rf"""["']({PACKAGE}(?:\.\w+)+):\w+["']""")
#: An import as the house's formatter writes it; reading it so takes a seventh of the time of parsing.
_IMPORT = re.compile(r"^[ \t]*(?:from ([\w.]+) import (\([^)]*\)|.+)|import (.+))$", re.MULTILINE)
_ALIASES = re.compile(r"(?: as \w+)?(?:\s*#.*)?\s*(?:,\s*(?:#.*\s*)?|$)")


@cache
def imported(script: Path, root: Path) -> list[Path]:
    """List the files of ours that a script uses, directly or through others.

    Parameters
    ----------
    script : Path
    root : Path
        Folder that holds the package and the scripts.

    Returns
    -------
    list of Path
        Relative to `root`, sorted; without the package's own ``__init__.py``, which holds the version only.
        A file that is no module (template, style, script of a page) is used where its name stands in quotes.
    """
    todo, found = [script], set()
    while todo:
        for path in _direct(todo.pop(), root):
            if path not in found:
                found.add(path)
                todo.append(root / path)
    return sorted(found)


def described(script: Path, root: Path) -> str:
    """A line for each file that a script uses (see `imported`): its path and the SHA-256 of what it holds."""
    hashes = ((path, hashlib.sha256((root / path).read_bytes()).hexdigest()) for path in imported(script, root))
    return "".join(f"{path.as_posix()} {digest}\n" for path, digest in hashes)


def newest_ns(root: Path) -> int:
    """When a module below `root` was changed last [ns since 1970]: what is kept in memory must not be older."""
    return max(path.stat().st_mtime_ns for path in root.rglob("*.py"))


@cache
def _direct(file: Path, root: Path) -> frozenset[Path]:
    """The files that one file names: modules that it imports or has called, and files that it reads."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return frozenset(path for name in _QUOTED.findall(text) for path in _by_name(root).get(name, ()))
    found = {path for name in _known(root).findall(text) for path in _by_name(root)[name]}
    for name in _CALL.findall(text):
        found |= _module(name, root)
    for module, names, whole in _IMPORT.findall(text):
        for name in filter(None, _ALIASES.split((names or whole).strip("() \n"))):
            found |= _module(name, root) if whole else _module(f"{module}.{name}", root) or _module(module, root)
    return frozenset(found)


@cache
def _module(name: str, root: Path) -> frozenset[Path]:
    """The file of a dotted name, with the ``__init__.py`` of the rooms around it; none for what is not ours."""
    parts = name.split(".")
    path = Path(*parts)
    if not (root / path).with_suffix(".py").is_file():
        path = path / "__init__"
        if parts == [PACKAGE] or not (root / path).with_suffix(".py").is_file():
            return frozenset()
    rooms = [Path(*parts[:depth], "__init__.py") for depth in range(2, len(parts))]
    return frozenset([path.with_suffix(".py"), *(room for room in rooms if (root / room).is_file())])


@cache
def _known(root: Path) -> re.Pattern[str]:
    """Their names in quotes."""
    return re.compile(f"[\"']({'|'.join(map(re.escape, sorted(_by_name(root))))})[\"']")


@cache
def _by_name(root: Path) -> dict[str, list[Path]]:
    """Files of the package that are no modules, by name."""
    found: dict[str, list[Path]] = {}
    for file in sorted((root / PACKAGE).rglob("*")):
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts:
            found.setdefault(file.name, []).append(file.relative_to(root))
    return found
