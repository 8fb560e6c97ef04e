"""Second opinions on the decoder: transformers for logits, and small ways to run our decoder beside it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import AdapterRows, Decoder
from eztinker.model.device import kernels_for

CPU = torch.device("cpu")


def load_decoder(directory: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    return Decoder.load(directory, dtype, CPU)


def draw_tokens(num_tokens: int, seed: int = 0, vocab_size: int = 264) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(vocab_size) for _ in range(num_tokens)]


def assert_same(ours: Tensor | np.ndarray, theirs: Tensor | np.ndarray) -> None:
    """To the bit where our own kernels compute, whose rows do not depend on batch neighbours; else to rounding."""
    exact = kernels_for(torch.float32, CPU) is not None
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=0, atol=0 if exact else 1e-5)


@torch.inference_mode()
def packed_logits(decoder: Decoder, sequences: Sequence[list[int]], adapters: AdapterRows = ()) -> list[Tensor]:
    """Our logits, (tokens, V) for each sequence, all sequences in one packed pass."""
    lengths = [len(tokens) for tokens in sequences]
    packed = torch.tensor([token for tokens in sequences for token in tokens])
    hidden = decoder.hidden_states(packed, PackedAttention(lengths, CPU), adapters)
    return list(decoder.logits(hidden, adapters).split(lengths))


@torch.inference_mode()
def transformers_logits(directory: Path, tokens: list[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """What transformers computes for one sequence, float32 (tokens, V)."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model(torch.tensor([tokens])).logits[0].float()
