"""Pages: templates with escaping, styles and scripts inside the page, and a policy that lets nothing else in."""

import base64
import hashlib
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from oddlattice.run.settings import versions
from oddlattice.storage.json_text import json_text

HERE = Path(__file__).parent

SAFE_ID = re.compile(r"[a-z0-9][a-z0-9-]*")


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


@cache
def _embedded(name: str) -> str:
    """A style or script as it stands in a page: without the spaces that begin its lines."""
    return re.sub(r"^[ ]+", "", (HERE / "templates" / name).read_text(encoding="utf-8"), flags=re.MULTILINE)


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
    style = _embedded("report.css")
    script = "\n".join(map(_embedded, scripts))
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


def write_failed(name: str, title: str, words: str, folder: Path) -> None:
    """Write a page that says why there is none; what was written of the page of that name goes."""
    shutil.rmtree(folder / name, ignore_errors=True)
    for beside in folder.glob(f"{name}.*"):
        beside.unlink()
    page = render("failed.html.j2", (), {}, title=title, name=name, words=words, versions=versions())
    (folder / f"{name}.html").write_bytes(page)


def find_pages(page_dirs: list[str], home: Path) -> dict[str, str]:
    """Address of each image's page, from a page in `home`, by image id.

    Raises
    ------
    ValueError
        If a page's name could not stand in an address as it is.
    """
    found = {}
    for folder in map(Path, page_dirs):
        for name in sorted(os.listdir(folder)):
            if name.endswith(".html"):
                if not SAFE_ID.fullmatch(name[:-5]):
                    raise ValueError(f"{folder / name}: a page's name may hold a to z, 0 to 9 and -, nothing else")
                found[name[:-5]] = os.path.relpath(folder / name, home).replace(os.sep, "/")
    return found
