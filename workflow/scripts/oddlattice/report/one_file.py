"""A page with all it shows in one file, to send by e-mail: pictures and tables become parts of the page."""

import base64
import mimetypes
import re
from pathlib import Path

from oddlattice.report.pages import embedded_json

_PICTURES = {".png", ".jpg", ".webp"}
_LEFT_OUT = {"figure", "thumbnail"}  # downloads, and what the index shows


def one_file(page: Path) -> str:
    """Put the pictures, the table and the GeoJSON of an image's page into the page.

    Links to other pages and to what is left out are hidden by the page's style.

    Parameters
    ----------
    page : Path
        `5_report/SHARD/IMAGE_ID.html`.
    """
    home, name = page.parent, page.stem
    found = {
        path.relative_to(home).as_posix(): _address(path)
        for path in sorted((home / name).rglob("*"))
        if path.suffix in _PICTURES and path.stem not in _LEFT_OUT
    }
    text = page.read_text(encoding="utf-8")
    text = text.replace("img-src &#39;self&#39; file:", "img-src data:", 1)
    text = re.sub(r'src="([^":]+)"', lambda match: f'src="{found[match[1]]}"', text)
    for file in (f"{name}.defects.csv", f"{name}.geojson"):
        text = text.replace(f'href="{file}"', f'href="{_address(home / file)}" download="{file}"')
    pictures = f'<script type="application/json" id="pictures">{embedded_json(found)}</script>\n'
    before, data, rest = text.partition('<script type="application/json" id="data">')
    return before + pictures + data + rest


def _address(path: Path) -> str:
    """A file as an address that holds it."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
