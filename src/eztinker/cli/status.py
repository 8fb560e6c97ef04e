from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eztinker.cli.output import JsonFlag, print_json, print_table, size
from eztinker.rest_client import rest_client
from eztinker.settings.client_settings import client_settings


def status(as_json: JsonFlag = False) -> None:
    """Show the server's engine, queue, speed and memory, and the numbers of runs and checkpoints.

    Rates are over the last minute.
    """
    with rest_client() as client:
        facts = {"address": client_settings().base_url, **client.status()}
    if as_json:
        print_json(facts)
    else:
        print_table(("server", ""), _rows(facts))


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, object]]:
    engine, activity, rates = facts["engine"], facts["activity"], facts["tokens_per_second"]
    yield "address", facts["address"]
    yield "version", facts["version"]
    yield "models", ", ".join(facts["models"])
    if engine["state"] == "ready":
        yield "engine", f"ready: {engine['device']}, {engine['dtype']}, {_threads(engine['num_threads'])}"
        yield "kernels", engine["kernels"] or None
    else:
        yield "engine", "starting: requests wait until it is ready"
    yield "activity", f"{activity['samples']} sampling, {activity['training']} training"
    yield "queue", f"{facts['queue']} waiting"
    yield "tokens/s", ", ".join(f"{rate:,.0f} {kind}" for kind, rate in rates.items())
    yield "memory", f"server {size(facts['memory_bytes']) or '-'}, engine {size(engine.get('memory_bytes')) or '-'}"
    yield "runs", facts["runs"]
    yield "checkpoints", facts["checkpoints"]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
