"""Sessions in hindsight through the unmodified SDK: contents, projects, search and traces."""

from __future__ import annotations

import warnings
from typing import Any

import httpx
import pytest
import tinker
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto
from tinker import types
from tinker.lib.experimental import ExperimentalWarning

from tests.e2e.rest.helpers import DATUM, PROMPT, names
from tests.servers import API_KEY, RunningServer


def search(rest: tinker.RestClient, **filters: Any) -> types.SessionSearchResponse:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return rest.search_sessions(types.SessionSearchRequest(**filters)).result()


@pytest.mark.conforms(68)
def test_a_session_tells_what_hangs_on_it(rest: tinker.RestClient, trainer: tinker.TrainingClient):
    sampler = trainer.save_weights_and_get_sampling_client().result()
    session_id = trainer.model_id.partition(":")[0]
    session = rest.get_session(session_id).result()
    assert session.training_run_ids == [trainer.model_id]
    assert session.user_metadata == {"purpose": "test"}
    (sampler_id,) = session.sampler_ids
    assert rest.get_sampler(sampler_id).result().base_model == "tiny"
    assert names(rest, trainer) == []  # the snapshot behind the sampler is not listed
    assert sampler.get_base_model() == "tiny"


def test_a_session_moves_with_its_runs_into_a_project(rest: tinker.RestClient, trainer: tinker.TrainingClient):
    session_id = trainer.model_id.partition(":")[0]

    def runs_in(project_id: str) -> list[str]:
        found = rest.list_training_runs(limit=1000, project_id=project_id).result().training_runs
        return [run.training_run_id for run in found]

    assert trainer.model_id in runs_in("default")
    rest.assign_session_project(session_id, "papers").result()
    assert runs_in("papers") == [trainer.model_id]
    assert trainer.model_id not in runs_in("default")
    with pytest.raises(tinker.NotFoundError):
        rest.assign_session_project("nobody", "papers").result()


def test_sessions_are_found_by_every_filter(server: RunningServer, rest: tinker.RestClient, other: tinker.RestClient):
    def ended(name: str, status: str, **metadata: str) -> str:
        client = tinker.ServiceClient(metadata, name, base_url=server.url, api_key=API_KEY)
        session_id = client.create_lora_training_client(base_model="tiny").result().model_id.partition(":")[0]
        client.close(status, "so it was").result()  # pyright: ignore
        return session_id

    good, bad = ended("filters-a", "success", team="red", n="1"), ended("filters-b", "errored", team="blue", n="1")

    def found(**filters: object) -> list[str]:
        within = {"project_ids": ["filters-a", "filters-b"]} | filters
        return [row.session_id for row in search(rest, **within).sessions]

    assert found() == [bad, good]
    assert found(project_ids=["filters-a"]) == [good]
    assert found(user_metadata={"team": "blue"}) == [bad]
    assert found(user_metadata={"team": "blue", "n": "2"}) == []
    assert found(session_id=good) == [good]
    finished = {"type": "client_finished"}
    assert found(statuses=[finished]) == [bad, good]
    assert found(statuses=[finished | {"reasons": ["success"]}]) == [good]
    assert found(statuses=[{"type": "active"}]) == []
    assert found(statuses=[{"type": "cancelled"}, {"type": "failed"}]) == []
    assert found(owner={"type": "user", "owner_urns": ["local"]}) == [bad, good]
    assert found(owner={"type": "user", "owner_urns": ["other"]}) == []
    assert found(owner={"type": "accessible"}) == [bad, good]
    assert search(other).sessions == []
    first = search(rest, project_ids=["filters-a", "filters-b"], limit=1)
    assert first.next_cursor is not None
    second = search(rest, project_ids=["filters-a", "filters-b"], limit=1, cursor=first.next_cursor)
    assert ([row.session_id for row in second.sessions], second.next_cursor) == ([good], None)
    (summary,) = first.sessions
    assert (summary.owner, summary.project_id, summary.checkpoints_count) == ("local", "filters-b", 0)
    assert summary.status is not None
    assert summary.status.model_dump() == {
        "type": "client_finished",
        "reason": {"type": "errored"},
        "detail": "so it was",
    }


def test_a_session_is_found_by_the_words_of_its_name_or_by_its_id(server: RunningServer, rest: tinker.RestClient):
    with server.client() as http:
        ids = {
            name: http.post("/create_session", json={"display_name": name}).json()["session_id"]
            for name in ("GSM8K Über-run, third", "GSM8K first")
        }

    def found(**filters: str) -> list[str]:
        return [row.display_name or "" for row in search(rest, **filters).sessions]

    assert found(display_name="third gsm8k") == ["GSM8K Über-run, third"]
    assert found(display_name="ÜBER") == ["GSM8K Über-run, third"]
    assert found(display_name="third", session_id=ids["GSM8K first"]) == list(ids)[::-1]
    assert found(display_name="no such words") == []


def test_a_search_that_makes_no_sense_is_refused(server: RunningServer):
    with server.client() as http:
        for body in ({"limit": 0}, {"limit": 201}, {"statuses": []}, {"display_name": ""}, {"owner": {"type": "x"}}):
            response = http.post("/sessions/search", json=body)
            assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_input")


def test_the_trace_of_a_session_opens_in_perfetto(
    rest: tinker.RestClient, service: tinker.ServiceClient, trainer: tinker.TrainingClient
):
    for pending in [trainer.forward_backward([DATUM], "cross_entropy") for _ in range(3)]:
        pending.result()
    trainer.optim_step(types.AdamParams()).result()
    sampler = trainer.save_weights_and_get_sampling_client().result()
    sampler.sample(PROMPT, 1, types.SamplingParams(max_tokens=1)).result()
    session_id = trainer.model_id.partition(":")[0]
    url = rest.export_session_trace(session_id).result()
    trace = perfetto.Trace.FromString(httpx.get(url).content)
    tracks = {packet.track_descriptor.uuid: packet.track_descriptor for packet in trace.packet if has_track(packet)}
    open_slices: dict[int, str] = {}
    seen: list[tuple[str, str]] = []
    for packet in sorted((p for p in trace.packet if not has_track(p)), key=lambda p: p.timestamp):
        event = packet.track_event
        if event.type == perfetto.TrackEvent.TYPE_SLICE_BEGIN:
            assert event.track_uuid not in open_slices, "slices of one track overlap"
            open_slices[event.track_uuid] = event.name
            seen.append((tracks[event.track_uuid].name, event.name))
        else:
            del open_slices[event.track_uuid]
    assert open_slices == {}
    kinds = ["create_model", *["forward_backward"] * 3, "optim_step", "save_weights_for_sampler"]
    assert [name for track, name in seen if track == "train:0"] == kinds
    assert [name for track, name in seen if track.startswith("sample:")] == ["sample"]
    (root,) = (track for track in tracks.values() if not track.parent_uuid)
    assert root.name == f"session {session_id}"
    assert httpx.get(url.replace("signature=", "signature=0")).status_code == 404
    with pytest.raises(tinker.NotFoundError):
        rest.export_session_trace("nobody").result()


def has_track(packet: perfetto.TracePacket) -> bool:
    return packet.HasField("track_descriptor")
