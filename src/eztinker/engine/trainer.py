"""Forward and backward passes of many training runs in one packed batch, and their optimizer steps.

T = packed tokens of a micro-batch, H = hidden size, N = positions of one datum, K = targets per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.adamw import AdamW
from eztinker.engine.loss_metrics import policy_metrics
from eztinker.engine.losses import LOSSES
from eztinker.errors import EZTinkerError, NonFiniteUpdate
from eztinker.loss_specs import LOSS_SPECS
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.head import target_logprobs
from eztinker.model.lora import HEAD, Adapter
from eztinker.types import AdamParams, Datum, ForwardBackwardResult, OptimStepResult


class TrainingRun:
    """One tenant's state: adapter, accumulated gradient, optimizer."""

    def __init__(self, base_model: str, decoder: Decoder, adapter: Adapter) -> None:
        self.base_model = base_model
        self.decoder = decoder
        self.adapter = adapter
        self.optimizer = AdamW.for_params(adapter.flat)
        self.grads = torch.zeros_like(adapter.flat)
        """Sum over every forward_backward since the last step."""
        self.pass_grads = torch.zeros_like(adapter.flat)
        """Gradient of the pass that is running; joins `grads` only if it turns out finite."""
        adapter.require_grad(self.pass_grads)

    def optim_step(self, adam: AdamParams) -> OptimStepResult:
        """One AdamW step on the accumulated gradient, which is cleared, also when the step is refused.

        Without any gradient it is a step on a zero gradient: moments decay, weights follow them.
        """
        try:
            norm = self.optimizer.update(self.adapter.flat, self.grads, adam)
        finally:
            self.grads.zero_()
        return OptimStepResult(
            metrics={"unclipped_grad_l2:mean": norm, "optim_step:unique": float(self.optimizer.step)}
        )

    def reset_optimizer(self) -> None:
        """Fresh moments, no steps, no pending gradient; the adapter stays."""
        self.optimizer = AdamW.for_params(self.adapter.flat)
        self.grads.zero_()


@dataclass(slots=True, eq=False)
class Pass:
    """One run's forward or forward_backward, and what has come out of it so far."""

    run: TrainingRun
    data: Sequence[Datum]
    loss_fn: str
    loss_fn_config: Mapping[str, float]
    forward_only: bool
    loss: float = 0.0
    logprobs: list[np.ndarray] = field(default_factory=list)
    error: EZTinkerError | None = None
    """Set when the pass failed; the run's accumulated gradient is then as it was before."""

    @property
    def complete_config(self) -> dict[str, float]:
        """The config with the loss's defaults where nothing was given."""
        return {**LOSS_SPECS[self.loss_fn].defaults, **self.loss_fn_config}

    def restarted(self) -> Pass:
        """The same pass with nothing done yet."""
        return Pass(self.run, self.data, self.loss_fn, self.loss_fn_config, self.forward_only)

    def finish(self) -> None:
        """Take the gradient over, or fail and leave the run untouched."""
        run = self.run
        if not math.isfinite(self.loss):
            self.error = NonFiniteUpdate(
                f"The {self.loss_fn} loss is {self.loss}; the pass was dropped. Check its inputs"
            )
        elif not self.forward_only:
            total = run.grads + run.pass_grads
            if bool(torch.isfinite(total).all()):
                run.grads.copy_(total)
            else:
                self.error = NonFiniteUpdate("The gradient is not finite; the pass was dropped. Check the loss inputs")
        run.pass_grads.zero_()

    def result(self) -> ForwardBackwardResult:
        metrics = {
            "loss:sum": self.loss,
            **policy_metrics(self.loss_fn, self.complete_config, self.data, self.logprobs),
        }
        outputs = [{"logprobs": logprobs} for logprobs in self.logprobs]
        return ForwardBackwardResult(loss_fn_outputs=outputs, metrics=metrics)


