"""Photographs reports for the documentation: docs/pictures/. Needs Chromium.

After `make run`: python docs/build_pictures.py
After the tutorial: python docs/build_pictures.py tutorial WORK/results/5_report
"""

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


def first_image(page: Page) -> str:
    """Find the address of the first image that the index on show leads to."""
    found: str = page.evaluate(
        "() => [...document.querySelectorAll('a[href*=\".html\"]')].map((a) => a.href)"
        ".find((link) => !/(statistics|gallery)\\.html/.test(link))"
    )
    return found


def demo(page: Page, report: Path) -> None:
    """The index, and the page of the image with the most defects, with its first one chosen."""
    page.goto((report / "index.html").as_uri())
    page.wait_for_timeout(1000)
    page.evaluate("document.querySelector('h1 + .line').textContent = 'demo_archive'")
    photograph(page, "index")
    page.goto(first_image(page))
    page.wait_for_timeout(1500)
    page.keyboard.press("n")
    page.wait_for_timeout(1000)
    photograph(page, "image")


def tutorial(page: Page, report: Path) -> None:
    """An image of the tutorial with its first defect chosen, the gallery, and the groups on the page of statistics."""
    page.goto((report / "index.html").as_uri())
    page.wait_for_timeout(1000)
    page.goto(first_image(page))
    page.wait_for_timeout(1500)
    page.keyboard.press("n")
    page.wait_for_timeout(1000)
    photograph(page, "tutorial_image")
    page.goto((report / "gallery.html").as_uri())
    page.wait_for_timeout(1500)
    photograph(page, "tutorial_gallery")
    page.goto((report / "statistics.html").as_uri())
    page.wait_for_timeout(1000)
    page.evaluate("document.querySelector('#groups, [id*=group]')?.scrollIntoView()")
    page.wait_for_timeout(500)
    photograph(page, "tutorial_groups")


def main(what: str = "demo", report: Path = REPORT) -> None:
    """Photograph one of the two reports."""
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        {"demo": demo, "tutorial": tutorial}[what](browser.new_page(viewport=SIZE), report)
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit("usage: python docs/build_pictures.py [demo|tutorial REPORT]")
    main(*sys.argv[1:2], *map(Path, sys.argv[2:]))
