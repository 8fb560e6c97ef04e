"""Supervised steps on chosen completions. N = positions of one datum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eztinker.errors import InvalidInput
from eztinker.rl.connection import sdk_errors

if TYPE_CHECKING:
    import tinker


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A prompt, and the completion that the model is to learn."""

    prompt_tokens: Sequence[int]
    completion_tokens: Sequence[int]
    """Token ids of the completion, without the stop token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStep:
    """One optimizer step that the server has accepted; its work may still be going on."""

    forward_backward: tinker.APIFuture[tinker.ForwardBackwardOutput]
    optim_step: tinker.APIFuture[tinker.OptimStepResponse]
    num_loss_tokens: int

    def mean_loss(self) -> float:
        """Wait for the step; returns its loss per trained token, in nats."""
        with sdk_errors():
            output = self.forward_backward.result()
            self.optim_step.result()
        return output.metrics["loss:sum"] / self.num_loss_tokens


def build_datum(example: Example, stop_token_id: int) -> tinker.Datum:
    """The datum that teaches `example`: the loss is on the completion and the stop token, never on the prompt.

    Raises:
        InvalidInput: the prompt is empty, so nothing could predict the first token.
    """
    import tinker

    if not example.prompt_tokens:
        raise InvalidInput("A prompt needs at least one token to be trained on")
    tokens = [*example.prompt_tokens, *example.completion_tokens, stop_token_id]
    targets = np.array(tokens[1:], dtype=np.int64)  # position t predicts token t + 1
    weights = np.zeros(len(targets), dtype=np.float32)
    weights[len(example.prompt_tokens) - 1 :] = 1.0
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(targets),
            "weights": tinker.TensorData.from_numpy(weights),
        },
    )


def submit_step(
    client: tinker.TrainingClient, examples: Sequence[Example], stop_token_id: int, learning_rate: float
) -> TrainingStep:
    """Queue one gradient over `examples` and the AdamW step that uses it, without waiting for either."""
    import tinker

    data = [build_datum(example, stop_token_id) for example in examples]
    with sdk_errors():
        return TrainingStep(
            forward_backward=client.forward_backward(data, "cross_entropy"),
            optim_step=client.optim_step(tinker.AdamParams(learning_rate=learning_rate)),
            num_loss_tokens=sum(len(example.completion_tokens) + 1 for example in examples),
        )
