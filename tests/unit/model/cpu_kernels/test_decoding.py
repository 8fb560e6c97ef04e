"""One call for all layers gives what the layers give one by one, to the bit, in every set of instructions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eztinker.model.attention import PackedAttention
from eztinker.model.cpu_kernels import DecodeKernel, LayerWeights, PackedWeight, cpu_kernels
from eztinker.model.decoder import Decoder
from eztinker.model.lora import Adapter, LowRankAdapter, adapter_rows
from eztinker.types import LoraSpec
from tests.oracles import CPU, draw_tokens, load_decoder

LENGTHS = [9, 1, 30, 17, 64]
NUM_STEPS = 3
MODELS = {
    "llama": ("llama", {}),
    "three heads for a key": (
        "llama",
        {"hidden": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64},
    ),
    "seven heads for one key": (
        "llama",
        {"hidden": 56, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 64},
    ),
    "a key for each head": ("llama", {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}),
    "wide heads": ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128}),
    "eight heads for one key": ("llama", {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 96}),
    "a window": ("mistral", {"sliding_window": 5}),
    "biases, and a window in one layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "norms of the heads": ("qwen3", {}),
    "a tied head": ("llama", {"tie": True}),
    "small heads": ("llama", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}),
    "heads that registers do not divide": (
        "qwen3",
        {"num_attention_heads": 3, "head_dim": 20, "hidden": 60, "num_key_value_heads": 1},
    ),
    "heads of half a tile": ("llama", {"head_dim": 80}),
    "odd sizes": (
        "llama",
        {"hidden": 51, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 18, "intermediate_size": 171},
    ),
}


def trained(decoder: Decoder, spec: LoraSpec) -> Adapter:
    adapter = Adapter.new(decoder.config, spec, CPU)
    adapter.flat.add_(0.05 * torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(spec.seed)))
    return adapter


def adapters_of(decoder: Decoder) -> list[LowRankAdapter | None]:
    """One for each sequence: two share one, one has an odd rank and some layers alone, and one has none."""
    specs = [
        LoraSpec(rank=4, seed=1, alpha=8.0),
        LoraSpec(rank=3, seed=2, alpha=8.0, train_mlp=False, train_unembed=False),
    ]
    whole, attention_alone = (trained(decoder, spec).for_sampling(decoder.dtype) for spec in specs)
    return [whole, attention_alone, whole, None, whole]


@torch.inference_mode()
def read(
    decoder: Decoder, sequences: list[list[int]], adapters: list[LowRankAdapter | None]
) -> tuple[list[Tensor], PackedAttention]:
    """Hidden states of every token of each sequence, the layers one by one, and what keeps their keys and values."""
    lengths = [len(tokens) for tokens in sequences]
    attention = PackedAttention(lengths, CPU, keep_keys=True)
    per_token = [adapter for adapter, tokens in zip(adapters, sequences, strict=True) for _ in tokens]
    hidden = decoder.hidden_states(torch.tensor([*chain(*sequences)]), attention, adapter_rows(per_token, CPU))
    return list(hidden.split(lengths)), attention


@torch.inference_mode()
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("model", MODELS)
def test_each_row_is_what_the_layers_give_one_by_one(
    model: str, kernel_dtype: torch.dtype, tiny_model: Callable[..., Path]
):
    family, options = MODELS[model]
    decoder = load_decoder(tiny_model(family, **options), kernel_dtype)
    adapters = adapters_of(decoder)
    sequences = [draw_tokens(length + NUM_STEPS, seed) for seed, length in enumerate(LENGTHS)]
    expected, _ = read(decoder, sequences, adapters)
    prompts = [tokens[:length] for tokens, length in zip(sequences, LENGTHS, strict=True)]
    _, attention = read(decoder, prompts, adapters)
    cache = decoder.new_cache()
    for sequence in range(len(prompts)):
        cache.add_row(attention.block(sequence))
    for step in range(NUM_STEPS):
        positions = [length + step for length in LENGTHS]
        tokens = torch.tensor([tokens[position] for tokens, position in zip(sequences, positions, strict=True)])
        hidden = decoder.next_hidden_states(tokens, cache, adapter_rows(adapters, CPU))
        cache.advance(len(prompts))
        wanted = torch.stack([states[position] for states, position in zip(expected, positions, strict=True)])
        assert torch.equal(hidden, wanted)


@pytest.mark.parametrize("sizes", [{"num_heads": 4}, {"num_heads": 3, "num_kv_heads": 2}, {"num_kv_heads": 3}])
def test_weights_that_do_not_fit_the_heads_are_refused(kernel_dtype: torch.dtype, sizes: dict[str, int]):
    kernels = cpu_kernels(kernel_dtype)
    assert kernels is not None

    def weight(outputs: int, inputs: int) -> PackedWeight:
        return kernels.pack_weight(torch.zeros(outputs, inputs, dtype=kernel_dtype))

    def layer(norm_width: int) -> LayerWeights:
        return LayerWeights(
            attn_norm=torch.ones(norm_width, dtype=kernel_dtype),
            mlp_norm=torch.ones(norm_width, dtype=kernel_dtype),
            q_norm=None,
            k_norm=None,
            qkv=weight(48, 20),
            output=weight(20, 24),
            gate_up=weight(14, 20),
            down=weight(20, 7),
            window=None,
        )

    fitting = {"num_heads": 2, "num_kv_heads": 1}
    kernel = DecodeKernel(kernels, [layer(20)], **fitting, eps=1e-5)
    with pytest.raises(ValueError, match=r"layer 1 must be .* of shape \(20,\)"):
        DecodeKernel(kernels, [layer(20), layer(19)], **fitting, eps=1e-5)
    with pytest.raises(ValueError, match="The weights of layer 0 do not fit"):
        DecodeKernel(kernels, [layer(20)], **{**fitting, **sizes}, eps=1e-5)
    with pytest.raises(ValueError, match="does not fit a weight of 48 x 20"):
        kernel.low_ranks([(weight(3, 20), weight(47, 3)), None, None, None])


def test_a_step_that_does_not_fit_the_cache_is_refused(kernel_dtype: torch.dtype, tiny_model_dir: Path):
    decoder = load_decoder(tiny_model_dir, kernel_dtype)
    cache = decoder.new_cache()
    _, attention = read(decoder, [[1, 2, 3]], [None])
    cache.add_row(attention.block(0))
    kernel = decoder._decode_kernel
    assert kernel is not None
    x, angles = torch.zeros(1, 64, dtype=kernel_dtype), torch.zeros(1, 32, dtype=kernel_dtype)
    places = torch.tensor([3])
    keys, values = cache.keys_and_values
    for message, arguments in {
        "hidden states": (x[:, 1:], angles, keys, places),
        "rotation": (x, angles[:, :30], keys, places),
        "cache must be": (x, angles, keys[1:], places),
        "but 400 is to be written": (x, angles, keys, torch.tensor([400])),
        "positions": (x, angles, keys, torch.tensor([3, 3])),
    }.items():
        own_x, own_cos, own_keys, own_places = arguments
        with pytest.raises(ValueError, match=message):
            kernel.append(own_x, own_cos, angles, own_keys, values, own_places, [])


@torch.inference_mode()
def test_an_adapter_that_was_not_made_for_sampling_is_not_overlooked(kernel_dtype: torch.dtype, tiny_model_dir: Path):
    decoder = load_decoder(tiny_model_dir, kernel_dtype)
    cache = decoder.new_cache()
    _, attention = read(decoder, [[1, 2, 3]], [None])
    cache.add_row(attention.block(0))
    adapter = Adapter.new(decoder.config, LoraSpec(rank=4, seed=1), CPU)
    with pytest.raises(KeyError):
        decoder.next_hidden_states(torch.tensor([4]), cache, [(adapter, None)])
