"""The key-value cache beside lists of what each sequence has read."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from eztinker.model.kv_cache import GROWTH_ROWS, GROWTH_TOKENS, KVBlock, KVCache
from tests.oracles import CPU

LAYERS, HEADS, HEAD_DIM = 2, 3, 4


def new_cache() -> KVCache:
    return KVCache(
        num_layers=LAYERS,
        num_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        key_dtype=torch.float32,
        value_dtype=torch.float32,
        device=CPU,
    )


def block(num_tokens: int, seed: int) -> KVBlock:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(LAYERS, num_tokens, HEADS, HEAD_DIM, generator=generator) for _ in range(2))
    return KVBlock(keys, values)


def content(cache: KVCache, row: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a row, (N, S, K, D)."""
    length = int(cache.lengths[row])
    keys, values = cache.keys_and_values
    return keys[:, row, :, :length].transpose(1, 2), values[:, row, :, :length].transpose(1, 2)


def append(cache: KVCache, token: KVBlock, num_rows: int) -> None:
    """One token to each of the first rows."""
    positions, _ = cache.make_room(num_rows)
    for layer in range(LAYERS):
        keys, values = token.layer(layer)
        cache.append(layer, torch.arange(num_rows), positions, keys, values)
    cache.advance(num_rows)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_added_dropped_and_swapped_each_row_keeps_what_its_sequence_has_read(seed: int):
    generator = random.Random(seed)
    cache, rows = new_cache(), list[KVBlock]()
    for step in range(120):
        action = generator.choice(["add", "append", "append", "remove", "swap"])
        if action == "add":
            rows.append(block(generator.randrange(1, 40), seed=step))
            assert cache.add_row(rows[-1]) == len(rows) - 1
        elif action == "append" and rows:
            num_rows = generator.randrange(1, len(rows) + 1)
            new = block(num_rows, seed=step)
            append(cache, new, num_rows)
            for row in range(num_rows):
                one = KVBlock(new.keys_NSKD[:, row : row + 1], new.values_NSKD[:, row : row + 1])
                rows[row] = rows[row].followed_by(one)
        elif action == "remove" and rows:
            row = generator.randrange(len(rows))
            cache.remove_row(row)
            rows[row] = rows[-1]
            rows.pop()
        elif action == "swap" and rows:
            row, other = (generator.randrange(len(rows)) for _ in range(2))
            cache.swap_rows(row, other)
            rows[row], rows[other] = rows[other], rows[row]
        assert cache.num_rows == len(rows)
        for row, expected in enumerate(rows):
            keys, values = content(cache, row)
            assert torch.equal(keys, expected.keys_NSKD)
            assert torch.equal(values, expected.values_NSKD)


def test_memory_grows_in_steps_and_is_given_back_when_nothing_runs():
    cache = new_cache()
    cache.add_row(block(1, seed=0))
    assert cache.keys_and_values[0].shape == (LAYERS, GROWTH_ROWS, HEADS, GROWTH_TOKENS, HEAD_DIM)
    for _ in range(GROWTH_ROWS):
        cache.add_row(block(1, seed=0))
    assert cache.keys_and_values[0].shape[1] == 2 * GROWTH_ROWS
    for _ in range(GROWTH_ROWS + 1):
        cache.remove_row(0)
    assert cache.keys_and_values[0].numel() == 0


def test_places_that_nothing_was_written_to_are_zeros():
    """A masked position has probability 0, and 0 times NaN would be NaN."""
    cache = new_cache()
    cache.add_row(block(3, seed=0))
    keys, values = cache.view(layer=1, num_rows=GROWTH_ROWS, num_keys=GROWTH_TOKENS)
    assert not keys[:, :, 3:].any()
    assert not values[1:].any()


def test_a_block_is_cut_joined_and_filled_without_a_change():
    whole = block(10, seed=0)
    tail = KVBlock(whole.keys_NSKD[:, 4:], whole.values_NSKD[:, 4:])
    joined = whole.first(4).followed_by(tail)
    filled = KVBlock.room_for(10, whole)
    filled.put(4, tail)
    filled.put(0, whole.first(4))
    for other in (joined, filled):
        assert torch.equal(other.keys_NSKD, whole.keys_NSKD)
        assert torch.equal(other.values_NSKD, whole.values_NSKD)
    assert whole.num_bytes == 2 * LAYERS * 10 * HEADS * HEAD_DIM * 4
