"""Photographs the demo archive's report for the README: docs/pictures/. Run after `make run`; needs Chromium."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "results/5_report"
SIZE = {"width": 1280, "height": 860}


def photograph(page: Page, name: str) -> None:
    """Write what a page shows as docs/pictures/`name`.webp."""
    out = ROOT / "docs/pictures" / f"{name}.webp"
    out.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(out, "WEBP", quality=60, method=6)


def main(report: Path = REPORT) -> None:
    """The index, and the page of the image with the most defects, with its first one chosen."""
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto((report / "index.html").as_uri())
        page.wait_for_timeout(1000)
        page.evaluate("document.querySelector('h1 + .line').textContent = 'demo_archive'")
        photograph(page, "index")
        address = page.evaluate(
            "() => [...document.querySelectorAll('a[href*=\".html\"]')].map((a) => a.href)"
            ".find((link) => !/(statistics|gallery)\\.html/.test(link))"
        )
        page.goto(address)
        page.wait_for_timeout(1500)
        page.keyboard.press("n")
        page.wait_for_timeout(1000)
        photograph(page, "image")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPORT)
