"""The scripts at the root end in order, however often they are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker.keys.server_key import read_api_key
from tests.servers import serving_in_child

ROOT = Path(__file__).parents[2]
WATCHED = """
import os, runpy, sys, threading
threading._register_atexit(lambda: os.write(2, b"the interpreter is taken down"))  # where the SDK's threads may abort
del sys.argv[0]  # "-c"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[dict[str, str]]:
    """Names a server with a tiny model, and problems for it."""
    directory = tmp_path_factory.mktemp("scripts")
    problem = json.dumps({"question": "What is 1 + 1?", "answer": "It is 2.\n#### 2"})
    for split in ("train", "test"):
        (directory / f"{split}.jsonl").write_text(f"{problem}\n" * 12)
    with serving_in_child(directory / "data", {"tiny/llama": tiny_model_dir}) as server:
        key = read_api_key(directory / "data") or ""
        named = {"EZTINKER_BASE_URL": server.url, "EZTINKER_API_KEY": key, "EZTINKER_GSM8K_DIR": str(directory)}
        yield {**os.environ, **named}


def run(command: list[str], environment: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("name", "flags", "last_words"),
    [
        ("run_mini_demo.py", [], "measures it."),
        ("test_rejection_sft.py", [], "6 passed, 0 failed, 0 skipped"),
        (
            "rejection_sft_demo.py",
            ["--dataset=arithmetic", "--max-samples=2", "--num-candidates=1", "--epochs=1", "--eval-size=2"],
            "Ask it:",
        ),
    ],
)
def test_a_script_ends_before_the_interpreter_is_taken_down(
    name: str, flags: list[str], last_words: str, environment: dict[str, str], tmp_path: Path
):
    done = run(["-c", WATCHED, str(ROOT / name), *flags], environment, tmp_path)
    assert (done.returncode, "taken down" in done.stderr) == (0, False), done.stderr
    assert last_words in done.stdout.splitlines()[-1]


def test_a_script_ends_well_every_time(environment: dict[str, str], tmp_path: Path):
    done = [run([str(ROOT / "test_rejection_sft.py")], environment, tmp_path) for _ in range(3)]
    assert [each.returncode for each in done] == [0] * 3, [each.stderr for each in done]


def test_the_watch_sees_an_ordinary_end(environment: dict[str, str], tmp_path: Path):
    script = tmp_path / "ordinary.py"
    script.write_text("print('done')\n")
    assert "taken down" in run(["-c", WATCHED, str(script)], environment, tmp_path).stderr
