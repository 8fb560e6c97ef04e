"""Many tenants in one training batch: each gets the result it would have alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eztinker.engine.trainer import PackedBatch, Pass, TrainingRun
from eztinker.errors import NonFiniteUpdate
from eztinker.model.decoder import Decoder
from eztinker.model.lora import Adapter
from eztinker.types import AdamParams, Datum, LoraSpec
from tests.oracles import CPU, draw_tokens, load_decoder

SPECS = [
    LoraSpec(rank=1, seed=0),
    LoraSpec(rank=16, seed=1, train_mlp=False),
    LoraSpec(rank=3, seed=2, train_attn=False, train_unembed=False),
]
LOSSES = ["cross_entropy", "importance_sampling", "ppo"]


@pytest.fixture(scope="module")
def decoder(tiny_model: Callable[..., Path]) -> Decoder:
    return load_decoder(tiny_model("qwen2", tie=True))


def new_run(decoder: Decoder, spec: LoraSpec) -> TrainingRun:
    run = TrainingRun("tiny", decoder, Adapter.new(decoder.config, spec, CPU))
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


def one_pass_each(runs: list[TrainingRun], *, forward_only: bool = False) -> list[Pass]:
    return [
        Pass(run, examples(loss_fn, seed), loss_fn, {}, forward_only)
        for seed, (run, loss_fn) in enumerate(zip(runs, LOSSES, strict=True))
    ]


def carry_out(passes: list[Pass], max_tokens: int = 2048) -> None:
    for _ in PackedBatch(passes, max_tokens).run():
        pass


@pytest.mark.parametrize("max_tokens", [2048, 25, 1])
def test_mixed_ranks_targets_and_losses_in_one_batch_are_each_as_alone(decoder: Decoder, max_tokens: int):
    together = one_pass_each([new_run(decoder, spec) for spec in SPECS])
    alone = one_pass_each([new_run(decoder, spec) for spec in SPECS])
    carry_out(together, max_tokens)
    for each in alone:
        carry_out([each])
    for ours, expected in zip(together, alone, strict=True):
        assert ours.loss == pytest.approx(expected.loss, rel=1e-5, abs=1e-4)
        torch.testing.assert_close(ours.run.grads, expected.run.grads, rtol=1e-4, atol=1e-4)
        assert expected.run.grads.abs().max() > 1
        for ours_logprobs, logprobs in zip(ours.logprobs, expected.logprobs, strict=True):
            np.testing.assert_allclose(ours_logprobs, logprobs, atol=1e-5)


def test_a_pass_that_is_not_finite_fails_alone_and_leaves_its_run_as_it_was(decoder: Decoder):
    runs = [new_run(decoder, spec) for spec in SPECS]
    carry_out(one_pass_each(runs))
    before = [run.grads.clone() for run in runs]
    passes = one_pass_each(runs)
    passes[1].data[2].loss_fn_inputs["advantages"][3] = np.inf
    carry_out(passes)
    assert isinstance(passes[1].error, NonFiniteUpdate)
    assert torch.equal(runs[1].grads, before[1])
    for index in (0, 2):
        assert passes[index].error is None
        torch.testing.assert_close(runs[index].grads, 2 * before[index], rtol=1e-4, atol=1e-4)


def test_passes_add_up_until_the_optimizer_step(decoder: Decoder):
    run = new_run(decoder, SPECS[0])
    whole, halves = examples("cross_entropy", 0), new_run(decoder, SPECS[0])
    carry_out([Pass(run, whole, "cross_entropy", {}, False)])
    for half in (whole[:2], whole[2:]):
        carry_out([Pass(halves, half, "cross_entropy", {}, False)])
    torch.testing.assert_close(halves.grads, run.grads, rtol=1e-4, atol=1e-5)
    run.optim_step(AdamParams())
    assert not run.grads.any()


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
