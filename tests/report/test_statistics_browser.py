"""The page of statistics in a browser: it fits its window, dark and light, and axe finds nothing serious."""

from pathlib import Path
from typing import Any

import pytest

from report.test_browser import Tab, browser  # noqa: F401 (a fixture)
from support.in_browser import violations
from support.statistics_shard import shard  # noqa: F401 (a fixture)


@pytest.mark.parametrize(("width", "scheme"), [(800, "dark"), (1600, "light")])
def test_the_page_of_statistics_fits_its_window(
    browser: Any,
    shard: tuple[Any, Path, Path],
    width: int,
    scheme: str,
) -> None:
    tab = Tab(browser, width, scheme)
    page = tab.open(shard[2])
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg[role=img]").count() >= 1
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    tab.close()
