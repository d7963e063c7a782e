"""What a person asks for as an order to Snakemake, checked first: a mistake is one sentence."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from oddlattice.command.places import Mistake, made, repository
from oddlattice.run import settings, yaml_files

CONFIG, CONFIGFILE = ("--config", "-C"), ("--configfile", "--configfiles")


def snakemake_order(
    work: Path, cores: str, own: Sequence[str], files: Sequence[Path], rest: Sequence[str], archive: Path | None = None
) -> list[str]:
    """Put together the command that runs Snakemake in a working folder, which is made.

    Parameters
    ----------
    work : Path
    cores : str
        A number, or all.
    own : sequence of str
        Settings as KEY=VALUE; a key of a section is SECTION.KEY.
    files : sequence of Path
        Config files.
    rest : sequence of str
        What else Snakemake is told: targets and options, among them `--config` and `--configfile`.
    archive : Path, optional
        Folder of microscope files.

    Raises
    ------
    Mistake
        If a folder, a file or a setting is not what it should be.
    """
    rest, given = taken_out(rest, CONFIG)
    rest, named = taken_out(rest, CONFIGFILE)
    for item in given:
        as_for_snakemake(item)
    config = nested(own)
    if archive is not None:
        config["archive"] = str(folder_of_images(archive, rest))
    files = [checked_file(file) for file in [*files, *map(Path, named)]]
    place = made(work)
    order = [sys.executable, "-m", "snakemake", "--snakefile", str(repository() / "Snakefile")]
    order += ["--directory", str(place), "--cores", cores, *rest]
    order += ["--configfile", *map(str, files)] if files else []
    said = [*given, *(f"{key}={_text(value)}" for key, value in config.items())]
    return [*order, "--config", *said] if said else order


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def taken_out(rest: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide options for Snakemake into others and the values of one option, whatever it is called and how often."""
    others: list[str] = []
    values: list[str] = []
    inside = False
    for item in rest:
        name, equals, value = item.partition("=")
        if item.startswith("-"):
            inside = name in names
        if not inside:
            others.append(item)
        elif not item.startswith("-"):
            values.append(item)
        elif equals:
            values.append(value)
    return others, values


def as_for_snakemake(item: str, instead: str = "--set {section}.{key}={value}") -> None:
    """Check a KEY=VALUE that Snakemake is given as it is; `instead` is what can be typed for a key of a section.

    Raises
    ------
    Mistake
        If Snakemake would not understand it.
    """
    whole, value = _parts(item)
    section, _, key = whole.partition(".")
    if key:
        needed = instead.format(section=section, key=key, value=value)
        raise Mistake(f"--config: found {item}; needed {needed}, as Snakemake knows no keys of sections")


def _parts(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
        raise Mistake(f"found {item}; needed KEY=VALUE, in quotes where it holds a space, as 'reviews=my folder'")
    return key, value


def nested(items: Sequence[str]) -> dict[str, Any]:
    """Settings KEY=VALUE or SECTION.KEY=VALUE as a mapping; what a value means, the schema decides later.

    Raises
    ------
    Mistake
        If one is nothing of the kind.
    """
    found: dict[str, Any] = {}
    for item in items:
        key, value = _parts(item)
        *sections, last = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise Mistake(f"--set {item}: found {section} set to a value before; needed one of the two")
        inner[last] = _value(value)
    return found


def _value(text: str) -> Any:
    """A list or a mapping as such; all else as text, which the schema turns into what is needed."""
    if text[:1] not in "[{" or not text:
        return text
    try:
        return yaml_files.parse(text)
    except yaml.YAMLError:
        return text


def folder_of_images(archive: Path, rest: Sequence[str]) -> Path:
    """Check the folder of microscope files, and what stands behind it on the command line.

    Raises
    ------
    Mistake
        If there is no such folder: its name may have been cut at a space; or if a setting stands behind it.
    """
    words = []
    for word in rest:
        if word.startswith("-"):
            break
        words.append(word)
    if words and "=" in words[0]:
        raise Mistake(f"found {words[0]} behind the archive; needed --set {words[0]}")
    whole = " ".join([str(archive), *words])
    if words and (Path(whole).exists() or not archive.exists()):
        raise Mistake(f"found {archive} and behind it {' '.join(words)}; a path with a space needs quotes: '{whole}'")
    if not archive.is_dir():
        what = "a file" if archive.exists() else "no such folder"
        raise Mistake(f"{archive}: found {what}; needed the folder of microscope files")
    return Path(os.path.abspath(archive))


def checked_file(path: Path) -> Path:
    """Check that a config file holds YAML, and give its full path.

    Raises
    ------
    Mistake
        If it is missing, or is no YAML mapping.
    """
    try:
        settings.load_yaml(path)
    except settings.SettingsError as error:
        raise Mistake(f"{error} (oddlattice init writes one)") from None
    return Path(os.path.abspath(path))


def become(order: Sequence[str]) -> NoReturn:
    """Go on as another program: its exit code, Ctrl-C and kill are those of the command."""
    sys.stdout.flush()
    os.execv(order[0], list(order))  # noqa: S606 (a program of ours with arguments of ours; no shell is meant)
