"""The prefix cache: the longest beginning that is known, for the same adapter, within its bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eztinker.engine.prefix_cache import MIN_SHARED_TOKENS, PrefixCache, shared_length, shared_prefix
from eztinker.model.kv_cache import KVBlock

TOKEN_BYTES = 2 * 4


def block(tokens: np.ndarray) -> KVBlock:
    """Keys that are the tokens, so that a match shows what it is of."""
    keys = torch.from_numpy(tokens.astype(np.float32)).reshape(1, -1, 1, 1)
    return KVBlock(keys, -keys)


def put(cache: PrefixCache, adapter: str, tokens: np.ndarray) -> None:
    cache.put(adapter, tokens, block(tokens))


def match(cache: PrefixCache, adapter: str, tokens: np.ndarray) -> list[int] | None:
    found = cache.longest_match(adapter, tokens)
    return None if found is None else found.keys_NSKD.flatten().int().tolist()


def prompt(*parts: tuple[int, int]) -> np.ndarray:
    """So many tokens of each number."""
    return np.concatenate([np.full(count, token) for token, count in parts])


def test_of_all_stored_prompts_the_longest_common_beginning_is_taken():
    cache = PrefixCache(1 << 20)
    for stored in (prompt((1, 20)), prompt((1, 30), (2, 10)), prompt((3, 40))):
        put(cache, "adapter", stored)
    assert match(cache, "adapter", prompt((1, 35))) == [1] * 30
    assert match(cache, "adapter", prompt((1, 30), (2, 50))) == [1] * 30 + [2] * 10
    assert match(cache, "adapter", prompt((4, 40))) is None


@pytest.mark.parametrize(("num_shared", "is_found"), [(MIN_SHARED_TOKENS - 1, False), (MIN_SHARED_TOKENS, True)])
def test_a_short_common_beginning_is_not_worth_it(num_shared: int, is_found: bool):
    cache = PrefixCache(1 << 20)
    put(cache, "adapter", prompt((1, num_shared), (2, 5)))
    assert (match(cache, "adapter", prompt((1, num_shared), (3, 5))) == [1] * num_shared) is is_found


def test_adapters_never_share_an_entry():
    cache = PrefixCache(1 << 20)
    put(cache, "ann's", prompt((1, 40)))
    assert match(cache, "bob's", prompt((1, 40))) is None


def test_the_prompt_that_was_used_last_stays_when_room_is_needed():
    cache = PrefixCache(2 * 20 * TOKEN_BYTES)
    put(cache, "adapter", prompt((1, 20)))
    put(cache, "adapter", prompt((2, 20)))
    assert match(cache, "adapter", prompt((1, 20))) is not None
    put(cache, "adapter", prompt((3, 20)))
    assert match(cache, "adapter", prompt((2, 20))) is None
    assert match(cache, "adapter", prompt((1, 20))) is not None


def test_a_prompt_larger_than_the_cache_drops_no_other():
    cache = PrefixCache(20 * TOKEN_BYTES)
    put(cache, "adapter", prompt((1, 20)))
    put(cache, "adapter", prompt((2, 21)))
    assert match(cache, "adapter", prompt((1, 20))) is not None
    assert match(cache, "adapter", prompt((2, 21))) is None


def test_common_beginnings_end_where_the_first_prompt_differs():
    first, second = np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4, 5])
    assert shared_length(first, second) == 2
    assert shared_length(first, first[:3]) == 3
    assert shared_length(first, np.array([], int)) == 0
    assert shared_prefix([first, second, np.array([1])]).tolist() == [1]
    assert shared_prefix([first]).tolist() == [1, 2, 3, 4]
