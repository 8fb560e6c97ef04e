"""Passes over packed batches: what they sum, what they leave alone, and that batch neighbours change nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from eztinker.errors import NonFiniteUpdate
from eztinker.model.decoder import Decoder
from eztinker.types import AdamParams, Datum
from tests.oracles import load_decoder
from tests.unit.engine.engine_helpers import cross_entropy_datum, new_run, run_pass

LENGTHS = (5, 31, 12, 12, 3, 40)


@pytest.fixture(scope="module")
def decoder(tiny_model_dir: Path) -> Decoder:
    return load_decoder(tiny_model_dir)


def data(weight: float = 1.0) -> list[Datum]:
    return [cross_entropy_datum(length, seed, weight) for seed, length in enumerate(LENGTHS)]


def test_packed_data_give_the_sum_of_what_each_gives_alone(decoder: Decoder):
    packed, alone = new_run(decoder), new_run(decoder)
    together = run_pass(packed, data())
    losses = [run_pass(alone, [datum]).metrics["loss:sum"] for datum in data()]
    assert together.metrics["loss:sum"] == pytest.approx(sum(losses), rel=1e-6)
    torch.testing.assert_close(packed.grads, alone.grads, rtol=1e-4, atol=1e-5)


@pytest.mark.conforms(49, 54)
@pytest.mark.parametrize("max_tokens", [1, 20, 64])
def test_micro_batches_change_neither_loss_nor_gradient_nor_order(decoder: Decoder, max_tokens: int):
    whole, cut = new_run(decoder), new_run(decoder)
    expected, result = run_pass(whole, data()), run_pass(cut, data(), max_tokens=max_tokens)
    assert result.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-6)
    torch.testing.assert_close(cut.grads, whole.grads, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(result.loss_fn_outputs, expected.loss_fn_outputs, strict=True):
        np.testing.assert_allclose(ours["logprobs"], theirs["logprobs"], atol=1e-5)


def test_weights_scale_the_gradient_and_keep_its_sign(decoder: Decoder):
    grads = {}
    for weight in (1.0, 2.0, -1.0):
        run = new_run(decoder)
        run_pass(run, data(weight))
        grads[weight] = run.grads
    torch.testing.assert_close(grads[2.0], 2 * grads[1.0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[-1.0], -grads[1.0], rtol=1e-4, atol=1e-5)
    assert grads[1.0].norm() > 1


def test_weights_of_zero_give_no_loss_and_no_gradient(decoder: Decoder):
    run = new_run(decoder)
    result = run_pass(run, data(weight=0.0))
    assert result.metrics["loss:sum"] == 0
    assert not run.grads.any()
    assert all(np.isfinite(output["logprobs"]).all() for output in result.loss_fn_outputs)


def test_a_doubled_batch_doubles_loss_and_gradient(decoder: Decoder):
    single, double = new_run(decoder), new_run(decoder)
    once, twice = run_pass(single, data()), run_pass(double, data() + data())
    assert twice.metrics["loss:sum"] == pytest.approx(2 * once.metrics["loss:sum"], rel=1e-6)
    torch.testing.assert_close(double.grads, 2 * single.grads, rtol=1e-4, atol=1e-5)


def test_forward_only_gives_the_same_numbers_and_no_gradient(decoder: Decoder):
    run = new_run(decoder)
    run_pass(run, data()[:2])
    before = run.grads.clone()
    seen = run_pass(run, data(), forward_only=True)
    assert torch.equal(run.grads, before)
    again = run_pass(run, data())
    assert seen.metrics["loss:sum"] == pytest.approx(again.metrics["loss:sum"], rel=1e-6)
    np.testing.assert_array_equal(seen.loss_fn_outputs[1]["logprobs"], again.loss_fn_outputs[1]["logprobs"])


def test_logprobs_come_back_at_every_position_also_without_weight(decoder: Decoder):
    datum = cross_entropy_datum(12, seed=3)
    (output,) = run_pass(new_run(decoder), [datum]).loss_fn_outputs
    assert output["logprobs"].shape == (12,)
    assert np.all(output["logprobs"] < 0)


def test_several_targets_per_position_are_summed_and_shaped_as_sent(decoder: Decoder):
    single = cross_entropy_datum(9, seed=4)
    targets = np.stack([single.loss_fn_inputs["target_tokens"], np.arange(9)], axis=1)
    weights = np.stack([np.ones(9), np.full(9, 0.5)], axis=1).astype(np.float32)
    double = Datum(tokens=single.tokens, loss_fn_inputs={"target_tokens": targets, "weights": weights})
    columns = [
        Datum(tokens=single.tokens, loss_fn_inputs={"target_tokens": targets[:, k], "weights": weights[:, k]})
        for k in range(2)
    ]
    whole, parts = new_run(decoder), new_run(decoder)
    # A neighbour with one target per position shares the batch.
    together = run_pass(whole, [single, double])
    apart = [run_pass(parts, [datum]) for datum in (single, *columns)]
    assert together.loss_fn_outputs[1]["logprobs"].shape == (9, 2)
    for k in range(2):
        expected = apart[1 + k].loss_fn_outputs[0]["logprobs"]
        np.testing.assert_allclose(together.loss_fn_outputs[1]["logprobs"][:, k], expected, atol=1e-5)
    torch.testing.assert_close(whole.grads, parts.grads, rtol=1e-4, atol=1e-5)


def test_a_pass_whose_loss_is_not_finite_fails_and_leaves_the_gradient(decoder: Decoder):
    run = new_run(decoder)
    run_pass(run, data())
    before = run.grads.clone()
    with pytest.raises(NonFiniteUpdate):
        run_pass(run, [cross_entropy_datum(8, seed=9, weight=float("inf"))])
    assert torch.equal(run.grads, before)


@pytest.mark.conforms(63, 64)
def test_optim_step_consumes_the_gradient_and_reports_its_norm(decoder: Decoder):
    run = new_run(decoder)
    run_pass(run, data())
    norm = run.grads.norm().item()
    before = run.adapter.flat.clone()
    metrics = run.optim_step(AdamParams(learning_rate=1e-2, grad_clip_norm=0.5)).metrics
    assert metrics["unclipped_grad_l2:mean"] == pytest.approx(norm, rel=1e-5)
    assert not torch.equal(run.adapter.flat, before)
    assert run.grads.count_nonzero() == 0


def test_training_lowers_the_loss_of_what_is_trained(decoder: Decoder):
    run = new_run(decoder, is_fresh=True)
    losses = []
    for _ in range(30):
        losses.append(run_pass(run, data()).metrics["loss:sum"])
        run.optim_step(AdamParams(learning_rate=1e-2))
    assert losses[-1] < losses[0] / 2


def test_the_gap_between_sampler_and_trainer_is_reported_where_it_counts(decoder: Decoder):
    run = new_run(decoder)
    datum = as_rl(cross_entropy_datum(12, seed=5))
    (exact,) = run_pass(run, [datum], "importance_sampling", forward_only=True).loss_fn_outputs
    shifted = exact["logprobs"].copy()
    shifted[-1] -= 0.25
    shifted[0] += 9.0  # no advantage there
    inputs = {**datum.loss_fn_inputs, "logprobs": shifted}
    metrics = run_pass(run, [msgspec.structs.replace(datum, loss_fn_inputs=inputs)], "importance_sampling").metrics
    num_counted = np.count_nonzero(datum.loss_fn_inputs["advantages"])
    assert metrics["sampler_trainer_gap:max"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["sampler_trainer_gap:mean"] == pytest.approx(0.25 / num_counted, abs=1e-5)


def as_rl(datum: Datum) -> Datum:
    """A datum of the same tokens with sampling logprobs and advantages; the first third carries none."""
    targets, weights = datum.loss_fn_inputs["target_tokens"], datum.loss_fn_inputs["weights"]
    advantages = (weights * np.where(targets % 2 == 0, 1.0, -1.0)).astype(np.float32)
    logprobs = np.full(len(targets), -5.5, dtype=np.float32)
    return Datum(
        tokens=datum.tokens,
        loss_fn_inputs={"target_tokens": targets, "logprobs": logprobs, "advantages": advantages},
    )
