"""Checking a batch against what its loss function reads."""

from __future__ import annotations

import math

import numpy as np

from eztinker.base_models.catalog import BaseModel
from eztinker.errors import InvalidInput, Unsupported
from eztinker.loss_specs import LOSS_SPECS, LossSpec
from eztinker.protocol.training_codec import MAX_DATA, ForwardBackwardRequest
from eztinker.service.validation import check_tokens
from eztinker.types import Datum

_KNOWN_BUT_MISSING = ("custom",)


def check_batch(batch: ForwardBackwardRequest, base_model: BaseModel) -> None:
    """Check `batch` against its loss and base model.

    Raises:
        InvalidInput: a name, shape or value is wrong; the message says which datum and what was expected.
        Unsupported: a loss we know of and do not compute.
    """
    loss = _spec_of(batch.loss_fn)
    _check_config(batch, loss)
    if not 1 <= len(batch.data) <= MAX_DATA:
        raise InvalidInput(f"A request needs 1 to {MAX_DATA} data, got {len(batch.data)}", field="data")
    for index, datum in enumerate(batch.data):
        _check_datum(f"data[{index}]", datum, loss, base_model)


def _spec_of(loss_fn: str) -> LossSpec:
    if loss_fn in _KNOWN_BUT_MISSING:
        raise Unsupported(f"loss_fn {loss_fn!r} is not supported by this server; it computes {', '.join(LOSS_SPECS)}")
    if loss_fn not in LOSS_SPECS:
        raise InvalidInput(f"Unknown loss_fn {loss_fn!r}; choose one of {', '.join(LOSS_SPECS)}", field="loss_fn")
    return LOSS_SPECS[loss_fn]


def _check_config(batch: ForwardBackwardRequest, loss: LossSpec) -> None:
    for name, value in batch.loss_fn_config.items():
        if name not in loss.defaults:
            known = f"it reads {', '.join(loss.defaults)}" if loss.defaults else "it reads none"
            raise InvalidInput(f"Unknown loss_fn_config entry {name!r} for {batch.loss_fn}; {known}")
        if isinstance(value, str) or not math.isfinite(value):
            raise InvalidInput(f"loss_fn_config entry {name!r} must be a finite number, got {value!r}")


def _check_datum(where: str, datum: Datum, loss: LossSpec, base_model: BaseModel) -> None:
    num_tokens = len(datum.tokens)
    if not 1 <= num_tokens <= base_model.context_length:
        raise InvalidInput(
            f"{where}: model_input must have 1 to {base_model.context_length} tokens, got {num_tokens}",
            field="model_input",
        )
    check_tokens(f"{where}: model_input", datum.tokens, base_model)
    inputs = datum.loss_fn_inputs
    known = (*loss.tensors, *loss.optional_tensors)
    if missing := [name for name in loss.tensors if name not in inputs]:
        raise InvalidInput(f"{where}: loss_fn_inputs lack {', '.join(missing)}", field=missing[0])
    if unknown := sorted(inputs.keys() - set(known)):
        raise InvalidInput(
            f"{where}: the loss does not read {', '.join(unknown)}; it reads {', '.join(known)}",
            field=unknown[0],
        )
    _check_targets(where, inputs["target_tokens"], num_tokens, loss, base_model)
    for name in sorted(inputs.keys() - {"target_tokens"}):
        _check_numbers(where, name, inputs[name], inputs["target_tokens"].shape)


def _check_targets(where: str, targets: np.ndarray, num_tokens: int, loss: LossSpec, base_model: BaseModel) -> None:
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
