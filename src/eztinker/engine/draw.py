"""Token sampling for a batch of logits, and tables of the likeliest tokens. B = sequences, V = vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eztinker.model.device import own_kernels
from eztinker.types import ABSENT_LOGPROB, SamplingParams, TopkLogprobs


@dataclass(frozen=True, slots=True)
class Normalization:
    """Per-row constants of log-softmax at a temperature, over the whole vocabulary, padding included."""

    greatest_B: Tensor
    temperatures_B: Tensor
    log_totals_B: Tensor

    def logprobs(self, logits_BK: Tensor) -> Tensor:
        """Log-probabilities, in nats, of K of each row's logits."""
        return (logits_BK - self.greatest_B[:, None]) / self.temperatures_B[:, None] - self.log_totals_B[:, None]

    def rows(self, rows: Tensor | slice) -> Normalization:
        return Normalization(self.greatest_B[rows], self.temperatures_B[rows], self.log_totals_B[rows])


def normalization(logits_BV: Tensor, temperatures: Sequence[float], num_drawable: int) -> Normalization:
    """Log-softmax constants of each row.

    Args:
        logits_BV: float32.
        temperatures: temperature of each row, above 0.
        num_drawable: tokens that can be drawn, as for `draw`; the kernels then give the same bits as a draw.
    """
    kernels = own_kernels(logits_BV)
    temperatures_B = torch.tensor(temperatures, device=logits_BV.device)
    if kernels is not None:
        greatest_B, log_totals_B = kernels.normalize(logits_BV, temperatures, num_drawable)
    else:
        greatest_B = logits_BV.amax(dim=-1)
        tempered_BV = (logits_BV - greatest_B[:, None]) / temperatures_B[:, None]
        log_totals_B = torch.logsumexp(tempered_BV, dim=-1)
    return Normalization(greatest_B, temperatures_B, log_totals_B)


def draw(
    logits_BV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], num_tokens: int
) -> tuple[list[int], list[float]]:
    """Draw one token per row.

    Args:
        logits_BV: float32.
        params: temperature, top_k and top_p of each row; temperature 0 takes the likeliest token.
        uniforms: one number in [0, 1) per row; the token is where the cumulative probability exceeds it, so a row's
            token depends on its own logits and number alone.
        num_tokens: tokens the tokenizer knows; ids beyond are padding of the vocabulary and are never drawn.
    Returns:
        Tokens, and their log-probabilities in nats under the tempered distribution over the whole vocabulary, before
        top-k and top-p; untempered where the temperature is 0.
    """
    is_truncated = [each.temperature > 0 and (each.top_k > 0 or each.top_p < 1) for each in params]
    whole = [row for row, truncated in enumerate(is_truncated) if not truncated]
    truncated = [row for row, truncated in enumerate(is_truncated) if truncated]
    tokens, logprobs = [0] * len(params), [0.0] * len(params)
    for rows, choose in ((whole, _draw_whole), (truncated, _draw_truncated)):
        if rows:
            logits = logits_BV if len(rows) == len(params) else logits_BV[rows]
            chosen = choose(logits, [params[row] for row in rows], [uniforms[row] for row in rows], num_tokens)
            for row, token, logprob in zip(rows, *(column.tolist() for column in chosen), strict=True):
                tokens[row], logprobs[row] = token, logprob
    return tokens, logprobs


