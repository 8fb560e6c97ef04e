"""Many clients of the unmodified official SDK at once: each sees the numbers that it sees alone.

Set EZTINKER_FULL_SIZE=1 for 64 clients; `-s` prints how long they took.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tinker
from tinker import types

from tests.servers import API_KEY, RunningServer

NUM_CLIENTS = 64 if os.environ.get("EZTINKER_FULL_SIZE") else 16
NUM_STEPS = 5
RANKS = (1, 4, 16, 3, 32)
TARGETS: tuple[dict[str, Any], ...] = (
    {},
    {"train_mlp": False},
    {"train_attn": False, "train_unembed": False},
    {"train_unembed": False},
)
LOSSES: tuple[Any, ...] = ("cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "cross_entropy", "ppo")
TYPICAL_LOGPROB = -5.5
"""Of a token of a random model over 264 tokens."""


@dataclass(frozen=True)
class Curve:
    losses: list[float]
    """One per step."""
    gradient_norms: list[float]
    seconds: float


def batch(loss_fn: str, generator: np.random.Generator) -> list[types.Datum]:
    """One to four sequences of 2 to 24 tokens."""
    return [datum(loss_fn, length, generator) for length in generator.integers(2, 25, generator.integers(1, 5))]


def datum(loss_fn: str, length: int, generator: np.random.Generator) -> types.Datum:
    tokens = generator.integers(0, 264, length + 1)
    inputs: dict[str, Any] = {"target_tokens": tokens[1:]}
    if loss_fn == "cross_entropy":
        inputs["weights"] = generator.uniform(0, 1, length).astype(np.float32)
    else:
        inputs["logprobs"] = generator.normal(TYPICAL_LOGPROB, 0.3, length).astype(np.float32)
        inputs["advantages"] = generator.normal(size=length).astype(np.float32)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1].tolist()),
        loss_fn_inputs={name: types.TensorData.from_numpy(array) for name, array in inputs.items()},  # pyright: ignore
    )


def train(server: RunningServer, number: int, started: Callable[[], object] = lambda: None) -> Curve:
    """A client of its own trains an adapter of its own, as the client of this number always does."""
    rank, targets, loss_fn = RANKS[number % 5], TARGETS[number % 4], LOSSES[number % 7]
    data = batch(loss_fn, np.random.default_rng(number))
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
        trainer = service.create_lora_training_client(base_model="tiny", rank=rank, seed=number, **targets).result()  # pyright: ignore[reportArgumentType]
        started()
        begin = time.perf_counter()
        steps = [step(trainer, data, loss_fn) for _ in range(NUM_STEPS)]
        return Curve(*map(list, zip(*steps, strict=True)), seconds=time.perf_counter() - begin)


def step(trainer: tinker.TrainingClient, data: list[types.Datum], loss_fn: Any) -> tuple[float, float]:
    """One step; the loss before it and the norm of its gradient."""
    loss = trainer.forward_backward(data, loss_fn)
    metrics = trainer.optim_step(types.AdamParams(learning_rate=2e-3)).result().metrics
    assert metrics is not None
    return loss.result().metrics["loss:sum"], metrics["unclipped_grad_l2:mean"]


@pytest.mark.conforms(45)
def test_every_client_of_many_has_the_curve_it_has_alone(server: RunningServer):
    alone = [train(server, number) for number in range(NUM_CLIENTS)]
    all_have_a_run = threading.Barrier(NUM_CLIENTS).wait
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        together = list(pool.map(lambda number: train(server, number, all_have_a_run), range(NUM_CLIENTS)))
    for ours, expected in zip(together, alone, strict=True):
        assert ours.losses == pytest.approx(expected.losses, rel=1e-5, abs=1e-5)
        assert ours.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
        assert len(set(expected.losses)) == NUM_STEPS
    report(alone, together)


def report(alone: list[Curve], together: list[Curve]) -> None:
    seconds = sorted(curve.seconds for curve in together)
    differences = [
        abs(one - other) / max(abs(other), 1.0)
        for ours, expected in zip(together, alone, strict=True)
        for one, other in zip(ours.losses, expected.losses, strict=True)
    ]
    print(
        f"\n{NUM_CLIENTS} clients, {NUM_STEPS} steps each: alone {sum(curve.seconds for curve in alone):.1f} s in all, "
        f"together {seconds[-1]:.1f} s; slowest / fastest {seconds[-1] / seconds[0]:.2f}; "
        f"largest difference of a loss {max(differences):.1e}"
    )
