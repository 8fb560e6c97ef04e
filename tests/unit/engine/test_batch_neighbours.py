"""Many tenants in one engine: each gets, bit for bit, the result it would have alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eztinker.engine.scheduler import Scheduler
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.engine.training_queue import TrainingJob
from eztinker.errors import NonFiniteUpdate
from eztinker.model.decoder import Decoder
from eztinker.model.lora import Adapter
from eztinker.types import AdamParams, Datum, ForwardBackwardResult, LoraSpec
from tests.oracles import CPU, draw_tokens, load_decoder

SPECS = [
    LoraSpec(rank=1, seed=0),
    LoraSpec(rank=16, seed=1, train_mlp=False),
    LoraSpec(rank=3, seed=2, train_attn=False, train_unembed=False),
]
LOSSES = ["cross_entropy", "importance_sampling", "ppo"]


MODELS: dict[str, dict[str, Any]] = {
    "even sizes": {},
    "odd sizes": {"hidden": 51, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 18}
    | {"intermediate_size": 171},
}


@pytest.fixture(scope="module", params=MODELS)
def decoder(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Decoder:
    return load_decoder(tiny_model("qwen2", tie=True, **MODELS[request.param]))


def new_run(decoder: Decoder, spec: LoraSpec) -> TrainingState:
    run = TrainingState("tiny", decoder, Adapter.new(decoder.config, spec, CPU))
    noise = torch.randn(run.adapter.flat.numel(), generator=torch.Generator().manual_seed(spec.seed))
    run.adapter.flat.add_(0.05 * noise)  # B is zero at birth, and so would be A's gradient
    return run


def examples(loss_fn: str, seed: int) -> list[Datum]:
    """Four of them, lengths from 2 to 20."""
    generator = np.random.default_rng(seed)
    return [example(loss_fn, length, generator) for length in (11, 2, 20, 5)]


def example(loss_fn: str, length: int, generator: np.random.Generator) -> Datum:
    tokens = np.array(draw_tokens(length + 1, seed=length))
    inputs: dict[str, np.ndarray] = {"target_tokens": tokens[1:]}
    if loss_fn == "cross_entropy":
        inputs["weights"] = generator.normal(size=length).astype(np.float32)
    else:
        inputs["logprobs"] = generator.uniform(-6, -5, length).astype(np.float32)
        inputs["advantages"] = generator.normal(size=length).astype(np.float32)
    return Datum(tokens=tokens[:-1], loss_fn_inputs=inputs)


def one_pass_each(runs: list[TrainingState], *, forward_only: bool = False) -> list[Pass]:
    return [
        Pass(run, examples(loss_fn, seed), loss_fn, {}, forward_only)
        for seed, (run, loss_fn) in enumerate(zip(runs, LOSSES, strict=True))
    ]


def carry_out(passes: list[Pass], max_tokens: int = 2048) -> None:
    for each in passes:
        for _ in each.carry_out(max_tokens):
            pass


def train(schedule: list[tuple[TrainingState, str, int]], num_rounds: int) -> dict[int, list[float]]:
    """Passes and steps of all runs through one engine, which runs them in turns; the loss curve of each run."""
    curves: dict[int, list[float]] = {seed: [] for _, _, seed in schedule}
    scheduler = Scheduler(max_train_tokens=25)

    def submit(run: TrainingState, loss_fn: str, seed: int) -> None:
        model = f"run {seed}"
        scheduler.submit(TrainingJob(model, model, lambda: Pass(run, examples(loss_fn, seed), loss_fn, {}, False)))
        scheduler.submit(TrainingJob("step", model, lambda: run.optim_step(AdamParams(learning_rate=1e-2))))

    for _ in range(num_rounds):
        for run, loss_fn, seed in schedule:
            submit(run, loss_fn, seed)
    while not scheduler.is_idle:
        for outcome in scheduler.turn():
            if isinstance(outcome.value, ForwardBackwardResult):
                curves[int(outcome.op_id.removeprefix("run "))].append(outcome.value.metrics["loss:sum"])
    return curves


def test_runs_of_mixed_rank_targets_and_loss_train_bit_for_bit_as_if_alone(decoder: Decoder):
    def runs() -> list[tuple[TrainingState, str, int]]:
        return [(new_run(decoder, spec), loss, i) for i, (spec, loss) in enumerate(zip(SPECS, LOSSES, strict=True))]

    together, alone = runs(), runs()
    curves = train(together, num_rounds=4)
    for ours, each in zip(together, alone, strict=True):
        assert curves[each[2]] == train([each], num_rounds=4)[each[2]]
        assert len(set(curves[each[2]])) == 4
        assert torch.equal(ours[0].adapter.flat, each[0].adapter.flat)


def test_a_pass_that_is_not_finite_leaves_its_run_as_it_was(decoder: Decoder):
    run = new_run(decoder, SPECS[1])
    (first, second) = (Pass(run, examples("importance_sampling", 1), "importance_sampling", {}, False) for _ in "ab")
    carry_out([first])
    before = run.grads.clone()
    second.data[2].loss_fn_inputs["advantages"][3] = np.inf
    with pytest.raises(NonFiniteUpdate):
        carry_out([second])
    assert torch.equal(run.grads, before)
    assert not run.pass_grads.any()


def test_a_pass_that_breaks_between_micro_batches_leaves_its_run_as_it_was(decoder: Decoder):
    run = new_run(decoder, SPECS[0])
    data = examples("cross_entropy", 0)
    carry_out([Pass(run, data, "cross_entropy", {}, False)])
    before = run.grads.clone()
    broken = Datum(tokens=np.full(9, 10_000), loss_fn_inputs=data[0].loss_fn_inputs)
    with pytest.raises(IndexError):
        carry_out([Pass(run, [*data, broken], "cross_entropy", {}, False)], max_tokens=20)
    assert torch.equal(run.grads, before)
    assert not run.pass_grads.any()


@pytest.mark.conforms(53)
def test_passes_add_up_until_the_optimizer_step(decoder: Decoder):
    run = new_run(decoder, SPECS[0])
    whole, halves = examples("cross_entropy", 0), new_run(decoder, SPECS[0])
    carry_out([Pass(run, whole, "cross_entropy", {}, False)])
    for half in (whole[:2], whole[2:]):
        carry_out([Pass(halves, half, "cross_entropy", {}, False)])
    torch.testing.assert_close(halves.grads, run.grads, rtol=1e-4, atol=1e-5)
    run.optim_step(AdamParams())
    assert not run.grads.any()


@pytest.mark.conforms(47)
def test_a_forward_pass_scores_the_same_and_leaves_no_gradient(decoder: Decoder):
    runs = [new_run(decoder, spec) for spec in SPECS]
    scored, trained = one_pass_each(runs, forward_only=True), one_pass_each(runs)
    carry_out(scored)
    assert not any(run.grads.any() for run in runs)
    carry_out(trained)
    for ours, expected in zip(scored, trained, strict=True):
        assert ours.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize("weight", [2.0, -1.0, 0.0])
def test_gradients_are_linear_in_the_weights(decoder: Decoder, weight: float):
    runs = [new_run(decoder, SPECS[0]) for _ in range(2)]
    tokens = np.array(draw_tokens(13))
    for run, each in zip(runs, (1.0, weight), strict=True):
        inputs = {"target_tokens": tokens[1:], "weights": np.full(12, each, dtype=np.float32)}
        carry_out([Pass(run, [Datum(tokens=tokens[:-1], loss_fn_inputs=inputs)], "cross_entropy", {}, False)])
    torch.testing.assert_close(runs[1].grads, weight * runs[0].grads, rtol=1e-4, atol=1e-5)