def _draw_whole(
    logits_BV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Draw from all tokens that the tokenizer knows."""
    kernels = own_kernels(logits_BV)
    if kernels is not None:
        return kernels.draw(logits_BV, [each.temperature for each in params], uniforms, num_tokens)
    drawable_BV, temperatures = logits_BV[:, :num_tokens], _temperatures(params)
    tokens_B = drawable_BV.argmax(dim=-1)
    if any(each.temperature > 0 for each in params):
        is_warm_B = torch.tensor([each.temperature > 0 for each in params], device=logits_BV.device)
        tokens_B = torch.where(is_warm_B, _draw_by_inverse_cdf(drawable_BV, temperatures, uniforms), tokens_B)
    return tokens_B, _logprobs_of(tokens_B, logits_BV, temperatures, num_tokens)


def _draw_truncated(
    logits_BV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Draw from the tokens that remain after top-k and top-p."""
    kept_BV = torch.full((len(params), num_tokens), -math.inf, device=logits_BV.device)
    for row, each in enumerate(params):
        logits, tokens = _truncated(logits_BV[row, :num_tokens], each)
        kept_BV[row, tokens] = logits
    kernels, temperatures = own_kernels(logits_BV), _temperatures(params)
    if kernels is not None:
        tokens_B, _ = kernels.draw(kept_BV, temperatures, uniforms, num_tokens)
    else:
        tokens_B = _draw_by_inverse_cdf(kept_BV, temperatures, uniforms)
    return tokens_B, _logprobs_of(tokens_B, logits_BV, temperatures, num_tokens)


def _truncated(logits_V: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Logits and ids of the fewest of the top-k tokens whose probability among these reaches top-p.

    Works on one row at a time: torch's operators may round a row differently in a batch.
    """
    num_kept = min(params.top_k, logits_V.shape[0]) if params.top_k > 0 else logits_V.shape[0]
    kept, tokens = torch.topk(logits_V, num_kept)
    if params.top_p < 1:
        weights = ((kept - kept[0]) / params.temperature).exp_()
        cumulative = torch.cumsum(weights, dim=0)
        is_needed = cumulative - weights < params.top_p * cumulative[-1]
        is_needed[0] = True  # even a top-p that rounds to 0 keeps the likeliest token
        kept, tokens = kept[is_needed], tokens[is_needed]
    return kept, tokens


def _draw_by_inverse_cdf(drawable_BV: Tensor, temperatures: Sequence[float], uniforms: Sequence[float]) -> Tensor:
    """One token per row by inverse CDF, with torch's operators.

    The largest logit is taken over drawable tokens: subtracting a larger one of the padding would underflow all weights
    at a low temperature.
    """
    device = drawable_BV.device
    weights_BV = drawable_BV - drawable_BV.amax(dim=-1, keepdim=True)
    weights_BV.div_(torch.tensor(temperatures, device=device)[:, None]).exp_()
    return inverse_cdf(weights_BV, torch.tensor(uniforms, dtype=torch.float32, device=device)[:, None])[:, 0]


def _logprobs_of(tokens_B: Tensor, logits_BV: Tensor, temperatures: Sequence[float], num_tokens: int) -> Tensor:
    logits_B1 = logits_BV.gather(1, tokens_B[:, None])
    return normalization(logits_BV, temperatures, num_tokens).logprobs(logits_B1)[:, 0]


def _temperatures(params: Sequence[SamplingParams]) -> list[float]:
    """Temperatures under which logprobs are reported: 1 for greedy rows."""
    return [each.temperature or 1.0 for each in params]


def inverse_cdf(weights_BV: Tensor, uniforms_BK: Tensor) -> Tensor:
    """K tokens per row, (B, K): the first token whose cumulative weight exceeds the uniform's share of the total.

    Much faster than torch.multinomial.
    """
    cumulative = torch.cumsum(weights_BV, dim=-1)
    totals = cumulative[:, -1:].clone()
    drawn = torch.searchsorted(cumulative, uniforms_BK * totals, right=True)
    # Rounding can lift the product to the total itself, past the last token that has any probability.
    last = torch.searchsorted(cumulative, totals)
    return torch.minimum(drawn, last)


def likeliest(logits_BV: Tensor, params: Sequence[SamplingParams], num_tokens: int, k: int) -> TopkLogprobs:
    """The k likeliest tokens of each row, under the distribution whose logprobs `draw` returns."""
    return topk_table(logits_BV, normalization(logits_BV, _temperatures(params), num_tokens), k)


def topk_table(logits_BV: Tensor, normalization: Normalization, k: int) -> TopkLogprobs:
    """Table of each row's k highest logits as logprobs; cells beyond the size of the vocabulary stay absent."""
    num_rows, vocab_size = logits_BV.shape
    best = torch.topk(logits_BV, min(k, vocab_size))
    table = absent_topk(num_rows, k)
    table.token_ids[:, :vocab_size] = best.indices.cpu().numpy()
    table.logprobs[:, :vocab_size] = normalization.logprobs(best.values).cpu().numpy()
    return table


def absent_topk(num_rows: int, k: int) -> TopkLogprobs:
    """An empty top-k table, to be filled in."""
    return TopkLogprobs(
        token_ids=np.zeros((num_rows, k), dtype=np.int32),
        logprobs=np.full((num_rows, k), ABSENT_LOGPROB, dtype=np.float32),
    )
