"""`eztinker demo` with a tiny model: stopped by Ctrl-C in the middle, and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eztinker.rl.interrupts import interrupts_held
from eztinker.settings.client_settings import server_is_up
from eztinker.settings.data_dir import running_server
from tests.servers import serving_in_child


def demo(tiny_model_dir: Path, directory: Path, *flags: str) -> subprocess.Popen[str]:
    """The demo in a process group of its own, as a terminal would start it, with its output in a pipe."""
    command = [sys.executable, "-m", "eztinker", "demo", f"--base-model=tiny={tiny_model_dir}", "--dataset=arithmetic"]
    command += ["--max-samples=4", "--num-candidates=2", "--eval-size=4", "--no-filter", "--lora-rank=2", *flags]
    named = ("EZTINKER_BASE_URL", "EZTINKER_API_KEY", "TINKER_BASE_URL", "TINKER_API_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in named}
    environment |= {"EZTINKER_DATA_DIR": str(directory / "data"), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_keeps_the_finished_rounds_and_the_same_command_goes_on(tiny_model_dir: Path, tmp_path: Path):
    stopped = demo(tiny_model_dir, tmp_path, "--rounds=200")  # more than are done before the signal arrives
    assert stopped.stdout is not None
    said = ""
    for line in stopped.stdout:
        said += line
        if line.startswith("Round 2 of 200"):
            os.killpg(stopped.pid, signal.SIGINT)
            break
    said += stopped.communicate(timeout=300)[0]
    (directory,) = (tmp_path / "runs").iterdir()
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert stopped.returncode == 130, said
    assert said.count("\nStopped. Kept in runs/") == 1
    assert "Traceback" not in said
    first = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    num_done = len(first["rounds"])
    assert f": {num_done} finished round" in said
    assert f"Stopped after {num_done} of 200 rounds" in page
    assert 'http-equiv="refresh"' not in page
    assert running_server(tmp_path / "data") is None, "its server has ended in good order"

    again, _ = demo(tiny_model_dir, tmp_path, f"--rounds={num_done + 1}").communicate(timeout=600)
    assert f"Going on after round {num_done} of the run in" in again
    assert "--fresh starts over" in again
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    assert (summary["rounds"], summary["run_id"]) == (num_done + 1, first["run_id"])

    fresh, _ = demo(tiny_model_dir, tmp_path, "--rounds=1", "--fresh").communicate(timeout=600)
    assert "Going on" not in fresh
    assert json.loads((directory / "summary.json").read_text(encoding="utf-8"))["rounds"] == 1


def test_keep_server_does_not_wait_for_a_server_that_is_not_the_demos(tiny_model_dir: Path, tmp_path: Path):
    with serving_in_child(tmp_path / "data", {"tiny": tiny_model_dir}) as server:
        done = demo(tiny_model_dir, tmp_path, "--rounds=1", "--keep-server")
        try:
            said, _ = done.communicate(timeout=180)
        finally:
            done.kill()
        assert done.returncode == 0, said
        assert f"The server at {server.url} is not the demo's" in said
        assert "Ctrl-C stops it" not in said
        assert server_is_up(server.url)


def test_a_ctrl_c_that_is_held_comes_at_the_end():
    steps = []

    def press_and_go_on() -> None:
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("still here")
        steps.append("never here")

    with pytest.raises(KeyboardInterrupt):
        press_and_go_on()
    assert steps == ["still here"]
