"""One key floods a real server, another asks for a little: the little is done long before the flood is. Counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from eztinker.protocol import wire_pb2
from tests.route_cases import tenant
from tests.servers import RunningServer, Serve, wait_until
from tests.tiny_models import make_tiny_model
from tests.wire import new_run, new_sampler, optim_step, outcome, post, sample_body, send_chunk

BATCH_SIZE = 16
NUM_RUNS, NUM_PASSES = 8, 4
NUM_STEPS = 12
NUM_FLOODING = 60
"""Requests of a flood of samples: a dozen seconds of work, while the engine reports once a second."""
NEVER_DRAWN = 263
"""A token that the tokenizer does not have. As the end of text it lets every sample come to its full length."""


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    model_dir = make_tiny_model(tmp_path_factory.mktemp("model"), "llama", eos_token_id=NEVER_DRAWN)
    return serve({"tiny": model_dir}, max_batch_size=BATCH_SIZE, poll_hold_seconds=1.0)


@pytest.fixture
def heavy(server: RunningServer) -> Iterator[httpx.Client]:
    with tenant(server, "heavy") as http:
        yield http


@pytest.fixture
def light(server: RunningServer) -> Iterator[httpx.Client]:
    with tenant(server, "light") as http:
        yield http


def ask_for_pass(http: httpx.Client, model_id: str, seq_id: int, num_tokens: int) -> str:
    message = wire_pb2.ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn="cross_entropy")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = bytes(4 * num_tokens)
    for name, dtype, raw in (
        ("target_tokens", wire_pb2.INT64, bytes(8 * num_tokens)),
        ("weights", wire_pb2.FLOAT32, bytes(4 * num_tokens)),
    ):
        datum.loss_fn_inputs[name].CopyFrom(wire_pb2.Tensor(dense=raw, dtype=dtype, shape=[num_tokens]))
    return send_chunk(http, message.SerializeToString())


def ask_for_samples(http: httpx.Client, *, num_requests: int, num_samples: int, num_tokens: int) -> list[str]:
    sampler = new_sampler(http)
    fields: dict[str, Any] = {"num_samples": num_samples, "sampling_params": {"max_tokens": num_tokens, "seed": 1}}
    bodies = [sample_body(sampler, number, **fields) for number in range(num_requests)]
    return [post(http, "/asample", **body)["request_id"] for body in bodies]


def ask_for_steps(http: httpx.Client) -> list[str]:
    model_id = new_run(http)
    futures = []
    for number in range(NUM_STEPS):
        futures.append(ask_for_pass(http, model_id, 2 * number + 1, 16))
        futures.append(optim_step(http, model_id, 2 * number + 2, learning_rate=1e-3))
    return futures


def cancel(http: httpx.Client, futures: list[str]) -> None:
    for future in futures:
        post(http, "/cancel_future", request_id=future)


def num_left(server: RunningServer, owner: str) -> int:
    return sum(operation.owner == owner for operation in server.app.state.service.futures._live)


def finish(http: httpx.Client, futures: list[str]) -> None:
    for future in futures:
        answer = outcome(http, future)
        assert answer.status_code == 200
        assert b"error" not in answer.content[:20]


def test_a_dozen_steps_are_done_while_the_flood_has_done_a_few_passes(
    server: RunningServer, heavy: httpx.Client, light: httpx.Client
):
    runs = [new_run(heavy) for _ in range(NUM_RUNS)]
    flood = [ask_for_pass(heavy, run, number, 900) for number in range(1, NUM_PASSES + 1) for run in runs]
    before = num_left(server, "heavy")
    finish(light, ask_for_steps(light))
    num_passes = before - num_left(server, "heavy")
    assert before > NUM_RUNS * NUM_PASSES / 2, "the flood was over before it began to count"
    assert num_passes <= NUM_STEPS, f"{num_passes} long passes went before {NUM_STEPS} short ones"
    finish(heavy, flood)


def test_a_few_samples_are_done_while_the_flood_that_filled_the_batch_goes_on(
    server: RunningServer, heavy: httpx.Client, light: httpx.Client
):
    flood = ask_for_samples(heavy, num_requests=NUM_FLOODING, num_samples=8, num_tokens=1500)
    wait_until(lambda: server.app.state.service.engine.status.running_samples == BATCH_SIZE)
    finish(light, ask_for_samples(light, num_requests=3, num_samples=1, num_tokens=16))
    assert num_left(server, "heavy") >= NUM_FLOODING / 2
    cancel(heavy, flood)


def test_a_key_that_shares_the_engine_is_told_so(server: RunningServer, heavy: httpx.Client, light: httpx.Client):
    flood = ask_for_samples(heavy, num_requests=NUM_FLOODING, num_samples=8, num_tokens=1500)
    answers: list[dict[str, Any]] = []

    def is_told(state: str) -> bool:
        answers.append(heavy.post("/retrieve_future", json={"request_id": flood[-1]}).json())
        return answers[-1].get("queue_state") == state

    wait_until(lambda: is_told("active"))  # as soon as the engine has forgotten the test before
    other = ask_for_samples(light, num_requests=NUM_FLOODING, num_samples=8, num_tokens=1500)
    wait_until(lambda: is_told("paused_rate_limit"))
    reason = answers[-1]["queue_state_reason"]
    assert reason == answers[-1]["detail"]
    assert "2 keys share it equally" in reason
    cancel(heavy, flood)
    cancel(light, other)
