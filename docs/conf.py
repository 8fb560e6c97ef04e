"""How Sphinx builds this folder into a site; `make site` runs it with warnings as errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

import reference_pages

import eztinker

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "EZTinker"
author = "the EZTinker maintainers"
version = release = eztinker.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"EZTinker {release}"
html_theme_options = {"footer_icons": []}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
smartquotes = False  # --flag keeps its hyphens
html_show_copyright = False

myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "literal"  # docstrings name code in single backticks

GENERATED = {
    "<!-- generated: command line -->": reference_pages.cli_page,
    "<!-- generated: HTTP API -->": reference_pages.http_page,
    "<!-- generated: errors -->": reference_pages.errors_page,
}


def fill_in(app: Sphinx, name: str, source: list[str]) -> None:
    """Put what is written from the code where a page says so."""
    for mark, written in GENERATED.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, written())


ATTRIBUTES: dict[str, list[str]] = {}


def keep_attribute(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Remember the words about an attribute before napoleon, which takes what stands before a colon for a type."""
    if what == "attribute":
        ATTRIBUTES[name] = list(lines)


def restore_attribute(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    if what == "attribute":
        lines[:] = ATTRIBUTES.pop(name)


def write_openapi(app: Sphinx, error: Exception | None) -> None:
    """Leave the description of the HTTP API beside the pages, for tools."""
    if error is None:
        path = Path(app.outdir) / "openapi.json"
        path.write_text(json.dumps(reference_pages.openapi(), indent=1), encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", keep_attribute, priority=100)
    app.connect("autodoc-process-docstring", restore_attribute, priority=900)
    app.connect("build-finished", write_openapi)
