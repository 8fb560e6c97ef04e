"""Logprobs of a prompt's tokens, and of other tokens at its positions, from the prompt's hidden states.

N = prompt positions, M = positions scored together, V = vocabulary. The hidden state of one position scores the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.draw import Normalization, absent_topk, inverse_cdf, normalization, topk_table
from eztinker.model.decoder import Decoder
from eztinker.model.head import chunks_of_positions
from eztinker.model.lora import LowRankAdapter, adapter_rows
from eztinker.types import PromptAltTokens, PromptTargets, SampleRequest, TopkLogprobs


@dataclass(slots=True, eq=False)
class PromptScores:
    """Scores of a prompt, as far as the request asks for them; the fields are those of SampleResult."""

    prompt_logprobs: np.ndarray | None = None
    topk_prompt_logprobs: TopkLogprobs | None = None
    target_prompt_logprobs: np.ndarray | None = None
    prompt_alt_tokens: PromptAltTokens | None = None


def first_needed(request: SampleRequest) -> int:
    """First position whose hidden state is needed: for scores or, at the last position, for the next token."""
    needed = [len(request.prompt) - 1]
    if request.prompt_logprobs or request.topk_prompt_logprobs:
        needed.append(request.first_scored - 1)
    if request.target_prompt_logprobs is not None:
        needed.append(int(request.target_prompt_logprobs.positions.min()) - 1)
    if request.prompt_alt_tokens_k:
        needed.append(0)
    return min(needed)


@dataclass(slots=True, eq=False)
class PromptScorer:
    """Computes the scores of one prompt, a chunk of positions at a time, from first to last."""

    decoder: Decoder
    request: SampleRequest
    adapter: LowRankAdapter | None
    num_drawable: int
    """Number of tokens the tokenizer knows; ids beyond are never drawn."""
    scores: PromptScores = field(init=False)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        request, num_positions = self.request, len(self.request.prompt)
        seed = request.params.seed
        # Samples draw from [seed, their index]; a third number keeps this stream apart from theirs.
        self.rng = np.random.default_rng(None if seed is None else [seed % 2**64, 0, 1])
        self.scores = PromptScores()
        if request.prompt_logprobs:
            self.scores.prompt_logprobs = np.full(num_positions, np.nan, dtype=np.float32)
        if request.topk_prompt_logprobs:
            self.scores.topk_prompt_logprobs = absent_topk(num_positions, request.topk_prompt_logprobs)
        if request.target_prompt_logprobs is not None:
            self.scores.target_prompt_logprobs = np.zeros(len(request.target_prompt_logprobs.tokens), dtype=np.float32)
        if k := request.prompt_alt_tokens_k:
            self.scores.prompt_alt_tokens = PromptAltTokens(
                tokens=np.zeros((num_positions - 1, k), dtype=np.int32),
                logprobs=np.zeros((num_positions - 1, k), dtype=np.float32),
            )

    def take(self, start: int, hidden_NH: Tensor) -> None:
        """Compute scores from final hidden states (N, H), the first of which is that of position `start`."""
        first = max(start, first_needed(self.request))
        stop = min(start + hidden_NH.shape[0], len(self.request.prompt) - 1)
        adapters = adapter_rows([self.adapter], hidden_NH.device)
        for chunk in chunks_of_positions(stop - first, self.decoder.config.vocab_size):
            positions = slice(first + chunk.start, first + chunk.stop)
            logits_MV = self.decoder.logits(hidden_NH[positions.start - start : positions.stop - start], adapters)
            self._score_positions(slice(positions.start + 1, positions.stop + 1), logits_MV)

    def _score_positions(self, positions: slice, logits_MV: Tensor) -> None:
        """Compute the scores of `positions` from the logits that predict their tokens."""
        normalized = normalization(logits_MV, [1.0] * len(logits_MV), self.num_drawable)
        start = max(positions.start, self.request.first_scored)
        if start < positions.stop:
            wanted = slice(start - positions.start, None)
            self._score(slice(start, positions.stop), logits_MV[wanted], normalized.rows(wanted))
        if self.request.target_prompt_logprobs is not None:
            self._score_targets(self.request.target_prompt_logprobs, positions, logits_MV, normalized)
        if self.request.prompt_alt_tokens_k:
            self._draw_alternatives(positions, logits_MV, normalized)

    def _score(self, positions: slice, logits_MV: Tensor, normalized: Normalization) -> None:
        scores = self.scores
        if scores.prompt_logprobs is not None:
            tokens = torch.from_numpy(self.request.prompt[positions].astype(np.int64)).to(logits_MV.device)
            logprobs = normalized.logprobs(logits_MV.gather(1, tokens[:, None]))[:, 0]
            scores.prompt_logprobs[positions] = logprobs.cpu().numpy()
        if scores.topk_prompt_logprobs is not None:
            table = topk_table(logits_MV, normalized, self.request.topk_prompt_logprobs)
            scores.topk_prompt_logprobs.token_ids[positions] = table.token_ids
            scores.topk_prompt_logprobs.logprobs[positions] = table.logprobs

    def _score_targets(
        self, targets: PromptTargets, positions: slice, logits_MV: Tensor, normalized: Normalization
    ) -> None:
        assert self.scores.target_prompt_logprobs is not None
        cells = np.flatnonzero((targets.positions >= positions.start) & (targets.positions < positions.stop))
        rows = torch.from_numpy(targets.positions[cells] - positions.start).to(logits_MV.device)
        tokens = torch.from_numpy(targets.tokens[cells]).to(logits_MV.device)
        logprobs = normalized.rows(rows).logprobs(logits_MV[rows, tokens][:, None])[:, 0]
        self.scores.target_prompt_logprobs[cells] = logprobs.cpu().numpy()

    def _draw_alternatives(self, positions: slice, logits_MV: Tensor, normalized: Normalization) -> None:
        assert self.scores.prompt_alt_tokens is not None
        k, temperature = self.request.prompt_alt_tokens_k, self.request.params.temperature
        drawable_MV = logits_MV[:, : self.num_drawable]
        best = drawable_MV.max(dim=-1, keepdim=True)
        if temperature == 0:
            tokens_MK = best.indices.expand(-1, k)
        else:
            uniforms = torch.from_numpy(self.rng.random((len(logits_MV), k), dtype=np.float32))
            weights_MV = ((drawable_MV - best.values) / temperature).exp_()
            tokens_MK = inverse_cdf(weights_MV, uniforms.to(logits_MV.device))
        rows = slice(positions.start - 1, positions.stop - 1)
        logprobs = normalized.logprobs(logits_MV.gather(1, tokens_MK))
        self.scores.prompt_alt_tokens.tokens[rows] = tokens_MK.cpu().numpy()
        self.scores.prompt_alt_tokens.logprobs[rows] = logprobs.cpu().numpy()
