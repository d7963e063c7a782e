"""The packages that the program needs, and whether they are there."""

import re
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def packages_apart(project: str, lock: str, has: Callable[[str], str | None] = _version) -> tuple[list[str], list[str]]:
    """Compare what is installed with what the program needs.

    Parameters
    ----------
    project : str
        Text of pyproject.toml.
    lock : str
        Text of envs/requirements.txt.
    has : callable
        Version of a package, None where it is not installed.

    Returns
    -------
    missing, apart : list of str
        Packages that are needed and not there; those of another version than was tested.
    """
    needed = [re.split(r"[^\w.-]", item)[0] for item in tomllib.loads(project)["project"]["dependencies"]]
    locked = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", lock, flags=re.MULTILINE))
    missing = [name for name in needed if has(name) is None]
    apart = [
        f"{name} {found} ({locked[name]})"
        for name in needed
        if (found := has(name)) is not None and name in locked and found.partition("+")[0] != locked[name]
    ]
    return missing, apart


def missing_packages(repository: Path) -> list[str]:
    """Packages that pyproject.toml asks for and this environment does not have; none where there is no such file."""
    project = repository / "pyproject.toml"
    return packages_apart(project.read_text(encoding="utf-8"), "")[0] if project.exists() else []
