"""What the server adds to a training step: both calls through the official SDK, on a model that costs next to nothing.

Every call is made durable before it is acknowledged, as in any other use.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
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
"""Makes a model of 0.5 million parameters."""
NUM_TOKENS = 16
STEPS_PER_ROUND = 30
WANTED_MILLISECONDS = 15.0
_API_KEY = "tml-benchmark"


def measure(num_rounds: int) -> Measurement:
    """The median step at the client, less the engine's own for the same batch."""
    batch = draw_training_batch(1, NUM_TOKENS, 256)
    num_steps = num_rounds * STEPS_PER_ROUND
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = make_tiny_model(Path(scratch) / "model", "llama", hidden=HIDDEN_SIZE)
        with Side(EngineTraining, model_dir, "float32", 1) as engine:
            engine_seconds = [engine.call("train_step", batch).seconds for _ in range(1 + num_steps)][1:]
        os.environ["EZTINKER_API_KEY"] = _API_KEY
        flags = ["--base-model", f"tiny={model_dir}", "--dtype", "float32", "--threads", "1"]  # more cost time
        with child_server(Path(scratch) / "data", flags) as server:
            client_seconds = _steps(server.url, batch, 1 + num_steps)[1:]
    added = statistics.median(client_seconds) - statistics.median(engine_seconds)
    return Measurement(
        work="control plane",
        setting="step, 0.5 M params",
        unit="ms",
        ours=1e3 * added,
        wanted=WANTED_MILLISECONDS,
        less_is_better=True,
    )


def _steps(url: str, batch: TrainingBatch, num_steps: int) -> list[float]:
    """Seconds of each step, from its first call to its last result."""
    (tokens,) = batch.tokens
    weights = [float(position >= batch.num_prompt_tokens) for position in range(1, len(tokens))]
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},  # pyright: ignore[reportArgumentType]
    )
    adam = types.AdamParams(learning_rate=LEARNING_RATE)
    seconds = []
    with tinker.ServiceClient(base_url=url, api_key=_API_KEY) as service:
        trainer = service.create_lora_training_client(base_model="tiny", rank=LORA_RANK).result()
        for _ in range(num_steps):
            start = time.perf_counter()
            loss = trainer.forward_backward([datum], "cross_entropy")
            trainer.optim_step(adam).result()
            loss.result()
            seconds.append(time.perf_counter() - start)
    return seconds
