"""One tenant's operation runs out of memory, or into NaN and infinity: it fails alone and changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eztinker.checkpoints.checkpoint_files import read_manifest
from eztinker.engine.adamw import AdamW
from eztinker.engine.scheduler import Scheduler
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.engine.training_queue import TrainingJob
from eztinker.model.decoder import Decoder
from eztinker.protocol.frames import SaveCheckpoint
from eztinker.types import AdamParams, CheckpointKind, ForwardBackwardResult
from eztinker.worker.failures import failed
from eztinker.worker.storage import load_run, save_run
from tests.oracles import load_decoder
from tests.unit.engine.engine_helpers import cross_entropy_datum, new_run

NUM_CASES = 25
"""Of each kind of operation that memory may be too short for."""
DATA = [cross_entropy_datum(length, seed=length) for length in (9, 17, 4)]
STEP = AdamParams(learning_rate=1e-2)


class ShortMemory(TorchDispatchMode):
    """Of torch's operations that make a new tensor, those of backward passes too, the one with this number fails."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.num_calls = 0
        self._fails_at = fails_at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func._schema.is_mutable and not func.is_view:
            self.num_calls += 1
            if self.num_calls == self._fails_at:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def decoder(tiny_model_dir: Path) -> Decoder:
    return load_decoder(tiny_model_dir)


