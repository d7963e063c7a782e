"""Pages: templates with escaping, styles and scripts inside the page, and a policy that lets nothing else in."""

import base64
import hashlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

HERE = Path(__file__).parent


def without_nan(value: Any) -> Any:
    """`value` with every float that is not finite replaced by None, for JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return value


def json_text(value: Any) -> str:
    """JSON in ASCII, the same bytes for the same value; numbers that are not finite become null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:  # something is not finite
        return json.dumps(without_nan(value), separators=(",", ":"), allow_nan=False)


def json_lines(value: dict[str, Any]) -> str:
    """`json_text` for files: a line for every key, and for every element of a list of objects.

    Python's own indentation takes twelve times as long, and gives every number a line.
    """
    return "{\n" + ",\n".join(f"{json_text(str(key))}: {_lines(found)}" for key, found in value.items()) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f" {json_text(one)}" for one in value) + "\n]"
    return json_text(value)


def json_indented(value: Any) -> str:
    """JSON for people, in lines as short as can be."""
    return json.dumps(without_nan(value), indent=1, allow_nan=False)


def embedded_json(value: Any) -> Markup:
    """JSON that may stand inside a script element: no character in it can end the element or begin a comment."""
    text = json_text(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704 (escaped above)


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy(style: str, script: str) -> str:
    """Content-security policy: this style, this script, pictures beside the page; nothing else, from nowhere else."""
    parts = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "'self' file:",  # ASSUME: a browser that does not take file:// for 'self' takes file:
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{key} {value}" for key, value in parts.items())


@cache
def environment() -> jinja2.Environment:
    """The templates, each compiled once: everything is escaped, a missing value is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, scripts: tuple[str, ...], data: Any, **values: Any) -> bytes:
    """One page as bytes.

    Parameters
    ----------
    template : str
        Name of the template.
    scripts : tuple of str
        Names of the scripts, put into the page in this order.
    data : object
        What the scripts draw, embedded as JSON.
    **values
        What the template shows.
    """
    style = (HERE / "templates" / "report.css").read_text(encoding="utf-8")
    script = "\n".join((HERE / "templates" / name).read_text(encoding="utf-8") for name in scripts)
    text = (
        environment()
        .get_template(template)
        .render(
            policy=policy(style, script),
            style=Markup(style),  # noqa: S704 (our own file)
            script=Markup(script),  # noqa: S704 (our own file)
            data=embedded_json(data),
            **values,
        )
    )
    return text.encode("utf-8", "backslashreplace")
