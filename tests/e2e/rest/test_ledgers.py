"""The audit log and the usage ledger through the unmodified SDK."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import tinker
from tinker import types

from tests.e2e.rest.helpers import DATUM, PROMPT, audit
from tests.servers import RunningServer, key_of


@pytest.mark.filterwarnings("ignore:DEPRECATED. TrainingClient.load_state:FutureWarning")
def test_the_audit_log_tells_who_did_what(
    admin: tinker.AdminClient, rest: tinker.RestClient, other: tinker.RestClient, trainer: tinker.TrainingClient
):
    path = trainer.save_state("w", ttl_seconds=3600).result().path
    rest.publish_checkpoint_from_tinker_path(path).result()
    rest.publish_checkpoint_from_tinker_path(path).result()
    other.copy_weights(path, "p").result()
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    rest.unpublish_checkpoint_from_tinker_path(path).result()
    trainer.load_state(path).result()
    rest.delete_checkpoint_from_tinker_path(path).result()
    rest.assign_session_project(trainer.model_id.partition(":")[0], "q").result()
    today = datetime.now(UTC)
    entries = [entry for entry in audit(admin, today, "checkpoints") if entry.tinker_path == path]
    assert [(entry.event, entry.event_details["by"], entry.purpose) for entry in entries] == [
        ("checkpoint_create", "local", None),
        ("checkpoint_publish", "local", None),
        ("checkpoint_read", "other", "copy"),
        ("checkpoint_ttl_set", "local", None),
        ("checkpoint_unpublish", "local", None),
        ("checkpoint_read", "local", "load"),
        ("checkpoint_delete", "local", None),
    ]
    assert entries == sorted(entries, key=lambda entry: entry.timestamp)
    assert [entry.event for entry in audit(admin, today, "projects")][-1] == "project_session_assign"
    assert audit(admin, today, "teams") == []
    assert audit(admin, today - timedelta(days=1)) == []


def test_the_ledger_counts_what_ran_and_asks_nothing_for_it(
    server: RunningServer, admin: tinker.AdminClient, trainer: tinker.TrainingClient
):
    trainer.forward_backward([DATUM, DATUM], "cross_entropy").result()
    trainer.forward([DATUM], "cross_entropy").result()
    bad = types.Datum(model_input=types.ModelInput.from_ints([9999]), loss_fn_inputs=DATUM.loss_fn_inputs)
    with pytest.raises(tinker.RequestFailedError):  # what fails is not counted
        trainer.forward_backward([bad], "cross_entropy").result()
    sampler = trainer.save_weights_and_get_sampling_client().result()
    sampler.sample(PROMPT, 2, types.SamplingParams(max_tokens=4)).result()
    trainer.save_state("w").result()
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    window = (start - timedelta(hours=1), start + timedelta(hours=2))
    usage = admin.get_billing_usage(*window).result()
    session_id = trainer.model_id.partition(":")[0]
    events = [event for event in usage.data if event.session_id == session_id]
    assert {tuple(event.event_info.model_dump().values()) for event in events} == {
        ("training", 9),  # three datums of three tokens
        ("sampling_prefill", False, 3),  # the prompt is read once for both samples
        ("sampling_sample", 8),
        ("checkpoint", 1),
    }
    assert {event.base_model for event in events} == {"tiny"}
    assert {event.estimated_cost_usd for event in events} == {0.0}
    assert usage.sessions[session_id].user_metadata == {"purpose": "test"}
    query = {"starting_on": window[0].isoformat(), "ending_before": window[1].isoformat()}
    with server.client() as http:
        rows = http.get("/billing/usage/events", params=query).json()["data"]
    assert {row["training_run_id"] for row in rows if row["session_id"] == session_id} == {trainer.model_id}
    theirs = tinker.AdminClient(base_url=server.url, api_key=key_of(server, "nobody"))
    assert theirs.get_billing_usage(*window).result().data == []


@pytest.mark.parametrize(
    ("start", "end", "sentence"),
    [
        ("2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z", "starting_on must be a whole hour"),
        ("2026-01-01T00:00:00", "2026-01-01T01:00:00Z", "starting_on must be a whole hour with its time zone"),
        ("2026-01-01T00:00:00Z", "2026-01-16T00:00:00Z", "by at most 14 days"),
        ("2026-01-01T01:00:00Z", "2026-01-01T01:00:00Z", "must be after starting_on"),
        ("2999-01-01T00:00:00Z", "2999-01-01T01:00:00Z", "must not be in the future"),
    ],
)
def test_a_window_that_is_none_is_refused(admin: tinker.AdminClient, start: str, end: str, sentence: str):
    with pytest.raises(tinker.UnprocessableEntityError, match=sentence):
        admin.get_billing_usage(start, end).result()


def test_storage_is_what_the_listing_adds_up_to(
    admin: tinker.AdminClient, rest: tinker.RestClient, trainer: tinker.TrainingClient
):
    rest.assign_session_project(trainer.model_id.partition(":")[0], "stored").result()
    for name in ("a", "b"):
        trainer.save_state(name).result()
    (item,) = admin.get_current_checkpoint_storage_usage("stored").result().data
    sizes = [row.size_bytes or 0 for row in rest.list_checkpoints(trainer.model_id).result().checkpoints]
    assert (item.project_id, item.checkpoint_count, item.size_bytes) == ("stored", 2, sum(sizes))
    assert (item.size_gigabytes, item.estimated_monthly_cost_usd) == (sum(sizes) / 1e9, 0.0)
    rest.delete_checkpoint_from_tinker_path(f"tinker://{trainer.model_id}/weights/a").result()
    (item,) = admin.get_current_checkpoint_storage_usage("stored").result().data
    assert item.checkpoint_count == 1
    everything = admin.get_current_checkpoint_storage_usage().result().data
    total = rest.list_user_checkpoints(limit=0).result().cursor
    assert total is not None
    assert sum(item.checkpoint_count for item in everything) == total.total_count


@pytest.mark.conforms(93)
def test_telemetry_of_all_four_kinds_is_taken(server: RunningServer):
    common = {"event_id": "e", "event_session_index": 0, "severity": "INFO", "timestamp": "2026-01-01T00:00:00Z"}
    events = [
        common | {"event": "SESSION_START"},
        common | {"event": "SESSION_END", "duration": "PT1S"},
        common | {"event": "UNHANDLED_EXCEPTION", "error_type": "E", "error_message": "m", "traceback": "t"},
        common | {"event": "GENERIC_EVENT", "event_name": "n", "event_data": {"k": [1]}},
    ]
    batch = {"events": events, "platform": "p", "sdk_version": "v", "session_id": "sessionless-1", "process_uuid": "u"}
    with server.client() as http:
        assert http.post("/telemetry", json=batch).json() == {"status": "accepted"}
