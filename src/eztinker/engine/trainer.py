"""The trainer: forward and backward passes over packed sequences, and optimizer steps.

T = packed tokens of a micro-batch, H = hidden size, N = positions of one datum, K = targets per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.adamw import AdamW
from eztinker.engine.loss_metrics import policy_metrics
from eztinker.engine.losses import LOSSES
from eztinker.errors import NonFiniteUpdate
from eztinker.loss_specs import LOSS_SPECS
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.head import target_logprobs
from eztinker.model.linear import LowRankDelta
from eztinker.model.lora import HEAD, Adapter
from eztinker.types import AdamParams, Datum, ForwardBackwardResult, OptimStepResult

MIN_CUT_TOKENS = 32
"""Fewest tokens of a micro-batch that pauses between layers; a smaller one is over too soon to be worth it."""


class TrainingState:
    """Training state of one model: adapter, accumulated gradient and optimizer."""

    def __init__(self, base_model: str, decoder: Decoder, adapter: Adapter) -> None:
        self.base_model = base_model
        self.decoder = decoder
        self.adapter = adapter
        self.optimizer = AdamW.for_params(adapter.flat)
        self.grads = torch.zeros_like(adapter.flat)
        """Gradient summed over every forward_backward since the last step, flat as `adapter.flat`."""
        self.pass_grads = torch.zeros_like(adapter.flat)
        """Gradient of the running pass, which is added to `grads` only if it turns out finite."""
        adapter.require_grad(self.pass_grads)

    def optim_step(self, adam: AdamParams) -> OptimStepResult:
        """Take one AdamW step on the accumulated gradient, which is then cleared.

        Without any forward_backward the gradient is zero: moments decay, and weights follow them.

        Raises:
            NonFiniteUpdate: the step was refused; the gradient is cleared all the same, or every later step would fail.
        """
        try:
            norm = self.optimizer.update(self.adapter.flat, self.grads, adam)
        except NonFiniteUpdate:
            self.grads.zero_()
            raise
        self.grads.zero_()
        return OptimStepResult(
            metrics={"unclipped_grad_l2:mean": norm, "optim_step:unique": float(self.optimizer.step)}
        )

    def replace_state(self, params: Tensor, grads: Tensor, optimizer: AdamW) -> None:
        """Replace the whole state by one of the same layout; this cannot fail half-way."""
        self.adapter.flat.copy_(params)
        self.grads.copy_(grads)
        self.optimizer = optimizer


class Pass:
    """One forward or forward_backward of a run, with its results so far.

    Micro-batches hold data of one pass only: the shape of a matrix product decides its last bits, so shared
    micro-batches would make a run's curve depend on who else was training, and its replay would differ.
    """

    def __init__(
        self,
        run: TrainingState,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float],
        forward_only: bool,
    ) -> None:
        self.run = run
        self.data = data
        self.loss_fn = loss_fn
        self.loss_fn_config = loss_fn_config
        self.forward_only = forward_only
        self.loss = 0.0
        self.logprobs: list[np.ndarray] = []

    @property
    def complete_config(self) -> dict[str, float]:
        """The loss's config, defaults included."""
        return {**LOSS_SPECS[self.loss_fn].defaults, **self.loss_fn_config}

    def carry_out(self, max_tokens: int) -> Iterator[bool]:
        """Run the pass in micro-batches of at most `max_tokens` packed tokens, pausing after each layer.

        Yields:
            Whether the pause is within a micro-batch, which then holds its activations.
        Raises:
            NonFiniteUpdate: the loss or the gradient is not finite. After this, as after any other exception, the
                run's accumulated gradient is as it was before.
        """
        try:
            for index, data in enumerate(_micro_batches(self.data, max_tokens)):
                if index:
                    yield False
                for _ in self._run_micro_batch(data):
                    yield True
            self._commit_gradient()
        finally:
            self.run.pass_grads.zero_()

    def result(self) -> ForwardBackwardResult:
        metrics = {
            "loss:sum": self.loss,
            **policy_metrics(self.loss_fn, self.complete_config, self.data, self.logprobs),
        }
        outputs = [{"logprobs": logprobs} for logprobs in self.logprobs]
        return ForwardBackwardResult(loss_fn_outputs=outputs, metrics=metrics)

    def _commit_gradient(self) -> None:
        run = self.run
        if not math.isfinite(self.loss):
            raise NonFiniteUpdate(f"The {self.loss_fn} loss is {self.loss}; the pass was dropped. Check its inputs")
        if self.forward_only:
            return
        total = run.grads + run.pass_grads
        if not bool(torch.isfinite(total).all()):
            raise NonFiniteUpdate("The gradient is not finite; the pass was dropped. Check the loss inputs")
        run.grads.copy_(total)

    def _run_micro_batch(self, data: Sequence[Datum]) -> Iterator[None]:
        """Run forward and backward over one micro-batch, pausing between layers.

        The graph is cut between layers, so that each layer's backward pass is a separate call. The gradients equal
        those of one call: the head's factors, which tied models also use to embed, get both their gradients at once.
        """
        decoder = self.run.decoder
        tokens_T = torch.from_numpy(np.concatenate([datum.tokens for datum in data])).to(decoder.device)
        attention = PackedAttention([len(datum.tokens) for datum in data], decoder.device)
        adapters = [(self.run.adapter, None)]
        if len(tokens_T) < MIN_CUT_TOKENS:
            stages = [partial(decoder.hidden_states, attention=attention, adapters=adapters)]
        else:
            stages = decoder.stages(attention, adapters)
        cuts: list[tuple[Tensor, Tensor]] = []
        x = tokens_T
        for stage in stages:
            with torch.set_grad_enabled(not self.forward_only):
                start = _cut(x)
                x = stage(start)
            if not self.forward_only:
                cuts.append((start, x))
            yield
        hidden_TH = _cut(x)
        head = self.run.adapter.delta(HEAD, None)
        factors = [] if head is None else [head.a, *head.bs]
        cut_factors = [_cut(factor) for factor in factors]
        deltas = [] if head is None else [replace(head, a=cut_factors[0], bs=tuple(cut_factors[1:]))]
        with torch.set_grad_enabled(not self.forward_only):
            loss = self._loss(data, hidden_TH, deltas)
        if not self.forward_only:
            loss.backward()
        self.loss += float(loss.detach())
        grad = hidden_TH.grad
        while cuts:
            yield
            start, x = cuts.pop()
            ends = [(x, grad)]
            if not cuts:
                ends += [(factor, cut.grad) for factor, cut in zip(factors, cut_factors, strict=True)]
            _backward([(end, end_grad) for end, end_grad in ends if end_grad is not None])
            grad = start.grad

    def _loss(self, data: Sequence[Datum], hidden_TH: Tensor, deltas: Sequence[LowRankDelta]) -> Tensor:
        """Summed loss of one micro-batch, with the head's `deltas`; appends the logprobs of its data."""
        decoder, loss = self.run.decoder, LOSSES[self.loss_fn]
        config = self.complete_config
        total = hidden_TH.new_zeros((), dtype=torch.float32)
        start = 0
        for run_of_data in _same_width(data):
            targets_MK = _targets(run_of_data).to(decoder.device)
            stop = start + targets_MK.shape[0]
            logprobs_MK = target_logprobs(decoder.head, hidden_TH[start:stop], targets_MK, deltas)
            per_datum = logprobs_MK.split([len(datum.tokens) for datum in run_of_data])
            for datum, logprobs in zip(run_of_data, per_datum, strict=True):
                inputs = _loss_inputs(datum, decoder.device)
                shaped = logprobs.reshape(datum.loss_fn_inputs["target_tokens"].shape)
                total = total + loss(shaped, inputs, config)
                self.logprobs.append(shaped.detach().cpu().numpy())
            start = stop
        return total


