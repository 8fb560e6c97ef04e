"""The training loops that the README and the tutorial show run as they stand, on a tiny model under the same name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker.cli.child_server import child_server
from eztinker.keys.server_key import read_api_key

ROOT = Path(__file__).parents[2]
END = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
"""The SDK's threads may abort an interpreter that ends slowly."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[dict[str, str]]:
    data_dir = tmp_path_factory.mktemp("loops") / "data"
    model = f"HuggingFaceTB/SmolLM2-135M-Instruct={tiny_model_dir}"
    with child_server(data_dir, ["--base-model", model]) as server:
        key = read_api_key(data_dir) or ""
        yield {**os.environ, "TINKER_BASE_URL": server.url, "TINKER_API_KEY": key}


def shown_program(page: str) -> str:
    """All Python of a page, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(("page", "num_losses"), [("README.md", 10), ("docs/tutorial.md", 7)])
def test_a_shown_loop_runs_and_its_loss_falls(page: str, num_losses: int, environment: dict[str, str], tmp_path: Path):
    program = shown_program(page) + END
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(number) for number in re.findall(r"(?:^|: )([0-9]+\.[0-9]+)(?: nats|$)", done.stdout, re.MULTILINE)]
    assert len(losses) == num_losses, done.stdout
    assert losses[-1] < 0.9 * losses[0]
