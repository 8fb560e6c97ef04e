"""Prefill: one packed pass over several prompts, after a prefix that is cached from earlier ones.

A prompt that is too long for one pass is read in several, each of which attends to the tokens of those before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.prefix_cache import PrefixCache, shared_prefix
from eztinker.engine.prompt_scores import PromptScorer, PromptScores, first_needed
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.kv_cache import KVBlock
from eztinker.model.lora import LowRankAdapter, adapter_rows
from eztinker.types import SampleRequest

MAX_PASS_TOKENS = 512
"""Most tokens in one pass, as in a training micro-batch. Other shares wait for its end, and more gain nothing."""
MIN_SAVED_TOKENS = 64
"""Fewest tokens that a cached prefix must save to be worth a pass of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt and the adapter to read it with."""

    request: SampleRequest
    adapter: LowRankAdapter | None
    adapter_key: Hashable
    """Cache key of the adapter: equal for equal weights."""

    @property
    def tokens(self) -> np.ndarray:
        return self.request.prompt

    @property
    def cacheable(self) -> np.ndarray:
        """Tokens whose keys and values may come from the cache; later ones need hidden states for scores."""
        return self.tokens[: first_needed(self.request)]


@dataclass(frozen=True, slots=True, eq=False)
class ReadPrompt:
    """A prompt after prefill: its keys and values, the next token's logits, and its scores."""

    block: KVBlock
    next_logits: Tensor
    """Logits of the token after the prompt, float32 (V,)."""
    num_cached_tokens: int
    scores: PromptScores


