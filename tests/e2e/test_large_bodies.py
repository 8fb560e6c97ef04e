"""Large bodies against a server in a process of its own: what its memory comes to, and how long others wait meanwhile.

Linux keeps the most memory that a process ever had (VmHWM) and can be told to begin anew. Set EZTINKER_FULL_SIZE=1 for
bodies of 120 MB and for the waits, which mean something on a quiet machine alone; `-s` prints what was measured.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from eztinker.cli.child_server import LOG_FILE
from eztinker.keys.issued_keys import issue_key
from eztinker.keys.server_key import read_api_key
from eztinker.protocol import wire_pb2
from eztinker.settings.data_dir import RunningServer
from tests.process_memory import forget_peak, memory_kb
from tests.servers import serving_in_child
from tests.wire import PROTOBUF

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

IS_FULL_SIZE = bool(os.environ.get("EZTINKER_FULL_SIZE"))
BUDGET_BYTES = 1 << 30 if IS_FULL_SIZE else 100 << 20
BODY_BYTES = 120_000_000 if IS_FULL_SIZE else 12_000_000
NUM_BODIES = 12
NUM_AT_ONCE = BUDGET_BYTES // 2 // (2 * BODY_BYTES)
MOST_GROWTH_KB = (NUM_AT_ONCE * BODY_BYTES + 5 * BODY_BYTES + (64 << 20)) >> 10
"""Bodies that are there at once, the one that is decoded several times over, and what else a server does."""
MOST_STAYING_KB = 50 << 10
MOST_SECONDS = 0.25
"""For a GET of another tenant, at the 99th percentile."""
MOST_TIMES_IDLE = 5
"""On a machine so busy that this is longer: by how much it waits more than while nothing is read."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[RunningServer]:
    data_dir = tmp_path_factory.mktemp("large_bodies") / "data"
    with serving_in_child(data_dir, {"tiny": tiny_model_dir}, "--max-body-bytes", str(BUDGET_BYTES)) as running:
        yield running
    assert (read_api_key(data_dir) or "tml-") not in (data_dir / LOG_FILE).read_text()  # it is in a file of its own


@pytest.fixture(scope="module")
def keys(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The server's own, and that of somebody else."""
    data_dir = next(tmp_path_factory.getbasetemp().glob("large_bodies*/data/api_key")).parent
    return read_api_key(data_dir) or "", issue_key(data_dir, "bob", datetime.now(UTC)).key


@pytest.fixture(scope="module")
def warm(server: RunningServer, keys: tuple[str, str]) -> None:
    """What comes with the first large body stays."""
    send(server, keys[0], text(1 << 20))


def send(
    server: RunningServer, key: str, body: bytes, path: str = "forward_backward", **headers: str
) -> httpx.Response:
    headers = {"x-api-key": key, "content-type": PROTOBUF} | headers
    return httpx.post(f"{server.url}/api/v1/{path}", content=body, headers=headers, timeout=600)


def text(num_bytes: int) -> bytes:
    message = wire_pb2.ForwardBackwardRequest(model_id="m", seq_id=1, loss_fn="cross_entropy")
    message.data.add().model_input.add().encoded_text.tokens = bytes(num_bytes)
    return message.SerializeToString()


def numbers(num_bytes: int) -> bytes:
    tokens = ",".join(["12345"] * min(num_bytes // 6, 2_000_000))
    datum = f'{{"model_input":{{"chunks":[{{"tokens":[{tokens}]}}]}},"loss_fn_inputs":{{}}}}'
    return f'{{"model_id":"m","seq_id":1,"forward_backward_input":{{"loss_fn":"x","data":[{datum}]}}}}'.encode()


def archive(num_bytes: int) -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [num_bytes // 4], "data_offsets": [0, num_bytes]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(num_bytes)
    files = {
        "adapter_config.json": b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1}',
        "adapter_model.safetensors": weights,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def wait_for_memory(pid: int, most_kb: int) -> int:
    deadline = time.monotonic() + 20
    while (memory := memory_kb(pid, "VmRSS")) > most_kb and time.monotonic() < deadline:
        time.sleep(0.1)
    return memory


@pytest.mark.timeout(600)
def test_many_large_bodies_at_once_take_room_for_a_few_and_leave_nothing(
    server: RunningServer, keys: tuple[str, str], warm: None
):
    body = text(BODY_BYTES - 100)
    before = forget_peak(server.pid)
    with ThreadPoolExecutor(NUM_BODIES + 1) as pool:
        asked = [pool.submit(send, server, keys[0], body) for _ in range(NUM_BODIES)]
        others = pool.submit(send, server, keys[1], body)
        statuses = [each.result().status_code for each in asked]
        assert others.result().status_code == 404  # read to its end: there is no such run
    grown = memory_kb(server.pid, "VmHWM") - before
    stays = wait_for_memory(server.pid, before + MOST_STAYING_KB) - before
    print(f"{statuses}, {grown >> 10} MB more at most, {stays >> 10} MB stay")
    assert set(statuses) == {404, 429}
    assert statuses.count(404) >= NUM_AT_ONCE
    assert grown < MOST_GROWTH_KB + (2 * BODY_BYTES >> 10)
    assert stays < MOST_STAYING_KB


CASES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "tokens": (lambda: text(BODY_BYTES - 100), "forward_backward", PROTOBUF),
    "empty data": (lambda: b"\x0a\x01m\x10\x01" + b"\x1a\x00" * 2_000_000, "forward_backward", PROTOBUF),
    "numbers in JSON": (lambda: numbers(BODY_BYTES), "forward_backward", "application/json"),
    "an adapter": (lambda: archive(BODY_BYTES), "import_adapter?base_model=tiny&name=n", "application/x-tar"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_others_are_answered_while_a_large_body_is_read(
    server: RunningServer, keys: tuple[str, str], warm: None, case: str
):
    make, path, media_type = CASES[case]
    body = make()
    idle = slowest_of_a_hundred(server, keys[1], lambda: time.sleep(2))
    before = forget_peak(server.pid)
    answers: list[httpx.Response] = []
    slow = slowest_of_a_hundred(
        server, keys[1], lambda: answers.append(send(server, keys[0], body, path, **{"content-type": media_type}))
    )
    assert answers[0].status_code in (404, 413, 422), answers[0].text
    stays = wait_for_memory(server.pid, before + MOST_STAYING_KB) - before
    print(f"{len(body):,} bytes: p99 {slow * 1000:.0f} ms, idle {idle * 1000:.0f} ms; {stays >> 10} MB stay")
    assert stays < MOST_STAYING_KB
    if IS_FULL_SIZE:
        assert slow < max(MOST_SECONDS, MOST_TIMES_IDLE * idle)


def slowest_of_a_hundred(server: RunningServer, key: str, meanwhile: Callable[[], object]) -> float:
    """Seconds that 99 in a hundred GETs take at most while `meanwhile` runs."""
    seconds: list[float] = []
    is_over = threading.Event()

    def look() -> None:
        with httpx.Client(base_url=f"{server.url}/api/v1", headers={"x-api-key": key}, timeout=60) as http:
            while not is_over.is_set():
                started = time.perf_counter()
                assert http.get("/sessions").status_code == 200
                seconds.append(time.perf_counter() - started)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        meanwhile()
        is_over.set()
        looking.result()
    return sorted(seconds)[int(len(seconds) * 0.99)]
