"""Drawing the next token of every running sequence, and listing the likeliest ones. B = sequences, V = vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from eztinker.model.cpu_kernels import CpuKernels
from eztinker.model.device import own_kernels
from eztinker.types import ABSENT_LOGPROB, SamplingParams, TopkLogprobs

Choose = Callable[[Tensor, Sequence[SamplingParams], Sequence[float], int], tuple[Tensor, Tensor]]
"""Draws from (B, V) logits by parameters and uniforms of each row, among so many tokens; gives tokens and logprobs."""


def draw(
    logits_BV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], num_tokens: int
) -> tuple[list[int], list[float]]:
    """One token per row, and its log-probability.

    Args:
        logits_BV: float32; changed in place.
        params: temperature, top_k and top_p of each row; temperature 0 takes the likeliest token.
        uniforms: one number in [0, 1) per row; the token is where the cumulative probability passes it, so a row's
            token depends on its own logits and number alone.
        num_tokens: tokens the tokenizer knows; ids beyond are padding of the vocabulary and are never drawn.
    Returns:
        Tokens and natural logs of their probability under the tempered distribution of the whole vocabulary, before
        top-k and top-p; untempered where the temperature is 0.
    """
    tokens, logprobs = [0] * len(params), [0.0] * len(params)
    for choose, rows in _by_kind(params, own_kernels(logits_BV)):
        if rows:
            logits = logits_BV if len(rows) == len(params) else logits_BV[rows]
            chosen = choose(logits, [params[row] for row in rows], [uniforms[row] for row in rows], num_tokens)
            for row, token, logprob in zip(rows, *(column.tolist() for column in chosen), strict=True):
                tokens[row], logprobs[row] = token, logprob
    return tokens, logprobs


def _by_kind(params: Sequence[SamplingParams], kernels: CpuKernels | None) -> list[tuple[Choose, list[int]]]:
    """The rows that are drawn in the same way, and how."""
    greedy = [row for row, each in enumerate(params) if each.temperature == 0]
    truncated = [row for row, each in enumerate(params) if each.temperature > 0 and (each.top_k > 0 or each.top_p < 1)]
    plain = [row for row, each in enumerate(params) if each.temperature > 0 and not (each.top_k > 0 or each.top_p < 1)]
    if kernels is None:
        return [(_greedy, greedy), (_warm, sorted(plain + truncated))]
    return [(_in_one_go(kernels), sorted(greedy + plain)), (_warm, truncated)]


def _in_one_go(kernels: CpuKernels) -> Choose:
    def choose(
        logits_BV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], num_tokens: int
    ) -> tuple[Tensor, Tensor]:
        return kernels.draw(logits_BV, [each.temperature for each in params], uniforms, num_tokens)

    return choose


def _greedy(
    logits_BV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], num_tokens: int
) -> tuple[Tensor, Tensor]:
    best, tokens = logits_BV[:, :num_tokens].max(dim=-1)
    return tokens, best - torch.logsumexp(logits_BV, dim=-1)


def _warm(
    logits_BV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Inverse CDF over probabilities that are left without their common factor: every pass over V counts."""
    device = logits_BV.device
    if any(row.temperature != 1 for row in params):
        logits_BV.div_(torch.tensor([row.temperature for row in params], device=device)[:, None])
    weights_BV = logits_BV.sub_(logits_BV.amax(dim=-1, keepdim=True)).exp_()
    totals_B = weights_BV.sum(dim=-1)
    drawable = weights_BV[:, :num_tokens]
    for row, each in enumerate(params):
        if each.top_k > 0 or each.top_p < 1:
            _truncate(drawable[row], each)
    tokens = inverse_cdf(drawable, torch.tensor(uniforms, dtype=torch.float32, device=device)[:, None])[:, 0]
    return tokens, torch.log(weights_BV.gather(1, tokens[:, None])[:, 0] / totals_B)


def _truncate(weights_V: Tensor, params: SamplingParams) -> None:
    """Set to 0 all but the top-k tokens, then all but the fewest of those that reach top-p of what is left."""
    num_kept = min(params.top_k, weights_V.shape[0]) if params.top_k > 0 else weights_V.shape[0]
    kept, tokens = torch.topk(weights_V, num_kept)
    if params.top_p < 1:
        cumulative = torch.cumsum(kept, dim=0)
        before = cumulative - kept
        # never the first, which a top-p that rounds to 0 would reach as well
        kept[1:].masked_fill_(before[1:] >= params.top_p * cumulative[-1], 0.0)
    weights_V.zero_()
    weights_V[tokens] = kept


def inverse_cdf(weights_BV: Tensor, uniforms_BK: Tensor) -> Tensor:
    """K tokens per row, (B, K): the first one whose cumulative weight passes the uniform's share of the total.

    Far faster than multinomial.
    """
    cumulative = torch.cumsum(weights_BV, dim=-1)
    totals = cumulative[:, -1:].clone()
    drawn = torch.searchsorted(cumulative, uniforms_BK * totals, right=True)
    # Rounding can lift the product to the total itself, past the last token that has any probability.
    last = torch.searchsorted(cumulative, totals)
    return torch.minimum(drawn, last)


def likeliest(logits_BV: Tensor, params: Sequence[SamplingParams], k: int) -> TopkLogprobs:
    """The k likeliest tokens of each row, under the distribution whose logprobs `draw` gives; changes no logits."""
    temperatures = torch.tensor([each.temperature or 1.0 for each in params], device=logits_BV.device)
    tempered_BV = logits_BV / temperatures[:, None]
    return topk_table(tempered_BV, torch.logsumexp(tempered_BV, dim=-1), k)


def topk_table(logits_BV: Tensor, log_totals_B: Tensor, k: int) -> TopkLogprobs:
    """The k highest logits of each row as logprobs; a vocabulary of fewer tokens leaves cells absent.

    `log_totals_B` are the rows' logsumexp.
    """
    num_rows, vocab_size = logits_BV.shape
    best = torch.topk(logits_BV, min(k, vocab_size))
    table = absent_topk(num_rows, k)
    table.token_ids[:, :vocab_size] = best.indices.cpu().numpy()
    table.logprobs[:, :vocab_size] = (best.values - log_totals_B[:, None]).cpu().numpy()
    return table


def absent_topk(num_rows: int, k: int) -> TopkLogprobs:
    """A table to be filled, without any token yet."""
    return TopkLogprobs(
        token_ids=np.zeros((num_rows, k), dtype=np.int32),
        logprobs=np.full((num_rows, k), ABSENT_LOGPROB, dtype=np.float32),
    )
