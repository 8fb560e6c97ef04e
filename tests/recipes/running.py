"""Running one unmodified recipe in a shadow hub, against a server, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eztinker.base_models.base_model import read_base_model
from eztinker.base_models.catalog import Catalog
from tests.recipes.configurations import Configuration
from tests.recipes.stand_ins import ANSWERER, MODEL, make_datasets, make_model, write_own_files
from tests.servers import API_KEY, RunningServer, serving

GRADIENT_NORM = "unclipped_grad_l2:mean"
"""What steps report of themselves."""
_TIMEOUT_SECONDS = 300
"""A recipe takes about twenty on an idle core."""


@dataclass(frozen=True, slots=True)
class Cookbook:
    """An environment with a cookbook in it."""

    python: Path
    version: str
    sdk_version: str


def cookbook_of(python: Path) -> Cookbook:
    code = "from importlib.metadata import version; print(version('tinker-cookbook'), version('tinker'))"
    told = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    return Cookbook(python.absolute(), *told.split())  # recipes run in a folder of their own


@dataclass(frozen=True, slots=True)
class Verdict:
    num_steps: int
    """Training steps that the recipe logged."""
    error: str | None
    """The last line it wrote, or what was missing, if it failed."""

    @property
    def is_green(self) -> bool:
        return self.error is None and self.num_steps > 0


@dataclass(frozen=True, slots=True)
class Hub:
    """A folder in which recipes find everything by name, and the server behind it."""

    directory: Path
    server: RunningServer


@contextmanager
def recipe_hub(root: Path) -> Iterator[Hub]:
    """A server with the stand-in model, and its shadow hub as our own command lays it out."""
    model = make_model(root / "model")
    names = (MODEL, ANSWERER)
    base_models = [f"--base-model={name}={model}" for name in names]
    datasets = [f"--dataset={name}={path}" for name, path in make_datasets(root / "datasets").items()]
    directory = root / "hub"
    with serving(root / "data", Catalog([read_base_model(name, model) for name in names])) as server:
        command = [sys.executable, "-m", "eztinker", "shadow-hub", str(directory)]
        subprocess.run(
            [*command, *base_models, *datasets], env=_environment(server), check=True, stdout=subprocess.DEVNULL
        )
        write_own_files(directory)
        yield Hub(directory, server)


def run_recipe(configuration: Configuration, hub: Hub, cookbook: Cookbook) -> Verdict:
    logs = hub.directory / "logs" / cookbook.version / configuration.name.replace(" ", "-").replace(":", "")
    log_path = () if configuration.module.endswith("rlhf_pipeline") else (f"log_path={logs}",)
    try:
        done = subprocess.run(
            [
                str(cookbook.python),
                "-m",
                f"tinker_cookbook.recipes.{configuration.module}",
                *configuration.arguments,
                *log_path,
            ],
            cwd=hub.directory,
            env=_environment(hub.server) | {"HF_HUB_OFFLINE": "1", "HOME": str(logs), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(0, f"not done after {_TIMEOUT_SECONDS} s")
    lines = [json.loads(line) for path in logs.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    num_steps = sum("step" in line for line in lines)
    if done.returncode != 0:
        return Verdict(num_steps, done.stderr.strip()[-2000:])
    if configuration.learns and not any(line.get(GRADIENT_NORM, 0) > 0 for line in lines):
        return Verdict(num_steps, "no step had a gradient")
    return Verdict(num_steps, None)


def _environment(server: RunningServer) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "EZTINKER_"))}
    return inherited | {
        "TINKER_BASE_URL": server.url,
        "TINKER_API_KEY": API_KEY,
        "TINKER_TELEMETRY": "0",
        "EZTINKER_BASE_URL": server.url,
        "EZTINKER_API_KEY": API_KEY,
    }
