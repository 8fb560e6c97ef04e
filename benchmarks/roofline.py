"""Roofline: the machine's rates, measured in the same run, and the limits that they set for each kind of work.

A limit counts only unavoidable work: base weights read once per pass, and two operations per weight and token.
Activations, attention and LoRA are not counted, so it cannot be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from eztinker.model.device import DTYPES, fastest_matmul, set_up_cpu
from eztinker.model_files.decoder_config import read_config

_READ_BYTES = 512 << 20
"""Bytes to read for the memory rate, many times the largest processor cache."""
_GEMM_SHAPES = [(512, 1536, 576), (512, 576, 1536), (1024, 1024, 1024), (2048, 2048, 2048)]
"""Shapes of matrix products, as rows, outputs and inputs; the fastest counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Highest rates measured on this machine."""

    read_bytes_per_second: float
    flops: dict[str, float]
    """Floating-point operations per second in matrix products, by dtype."""


class MachineProbe:
    """Measures the machine's rates, in a process of its own like any other side."""

    def __init__(self, num_threads: int) -> None:
        set_up_cpu(num_threads)

    def measure(self) -> Machine:
        return Machine(read_bytes_per_second=_read_rate(), flops={name: _gemm_rate(DTYPES[name]) for name in DTYPES})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Upper bounds of tokens per second for one model and dtype on one machine."""

    body_params: float
    head_params: float
    bytes_per_param: float
    """Bytes per parameter in the model's files or in the compute dtype, whichever is smaller."""
    read_bytes_per_second: float
    flops: float

    @classmethod
    def of(cls, directory: Path, dtype: str, machine: Machine) -> Limits:
        config = read_config(directory, directory.name)
        heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        per_layer = config.hidden_size * (heads + 3 * config.intermediate_size)
        body_params, head_params = config.num_layers * per_layer, config.hidden_size * config.vocab_size
        stored_bytes = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        return cls(
            body_params=body_params,
            head_params=head_params,
            bytes_per_param=min(DTYPES[dtype].itemsize, stored_bytes / (body_params + head_params)),
            read_bytes_per_second=machine.read_bytes_per_second,
            flops=machine.flops[dtype],
        )

    def decode(self, batch_size: int) -> float:
        """Tokens per second of decode: a step reads all weights once, and multiplies them with a token per sequence."""
        params = self.body_params + self.head_params
        reading = params * self.bytes_per_param / self.read_bytes_per_second
        return batch_size / max(reading, 2 * params * batch_size / self.flops)

    def prefill(self, num_tokens: int) -> float:
        """Tokens per second of prefill, with the head at the last token alone."""
        return num_tokens * self.flops / (2 * self.body_params * num_tokens + 2 * self.head_params)

    def training(self, loss_share: float) -> float:
        """Tokens per second of forward and backward to the inputs, with the head on the share of tokens with loss."""
        return self.flops / (4 * (self.body_params + loss_share * self.head_params))


def _read_rate() -> float:
    numbers = torch.ones(_READ_BYTES // 8, dtype=torch.int64)  # adding integers costs less than fetching them
    return _READ_BYTES / _best_seconds(lambda: numbers.sum(), repeats=40)


def _gemm_rate(dtype: torch.dtype) -> float:
    rates = []
    for rows, outputs, inputs in _GEMM_SHAPES:
        x = torch.randn(rows, inputs).to(dtype)
        multiply = fastest_matmul(torch.randn(outputs, inputs).to(dtype), None)
        rates.append(2 * rows * outputs * inputs / _best_seconds(lambda: multiply(x), repeats=20))  # noqa: B023
    return max(rates)


def _best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest duration of several runs, since a limit is what is possible, not what is usual."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
