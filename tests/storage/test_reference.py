"""The reference pages say what the code says, and every page that the README names is there."""

import re
import sys
from pathlib import Path

import pytest

from oddlattice.storage import products

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import build_reference  # noqa: E402


@pytest.mark.parametrize("name", build_reference.PAGES)
def test_reference_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == build_reference.PAGES[name](), "run make docs"


def test_every_column_and_key_is_in_it() -> None:
    tables = build_reference.tables_page()
    for schema in (products.IMAGES, products.DEFECTS, products.COLUMNS, products.REVIEWS, products.TRENDS):
        assert all(f"| `{column}` |" in tables for column in schema)
    config = build_reference.config_page()
    assert "|  |\n" not in tables, "a column without a meaning"
    assert "| `defects.fdr` | `0.05` |" in config and "| `keep_results_of` |" in config


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700
