"""Fair shares: the rate that an owner keeps while another floods the server, and how evenly eight owners are served.

The owners use plain HTTP, each with a key of its own, on a real server with a tiny model. The light owner works alone
and beside the flood in turns, and only ratios within the run are compared. A flood keeps eight runs busy with passes of
900 tokens, or eight requests for 8 samples of 200 tokens waiting.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measurement import Measurement
from eztinker.cli.child_server import child_server
from eztinker.keys.issued_keys import issue_key
from tests.tiny_models import make_tiny_model

BLOCK_SECONDS = 6.0
"""Length of one measurement of a rate."""
NUM_LIGHT_TOKENS = 16
NUM_FLOOD_TOKENS = 900
NUM_FLOODS = 8
"""Concurrent requests of a flooding owner."""
WANTED_RATIO = 0.4
NUM_EQUAL_OWNERS = 8
NUM_EQUAL_TOKENS = 256
"""Enough for the engine, which is what is shared, to take most of a wait; HTTP and the log take the rest."""
WANTED_WAIT = 3.0
"""Longest wait to aim for, as a multiple of the wait at exactly equal shares."""

Work = Callable[[], None]
"""Function that does one unit of an owner's work, from its first request to its last result."""


def measure(num_rounds: int) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch) / "data"
        model_dir = make_tiny_model(Path(scratch) / "model", "llama")
        os.environ["EZTINKER_API_KEY"] = "tml-benchmark"
        flags = ["--base-model", f"tiny={model_dir}", "--dtype", "float32", "--threads", "1"]
        with child_server(data_dir, flags) as server:

            def owner(name: str) -> Owner:
                return Owner(server.url, issue_key(data_dir, name, datetime.now(UTC)).key)

            light, heavy = owner("light"), owner("heavy")
            lights = {"training": light.train(NUM_LIGHT_TOKENS), "sampling": light.sample(1, 32)}
            floods = {
                "training": [heavy.train(NUM_FLOOD_TOKENS) for _ in range(NUM_FLOODS)],
                "sampling": [heavy.sample(8, 200) for _ in range(NUM_FLOODS)],
            }
            for (light_kind, work), (flood_kind, flood) in itertools.product(lights.items(), floods.items()):
                yield _light_beside_flood(f"{light_kind} beside {flood_kind}", work, flood, num_rounds)
            equal = [owner(f"equal-{number}").train(NUM_EQUAL_TOKENS) for number in range(NUM_EQUAL_OWNERS)]
            yield _longest_wait(equal, num_rounds)


class Owner:
    """The session of one key, and units of work for it."""

    def __init__(self, url: str, key: str) -> None:
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.Client(base_url=f"{url}/api/v1", headers={"x-api-key": key}, timeout=60, limits=limits)
        body = {"tags": [], "user_metadata": {}, "sdk_version": "0", "type": "create_session"}
        self._session_id = self._post("/create_session", body)["session_id"]
        self._numbers = itertools.count()

    def train(self, num_tokens: int) -> Work:
        """Create a run; its unit of work is a forward_backward over one sequence and a step, submitted together."""
        body = {"session_id": self._session_id, "model_seq_id": next(self._numbers), "base_model": "tiny"}
        model_id = self._result(self._post("/create_model", body | {"lora_config": {"rank": 8}}))["model_id"]
        tokens = [number % 256 for number in range(num_tokens)]
        integers = {"data": tokens, "dtype": "int64", "shape": [num_tokens]}
        weights = {"data": [1.0] * num_tokens, "dtype": "float32", "shape": [num_tokens]}
        datum = {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens}]},
            "loss_fn_inputs": {"target_tokens": integers, "weights": weights},
        }
        batch = {"data": [datum], "loss_fn": "cross_entropy"}
        seq_ids = itertools.count(1)

        def work() -> None:
            run = {"model_id": model_id}
            loss = self._post("/forward_backward", run | {"seq_id": next(seq_ids), "forward_backward_input": batch})
            step = self._post("/optim_step", run | {"seq_id": next(seq_ids), "adam_params": {"learning_rate": 1e-4}})
            self._result(step)
            self._result(loss)

        return work

    def sample(self, num_samples: int, num_tokens: int) -> Work:
        """Create a sampling session; its unit of work is one request."""
        body = {
            "session_id": self._session_id,
            "sampling_session_seq_id": next(self._numbers),
            "base_model": "tiny",
        }
        sampler = self._post("/create_sampling_session", body)["sampling_session_id"]
        seq_ids = itertools.count()

        def work() -> None:
            request = {
                "sampling_session_id": sampler,
                "seq_id": next(seq_ids),
                "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(range(16))}]},
                "num_samples": num_samples,
                "sampling_params": {"max_tokens": num_tokens, "temperature": 1.0, "seed": 1},
            }
            self._result(self._post("/asample", request))

        return work

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        response = self._http.post(path, json=body)
        response.raise_for_status()
        return response.json()

    def _result(self, future: dict[str, Any]) -> Any:
        while (response := self._http.post("/retrieve_future", json={"request_id": future["request_id"]})).is_error:
            if response.status_code != httpx.codes.REQUEST_TIMEOUT:
                response.raise_for_status()
        result = response.json()
        if "error" in result:
            raise RuntimeError(result["error"])
        return result


def _light_beside_flood(setting: str, work: Work, flood: Sequence[Work], num_rounds: int) -> Measurement:
    """The light owner's rate beside the flood, compared with its rate alone."""
    work()
    alone, beside = [], []
    for _ in range(num_rounds):
        alone.append(_rate(work))
        with _kept_busy(flood):
            work()
            beside.append(_rate(work))
    return Measurement(
        work="fair share",
        setting=setting,
        unit="1/min",
        ours=60 * statistics.median(beside),
        peer=60 * statistics.median(alone),
        wanted_ratio=WANTED_RATIO,
    )


def _longest_wait(works: Sequence[Work], num_rounds: int) -> Measurement:
    """The longest wait of any of several equal owners for one unit, compared with the wait at equal shares.

    The median over rounds is taken, because a pause of the machine lengthens whatever wait it falls into.
    """
    for work in works:
        work()
    longest, parts = [], []
    for _ in range(num_rounds):
        waits: list[float] = []
        with _kept_busy(works, waits):
            time.sleep(BLOCK_SECONDS)
        longest.append(max(waits))
        parts.append(len(works) * BLOCK_SECONDS / len(waits))
    return Measurement(
        work="longest wait",
        setting=f"{len(works)} equal owners",
        unit="ms",
        ours=1e3 * statistics.median(longest),
        peer=1e3 * statistics.median(parts),
        wanted_ratio=WANTED_WAIT,
        less_is_better=True,
    )


def _rate(work: Work) -> float:
    """Units of work per second, one after another."""
    start = time.perf_counter()
    for num_done in itertools.count(1):
        work()
        seconds = time.perf_counter() - start
        if seconds > BLOCK_SECONDS:
            return num_done / seconds
    raise AssertionError


@contextmanager
def _kept_busy(works: Sequence[Work], waits: list[float] | None = None) -> Iterator[None]:
    """Repeat each work on a thread of its own during the block; `waits` receives the seconds of each unit."""
    is_over = threading.Event()

    def repeat(work: Work) -> None:
        while not is_over.is_set():
            start = time.perf_counter()
            work()
            if waits is not None:
                waits.append(time.perf_counter() - start)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
