"""One core suite through several releases of the official SDK, each unmodified and fetched from the package index.

Only the SDK itself is another one; what it needs is this environment's. EZTINKER_SDKS names the releases, separated by
commas, `newest` among them; `nox -s sdks` runs all that are supported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import sdk_core_suite
from tests.servers import API_KEY, RunningServer

RELEASES = os.environ.get("EZTINKER_SDKS", "0.25.0,0.38.0").split(",")


@pytest.fixture(scope="module", params=RELEASES)
def report(request: pytest.FixtureRequest, server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the core suite prints under one release."""
    directory = tmp_path_factory.mktemp("sdk")
    _install("tinker" if request.param == "newest" else f"tinker=={request.param}", directory)
    done = subprocess.run(
        [sys.executable, sdk_core_suite.__file__, server.url, API_KEY, "tiny"],
        env=os.environ | {"PYTHONPATH": str(directory), "TINKER_TELEMETRY": "0"},
        cwd=directory,  # where no module of ours can be imported by accident
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert request.param in ("newest", report["version"])
    return report


@pytest.mark.parametrize("check", sdk_core_suite.CHECKS)
def test_the_sdk_passes(report: Any, check: str):
    assert report["verdicts"][check] is None, report["verdicts"][check]


def _install(requirement: str, directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(directory), requirement],
        env=os.environ | {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "20", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{requirement} cannot be had: {done.stderr.strip().splitlines()[-1]}")
