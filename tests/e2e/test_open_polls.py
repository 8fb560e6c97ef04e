"""A server with very many polls held open still takes work and answers at once.

The polls speak raw HTTP, since one official client holds few connections; an official client trains meanwhile.
Set EZTINKER_FULL_SIZE=1 for 2,000 polls; `-s` prints how long a small request took.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import tinker
from tinker import types

from eztinker.protocol.wire_pb2 import ForwardBackwardOutput
from eztinker.settings.data_dir import RunningServer
from tests.servers import API_KEY, StartChild
from tests.wire import PROTOBUF, chunk, new_run, send_chunk

IS_FULL_SIZE = bool(os.environ.get("EZTINKER_FULL_SIZE"))
NUM_POLLS, HOLD_SECONDS = (2000, 30.0) if IS_FULL_SIZE else (500, 2.0)
FEW_FILES = 256
"""Less than the polls need; 1,024 is what most systems begin with."""
PAUSE_SECONDS = 0.02
"""Between small requests, of which there are as many as it takes for every poll to come back once."""


@pytest.fixture(scope="module")
def server(start_child: StartChild, tiny_model_dir: Path) -> Iterator[RunningServer]:
    """A process of its own, so that server and clients do not share an interpreter."""
    flags = ["--dtype", "float32", "--threads", "1", "--poll-hold-seconds", str(HOLD_SECONDS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EZTINKER_API_KEY", API_KEY)
        with open_files(FEW_FILES):
            running = start_child({"tiny": tiny_model_dir}, *flags)
        with open_files(2 * NUM_POLLS):
            yield running


@contextmanager
def open_files(limit: int) -> Iterator[None]:
    """In the block this process, and what it starts, may have `limit` files open, or ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def poll(server: RunningServer, request_id: str) -> tuple[int, bytes]:
    """Ask for a result, and again whenever it is not there yet, as the official client does; status and body."""
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    body = json.dumps({"request_id": request_id}).encode()
    head = (
        f"POST /api/v1/retrieve_future HTTP/1.1\r\nhost: {url.netloc}\r\nx-api-key: {API_KEY}\r\naccept: {PROTOBUF}\r\n"
    )
    request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    try:
        while True:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            answer = await reader.readexactly(int(re.findall(r"(?i)content-length: (\d+)", head)[0]))
            if (status := int(head.split()[1])) != 408:
                return status, answer
    finally:
        writer.close()


def train(server: RunningServer, num_steps: int) -> list[float]:
    """Steps of an official client on a run of its own; the loss before each."""
    datum = types.Datum(
        model_input=types.ModelInput.from_ints([10, 11, 12]),
        loss_fn_inputs={"target_tokens": [11, 12, 13], "weights": [1.0] * 3},  # pyright: ignore
    )
    losses = []
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
        trainer = service.create_lora_training_client(base_model="tiny", rank=4).result()
        for _ in range(num_steps):
            loss = trainer.forward_backward([datum], "cross_entropy")
            trainer.optim_step(types.AdamParams(learning_rate=1e-2)).result()
            losses.append(loss.result().metrics["loss:sum"])
    return losses


def ask_often(http: httpx.Client, path: str) -> list[float]:
    """Seconds that each of many small requests took, until every poll has come back at least once."""
    seconds = []
    for _ in range(round(HOLD_SECONDS / PAUSE_SECONDS)):
        answer = http.get(path)
        assert answer.status_code == 200
        seconds.append(answer.elapsed.total_seconds())
        time.sleep(PAUSE_SECONDS)
    return seconds


@pytest.mark.conforms(13)
def test_thousands_of_open_polls_hold_nobody_up(server: RunningServer):
    seconds = asyncio.run(work_beside_polls(server))
    percentiles = statistics.quantiles(seconds, n=100)
    print(
        f"\n{NUM_POLLS} polls open: {len(seconds)} small requests took {1e3 * percentiles[49]:.1f} ms at the median, "
        f"{1e3 * percentiles[98]:.1f} ms at the 99th percentile, {1e3 * max(seconds):.1f} ms at most"
    )


async def work_beside_polls(server: RunningServer) -> list[float]:
    """Hold polls, train and ask beside them, then let their results come; seconds that small requests took."""
    headers = {"x-api-key": API_KEY}
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=headers, timeout=60) as http:
        model_id = new_run(http)
        with ThreadPoolExecutor(8) as pool:  # all wait for number 1, which comes last
            numbers = range(2, NUM_POLLS + 2)
            futures = list(pool.map(lambda number: send_chunk(http, chunk(model_id, number)), numbers))
        polls = [asyncio.create_task(poll(server, future)) for future in futures]
        losses = await asyncio.to_thread(train, server, 5)
        assert losses[-1] < losses[0]
        seconds = await asyncio.to_thread(ask_often, http, f"/training_runs/{model_id}")
        assert not any(each.done() for each in polls)
        send_chunk(http, chunk(model_id, 1))
        answers = await asyncio.gather(*polls)
    assert {status for status, _ in answers} == {200}
    assert len({ForwardBackwardOutput.FromString(body).metrics["loss:sum"] for _, body in answers}) == 1
    return seconds
