"""Overhead of the server on a training step: both calls through the official SDK, on a tiny model.

Every call is durable before it is acknowledged, as always. The speed of a shared machine may vary by a third within
minutes, so the engine alone and the client take turns in short blocks, which are compared in pairs.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tinker
from tinker import types

from benchmarks.engine import EngineTraining
from benchmarks.measurement import Measurement
from benchmarks.process import Side
from benchmarks.workload import LEARNING_RATE, LORA_RANK, TrainingBatch, draw_training_batch
from eztinker.cli.child_server import child_server
from tests.tiny_models import make_tiny_model

HIDDEN_SIZE = 128
"""Hidden size, which makes a model of 0.5 million parameters."""
NUM_TOKENS = 16
BLOCKS_PER_ROUND = 4
STEPS_PER_BLOCK = 30
WANTED_MILLISECONDS = 15.0
_API_KEY = "tml-benchmark"


def measure(num_rounds: int) -> Measurement:
    """Median over blocks of the difference between the client's and the engine's median step, in ms."""
    batch = draw_training_batch(1, NUM_TOKENS, 256)
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = make_tiny_model(Path(scratch) / "model", "llama", hidden=HIDDEN_SIZE)
        os.environ["EZTINKER_API_KEY"] = _API_KEY
        flags = ["--base-model", f"tiny={model_dir}", "--dtype", "float32", "--threads", "1"]  # more cost time
        with (
            Side(EngineTraining, model_dir, "float32", 1) as engine,
            child_server(Path(scratch) / "data", flags) as server,
            _client_step(server.url, batch) as client_step,
        ):
            steps = (lambda: engine.call("train_step", batch).seconds), (lambda: _seconds(client_step))
            blocks = [[_median_of_block(step) for step in steps] for _ in range(1 + num_rounds * BLOCKS_PER_ROUND)][1:]
    return Measurement(
        work="control plane",
        setting="step, 0.5 M params",
        unit="ms",
        ours=1e3 * statistics.median(client - engine for engine, client in blocks),
        wanted=WANTED_MILLISECONDS,
        less_is_better=True,
    )


@contextlib.contextmanager
def _client_step(url: str, batch: TrainingBatch) -> Iterator[Callable[[], None]]:
    """A training step through the SDK, from its first call to its last result."""
    (tokens,) = batch.tokens
    weights = [float(position >= batch.num_prompt_tokens) for position in range(1, len(tokens))]
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},  # pyright: ignore[reportArgumentType]
    )
    adam = types.AdamParams(learning_rate=LEARNING_RATE)
    with tinker.ServiceClient(base_url=url, api_key=_API_KEY) as service:
        trainer = service.create_lora_training_client(base_model="tiny", rank=LORA_RANK).result()

        def step() -> None:
            loss = trainer.forward_backward([datum], "cross_entropy")
            trainer.optim_step(adam).result()
            loss.result()

        yield step


def _median_of_block(seconds_of_step: Callable[[], float]) -> float:
    return statistics.median(seconds_of_step() for _ in range(STEPS_PER_BLOCK))


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