class PackedBatch:
    """Passes of several runs on one base model, run as micro-batches of at most `max_tokens` packed tokens.

    All passes are either forward only or not, and no run has two of them.
    """

    def __init__(self, passes: Sequence[Pass], max_tokens: int) -> None:
        self.passes = passes
        self._decoder = passes[0].run.decoder
        self._micro_batches = _micro_batches(passes, max_tokens)

    def run(self) -> Iterator[None]:
        """Do the work, pausing after each micro-batch; every pass is finished or has its `error` at the end."""
        for micro_batch in self._micro_batches:
            self._run_micro_batch(micro_batch)
            yield
        for each in self.passes:
            each.finish()

    def abandon(self) -> None:
        """Drop what the passes computed, after a failure in the middle."""
        for each in self.passes:
            each.run.pass_grads.zero_()

    def _run_micro_batch(self, segments: list[_Segment]) -> None:
        device = self._decoder.device
        data = [datum for segment in segments for datum in segment.data]
        tokens_T = torch.from_numpy(np.concatenate([datum.tokens for datum in data])).to(device)
        attention = PackedAttention([len(datum.tokens) for datum in data], device)
        rows = _rows_of(segments)
        with torch.set_grad_enabled(not self.passes[0].forward_only):
            adapters = [(segment.owner.run.adapter, span) for segment, span in zip(segments, rows, strict=True)]
            hidden_TH = self._decoder.hidden_states(tokens_T, attention, adapters)
            losses = [
                self._segment_loss(segment, hidden_TH if span is None else hidden_TH[span])
                for segment, span in zip(segments, rows, strict=True)
            ]
            if not self.passes[0].forward_only:
                torch.stack(losses).sum().backward()

    def _segment_loss(self, segment: _Segment, hidden_MH: Tensor) -> Tensor:
        """Loss of one pass's data in this micro-batch; their logprobs are kept in the pass."""
        owner = segment.owner
        loss = LOSSES[owner.loss_fn]
        config = owner.complete_config
        deltas = [delta for delta in [owner.run.adapter.delta(HEAD, None)] if delta is not None]
        total = hidden_MH.new_zeros((), dtype=torch.float32)
        start = 0
        for run_of_data in _same_width(segment.data):
            targets_MK = _targets(run_of_data).to(hidden_MH.device)
            stop = start + targets_MK.shape[0]
            logprobs_MK = target_logprobs(self._decoder.head, hidden_MH[start:stop], targets_MK, deltas)
            per_datum = logprobs_MK.split([len(datum.tokens) for datum in run_of_data])
            for datum, logprobs in zip(run_of_data, per_datum, strict=True):
                inputs = _loss_inputs(datum, hidden_MH.device)
                shaped = logprobs.reshape(datum.loss_fn_inputs["target_tokens"].shape)
                total = total + loss(shaped, inputs, config)
                owner.logprobs.append(shaped.detach().cpu().numpy())
            start = stop
        owner.loss += float(total.detach())
        return total


@dataclass(frozen=True, slots=True)
class _Segment:
    """Neighbouring data of one pass inside one micro-batch."""

    owner: Pass
    data: list[Datum]

    @property
    def num_tokens(self) -> int:
        return sum(len(datum.tokens) for datum in self.data)


def _micro_batches(passes: Sequence[Pass], max_tokens: int) -> list[list[_Segment]]:
    """Cut the passes' data, in order, into batches of at most `max_tokens`; a longer datum stands alone."""
    batches: list[list[_Segment]] = []
    room = 0
    for owner in passes:
        for datum in owner.data:
            if not batches or len(datum.tokens) > room:
                batches.append([])
                room = max_tokens
            batch = batches[-1]
            if not batch or batch[-1].owner is not owner:
                batch.append(_Segment(owner, []))
            batch[-1].data.append(datum)
            room -= len(datum.tokens)
    return batches


def _rows_of(segments: Sequence[_Segment]) -> list[slice | None]:
    if len(segments) == 1:
        return [None]
    rows: list[slice | None] = []
    start = 0
    for segment in segments:
        rows.append(slice(start, start + segment.num_tokens))
        start += segment.num_tokens
    return rows


def _same_width(data: Sequence[Datum]) -> list[list[Datum]]:
    """Runs of neighbouring data with the same number of targets per position."""
    runs: list[list[Datum]] = []
    for datum in data:
        if runs and _width(runs[-1][0]) == _width(datum):
            runs[-1].append(datum)
        else:
            runs.append([datum])
    return runs


def _width(datum: Datum) -> int:
    targets = datum.loss_fn_inputs["target_tokens"]
    return targets.shape[1] if targets.ndim == 2 else 1


def _targets(data: Sequence[Datum]) -> Tensor:
    """Target tokens of neighbouring data, (M, K)."""
    parts = [datum.loss_fn_inputs["target_tokens"].reshape(len(datum.tokens), -1) for datum in data]
    return torch.from_numpy(np.concatenate(parts))


def _loss_inputs(datum: Datum, device: torch.device) -> dict[str, Tensor]:
    # A copy: arrays that came in a frame are read-only, which torch does not know.
    return {name: torch.tensor(array, device=device) for name, array in datum.loss_fn_inputs.items()}
