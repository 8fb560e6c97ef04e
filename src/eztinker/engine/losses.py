"""The losses of the Tinker protocol: plain sums over tokens, never means.

N = positions of one datum, K = targets per position. l = logprobs under the trainer (the differentiable input),
q = `logprobs` as the sampler scored them, r = exp(l - q) the probability ratio, A = `advantages`.

Policy losses take optional `weights`, which multiply each token's term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]
Config = Mapping[str, float]


LossFunction = Callable[[Tensor, Inputs, Config], Tensor]
"""Function from a datum's logprobs, its other inputs and the complete config to a scalar loss."""


def cross_entropy(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Weighted cross-entropy, - sum w * l, over (N,) or (N, K)."""
    return -(inputs["weights"] * logprobs).sum()


def importance_sampling(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Importance-weighted policy gradient, - sum r * A."""
    return -_total(_ratio(logprobs, inputs) * inputs["advantages"], inputs)


def ppo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Clipped policy gradient, - sum min(r * A, clip(r) * A). Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7."""
    return -_total(_clipped_objective(_ratio(logprobs, inputs), inputs["advantages"], config), inputs)


def cispo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Policy gradient with clipped importance weights, - sum stop_gradient(clip(r)) * l * A.

    Clipping bounds a token's weight but never removes its gradient.

    Source: MiniMax-M1 2025, arXiv:2506.13585, eq. 4.
    """
    weight = _clip(_ratio(logprobs, inputs), config).detach()
    return -_total(weight * logprobs * inputs["advantages"], inputs)


def dro(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Direct reward optimisation, - sum [ l * A - beta / 2 * (l - q)^2 ].

    Source: Richemond et al. 2024, arXiv:2405.19107.
    """
    drift = logprobs - inputs["logprobs"]
    return -_total(logprobs * inputs["advantages"] - config["beta"] / 2 * drift.square(), inputs)


def gspo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """PPO's objective with the sequence's ratio as every token's value, and each token's own gradient.

    log s = mean of l - q where `sequence_ratio_mask` is not 0; r_t = s * exp(l_t - stop_gradient(l_t)).
    Source: Zheng et al. 2025, arXiv:2507.18071, sec. 4.3 (GSPO-token).
    """
    is_counted = inputs["sequence_ratio_mask"] != 0
    drift = (logprobs - inputs["logprobs"]).detach()
    log_ratio = drift[is_counted].mean() if bool(is_counted.any()) else drift.new_zeros(())
    ratio = torch.exp(log_ratio + logprobs - logprobs.detach())
    return -_total(_clipped_objective(ratio, inputs["advantages"], config), inputs)


def stable_reinforce(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """REINFORCE with importance weights and a mask, - sum m * stop_gradient(r) * l * A.

    m is 1 where r is within the thresholds and 0 elsewhere, which drops the tokens on which trainer and sampler are too
    far apart. The hosted service's formula is not published; this one is our own choice.
    Source of the two-sided mask, IcePop: Ling Team 2025, arXiv:2510.18855.
    """
    weight = _ratio(logprobs, inputs).detach()
    is_kept = (weight >= config["clip_low_threshold"]) & (weight <= config["clip_high_threshold"])
    return -_total(torch.where(is_kept, weight, 0.0) * logprobs * inputs["advantages"], inputs)


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
    "dro": dro,
    "gspo": gspo,
    "stable_reinforce": stable_reinforce,
}


def _ratio(logprobs: Tensor, inputs: Inputs) -> Tensor:
    return torch.exp(logprobs - inputs["logprobs"])


def _clip(ratio: Tensor, config: Config) -> Tensor:
    return ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])


def _clipped_objective(ratio: Tensor, advantages: Tensor, config: Config) -> Tensor:
    return torch.minimum(ratio * advantages, _clip(ratio, config) * advantages)


def _total(terms: Tensor, inputs: Inputs) -> Tensor:
    return (terms * inputs["weights"]).sum() if "weights" in inputs else terms.sum()
