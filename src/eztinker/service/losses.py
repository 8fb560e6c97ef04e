"""What each loss function reads: the tensors of a datum and the entries of its configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from eztinker.base_models.catalog import BaseModel
from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol.training_codec import TrainingBatch
from eztinker.types import Datum, Record

MAX_DATA = 4096
"""Data in one request; the official client sends 1024."""


class LossInputs(Record):
    """Names a loss needs and knows."""

    tensors: tuple[str, ...]
    config: tuple[str, ...] = ()
    allows_many_targets: bool = False
    """Whether `target_tokens` may be (N, K)."""


_CLIPPING = ("clip_low_threshold", "clip_high_threshold")
_POLICY = ("target_tokens", "logprobs", "advantages")

LOSSES: Mapping[str, LossInputs] = {
    "cross_entropy": LossInputs(tensors=("target_tokens", "weights"), allows_many_targets=True),
    "importance_sampling": LossInputs(tensors=_POLICY),
    "ppo": LossInputs(tensors=_POLICY, config=_CLIPPING),
    "cispo": LossInputs(tensors=_POLICY, config=_CLIPPING),
    "dro": LossInputs(tensors=_POLICY, config=("beta",)),
    "gspo": LossInputs(tensors=(*_POLICY, "sequence_ratio_mask"), config=_CLIPPING),
}

_KNOWN_BUT_MISSING = ("stable_reinforce", "custom")


def check_batch(batch: TrainingBatch, base_model: BaseModel) -> TrainingBatch:
    """`batch`, checked against its loss and base model, with nothing left in it that the loss does not read.

    Raises:
        InvalidInput: a name, shape or value is wrong; the message says which datum and what was expected.
        Unsupported: a loss we know of and do not compute.
    """
    loss = _loss_inputs(batch.loss_fn)
    _check_config(batch, loss)
    if not 1 <= len(batch.data) <= MAX_DATA:
        raise InvalidInput(f"A request needs 1 to {MAX_DATA} data, got {len(batch.data)}", field="data")
    data = [_checked_datum(f"data[{index}]", datum, loss, base_model) for index, datum in enumerate(batch.data)]
    return TrainingBatch(
        data=data, loss_fn=batch.loss_fn, loss_fn_config=batch.loss_fn_config, forward_only=batch.forward_only
    )


def _loss_inputs(loss_fn: str) -> LossInputs:
    if loss_fn in _KNOWN_BUT_MISSING:
        raise Unsupported(f"loss_fn {loss_fn!r} is not supported by this server; it computes {', '.join(LOSSES)}")
    if loss_fn not in LOSSES:
        raise InvalidInput(f"Unknown loss_fn {loss_fn!r}; choose one of {', '.join(LOSSES)}", field="loss_fn")
    return LOSSES[loss_fn]


def _check_config(batch: TrainingBatch, loss: LossInputs) -> None:
    for name, value in batch.loss_fn_config.items():
        if name not in loss.config:
            known = f"it reads {', '.join(loss.config)}" if loss.config else "it reads none"
            raise InvalidInput(f"Unknown loss_fn_config entry {name!r} for {batch.loss_fn}; {known}")
        if isinstance(value, str) or not math.isfinite(value):
            raise InvalidInput(f"loss_fn_config entry {name!r} must be a finite number, got {value!r}")


def _checked_datum(where: str, datum: Datum, loss: LossInputs, base_model: BaseModel) -> Datum:
    num_tokens = len(datum.tokens)
    if not 1 <= num_tokens <= base_model.context_length:
        raise InvalidInput(
            f"{where}: model_input must have 1 to {base_model.context_length} tokens, got {num_tokens}",
            field="model_input",
        )
    check_tokens(f"{where}: model_input", datum.tokens, base_model)
    inputs = _without_neutral_weights(datum.loss_fn_inputs, loss)
    if missing := [name for name in loss.tensors if name not in inputs]:
        raise InvalidInput(f"{where}: loss_fn_inputs lack {', '.join(missing)}", field=missing[0])
    if unknown := sorted(inputs.keys() - set(loss.tensors)):
        raise InvalidInput(
            f"{where}: the loss does not read {', '.join(unknown)}; it reads {', '.join(loss.tensors)}",
            field=unknown[0],
        )
    _check_targets(where, inputs["target_tokens"], num_tokens, loss, base_model)
    for name in loss.tensors[1:]:
        _check_numbers(where, name, inputs[name], inputs["target_tokens"].shape)
    return Datum(tokens=datum.tokens, loss_fn_inputs=inputs)


def check_tokens(where: str, tokens: np.ndarray, base_model: BaseModel) -> None:
    """Every token is one the base model knows."""
    wrong = np.flatnonzero((tokens < 0) | (tokens >= base_model.vocab_size))
    if len(wrong):
        raise InvalidInput(
            f"{where}: token {tokens.flat[wrong[0]]} at position {wrong[0]} is not in the vocabulary; "
            f"{base_model.name} knows 0 to {base_model.vocab_size - 1}"
        )


def _without_neutral_weights(inputs: dict[str, np.ndarray], loss: LossInputs) -> dict[str, np.ndarray]:
    """Published examples send weights of 1 to policy losses, which have none; any other weights must not be dropped."""
    if "weights" in loss.tensors or "weights" not in inputs or not (inputs["weights"] == 1).all():
        return inputs
    return {name: array for name, array in inputs.items() if name != "weights"}


def _check_targets(where: str, targets: np.ndarray, num_tokens: int, loss: LossInputs, base_model: BaseModel) -> None:
    is_right = targets.shape == (num_tokens,) or (
        loss.allows_many_targets and targets.ndim == 2 and len(targets) == num_tokens and targets.shape[1] > 0
    )
    if not is_right:
        expected = f"({num_tokens},)" + (f" or ({num_tokens}, K)" if loss.allows_many_targets else "")
        raise InvalidInput(
            f"{where}: target_tokens must have the shape {expected}, got {targets.shape}", field="target_tokens"
        )
    check_tokens(f"{where}: target_tokens", targets, base_model)


def _check_numbers(where: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InvalidInput(
            f"{where}: {name} must have the shape of target_tokens {shape}, got {array.shape}", field=name
        )
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise InvalidInput(f"{where}: {name} has {array.flat[wrong[0]]} at position {wrong[0]}; numbers must be finite")
