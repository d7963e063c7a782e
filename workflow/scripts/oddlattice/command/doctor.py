"""What of the program works on this machine, and what does not."""

import os
import shutil
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from oddlattice.command.places import Mistake, made, repository
from oddlattice.run import settings
from oddlattice.run.packages import packages_apart

OK, NOTE, BAD = "ok", "note", "bad"
LEAST_FREE_GB = 2.0
_GB = 1e9


class Finding(NamedTuple):
    """One thing looked at: what it is, whether it works (ok, note or bad), and a sentence."""

    what: str
    state: str
    says: str


def find_out(work: Path) -> list[Finding]:
    """Look at everything, for runs in a working folder."""
    looks: dict[str, Callable[[], tuple[str, str]]] = {
        "Python": _python,
        "program": _program,
        "packages": _packages,
        "models": _models,
        "processor": _processor,
        "GPU": _gpu,
        "disk": lambda: _disk(work),
        "fonts": _fonts,
        "browser": _browser,
    }
    return [Finding(what, *look()) for what, look in looks.items()]


def _python() -> tuple[str, str]:
    found = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro} ({sys.executable})"
    return (OK, found) if (3, 11) <= sys.version_info < (3, 14) else (BAD, f"{found}; needed 3.11, 3.12 or 3.13")


def _program() -> tuple[str, str]:
    try:
        return OK, f"rules and models in {repository()}"
    except Mistake as mistake:
        return BAD, mistake.message


def _packages() -> tuple[str, str]:
    try:
        folder = repository()
    except Mistake:
        return NOTE, "not compared: the list of them is in the repository"
    missing, apart = packages_apart(
        (folder / "pyproject.toml").read_text(encoding="utf-8"),
        (folder / "envs/requirements.txt").read_text(encoding="utf-8"),
    )
    if missing:
        return BAD, f"found no {', '.join(missing)}; needed make setup in {folder}"
    if apart:
        return NOTE, f"other versions than were tested (in brackets): {', '.join(apart)}"
    return OK, "all there, in the versions that were tested"


def _models() -> tuple[str, str]:
    try:
        places = list(dict.fromkeys([Path.cwd() / "models", repository() / "models"]))
    except Mistake:
        return BAD, "none: they are in the repository"
    try:
        names = settings.model_names([settings.AUTO], places)
        for name in names:
            settings.check_model(settings.find_model(name, places))
        settings.check_model(places[-1] / "any_crystal")
    except settings.SettingsError as error:
        return BAD, str(error)
    return OK, f"whole: {', '.join([*names, 'any_crystal'])}"


def _processor() -> tuple[str, str]:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    return OK, f"{len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GB of memory"


def _gpu() -> tuple[str, str]:
    try:
        import torch
    except ImportError as error:
        return BAD, f"PyTorch does not load: {error}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        return OK, f"{', '.join(names)} (PyTorch {torch.__version__})"
    if settings.takes_gpu("auto", look=True):
        return NOTE, f"there is one, and PyTorch {torch.__version__} does not see it; the processor does the work"
    return OK, "none; the processor does the work"


def _disk(work: Path) -> tuple[str, str]:
    work = work.resolve()
    there = next(folder for folder in (work, *work.parents) if folder.exists())
    try:
        if there.is_dir():
            made(there)
    except Mistake as mistake:
        return BAD, mistake.message
    if not there.is_dir():
        return BAD, f"{there}: found a file; needed a folder"
    free_gb = shutil.disk_usage(there).free / _GB
    says = f"{free_gb:.0f} GB free in {there}, which can be written to"
    return (
        (OK, says) if free_gb >= LEAST_FREE_GB else (BAD, f"{says}; needed {LEAST_FREE_GB:.0f} GB for a small archive")
    )


def _fonts() -> tuple[str, str]:
    from matplotlib import font_manager

    try:
        found = font_manager.findfont("DejaVu Sans", fallback_to_default=False)
    except ValueError:
        return BAD, "found no DejaVu Sans for figures; it comes with matplotlib: make setup"
    return OK, f"figures: {Path(found).name}; pages use those of the browser"


def _browser() -> tuple[str, str]:
    try:
        return OK, f"reports open in {webbrowser.get().name or 'the default one'}"
    except webbrowser.Error:
        return NOTE, "none here: open results/5_report/index.html where there is one; it needs no server"
