"""Metrics of policy losses: the gap between trainer and sampler, and the fraction of tokens clipped.

l = logprobs under the trainer, q = as the sampler scored them, in nats. All metrics are over the tokens with a nonzero
advantage. Names are `name:reduction`, by which clients merge them over chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eztinker.types import Datum

_MAX_LOG_RATIO = 80.0
"""Upper bound of a log-ratio before it is exponentiated, so that every metric is a finite number."""


def policy_metrics(
    loss_fn: str, config: Mapping[str, float], data: Sequence[Datum], logprobs: Sequence[np.ndarray]
) -> dict[str, float]:
    """Metrics of one batch; empty for losses without `logprobs` and `advantages`, or if all advantages are 0.

    sampler_trainer_gap: |l - q|. sampler_trainer_kl_k1 and _k3: estimates of KL(sampler || trainer), q - l and
    exp(l - q) - 1 - (l - q), of which the second is never negative. Source: Schulman 2020, Approximating KL Divergence.
    clipped_fraction: the fraction of tokens that a loss with thresholds clipped or, in stable_reinforce, masked.

    Args:
        config: the loss's config, defaults included.
        logprobs: logprobs under the trainer, float32 (N,) per datum.
    """
    log_ratios, clipped = [], []
    for datum, ours in zip(data, logprobs, strict=True):
        inputs = datum.loss_fn_inputs
        if "logprobs" not in inputs or "advantages" not in inputs:
            return {}
        counts = inputs["advantages"] != 0
        log_ratio = ours.astype(np.float64) - inputs["logprobs"]
        log_ratios.append(log_ratio[counts])
        if "clip_low_threshold" in config:
            clipped.append(_is_clipped(loss_fn, config, log_ratio, inputs)[counts])
    log_ratio = np.concatenate(log_ratios)
    if log_ratio.size == 0:
        return {}
    gap = np.abs(log_ratio)
    metrics = {
        "sampler_trainer_gap:max": gap.max(),
        "sampler_trainer_gap:mean": gap.mean(),
        "sampler_trainer_kl_k1:mean": -log_ratio.mean(),
        "sampler_trainer_kl_k3:mean": (_exp(log_ratio) - 1 - log_ratio).mean(),
    }
    if clipped:
        metrics["clipped_fraction:mean"] = np.concatenate(clipped).mean()
    return {name: float(value) for name, value in metrics.items()}


def _is_clipped(
    loss_fn: str, config: Mapping[str, float], log_ratio: np.ndarray, inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Mask, bool (N,), of the positions that the loss clipped."""
    if loss_fn == "gspo":
        in_sequence = inputs["sequence_ratio_mask"] != 0
        log_ratio = np.full_like(log_ratio, log_ratio[in_sequence].mean() if in_sequence.any() else 0.0)
    ratio = _exp(log_ratio)
    is_high, is_low = ratio > config["clip_high_threshold"], ratio < config["clip_low_threshold"]
    if loss_fn in ("cispo", "stable_reinforce"):  # they bound the ratio whatever the advantage
        return is_high | is_low
    return np.where(inputs["advantages"] > 0, is_high, is_low)


def _exp(log_ratio: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(log_ratio, _MAX_LOG_RATIO))
