"""Completions drawn from an adapter, cut where their answer ends."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eztinker.dataset.start_tokens import encode_prompt
from eztinker.rl.connection import sdk_errors

if TYPE_CHECKING:
    import tinker
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer, cut where it ended: no stop token, no stop text, never any of the prompt."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    """Log-probability of each token as the sampler drew it, in nats."""
    is_finished: bool
    """True if it ended by itself rather than at the token limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSpec:
    """Limits, temperature and seed of one sampling request."""

    max_tokens: int
    temperature: float
    """0 takes the most likely token."""
    stop: tuple[str, ...] = ()
    """Text that ends a completion; the end-of-sequence token always does."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class PendingCompletions:
    """A sampling request that the server has, and its future."""

    response: tinker.APIFuture[tinker.SampleResponse]
    tokenizer: PreTrainedTokenizerBase
    stop: tuple[str, ...]

    def result(self) -> list[Completion]:
        """Wait for the completions."""
        with sdk_errors():
            sequences = self.response.result().sequences
        return [trimmed(self.tokenizer, sequence.tokens, sequence.logprobs or [], self.stop) for sequence in sequences]


@dataclass(frozen=True, slots=True)
class AdapterSampler:
    """Draws from one fixed state of an adapter."""

    client: tinker.SamplingClient
    tokenizer: PreTrainedTokenizerBase

    def submit(self, prompt: str, num_samples: int, spec: SamplingSpec) -> PendingCompletions:
        """Ask for `num_samples` completions of `prompt` in one request, without waiting.

        Submit everything first and collect afterwards: the server answers all requests as one running batch.
        """
        import tinker

        params = tinker.SamplingParams(
            max_tokens=spec.max_tokens,
            temperature=spec.temperature,
            seed=spec.seed,
            stop=list(spec.stop) or None,  # an empty list would switch off the end-of-sequence token
        )
        model_input = tinker.ModelInput.from_ints(encode_prompt(self.tokenizer, prompt))
        with sdk_errors():
            response = self.client.sample(model_input, num_samples, params)
        return PendingCompletions(response, self.tokenizer, spec.stop)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a completion: no start token, and other special tokens only where `text` spells them out."""
    return tokenizer.encode(text, add_special_tokens=False)


def stop_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer."""
    token_id = tokenizer.eos_token_id
    assert isinstance(token_id, int), "a served model's tokenizer has an end-of-sequence token"
    return token_id


def chat_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """`question` as a user's turn in the model's own chat template, ready for the reply."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def trimmed(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], logprobs: Sequence[float], stop: Sequence[str]
) -> Completion:
    """The completion in drawn tokens: up to the first special token, as the end-of-sequence token is, or stop text.

    Cut between tokens, so that every token left keeps its logprob; a token that holds a piece of the stop text goes.
    """
    endings = _special_token_ids(tokenizer)
    kept = list(itertools.takewhile(lambda token: token not in endings, tokens))
    is_finished = len(kept) < len(tokens)
    text = _text(tokenizer, kept)
    while any(mark in text for mark in stop):
        is_finished = True
        kept.pop()
        text = _text(tokenizer, kept)
    return Completion(text=text, tokens=kept, logprobs=list(logprobs[: len(kept)]), is_finished=is_finished)


def _special_token_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    # Not all_special_ids: it leaves out those without a role, such as the end of a turn in a base model's tokenizer.
    return {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
