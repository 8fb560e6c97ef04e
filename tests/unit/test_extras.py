"""Features without the packages of the extra `recipes`: one sentence for each; a server does without all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eztinker.base_models.embedded import embedded_model_directory
from eztinker.cli.checks import Verdict, check_recipes
from eztinker.errors import NotInstalled, UserError
from eztinker.extras import RECIPES, missing_recipes, require_recipes
from eztinker.rl import RejectionSFTConfig, run_rejection_sft

COMMAND = "pip install 'eztinker[recipes]'"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process without the packages: None in place of a module is what Python itself takes for one not there."""
    for module in RECIPES.values():
        monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that lacks the packages, as do its children; it has no model and no server yet."""
    lines = [f"sys.modules[{module!r}] = None\n" for module in RECIPES.values()]
    (tmp_path / "sitecustomize.py").write_text("import sys\n" + "".join(lines))
    return os.environ | {
        "PYTHONPATH": str(tmp_path),
        "EZTINKER_CACHE_DIR": str(tmp_path / "cache"),
        "EZTINKER_DATA_DIR": str(tmp_path / "data"),
        "EZTINKER_BASE_URL": "http://127.0.0.1:9",
    }


def run_python(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)


def test_all_packages_are_here_where_tests_run():
    assert missing_recipes(*RECIPES) == []
    require_recipes(*RECIPES, feature="Nothing")
    assert check_recipes().verdict is Verdict.GOOD


@pytest.mark.usefixtures("bare")
def test_what_is_missing_is_named_with_the_feature_and_the_command():
    with pytest.raises(NotInstalled) as one:
        require_recipes("gguf", feature="Reading this file")
    assert one.value.message == f"Reading this file needs gguf, which is not installed; run: {COMMAND}"
    with pytest.raises(NotInstalled) as two:
        require_recipes("math-verify", "matplotlib", feature="The job")
    assert two.value.message == f"The job needs math-verify and matplotlib, which are not installed; run: {COMMAND}"
    assert isinstance(two.value, UserError)


@pytest.mark.usefixtures("bare")
def test_the_job_refuses_to_start_before_it_looks_for_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(NotInstalled, match="math-verify and matplotlib"):
        run_rejection_sft(RejectionSFTConfig(output_dir=tmp_path))


@pytest.mark.usefixtures("bare")
def test_the_embedded_model_is_refused_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("EZTINKER_EMBEDDED_WHEEL", str(tmp_path / "not-looked-for.whl"))
    with pytest.raises(NotInstalled, match="SmolLM2-135M-Instruct needs gguf"):
        embedded_model_directory()


@pytest.mark.usefixtures("bare")
def test_the_doctor_notes_what_is_missing():
    finding = check_recipes()
    assert (finding.verdict, finding.fix) == (Verdict.NOTE, f"run: {COMMAND}")
    assert finding.found == "without gguf, math-verify, matplotlib"


@pytest.mark.parametrize(
    ("arguments", "named"), [(("demo",), "math-verify"), (("fetch",), "gguf"), (("server",), "gguf")]
)
def test_a_command_ends_with_one_line(arguments: tuple[str, ...], named: str, bare_environment: dict[str, str]):
    done = run_python("-m", "eztinker", *arguments, environment=bare_environment)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert named in line
    assert line.endswith(COMMAND)


def test_grading_goes_on_by_exact_numbers_and_says_so_once(bare_environment: dict[str, str]):
    program = (
        "from eztinker.dataset import evaluate_answer\n"
        "grades = [evaluate_answer('It is 72.', '72') for _ in range(2)]\n"
        "assert [(it['is_correct'], it['strategy']) for it in grades] == [(True, 'numeric')] * 2, grades\n"
    )
    done = run_python("-c", program, environment=bare_environment)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("math-verify is not installed")
    assert line.endswith(COMMAND)


@pytest.mark.parametrize("module", ["api.app", "worker.loop", "cli.app", "rl", "dataset"])
def test_everything_imports_without_them(module: str, bare_environment: dict[str, str]):
    done = run_python("-c", f"import eztinker.{module}", environment=bare_environment)
    assert done.returncode == 0, done.stderr
