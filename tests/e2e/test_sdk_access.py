"""Keys, tokens, sessions and a published path, as the unmodified official SDK meets them."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import tinker
from tinker import types

from eztinker.keys.issued_keys import NewKey, issue_key, revoke_key
from tests.servers import API_KEY, RunningServer, Serve, serving_scripted
from tests.wire import new_session

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def server(serve: Serve, tiny_model: Callable[..., Path]) -> RunningServer:
    return serve({"tiny": tiny_model("qwen2")}, root_path="/published/here")


@pytest.fixture(scope="module")
def hasty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Gives a session up after three seconds of silence; the SDK's heartbeats come every ten."""
    with serving_scripted(tmp_path_factory.mktemp("data"), session_timeout_seconds=3.0) as running:
        yield running


@pytest.fixture
def ann(server: RunningServer) -> NewKey:
    return issue_key(server.app.state.service.config.data_dir, "ann", NOW)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TINKER_API_KEY", raising=False)


def train(service: tinker.ServiceClient) -> tinker.TrainingClient:
    trainer = service.create_lora_training_client(base_model="tiny", rank=2).result()
    data = [
        types.Datum(
            model_input=types.ModelInput.from_ints([10, 11]),
            loss_fn_inputs={"target_tokens": [11, 12], "weights": [1.0, 1.0]},  # pyright: ignore
        )
    ]
    pending = trainer.forward_backward(data, "cross_entropy")
    trainer.optim_step(types.AdamParams()).result()
    pending.result()
    return trainer


@pytest.mark.conforms(1)
@pytest.mark.parametrize("prefix", ["", "/published/here", "/published/here/"])
def test_all_of_a_program_runs_below_a_path_and_without_it(server: RunningServer, prefix: str):
    url = server.url + prefix
    with tinker.ServiceClient(base_url=url, api_key=API_KEY) as service:
        trainer = train(service)
        sampler = trainer.save_weights_and_get_sampling_client().result()
        params = types.SamplingParams(max_tokens=2)
        assert sampler.sample(types.ModelInput.from_ints([10]), num_samples=1, sampling_params=params).result()
        path = trainer.save_weights_external("export").result().path
        rest = tinker.RestClient(base_url=url, api_key=API_KEY)
        links = rest.get_external_weights_urls(path).result().urls
        assert all(link.startswith(f"{server.url}/published/here/api/v1/exports/") for link in links.values())
        assert httpx.get(links["adapter_config.json"]).json()["r"] == 2
        rest.delete_checkpoint_from_tinker_path(path).result()


@pytest.mark.conforms(16)
def test_a_client_knows_whose_key_it_has(server: RunningServer, ann: NewKey):
    me = tinker.RestClient(base_url=server.url, api_key=ann.key).whoami().result()
    assert (me.user_urn, me.org_urn, me.email) == ("tml:user:ann", "tml:organization:eztinker", None)


@pytest.mark.conforms(16)
def test_a_token_that_is_no_longer_valid_is_exchanged_once_and_the_request_repeated(
    server: RunningServer, ann: NewKey, monkeypatch: pytest.MonkeyPatch
):
    rest = tinker.RestClient(base_url=server.url, api_key=ann.key)
    assert rest.list_sessions().result().sessions == []
    tokens = server.app.state.service.tokens
    issued = []
    monkeypatch.setattr(
        tokens, "issue", lambda holder, issue=tokens.issue: issued.append(holder.owner) or issue(holder)
    )
    monkeypatch.setattr(tokens, "_secret", b"another secret")
    tokens._verified.clear()  # as after a restart
    assert rest.list_sessions().result().sessions == []
    assert rest.list_training_runs().result().training_runs == []
    assert issued == ["ann"]


def test_a_revoked_key_is_refused_at_once_in_a_running_program(server: RunningServer, ann: NewKey):
    rest = tinker.RestClient(base_url=server.url, api_key=ann.key)
    rest.list_sessions().result()
    revoke_key(server.app.state.service.config.data_dir, ann.issued.key_id, NOW)
    with pytest.raises(tinker.AuthenticationError, match="must carry a key of this server"):
        rest.list_sessions().result()


@pytest.mark.conforms(95)
def test_the_command_line_of_the_sdk_takes_and_gives_up_a_key(server: RunningServer, ann: NewKey):
    from tinker.cli.auth_api import TinkerAuthApi

    with httpx.Client() as http:
        api = TinkerAuthApi(http, base_url=server.url)
        found = api.get_self_api_key(ann.key)
        assert (found.key_id, found.details.user_details.email) == (ann.issued.key_id, "ann")
        api.delete_self_api_key(ann.key)
        assert httpx.get(f"{server.url}/api/v1/sessions", headers={"x-api-key": ann.key}).status_code == 401
        assert http.delete(f"{server.url}/api/v1/auth/apikey/me", headers={"x-api-key": API_KEY}).status_code == 403


