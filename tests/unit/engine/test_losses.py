"""Each loss against its formula written out in numpy, and its gradient against the derivative done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eztinker.engine.losses import LOSSES
from eztinker.loss_specs import LOSS_SPECS

# One position each: ratio below, inside and above the clip range, with advantages of both signs, and one that is 0.
L = np.array([-2.0, -1.0, -0.5, -2.0, -1.0, -0.5, -1.5])
Q = L - np.log([0.5, 1.0, 2.0, 0.5, 1.1, 2.0, 1.05])
A = np.array([1.5, 2.0, 1.0, -1.5, -2.0, -1.0, 0.0])
R = np.exp(L - Q)
LOW, HIGH = 0.8, 1.2


def run(name: str, config: dict[str, float] | None = None, **inputs: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient with respect to the logprobs, in float64."""
    logprobs = torch.tensor(L, requires_grad=True)
    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
    value = LOSSES[name](logprobs, tensors, {**LOSS_SPECS[name].defaults, **(config or {})})
    value.backward()
    assert logprobs.grad is not None
    return value.item(), logprobs.grad.numpy()


def test_cross_entropy_is_a_weighted_sum_with_weights_of_any_sign():
    weights = np.array([1.0, 2.0, -1.0, 0.0, 0.5, -3.0, 1.0])
    value, gradient = run("cross_entropy", weights=weights)
    assert value == pytest.approx(-(weights * L).sum())
    np.testing.assert_allclose(gradient, -weights)


def test_importance_sampling_weighs_advantages_by_the_ratio():
    value, gradient = run("importance_sampling", logprobs=Q, advantages=A)
    assert value == pytest.approx(-(R * A).sum())
    np.testing.assert_allclose(gradient, -R * A)


@pytest.mark.conforms(51)
def test_ppo_stops_the_gradient_exactly_where_clipping_is_the_smaller_objective():
    value, gradient = run("ppo", logprobs=Q, advantages=A)
    assert value == pytest.approx(-np.minimum(R * A, np.clip(R, LOW, HIGH) * A).sum())
    # Position 2: ratio 2 with a positive advantage is clipped. Position 3: ratio 0.5 with a negative one is too.
    is_clipped = np.array([False, False, True, True, False, False, False])
    np.testing.assert_allclose(gradient, np.where(is_clipped, 0.0, -R * A))


def test_ppo_takes_its_thresholds_from_the_config():
    value, _ = run("ppo", {"clip_low_threshold": 0.1, "clip_high_threshold": 3.0}, logprobs=Q, advantages=A)
    assert value == pytest.approx(-(R * A).sum())


@pytest.mark.conforms(51)
def test_cispo_clips_the_weight_and_keeps_every_gradient():
    config = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.5}
    value, gradient = run("cispo", config, logprobs=Q, advantages=A)
    weight = np.clip(R, 0.9, 1.5)
    assert value == pytest.approx(-(weight * L * A).sum())
    np.testing.assert_allclose(gradient, -weight * A)


def test_cispo_by_default_clips_at_zero_and_four():
    q = L - np.log(5.0)
    _, gradient = run("cispo", logprobs=q, advantages=A)
    np.testing.assert_allclose(gradient, -4.0 * A)


def test_dro_adds_half_beta_times_the_squared_drift():
    value, gradient = run("dro", {"beta": 0.3}, logprobs=Q, advantages=A)
    assert value == pytest.approx(-(L * A - 0.15 * (L - Q) ** 2).sum())
    np.testing.assert_allclose(gradient, -(A - 0.3 * (L - Q)))


@pytest.mark.conforms(51)
@pytest.mark.parametrize(("shift", "clips_gains"), [(0.0, False), (math.log(1.5), True)])
def test_gspo_gives_every_token_the_ratio_of_its_sequence(shift: float, clips_gains: bool):
    mask = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    q = L - shift - np.array([0.1, -0.1, 9.0, 0.05, 9.0, 9.0, -0.05])
    value, gradient = run("gspo", logprobs=q, advantages=A, sequence_ratio_mask=mask)
    s = math.exp(shift)  # the mask keeps the wild positions out of the mean, and the rest cancel
    terms = np.minimum(s * A, np.clip(s, LOW, HIGH) * A)
    assert value == pytest.approx(-terms.sum())
    np.testing.assert_allclose(gradient, np.where(clips_gains & (A > 0), 0.0, -s * A))


def test_gspo_of_a_sequence_without_counted_tokens_has_ratio_one():
    value, _ = run("gspo", logprobs=Q, advantages=A, sequence_ratio_mask=np.zeros(7))
    assert value == pytest.approx(-A.sum())


@pytest.mark.conforms(51)
def test_stable_reinforce_weighs_by_the_ratio_and_masks_what_is_too_far_off_on_either_side():
    ratio = np.array([0.49, 0.51, 1.0, 4.9, 5.1, 1e30, 2.0])
    advantages = np.array([1.0, -1.0, 2.0, 1.0, -1.0, 1.0, 0.0])
    value, gradient = run("stable_reinforce", logprobs=L - np.log(ratio), advantages=advantages)
    weight = np.array([0.0, 0.51, 1.0, 4.9, 0.0, 0.0, 2.0])
    assert value == pytest.approx(-(weight * L * advantages).sum())
    np.testing.assert_allclose(gradient, -weight * advantages)


def test_stable_reinforce_takes_its_thresholds_from_the_config():
    config = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.5}
    value, _ = run("stable_reinforce", config, logprobs=Q, advantages=A)
    assert value == pytest.approx(-(np.where((R >= 0.9) & (R <= 1.5), R, 0.0) * L * A).sum())


@pytest.mark.conforms(51)
def test_where_trainer_and_sampler_agree_stable_reinforce_is_reinforce():
    value, gradient = run("stable_reinforce", logprobs=L, advantages=A)
    assert value == pytest.approx(-(L * A).sum())
    np.testing.assert_allclose(gradient, -A)


W = np.array([2.0, -1.0, 0.5, 1.0, -2.0, 0.0, 3.0])
TERMS = {
    "importance_sampling": R * A,
    "ppo": np.minimum(R * A, np.clip(R, LOW, HIGH) * A),
    "cispo": np.clip(R, 0.0, 4.0) * L * A,
    "dro": L * A - 0.05 / 2 * (L - Q) ** 2,
    "gspo": np.minimum(np.exp((L - Q).mean()) * A, np.clip(np.exp((L - Q).mean()), LOW, HIGH) * A),
    "stable_reinforce": np.where((R >= 0.5) & (R <= 5.0), R, 0.0) * L * A,
}


@pytest.mark.parametrize("name", TERMS)
def test_weights_of_any_sign_multiply_the_terms_of_policy_losses(name: str):
    inputs = {"logprobs": Q, "advantages": A, "sequence_ratio_mask": np.ones(7)}
    plain, gradient = run(name, **inputs)
    weighted, weighted_gradient = run(name, **inputs, weights=W)
    assert plain == pytest.approx(-TERMS[name].sum())
    assert weighted == pytest.approx(-(W * TERMS[name]).sum())
    np.testing.assert_allclose(weighted_gradient, W * gradient)


@pytest.mark.conforms(51)
@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "dro"])
def test_gradients_are_the_slopes_of_the_value(name: str):
    """Compare with finite differences, for the losses that stop no gradient."""
    tensors = {key: torch.tensor(value) for key, value in {"logprobs": Q, "advantages": A, "weights": W}.items()}
    config = LOSS_SPECS[name].defaults
    logprobs = torch.tensor(L, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: LOSSES[name](values, tensors, config), logprobs)
