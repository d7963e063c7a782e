"""Pages in a headless Chromium, and what axe says of them; where one of the two is missing, tests are skipped."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
LOUD = ("serious", "critical")


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a browser for as long as the block lasts."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no page is looked at")
    if not CHROMIUM:
        pytest.skip("no Chromium here: no page is looked at in a browser")
    with playwright.sync_playwright() as run:
        found = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def violations(page: Any, impacts: tuple[str, ...] = LOUD) -> list[str]:
    """What axe finds of faults, serious and critical ones unless told."""
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed: accessibility is not looked at")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations)")
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in impacts]
