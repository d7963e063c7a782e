"""Write the reference pages from the code (`make docs`): config keys, columns of tables, options of the command."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

import click  # noqa: E402
import yaml  # noqa: E402

from oddlattice.command.commands import oddlattice  # noqa: E402
from oddlattice.results import unit_of  # noqa: E402
from oddlattice.run.settings import load_schema  # noqa: E402

TABLE = re.compile(r"((?:^#:[^\n]*\n)+)([A-Z_]+): Schema = \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
COLUMN = re.compile(r'^    "(\w+)": pl\.(\w+).*?,(?:  # (.*))?$', re.MULTILINE)
TYPES = {"String": "text", "Int64": "whole number", "Float64": "number", "Boolean": "true or false"}


def cell(text: str) -> str:
    """Text as it may stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def tables_page() -> str:
    """Every table and column with its type, unit and meaning, by storage/products.py and docs/columns.yaml."""
    meanings = yaml.safe_load((ROOT / "docs/columns.yaml").read_text(encoding="utf-8"))
    text = (ROOT / "workflow/scripts/oddlattice/storage/products.py").read_text(encoding="utf-8")
    lines = [
        "# Tables and their columns",
        "",
        "Made by `make docs` from `workflow/scripts/oddlattice/storage/products.py`.",
    ]
    lines += ["Every table also carries `version`: the program that made the row."]
    for said, name, body in TABLE.findall(text):
        columns = COLUMN.findall(body)
        if not columns or name == "VERSION":
            continue
        about = " ".join(line.removeprefix("#:").strip() for line in said.strip().splitlines())
        path, _, rest = about.partition(": ")
        title = path.removeprefix("results/") if path.startswith("results/") else name.lower()
        lines += ["", f"## {title}", "", (rest if path.startswith("results/") else about) or "-", ""]
        lines += ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{key}` | {TYPES.get(kind, kind)} | {unit_of(key)} | {cell(why or meanings[key])} |"
            for key, kind, why in columns
        ]
    return "\n".join(lines) + "\n"


def config_lines() -> list[tuple[str, str, str]]:
    """Key, default and comment of every key of config.yaml; a comment may go on below its key."""
    found: list[tuple[str, str, str]] = []
    section = ""
    for line in (ROOT / "config.yaml").read_text(encoding="utf-8").splitlines():
        key = re.match(r"(\s*)(\w+):\s*(.*?)\s*(?:#\s*(.*))?$", line)
        if key:
            indent, name, default, comment = key.groups(default="")
            section = section if indent else name
            found.append((f"{section}.{name}" if indent else name, default, comment))
        elif (more := re.match(r"\s+#\s*(.*)", line)) and found:
            name, default, comment = found[-1]
            found[-1] = (name, default, f"{comment} {more[1]}")
    return found


def config_page() -> str:
    """Every key of the config: what it does, its default, what it may be."""
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    lines = [
        "# Config keys",
        "",
        "Made by `make docs` from `config.yaml` and `workflow/schemas/config.schema.yaml`.",
        "",
    ]
    lines += ["| key | default | meaning | may be |", "| --- | --- | --- | --- |"]
    for key, default, comment in config_lines():
        entry = schema
        for part in key.split("."):
            entry = entry["properties"][part]
        if "$ref" in entry:
            entry = schema["$defs"][entry["$ref"].rpartition("/")[2]]
        default = f"`{default}`" if default else ""
        lines.append(f"| `{key}` | {cell(default)} | {cell(comment)} | {cell(entry.get('description', ''))} |")
    return "\n".join(lines) + "\n"


def command_page() -> str:
    """What `--help` says of the program and each of its commands."""
    lines = [
        "# The command, option by option",
        "",
        "Made by `make docs` from what `oddlattice COMMAND --help` says.",
        "",
    ]
    look = {"terminal_width": 100, "help_option_names": ["-h", "--help"]}
    top = click.Context(oddlattice, info_name="oddlattice", **look)
    for name, command in [("", oddlattice), *oddlattice.commands.items()]:
        context = click.Context(command, info_name=name, parent=top, **look) if name else top
        title = f"oddlattice {name}".strip()
        lines += [f"## `{title}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


PAGES = {
    "reference_tables.md": tables_page,
    "reference_config.md": config_page,
    "reference_command.md": command_page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
