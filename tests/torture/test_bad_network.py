"""Lost answers, doubled and late requests: everything is done once, in order, and said in the same bytes every time.

The official client waits for seconds after a lost connection, so thousands of operations come from a client of raw
HTTP, which sends the same bodies and repeats at once; a short loop of the official client follows.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eztinker.model.cpu_kernels import cpu_kernels
from eztinker.protocol import wire_pb2
from tests.torture.bad_proxy import DELAYED, DROPPED, DUPLICATED, NOT_READY, BadProxy
from tests.torture.raw_http import Connections, Message, post_message
from tests.torture.scripted_server import scripted_server
from tests.torture.sizes import FULL, SEED
from tests.torture.victims import Client, Keeper
from tests.wire import PROTOBUF, chunk, sample_body

NUM_LANES = 40
NUM_OPERATIONS = 100_000 if FULL else 10_000
NUM_SAMPLES = 10
"""Of each lane, among its operations."""
MAX_CHUNKS = 3
SAVE_EVERY = 25
ASKED_FOR = 0.1
"""Share of the outcomes that the clients ask for; the log has the others, and each has the count of all before it."""


class RawClient:
    """Repeats a request until it has an answer, as the official client does, but without a pause."""

    def __init__(self, url: str) -> None:
        self._connections = Connections(url)
        self.num_lost = 0

    async def ask(self, request: Message) -> Message:
        while True:
            try:
                return await self._connections.exchange(request)
            except (ConnectionError, EOFError):
                self.num_lost += 1

    async def post(self, endpoint: str, **body: Any) -> dict[str, Any]:
        answer = await self.ask(post_message(endpoint, json.dumps(body).encode()))
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def outcome(self, request_id: str) -> bytes:
        while True:
            answer = await self.ask(post_message("/retrieve_future", json.dumps({"request_id": request_id}).encode()))
            if answer.status != NOT_READY:
                assert answer.status == 200, answer
                return answer.body

    def close(self) -> None:
        self._connections.close()


class Lane:
    """One client program: a session, a run, and a sampling client of its base model.

    What each operation must come to is counted here as the scripted engine counts: passes and steps, in order.
    """

    def __init__(self, http: RawClient, number: int, num_operations: int) -> None:
        self._http = http
        self._random = random.Random(f"{SEED}/{number}")
        self._name = f"lane-{number}"
        self._last_seq_id = num_operations - NUM_SAMPLES
        self.expected: dict[str, object] = {}
        """The outcome that each future must have."""
        self._num_counted = 0
        self.model_id = ""

    async def run(self) -> None:
        session = post_message(
            "/create_session", json.dumps({"sdk_version": self._name}).encode(), x_idempotency_key=self._name
        )
        session_id = json.loads((await self._http.ask(session)).body)["session_id"]
        new = {"session_id": session_id, "model_seq_id": 0, "base_model": "tiny", "lora_config": {"rank": 4}}
        future = await self._http.post("/create_model", **new)
        self.model_id = json.loads(await self._http.outcome(future["request_id"]))["model_id"]
        await asyncio.gather(self._train(), self._sample(session_id))
        assert len(self.expected) == self._last_seq_id + NUM_SAMPLES, "two operations got the same future"

    async def _train(self) -> None:
        """Submissions in turn, the chunks of a pass at once with the first one last; then what came of them."""
        seq_id = 1
        futures: list[str] = []
        while seq_id <= self._last_seq_id:
            if seq_id % SAVE_EVERY == 0:
                futures.append(await self._save(seq_id))
                seq_id += 1
            elif self._random.random() < 0.4:
                futures.append(await self._step(seq_id))
                seq_id += 1
            else:
                until = min(seq_id + self._random.randint(1, MAX_CHUNKS), self._last_seq_id + 1)
                futures += await self._pass(range(seq_id, until))
                seq_id = until
        for future in futures:
            if self._random.random() < ASKED_FOR:
                assert what_came(await self._http.outcome(future)) == self.expected[future]

    async def _pass(self, seq_ids: range) -> list[str]:
        later = await asyncio.gather(*(self._chunk(seq_id) for seq_id in seq_ids[1:]))
        futures = [await self._chunk(seq_ids[0]), *later]
        for future in futures:
            self._num_counted += 1
            self.expected[future] = float(self._num_counted)
        return futures

    async def _chunk(self, seq_id: int) -> str:
        body = chunk(self.model_id, seq_id, token=10 + seq_id % 200)
        answer = await self._http.ask(post_message("/forward_backward", body, PROTOBUF))
        assert answer.status == 200, answer
        return json.loads(answer.body)["request_id"]

    async def _step(self, seq_id: int) -> str:
        request = {"model_id": self.model_id, "seq_id": seq_id, "adam_params": {"learning_rate": 1e-4}}
        future = (await self._http.post("/optim_step", **request))["request_id"]
        self._num_counted += 1
        self.expected[future] = float(self._num_counted)
        return future

    async def _save(self, seq_id: int) -> str:
        request = {"model_id": self.model_id, "seq_id": seq_id, "path": f"at-{seq_id}"}
        future = (await self._http.post("/save_weights", **request))["request_id"]
        self.expected[future] = f"tinker://{self.model_id}/weights/at-{seq_id}"
        return future

    async def _sample(self, session_id: str) -> None:
        new = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": "tiny"}
        sampler_id = (await self._http.post("/create_sampling_session", **new))["sampling_session_id"]
        for seq_id in range(NUM_SAMPLES):
            token = self._random.randint(10, 250)
            future = await self._http.post("/asample", **sample_body(sampler_id, seq_id, token))
            self.expected[future["request_id"]] = [token + 1, token + 2]
            assert what_came(await self._http.outcome(future["request_id"])) == [token + 1, token + 2]


def what_came(body: bytes) -> object:
    """The count, the path or the tokens in an outcome."""
    if body.startswith(b"{"):
        answer = json.loads(body)
        return answer["path"] if "path" in answer else answer["metrics"]["step"]
    if b"loss:sum" in body:
        return wire_pb2.ForwardBackwardOutput.FromString(body).metrics["loss:sum"]
    return np.frombuffer(wire_pb2.SampleResponse.FromString(body).sequences[0].tokens, dtype="<i4").tolist()


@pytest.mark.timeout(0 if FULL else 900)
def test_thousands_of_operations_over_a_bad_network_are_each_done_once_and_told_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))

    async def scenario(url: str) -> tuple[BadProxy, list[Lane], int]:
        async with BadProxy(url, SEED).running() as proxy:
            http = RawClient(proxy.url)
            lanes = [Lane(http, number, NUM_OPERATIONS // NUM_LANES) for number in range(NUM_LANES)]
            # A time of our own: the alarm of pytest's could strike inside the loop, and be lost there.
            async with asyncio.timeout(None if FULL else 800), asyncio.TaskGroup() as running:
                for lane in lanes:
                    running.create_task(lane.run())
            http.close()
        return proxy, lanes, http.num_lost

    with scripted_server(tmp_path / "data") as url:
        proxy, lanes, num_lost = asyncio.run(scenario(url))

    print(f"\n{dict(proxy.treated)}; seed {SEED}")
    assert num_lost >= proxy.treated["dropped"] > DROPPED * NUM_OPERATIONS
    assert proxy.treated["duplicated"] > DUPLICATED * NUM_OPERATIONS
    assert proxy.treated["delayed"] > DELAYED * NUM_OPERATIONS
    unlike = {request: answers for request, answers in proxy.answers.items() if len(answers) != 1}
    assert not unlike
    with closing(sqlite3.connect(tmp_path / "data" / "oplog.sqlite3")) as db:
        came = dict(db.execute("SELECT op_id, result FROM operations WHERE kind != 'create_model' AND status = 'done'"))
        (num_saved,) = db.execute("SELECT count(*) FROM checkpoints").fetchone()
    expected = {future: outcome for lane in lanes for future, outcome in lane.expected.items()}
    assert len(expected) == NUM_OPERATIONS
    assert {future: what_came(result) for future, result in came.items()} == expected
    assert num_saved == sum(str(outcome).startswith("tinker://") for outcome in expected.values())


@pytest.mark.parametrize(("loop", "num_steps"), [("sft", 5), ("rl", 3)])
def test_the_official_client_ends_normally_over_a_bad_network_with_the_same_numbers(
    tmp_path: Path, tiny_model_dir: Path, loop: str, num_steps: int
):
    if loop == "rl" and cpu_kernels(torch.float32) is None:
        pytest.skip("with torch's operators rounding depends on the batch, which a repeated sample changes")

    async def over_a_bad_network(url: str) -> str:
        async with BadProxy(url, SEED).running() as proxy:
            outcome = await asyncio.to_thread(lambda: Client(loop, proxy.url, num_steps).outcome(240))
        assert proxy.treated["dropped"] > num_steps
        return outcome

    with Keeper(tmp_path / "data", tiny_model_dir, {}).running() as keeper:
        expected = json.loads(Client(loop, keeper.url, num_steps).outcome(120))
        found = json.loads(asyncio.run(over_a_bad_network(keeper.url)))
    assert found["losses"] == expected["losses"]
