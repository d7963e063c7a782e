"""YAML without aliases: a few of them can stand for gigabytes."""

from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which is not allowed")
        return super().compose_node(parent, index)


def parse(text: str) -> Any:
    """What a YAML text holds.

    Raises
    ------
    yaml.YAMLError
        If it is no YAML, holds an alias, or nests too deeply.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (it is a SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("lists or mappings nested too deeply") from None
