"""The documentation as a site: `make docs` writes docs/_site/index.html. Nothing in it needs the network."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from oddlattice import __version__  # noqa: E402

project = "oddlattice"
author = "the authors of oddlattice"
project_copyright = "GPL-3.0-or-later"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_heading_anchors = 3
exclude_patterns = ["_site"]
toc_object_entries = False
nitpicky = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
html_theme = "pydata_sphinx_theme"
html_title = f"oddlattice {__version__}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_sidebars = {"index": [], "**": ["sidebar-nav-bs"]}
html_theme_options = {
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}


def _as_mathml(text: str, block: bool) -> str:
    """An equation as MathML, which browsers draw themselves: no script, no network, no TeX."""
    return str(latex2mathml.tex2mathml(text, as_block=block))


def _inline(translator: nodes.NodeVisitor, node: nodes.math) -> None:
    translator.body.append(_as_mathml(node.astext(), block=False))  # type: ignore[attr-defined]
    raise nodes.SkipNode


def _displayed(translator: nodes.NodeVisitor, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="equation" tabindex="0">{_as_mathml(node.astext(), block=True)}</div>')  # type: ignore[attr-defined]
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Draw equations as MathML."""
    app.add_html_math_renderer("mathml", (_inline, None), (_displayed, None))


html_math_renderer = "mathml"
