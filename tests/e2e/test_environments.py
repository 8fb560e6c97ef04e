"""The command line in surroundings that are not ours to choose: proxies, folders, locales, pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers import API_KEY, Serve

DEAD = "http://127.0.0.1:9"
PROXIES = [{name: DEAD} for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")] + [
    {"HTTP_PROXY": DEAD, "NO_PROXY": "example.org"},
    {"http_proxy": "nonsense"},
]
SCRIPT = "import eztinker; print(eztinker.create_training_run('tiny'))"


def run(
    *command: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *command],
        env=os.environ | dict(environment or {}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def server_url(serve: Serve, tiny_model_dir: Path) -> str:
    return serve({"tiny": tiny_model_dir}).url


@pytest.mark.parametrize("proxies", PROXIES, ids=str)
def test_a_dead_proxy_does_not_stand_before_a_server_on_this_machine(server_url: str, proxies: dict[str, str]):
    settings = {"EZTINKER_BASE_URL": server_url, "EZTINKER_API_KEY": API_KEY, **proxies}
    for command in (["-m", "eztinker", "runs"], ["-c", SCRIPT]):
        done = run(*command, environment=settings)
        assert done.returncode == 0, done.stderr


def test_scripts_of_the_sdk_get_the_variable_that_passes_proxies(server_url: str):
    named = {"EZTINKER_BASE_URL": server_url, "EZTINKER_API_KEY": API_KEY}
    printed = run("-m", "eztinker", "env", environment=named | {"HTTP_PROXY": DEAD, "NO_PROXY": "example.org"}).stdout
    assert "export NO_PROXY=example.org,127.0.0.1\n" in printed
    assert "export no_proxy=127.0.0.1\n" in printed
    assert "PROXY" not in run("-m", "eztinker", "env", environment=named).stdout


def test_a_server_elsewhere_behind_a_dead_proxy_is_unreachable_in_a_sentence():
    settings = {"EZTINKER_BASE_URL": "http://eztinker.invalid:8000", "EZTINKER_API_KEY": "tml-x", "HTTP_PROXY": DEAD}
    done = run("-m", "eztinker", "runs", environment=settings)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "http://eztinker.invalid:8000" in done.stderr


def test_modules_of_the_folder_it_is_started_in_do_not_take_the_place_of_libraries(
    tmp_path: Path, tiny_model_dir: Path
):
    for name in ("random", "torch", "numpy", "tempfile", "eztinker"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    flags = ["--base-model", f"tiny/llama={tiny_model_dir}", "--data-dir", str(tmp_path / "data")]
    flags += ["--dataset", "arithmetic", "--no-filter", "--lora-rank", "1"]
    flags += ["--output-dir", str(tmp_path / "run"), "--max-samples", "2", "--eval-size", "2", "--rounds", "1"]
    done = run("-m", "eztinker", "demo", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "current folder" not in done.stdout + done.stderr + (tmp_path / "data" / "server.log").read_text()


@pytest.mark.parametrize("command", [["server", "--help"], ["models", "--help"], ["settings"]], ids=" ".join)
@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=str)
def test_help_is_text_in_every_encoding(command: list[str], settings: dict[str, str]):
    done = run("-m", "eztinker", *command, environment={"PYTHONCOERCECLOCALE": "0"} | settings)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_traceback():
    command = f"exec 2>&1; {sys.executable} -P -m eztinker settings --markdown | head -1; sleep 0.1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception" not in done.stdout + done.stderr


@pytest.mark.parametrize("how", ["by folder", "by name"])
def test_a_model_folder_whose_name_is_not_utf8_is_refused_at_the_start(tmp_path: Path, tiny_model_dir: Path, how: str):
    folder = os.fsencode(tmp_path) + b"/mod\xe9"
    os.symlink(tiny_model_dir, folder)
    spec = folder if how == "by folder" else b"mod\xe9=" + os.fsencode(tiny_model_dir)
    command = [sys.executable, "-P", "-m", "eztinker", "server", "--port", "0", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run([*command, "--base-model", spec], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert r"mod\xe9" in done.stderr
    assert "rename it" in done.stderr
