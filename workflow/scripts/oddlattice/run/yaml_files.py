"""YAML without aliases: a few of them can stand for gigabytes."""

from pathlib import Path
from typing import Any

import yaml

#: The parser in C where PyYAML has it: every process that fits a lattice reads the crystals anew.
_PlainLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST = 100  # lists and mappings within one another


def parse(text: str) -> Any:
    """What a YAML text holds.

    Raises
    ------
    yaml.YAMLError
        If it is no YAML, holds an alias, or nests too deeply.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_PlainLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which is not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError("lists or mappings nested too deeply")
    return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (it is a SafeLoader)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    ValueError
        If the file is missing, is no YAML, holds an alias, or holds something else than a mapping; one sentence that
        names the file, what was found and what is needed.
    """
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: found {error.strerror}; needed a readable YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: found {' '.join(str(error).split())[:200]}; needed a readable YAML file") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: found {type(found).__name__}; needed a mapping of keys")
    return found
