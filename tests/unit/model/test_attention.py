"""However tokens reach the decoder, packed, behind a shared prefix or one by one over a cache, logits are the same."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eztinker.model import device
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.kv_cache import KVBlock, KVCache
from tests.oracles import CPU, assert_same, draw_tokens, load_decoder, packed_logits

LENGTHS = [3, 40, 1, 17, 39, 8, 2]
MODELS = {
    "llama": ("llama", {}),
    "mistral with a window": ("mistral", {"sliding_window": 5}),
    "qwen2 with a window in one layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
}


@pytest.fixture(params=["own kernels", "torch alone"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that the decoder computes with."""
    if request.param == "torch alone":
        monkeypatch.setattr(device, "cpu_kernels", lambda _: None)


@pytest.fixture(params=MODELS)
def decoder(request: pytest.FixtureRequest, tiny_model: Callable[..., Path], operators: None) -> Decoder:
    family, options = MODELS[request.param]
    return load_decoder(tiny_model(family, **options))


def alone(decoder: Decoder, tokens: list[int]) -> Tensor:
    return packed_logits(decoder, [tokens])[0]


@torch.inference_mode()
def prefilled(decoder: Decoder, sequences: list[list[int]], prefix: KVBlock | None = None) -> PackedAttention:
    attention = PackedAttention([len(tokens) for tokens in sequences], CPU, prefix=prefix, keep_keys=True)
    decoder.hidden_states(torch.tensor([*chain(*sequences)]), attention)
    return attention


@torch.inference_mode()
def decode_step(decoder: Decoder, cache: KVCache, tokens: list[int]) -> Tensor:
    logits = decoder.logits(decoder.next_hidden_states(torch.tensor(tokens), cache))
    cache.advance(len(tokens))
    return logits


def test_packed_sequences_do_not_see_each_other(decoder: Decoder):
    sequences = [draw_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    for packed, tokens in zip(packed_logits(decoder, sequences), sequences, strict=True):
        assert_same(packed, alone(decoder, tokens))


def test_decoding_over_the_cache_equals_reading_the_whole_sequence(decoder: Decoder):
    sequences = [draw_tokens(length + 9, seed) for seed, length in enumerate(LENGTHS)]
    prompts = [tokens[:length] for tokens, length in zip(sequences, LENGTHS, strict=True)]
    attention, cache = prefilled(decoder, prompts), decoder.new_cache()
    for sequence in range(len(prompts)):
        cache.add_row(attention.block(sequence))
    whole = [alone(decoder, tokens) for tokens in sequences]
    for step in range(9):
        next_tokens = [tokens[length + step] for tokens, length in zip(sequences, LENGTHS, strict=True)]
        logits = decode_step(decoder, cache, next_tokens)
        expected = torch.stack([full[length + step] for full, length in zip(whole, LENGTHS, strict=True)])
        assert_same(logits, expected)


def test_rows_may_leave_and_join_between_steps(decoder: Decoder):
    sequences = [draw_tokens(30 + 7 * seed, seed) for seed in range(4)]
    cache = decoder.new_cache()
    for tokens in sequences[:3]:
        cache.add_row(prefilled(decoder, [tokens[:20]]).block(0))
    decode_step(decoder, cache, [tokens[20] for tokens in sequences[:3]])
    cache.remove_row(0)  # row 2 takes its place
    cache.add_row(prefilled(decoder, [sequences[3][:33]]).block(0))
    places = [(2, 21), (1, 21), (3, 33)]
    logits = decode_step(decoder, cache, [sequences[sequence][position] for sequence, position in places])
    expected = torch.stack([alone(decoder, sequences[sequence])[position] for sequence, position in places])
    assert_same(logits, expected)


def test_reading_behind_a_shared_prefix_equals_reading_all_of_it(decoder: Decoder):
    header = draw_tokens(23, seed=9)
    prefix = prefilled(decoder, [header]).block(0)
    tails = [draw_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    attention = PackedAttention(LENGTHS, CPU, prefix=prefix)
    with torch.inference_mode():
        logits = decoder.logits(decoder.hidden_states(torch.tensor([*chain(*tails)]), attention)).split(LENGTHS)
    for ours, tail in zip(logits, tails, strict=True):
        assert_same(ours, alone(decoder, header + tail)[len(header) :])


def test_a_block_read_behind_a_prefix_continues_both(decoder: Decoder):
    tokens = draw_tokens(40)
    prefix = prefilled(decoder, [tokens[:23]]).block(0)
    cache = decoder.new_cache()
    cache.add_row(prefilled(decoder, [tokens[23:39]], prefix).block(0))
    logits = decode_step(decoder, cache, tokens[39:])
    assert_same(logits[0], alone(decoder, tokens)[39])