@pytest.fixture(scope="module")
def checkpoint(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another state of the same shape."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoint"
    command = SaveCheckpoint(
        op_id="save",
        model_id="run",
        kind=CheckpointKind.TRAINING,
        directory=str(directory),
        tinker_path="tinker://run/weights/other",
        with_gradient=True,
    )
    save_run(new_run(decoder, seed=5), command)
    return directory


def state(run: TrainingState) -> list[Tensor]:
    return [
        tensor.clone()
        for tensor in (
            run.adapter.flat,
            run.grads,
            run.pass_grads,
            run.optimizer.exp_avg,
            run.optimizer.exp_avg_sq,
            torch.tensor(run.optimizer.step),
        )
    ]


@pytest.fixture(scope="module")
def used_run(decoder: Decoder) -> Callable[[int], TrainingState]:
    """A run with moments and a pending gradient, the same for the same seed."""
    made = {seed: _used_run(decoder, seed) for seed in (1, 2)}

    def copy(seed: int) -> TrainingState:
        run, original = new_run(decoder, seed=seed), made[seed]
        moments = original.optimizer
        run.replace_state(
            original.adapter.flat,
            original.grads,
            AdamW(moments.exp_avg.clone(), moments.exp_avg_sq.clone(), moments.step),
        )
        return run

    return copy


def _used_run(decoder: Decoder, seed: int) -> TrainingState:
    run = new_run(decoder, seed=seed)
    for work in (one_pass(run), lambda: run.optim_step(STEP), one_pass(run)):
        through_the_engine({"run": [work]})
    return run


def one_pass(run: TrainingState) -> Callable[[], object]:
    return lambda: Pass(run, DATA, "cross_entropy", {}, False)


def through_the_engine(work_by_run: dict[str, list[Callable[[], object]]]) -> dict[str, list[Any]]:
    """What came of it, in turns of the runs; errors as what their clients are told."""
    scheduler = Scheduler(max_train_tokens=16)
    for name, works in work_by_run.items():
        for work in works:
            scheduler.submit(TrainingJob(name, name, work))
    outcomes: dict[str, list[Any]] = {name: [] for name in work_by_run}
    while not scheduler.is_idle:
        for outcome in scheduler.turn():
            outcomes[outcome.op_id].append(failed("op", outcome.error) if outcome.error else outcome.value)
    return outcomes


def short_of_memory(work: Callable[[], object], fails_at: int | None) -> tuple[Callable[[], object], ShortMemory]:
    """The same work with that memory. It is done at once, so that no neighbour's is under it."""
    memory = ShortMemory(fails_at)

    def do() -> object:
        with memory:
            value = work()
            if isinstance(value, Pass):
                for _ in value.carry_out(16):
                    pass
                return value.result()
            return value

    return do, memory


@pytest.mark.parametrize("kind", ["pass", "step", "load", "sampler"])
def test_an_operation_that_runs_out_of_memory_anywhere_fails_alone_and_changes_nothing(
    decoder: Decoder, used_run: Callable[[int], TrainingState], checkpoint: Path, kind: str
):
    def work_on(run: TrainingState) -> Callable[[], object]:
        return {
            "pass": one_pass(run),
            "step": lambda: run.optim_step(STEP),
            "load": lambda: load_run(run, checkpoint, read_manifest(checkpoint), with_optimizer=True),
            "sampler": lambda: run.adapter.for_sampling(decoder.dtype),
        }[kind]

    alone = used_run(2)
    expected = through_the_engine({"neighbour": [one_pass(alone), lambda: alone.optim_step(STEP), one_pass(alone)]})
    counting, memory = short_of_memory(work_on(used_run(1)), None)
    through_the_engine({"victim": [counting]})
    places = range(1, memory.num_calls + 1)
    assert len(places) > 3
    for place in random.Random(1).choices(places, k=NUM_CASES):
        victim, neighbour = used_run(1), used_run(2)
        before = state(victim)
        work, _ = short_of_memory(work_on(victim), place)
        beside = [one_pass(neighbour), lambda run=neighbour: run.optim_step(STEP), one_pass(neighbour)]
        outcomes = through_the_engine({"victim": [work], "neighbour": beside})
        (told,) = outcomes["victim"]
        assert (told.category, told.code) == ("server", "out_of_memory")
        assert "shorter sequences" in told.message
        for ours, theirs in zip(state(victim), before, strict=True):
            assert torch.equal(ours, theirs), f"call {place} of {len(places)}"
        assert as_numbers(outcomes["neighbour"]) == as_numbers(expected["neighbour"])
        assert torch.equal(neighbour.grads, alone.grads)


def test_numbers_that_are_not_finite_fail_one_operation_with_advice_and_leave_the_weights(
    used_run: Callable[[int], TrainingState],
):
    alone = used_run(2)
    expected = through_the_engine({"neighbour": [one_pass(alone), lambda: alone.optim_step(STEP)]})
    for bad in (float("nan"), float("inf"), -float("inf"), 3e38):
        victim, neighbour = used_run(1), used_run(2)
        before = state(victim)
        datum = cross_entropy_datum(9, seed=3, weight=bad)
        works = [
            lambda run=victim, datum=datum: Pass(run, [datum], "cross_entropy", {}, False),
            lambda run=victim, bad=bad: run.optim_step(AdamParams(learning_rate=bad)),
        ]
        beside = [one_pass(neighbour), lambda run=neighbour: run.optim_step(STEP)]
        outcomes = through_the_engine({"victim": works, "neighbour": beside})
        for told, advice in zip(outcomes["victim"], ("Check", "Lower the learning rate"), strict=True):
            assert (told.category, told.code) == ("user", "nonfinite_update")
            assert advice in told.message
        after = state(victim)
        assert not after[1].any()  # a refused step clears the gradient, or no later one could be made
        for place in (0, 3, 4, 5):
            assert torch.equal(after[place], before[place])
        assert as_numbers(outcomes["neighbour"]) == as_numbers(expected["neighbour"])
        assert torch.equal(neighbour.adapter.flat, alone.adapter.flat)


def as_numbers(outcomes: list[Any]) -> list[Any]:
    """Results with arrays as bytes, so that equal means to the last bit."""
    return [
        (outcome.metrics, [np.asarray(output["logprobs"]).tobytes() for output in outcome.loss_fn_outputs])
        if isinstance(outcome, ForwardBackwardResult)
        else outcome.metrics
        for outcome in outcomes
    ]
