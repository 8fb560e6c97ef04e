"""What was used and what is stored, as a bill that comes to nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from eztinker.api.routes.billing import _info
from eztinker.service.accounts.usage import Usage, UsageKind
from tests.wire import PROTOBUF, chunk, new_run, outcome, save, send_chunk

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
WINDOW = {
    "starting_on": (NOW - timedelta(hours=1)).isoformat(),
    "ending_before": (NOW + timedelta(hours=2)).isoformat(),
}


def events_of(http: httpx.Client, run: str, **window: str) -> list[dict[str, Any]]:
    found = http.get("/billing/usage/events", params=WINDOW | window).json()["data"]
    return [event for event in found if event["training_run_id"] == run]


def test_a_pass_is_charged_to_its_run_and_costs_nothing(http: httpx.Client):
    run = new_run(http)
    outcome(http, send_chunk(http, chunk(run, 1)), accept=PROTOBUF)
    (event,) = events_of(http, run)
    assert event["event_info"] == {"type": "training", "token_count": 1}
    assert event["session_id"] == run.partition(":")[0]
    assert (event["base_model"], event["user_id"], event["estimated_cost_usd"]) == ("tiny", "local", 0.0)
    start, end = (datetime.fromisoformat(event[f"bucket_{edge}"]) for edge in ("start", "end"))
    assert (end - start, start.minute) == (timedelta(hours=1), 0)
    earlier = {"starting_on": (NOW - timedelta(hours=2)).isoformat(), "ending_before": WINDOW["starting_on"]}
    assert events_of(http, run, **earlier) == []


def test_named_checkpoints_are_stored_in_the_project_of_their_session(http: httpx.Client):
    run = new_run(http)
    http.put(f"/sessions/{run.partition(':')[0]}/project", json={"project_id": "mine"})
    save(http, "/save_weights", run, 1, path="a")
    (stored,) = http.get("/billing/usage/checkpoints/current", params={"project_id": "mine"}).json()["data"]
    assert (stored["project_id"], stored["checkpoint_count"]) == ("mine", 1)
    assert stored["size_bytes"] == len(b"{}")
    assert stored["size_gigabytes"] == 2e-9
    assert http.get("/billing/usage/checkpoints/current", params={"project_id": "none"}).json()["data"] == []


@pytest.mark.parametrize(
    ("kind", "info"),
    [
        (UsageKind.TRAINING, {"type": "training", "token_count": 7}),
        (UsageKind.PREFILL, {"type": "sampling_prefill", "cached": False, "token_count": 7}),
        (UsageKind.CACHED_PREFILL, {"type": "sampling_prefill", "cached": True, "token_count": 7}),
        (UsageKind.SAMPLING, {"type": "sampling_sample", "token_count": 7}),
        (UsageKind.CHECKPOINT, {"type": "checkpoint", "count": 7}),
    ],
)
def test_each_kind_of_use_has_the_form_that_clients_read(kind: UsageKind, info: dict[str, Any]):
    used = Usage(owner="ann", hour=NOW, session_id="s", model_id=None, base_model="tiny", kind=kind, amount=7)
    assert _info(used) == info