def test_one_owner_does_not_find_the_run_of_another(server: RunningServer, ann: NewKey):
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
        trainer = train(service)
        path = trainer.save_state("mine").result().path
        stranger = tinker.RestClient(base_url=server.url, api_key=ann.key)
        with pytest.raises(tinker.NotFoundError):
            stranger.get_training_run(trainer.model_id).result()
        with (
            tinker.ServiceClient(base_url=server.url, api_key=ann.key) as other,
            pytest.raises(tinker.RequestFailedError, match="No checkpoint at"),
        ):
            other.create_training_client_from_state(path).result()


@pytest.mark.conforms(19, 20)
def test_a_silent_session_expires_and_its_run_is_unloaded(hasty_server: RunningServer):
    service = tinker.ServiceClient(base_url=hasty_server.url, api_key=API_KEY)
    trainer = service.create_lora_training_client(base_model="tiny", rank=2).result()
    session_id = trainer.model_id.partition(":")[0]
    log = hasty_server.app.state.service.config.data_dir / "oplog.sqlite3"

    def status() -> str:
        with contextlib.closing(sqlite3.connect(log)) as db:
            return db.execute("select status from models where model_id = ?", [trainer.model_id]).fetchone()[0]

    wait_for(lambda: status() == "unloaded")
    with pytest.raises(tinker.APIStatusError, match=r"410.* is expired; create a new ServiceClient"):
        trainer.optim_step(types.AdamParams()).result()
    with hasty_server.client() as http:
        assert http.post("/session_heartbeat", json={"session_id": session_id}).status_code == 410
    service.close("success")


@pytest.mark.conforms(22)
def test_a_session_lives_as_long_as_one_of_its_processes(hasty_server: RunningServer):
    with hasty_server.client() as http:
        session_id = new_session(http)
        beat = (
            "import sys, time, httpx\n"
            "for _ in range(10):\n"
            "    httpx.post(sys.argv[1], json={'session_id': sys.argv[2]}, headers={'x-api-key': sys.argv[3]})\n"
            "    time.sleep(0.5)\n"
        )
        url = f"{hasty_server.url}/api/v1/session_heartbeat"
        subprocess.run([sys.executable, "-c", beat, url, session_id, API_KEY], check=True)
        assert http.post("/session_heartbeat", json={"session_id": session_id}).status_code == 200


@pytest.mark.conforms(19, 21)
def test_a_finished_session_takes_no_more_work_and_keeps_its_first_reason(server: RunningServer):
    service = tinker.ServiceClient(base_url=server.url, api_key=API_KEY)
    trainer = train(service)
    session_id = trainer.model_id.partition(":")[0]
    service.close("errored", "the first reason")
    with server.client() as http:
        late = http.post(f"/sessions/{session_id}/finish", json={"reason": {"type": "success"}})
        assert late.status_code == 200
        assert http.post("/session_heartbeat", json={"session_id": session_id}).status_code == 410
        step = {"model_id": trainer.model_id, "seq_id": 9, "adam_params": {}}
        assert http.post("/optim_step", json=step).status_code == 410
        (found,) = http.post("/sessions/search", json={"session_id": session_id}).json()["sessions"]
        assert (found["status"]["reason"], found["status"]["detail"]) == ({"type": "errored"}, "the first reason")


@pytest.mark.conforms(8)
def test_a_long_listing_comes_packed_and_reads_the_same(server: RunningServer):
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
        trainer = train(service)
        for number in range(6):
            trainer.save_state(f"listed-{number}").result()
        rest = tinker.RestClient(base_url=server.url, api_key=API_KEY)
        found = rest.list_checkpoints(trainer.model_id).result().checkpoints
        assert len(found) == 6
        path = f"/training_runs/{trainer.model_id}/checkpoints"
        with server.client(**{"accept-encoding": "gzip"}) as http, server.client(**{"accept-encoding": "x"}) as plain:
            packed, unpacked = http.get(path), plain.get(path)
            audited = http.get("/audit")
        assert (packed.headers["content-encoding"], unpacked.headers.get("content-encoding")) == ("gzip", None)
        assert packed.json() == unpacked.json()
        assert audited.headers["content-encoding"] == "gzip"
        entries = tinker.AdminClient(base_url=server.url, api_key=API_KEY).get_audit_log().result().entries
        assert len(entries) >= 6  # over the other transport of the client


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