class PromptReader:
    """Prefill for one base model and any of its adapters."""

    def __init__(self, decoder: Decoder, cache_bytes: int, *, num_drawable: int) -> None:
        """Read prompts with `decoder`.

        Args:
            cache_bytes: size of the prefix cache.
            num_drawable: tokens the tokenizer knows; ids beyond are never drawn.
        """
        self._decoder = decoder
        self._num_drawable = num_drawable
        self._cache = PrefixCache(cache_bytes)

    def num_unread(self, prompt: Prompt) -> int:
        """Number of the prompt's tokens that are not in the cache."""
        block = self._cached(prompt)
        return len(prompt.tokens) - (block.num_tokens if block else 0)

    def read(self, prompts: Sequence[Prompt]) -> list[ReadPrompt]:
        """Read prompts together; results are in their order."""
        self._cache_shared_prefixes([prompt for prompt in prompts if len(prompt.cacheable)])
        results: dict[int, ReadPrompt] = {}
        for prefix, members in self._by_prefix(prompts):
            reads = self._read_behind(prefix, [prompts[member] for member in members])
            results.update(zip(members, reads, strict=True))
        for index, read in results.items():
            self._cache.put(prompts[index].adapter_key, prompts[index].tokens, read.block)
        return [results[index] for index in range(len(prompts))]

    def read_in_passes(self, prompt: Prompt) -> Iterator[ReadPrompt | None]:
        """Read one prompt of any length; yields None after each pass but the last."""
        cached = self._cached(prompt)
        num_cached, num_tokens = cached.num_tokens if cached else 0, len(prompt.tokens)
        scorer, prefix, whole = self._scorer(prompt), cached, None
        for start in range(num_cached, num_tokens, MAX_PASS_TOKENS):
            tokens = prompt.tokens[start : start + MAX_PASS_TOKENS]
            attention = PackedAttention([len(tokens)], self._decoder.device, prefix=prefix, keep_keys=True)
            hidden_TH = self._hidden_states([tokens], attention, [prompt.adapter])
            own = attention.own_block(0)
            if whole is None:
                whole = KVBlock.room_for(num_tokens, like=own)
                if cached:
                    whole.put(0, cached)
            whole.put(start, own)
            scorer.take(start, hidden_TH)
            if start + len(tokens) < num_tokens:
                prefix = whole.first(start + len(tokens))
                yield None
            else:
                self._cache.put(prompt.adapter_key, prompt.tokens, whole)
                logits = self._decoder.logits(hidden_TH[-1:], adapter_rows([prompt.adapter], self._decoder.device))
                yield ReadPrompt(whole, logits[0], num_cached, scorer.scores)

    def _cached(self, prompt: Prompt) -> KVBlock | None:
        """The prompt's longest cached prefix, if it is long enough to be worth using."""
        block = self._cache.longest_match(prompt.adapter_key, prompt.cacheable)
        return None if block is None or block.num_tokens < MIN_SAVED_TOKENS else block

    def _scorer(self, prompt: Prompt) -> PromptScorer:
        return PromptScorer(self._decoder, prompt.request, prompt.adapter, self._num_drawable)

    def _cache_shared_prefixes(self, prompts: Sequence[Prompt]) -> None:
        """Read the prefix that all prompts of one adapter share into the cache, so that they can use it."""
        by_adapter: dict[Hashable, list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            by_adapter[prompt.adapter_key].append(prompt)
        for adapter_key, members in by_adapter.items():
            header = shared_prefix([member.cacheable for member in members])
            if len(header) * (len(members) - 1) < MIN_SAVED_TOKENS:
                continue
            known = self._cache.longest_match(adapter_key, header)
            if known is None or known.num_tokens < len(header):
                attention = PackedAttention([len(header)], self._decoder.device, keep_keys=True)
                self._hidden_states([header], attention, [members[0].adapter])
                self._cache.put(adapter_key, header, attention.block(0))

    def _by_prefix(self, prompts: Sequence[Prompt]) -> list[tuple[KVBlock | None, list[int]]]:
        """Group prompts, by index, by their cached prefix, as one attention pass needs them; the rest together."""
        groups: dict[Hashable, tuple[KVBlock, list[int]]] = {}
        rest: list[int] = []
        for index, prompt in enumerate(prompts):
            block = self._cache.longest_match(prompt.adapter_key, prompt.cacheable)
            if block is None:
                rest.append(index)
            else:
                start = prompt.tokens[: block.num_tokens].tobytes()
                groups.setdefault((prompt.adapter_key, start), (block, []))[1].append(index)
        worthwhile: list[tuple[KVBlock | None, list[int]]] = []
        for block, members in groups.values():
            if block.num_tokens * len(members) >= MIN_SAVED_TOKENS:
                worthwhile.append((block, members))
            else:
                rest += members
        return [*worthwhile, (None, rest)] if rest else worthwhile

    def _read_behind(self, prefix: KVBlock | None, prompts: Sequence[Prompt]) -> list[ReadPrompt]:
        num_cached = prefix.num_tokens if prefix else 0
        own = [prompt.tokens[num_cached:] for prompt in prompts]
        lengths = [len(tokens) for tokens in own]
        adapters = [prompt.adapter for prompt in prompts]
        attention = PackedAttention(lengths, self._decoder.device, prefix=prefix, keep_keys=True)
        hidden_TH = self._hidden_states(own, attention, adapters)
        ends = torch.tensor(lengths, device=hidden_TH.device).cumsum(0) - 1
        next_logits = self._decoder.logits(hidden_TH[ends], adapter_rows(adapters, hidden_TH.device))
        reads = []
        for index, (prompt, hidden) in enumerate(zip(prompts, hidden_TH.split(lengths), strict=True)):
            scorer = self._scorer(prompt)
            scorer.take(num_cached, hidden)
            reads.append(ReadPrompt(attention.block(index), next_logits[index], num_cached, scorer.scores))
        return reads

    def _hidden_states(
        self, prompts: Sequence[np.ndarray], attention: PackedAttention, adapters: Sequence[LowRankAdapter | None]
    ) -> Tensor:
        tokens_T = torch.from_numpy(np.concatenate(prompts).astype(np.int64)).to(self._decoder.device)
        per_token = [adapter for adapter, tokens in zip(adapters, prompts, strict=True) for _ in range(len(tokens))]
        return self._decoder.hidden_states(tokens_T, attention, adapter_rows(per_token, self._decoder.device))
