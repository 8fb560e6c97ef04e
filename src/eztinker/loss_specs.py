"""Inputs and defaults of each loss of the Tinker protocol, by which requests are checked; formulas are in the engine.

Defaults: ppo 0.8 and 1.2, cispo 0 and 4 as the hosted service documents them; gspo as ppo, whose clipping it applies to
a sequence's ratio; dro's beta 0.05 as in the published examples; stable_reinforce 0.5 and 5, our own choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from eztinker.types import Record


class LossSpec(Record):
    tensors: tuple[str, ...]
    """Tensors that every datum must have in its `loss_fn_inputs`."""
    optional_tensors: tuple[str, ...] = ()
    defaults: dict[str, float] = msgspec.field(default_factory=dict)
    """Known entries of `loss_fn_config` and their default values."""
    allows_many_targets: bool = False
    """Whether `target_tokens` may be (N, K)."""
    reads_provenance: bool = False
    """Whether the loss takes `logprobs` from the recorded samples that a datum's provenance spans name."""


def _policy(*, tensors: tuple[str, ...] = (), **defaults: float) -> LossSpec:
    """Spec of a policy loss. `weights`, which published examples send, multiply its terms."""
    return LossSpec(
        tensors=("target_tokens", "logprobs", "advantages", *tensors), optional_tensors=("weights",), defaults=defaults
    )


LOSS_SPECS: Mapping[str, LossSpec] = {
    "cross_entropy": LossSpec(tensors=("target_tokens", "weights"), allows_many_targets=True),
    "importance_sampling": _policy(),
    "ppo": _policy(clip_low_threshold=0.8, clip_high_threshold=1.2),
    "cispo": _policy(clip_low_threshold=0.0, clip_high_threshold=4.0),
    "dro": _policy(beta=0.05),
    "gspo": _policy(tensors=("sequence_ratio_mask",), clip_low_threshold=0.8, clip_high_threshold=1.2),
    "stable_reinforce": LossSpec(
        tensors=("target_tokens", "advantages"),
        optional_tensors=("logprobs", "weights"),
        defaults={"clip_low_threshold": 0.5, "clip_high_threshold": 5.0},
        reads_provenance=True,
    ),
}
