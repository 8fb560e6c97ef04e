"""Reading prompts: one packed pass over many of them, behind what they share with prompts read before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.prefix_cache import PrefixCache, shared_beginning
from eztinker.engine.prompt_scores import PromptScores, first_needed, score_prompt
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.kv_cache import KVBlock
from eztinker.model.lora import LowRankAdapter, adapter_rows
from eztinker.types import SampleRequest

MIN_SAVED_TOKENS = 64
"""A pass of its own for prompts behind a prefix has to save this many tokens to be worth it."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What to read, and through which adapter."""

    request: SampleRequest
    adapter: LowRankAdapter | None
    adapter_key: Hashable
    """Equal for equal weights."""

    @property
    def tokens(self) -> np.ndarray:
        return self.request.prompt

    @property
    def cacheable(self) -> np.ndarray:
        """The tokens that may come from the cache, which keeps no hidden states for scores."""
        return self.tokens[: first_needed(self.request)]


@dataclass(frozen=True, slots=True, eq=False)
class ReadPrompt:
    """What reading a prompt leaves behind."""

    block: KVBlock
    next_logits: Tensor
    """float32 (V,), of the token after the prompt."""
    num_cached_tokens: int
    scores: PromptScores


class PromptReader:
    """Prefill for one base model and any of its adapters."""

    def __init__(self, decoder: Decoder, cache_bytes: int, *, num_drawable: int) -> None:
        """`num_drawable`: tokens the tokenizer knows; ids beyond are never drawn."""
        self._decoder = decoder
        self._num_drawable = num_drawable
        self._cache = PrefixCache(cache_bytes)

    def read(self, prompts: Sequence[Prompt]) -> list[ReadPrompt]:
        """Read prompts together; results are in their order."""
        self._read_shared_beginnings([prompt for prompt in prompts if len(prompt.cacheable)])
        results: dict[int, ReadPrompt] = {}
        for prefix, members in self._by_prefix(prompts):
            reads = self._read_behind(prefix, [prompts[member] for member in members])
            results.update(zip(members, reads, strict=True))
        for index, read in results.items():
            self._cache.put(prompts[index].adapter_key, prompts[index].tokens, read.block)
        return [results[index] for index in range(len(prompts))]

    def _read_shared_beginnings(self, prompts: Sequence[Prompt]) -> None:
        """Put what all prompts of one adapter begin with into the cache, so that they are read behind it."""
        by_adapter: dict[Hashable, list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            by_adapter[prompt.adapter_key].append(prompt)
        for adapter_key, members in by_adapter.items():
            header = shared_beginning([member.cacheable for member in members])
            if len(header) * (len(members) - 1) < MIN_SAVED_TOKENS:
                continue
            known = self._cache.longest_match(adapter_key, header)
            if known is None or known.num_tokens < len(header):
                attention = PackedAttention([len(header)], self._decoder.device, keep_keys=True)
                self._hidden_states([header], attention, [members[0].adapter])
                self._cache.put(adapter_key, header, attention.block(0))

    def _by_prefix(self, prompts: Sequence[Prompt]) -> list[tuple[KVBlock | None, list[int]]]:
        """Prompts that stand behind the same cached tokens, which one attention pass needs; the rest together."""
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
            hidden = hidden[len(prompt.cacheable) - num_cached :]
            reads.append(
                ReadPrompt(
                    block=attention.block(index),
                    next_logits=next_logits[index],
                    num_cached_tokens=num_cached,
                    scores=score_prompt(
                        self._decoder, prompt.request, prompt.adapter, hidden, num_drawable=self._num_drawable
                    ),
                )
            )
        return reads

    def _hidden_states(
        self, prompts: Sequence[np.ndarray], attention: PackedAttention, adapters: Sequence[LowRankAdapter | None]
    ) -> Tensor:
        tokens_T = torch.from_numpy(np.concatenate(prompts).astype(np.int64)).to(self._decoder.device)
        per_token = [adapter for adapter, tokens in zip(adapters, prompts, strict=True) for _ in range(len(tokens))]
        return self._decoder.hidden_states(tokens_T, attention, adapter_rows(per_token, self._decoder.device))
