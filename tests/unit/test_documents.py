"""Documents name what is there: links, paths, make targets; the references of the site name every command and route."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from eztinker.cli.app import app as command_line

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in (".", "docs", ".github", ".github/ISSUE_TEMPLATE", "tests")
    for page in (ROOT / folder).glob("*.md")
)
PROSE = [path for path in PAGES if path.name not in ("conformance.md", "recipes.md", "map.md")]
"""Pages that are written by hand."""
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
NAMED_PATH = re.compile(r"`((?:src|tests|docs|requirements|benchmarks|\.ci)/[\w./-]+)`")
TARGET = re.compile(r"\bmake ([a-z][a-z-]+)")
NO_TARGETS = {"it", "them", "room"}
"""Words that follow "make" where it is a verb."""


@pytest.fixture(scope="module")
def reference_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors_in(page: Path) -> set[str]:
    """The anchors that a renderer gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for name, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / name if name else page
        assert target.exists(), f"{name} is not there"
        assert not anchor or anchor[1:] in anchors_in(target), f"{name} has no heading {anchor}"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_are_there(page: Path):
    missing = [name for name in NAMED_PATH.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_make_targets_are_there(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = re.findall(r"`[^`\n]*`|^```.*?^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    named = {name for piece in code for name in TARGET.findall(piece)} - NO_TARGETS
    assert named <= targets


def test_every_page_of_the_documentation_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {name for block in re.findall(r"```{toctree}(.*?)```", index, re.DOTALL) for name in block.split()}
    assert {page.stem for page in ROOT.glob("docs/*.md")} - {"index"} <= listed


def test_the_workflow_runs_make_targets_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    assert {command.split()[1] for command in commands} <= targets
    in_ci = re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(in_ci) < commands, "what every change must pass runs here too"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == supported


def test_the_command_line_reference_has_every_command(reference_pages: ModuleType):
    page = reference_pages.cli_page()
    for command in command_line.registered_commands:
        assert (f"\n## eztinker {command.name}\n" in f"\n{page}") != command.hidden
    assert "### eztinker keys revoke\n" in page
    assert "| `--max-batch-size" in page


def test_the_http_reference_has_every_route_and_the_records_of_its_body(reference_pages: ModuleType):
    page = reference_pages.http_page()
    for route in reference_pages._routes():
        for method in route.methods:
            assert f"### {method} {route.path}\n" in page
    body = page.partition("### POST /api/v1/create_model\n")[2].partition("\n###")[0]
    assert "| `base_model` | string | required |" in body
    assert "| `rank` | integer | `32` |" in body


def test_the_error_reference_draws_the_tree(reference_pages: ModuleType):
    assert "```text\nEZTinkerError\n├── UserError" in reference_pages.errors_page()