def _backward(ends: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Run backward from these tensors, each with its gradient."""
    if ends:
        torch.autograd.backward([end for end, _ in ends], [grad for _, grad in ends])


def _cut(x: Tensor) -> Tensor:
    """`x` as the leaf of another autograd graph."""
    return x.detach().requires_grad_(x.requires_grad)


def _micro_batches(data: Sequence[Datum], max_tokens: int) -> list[list[Datum]]:
    """Split data, in order, into micro-batches of at most `max_tokens`; a longer datum gets one of its own."""
    batches: list[list[Datum]] = []
    room = 0
    for datum in data:
        if not batches or len(datum.tokens) > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(datum)
        room -= len(datum.tokens)
    return batches


def _same_width(data: Sequence[Datum]) -> list[list[Datum]]:
    """Group neighbouring data with the same number of targets per position."""
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
    """Target tokens of neighbouring data, int64 (M, K), M = their positions."""
    parts = [datum.loss_fn_inputs["target_tokens"].reshape(len(datum.tokens), -1) for datum in data]
    return torch.from_numpy(np.concatenate(parts))


def _loss_inputs(datum: Datum, device: torch.device) -> dict[str, Tensor]:
    # copied: arrays decoded from a frame are read-only, which torch does not support
    return {name: torch.tensor(array, device=device) for name, array in datum.loss_fn_inputs.items()}
