"""Drawing the next token of every running sequence. B = sequences, V = vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eztinker.types import SamplingParams


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
    device = logits_BV.device
    temperatures = torch.tensor([row.temperature or 1.0 for row in params], device=device)
    logits_BV.div_(temperatures[:, None])
    log_totals = torch.logsumexp(logits_BV, dim=-1)
    tokens = logits_BV[:, :num_tokens].argmax(dim=-1)
    warm = [row for row, each in enumerate(params) if each.temperature > 0]
    if warm:
        index = torch.tensor(warm, device=device)
        everyone = len(warm) == len(params)
        scores = (logits_BV if everyone else logits_BV[index])[:, :num_tokens]
        probs = torch.softmax(scores, dim=-1)
        for place, row in enumerate(warm):
            if params[row].top_k > 0 or params[row].top_p < 1:
                _truncate(probs[place], params[row])
        numbers = torch.tensor([uniforms[row] for row in warm], dtype=torch.float32, device=device)
        tokens[index] = _inverse_cdf(probs, numbers)
    logprobs = logits_BV.gather(1, tokens[:, None])[:, 0] - log_totals
    return tokens.tolist(), logprobs.tolist()


def _truncate(probs_V: Tensor, params: SamplingParams) -> None:
    """Set to 0 all but the top-k tokens, then all but the fewest of those that reach top-p of what is left."""
    num_kept = min(params.top_k, probs_V.shape[0]) if params.top_k > 0 else probs_V.shape[0]
    kept, tokens = torch.topk(probs_V, num_kept)
    if params.top_p < 1:
        cumulative = torch.cumsum(kept, dim=0)
        before = cumulative - kept
        kept = kept.masked_fill(before >= params.top_p * cumulative[-1], 0.0)
    probs_V.zero_()
    probs_V[tokens] = kept


def _inverse_cdf(probs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds the uniform; much faster than `torch.multinomial`."""
    cumulative = torch.cumsum(probs_BV, dim=-1)
    totals = cumulative[:, -1:].clone()
    drawn = torch.searchsorted(cumulative, uniforms_B[:, None] * totals, right=True)
    # Rounding can lift the product to the total itself, past the last token that has any probability.
    last = torch.searchsorted(cumulative, totals)
    return torch.minimum(drawn, last)[:, 0]
