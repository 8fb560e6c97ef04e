"""Prefix cache: keys and values of recent prompts, so that a shared prefix is read once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np

from eztinker.model.kv_cache import KVBlock

MIN_SHARED_TOKENS = 16
"""Shortest common prefix that counts as a match."""


class PrefixCache:
    """An LRU cache of prompts, bounded in bytes. Adapters never share an entry."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[tuple[Hashable, bytes], KVBlock] = OrderedDict()

    def longest_match(self, adapter: Hashable, tokens: np.ndarray) -> KVBlock | None:
        """The longest cached prefix of `tokens` under `adapter`."""
        best_key, best = None, MIN_SHARED_TOKENS - 1
        for key in self._entries:
            if key[0] == adapter:
                shared = shared_length(np.frombuffer(key[1], tokens.dtype), tokens)
                if shared > best:
                    best_key, best = key, shared
        if best_key is None:
            return None
        self._entries.move_to_end(best_key)
        return self._entries[best_key].first(best)

    def put(self, adapter: Hashable, prompt: np.ndarray, block: KVBlock) -> None:
        key = (adapter, prompt.tobytes())
        if key in self._entries or block.num_bytes > self._max_bytes:
            return
        self._entries[key] = block
        self._num_bytes += block.num_bytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._num_bytes -= oldest.num_bytes


def shared_length(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common prefix of two prompts, in tokens."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if different.size else size


def shared_prefix(beginnings: Sequence[np.ndarray]) -> np.ndarray:
    """The longest common prefix of all of these prompts."""
    first = beginnings[0]
    return first[: min(shared_length(first, other) for other in beginnings)]
