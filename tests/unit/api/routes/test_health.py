"""Whether the server can serve, and what it tells those without a key."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from eztinker.api.routes.health import readyz
from eztinker.protocol.frames import Ready


def answer(kernels: str | None) -> tuple[int, dict[str, Any]]:
    """Status and body for an engine that reports these kernels; None stands for one that is starting."""
    ready = None if kernels is None else Ready(pid=1, device="cpu", dtype="bfloat16", num_threads=1, kernels=kernels)
    response = asyncio.run(readyz(SimpleNamespace(engine=SimpleNamespace(ready=ready))))  # type: ignore[arg-type]
    return response.status_code, json.loads(bytes(response.body))


def test_a_starting_engine_is_not_ready():
    assert answer(None) == (503, {"status": "starting", "detail": "The engine is starting"})


@pytest.mark.parametrize(
    ("kernels", "told"),
    [
        ("AVX2", "AVX2"),
        ("AMX; for logits AVX512", "AMX; for logits AVX512"),
        ("none: AVX2: cc ended with 1: /home/somebody/kernels.h: error", "none"),
        ("", None),
    ],
)
def test_a_ready_engine_names_its_instructions_but_not_why_there_are_none(kernels: str, told: str | None):
    assert answer(kernels) == (200, {"status": "ready", "kernels": told})
