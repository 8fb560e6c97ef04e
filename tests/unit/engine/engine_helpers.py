"""Small ways to drive the engine without a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from eztinker.engine.prefill import Prompt
from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sampler import BatchSampler
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.model.decoder import Decoder
from eztinker.model.lora import Adapter, LowRankAdapter
from eztinker.types import (
    Datum,
    ForwardBackwardResult,
    LoraSpec,
    SampledSequence,
    SampleRequest,
    SampleResult,
    SamplingParams,
)
from tests.oracles import CPU, draw_tokens

TinyModel = Callable[..., Path]


def new_run(
    decoder: Decoder, *, rank: int = 4, seed: int = 1, is_fresh: bool = False, **targets: bool
) -> TrainingState:
    """A training run; unless `is_fresh`, with a B that is not zero, which would hide A."""
    adapter = Adapter.new(decoder.config, LoraSpec(rank=rank, seed=seed, **targets), CPU)
    if not is_fresh:
        noise = np.random.default_rng(seed).normal(0, 0.05, adapter.flat.numel()).astype(np.float32)
        adapter.fill(adapter.named_arrays(adapter.flat + adapter.flat.new_tensor(noise)))
    return TrainingState("tiny", decoder, adapter)


def cross_entropy_datum(length: int, seed: int, weight: float = 1.0) -> Datum:
    tokens = np.array(draw_tokens(length + 1, seed), dtype=np.int64)
    weights = np.full(length, weight, dtype=np.float32)
    weights[: length // 3] = 0
    return Datum(tokens=tokens[:-1], loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights})


def run_pass(
    run: TrainingState,
    data: Sequence[Datum],
    loss_fn: str = "cross_entropy",
    *,
    forward_only: bool = False,
    max_tokens: int = 2048,
) -> ForwardBackwardResult:
    """One pass on its own.

    Raises:
        EZTinkerError: the pass failed.
    """
    each = Pass(run, data, loss_fn, {}, forward_only)
    for _ in each.carry_out(max_tokens):
        pass
    return each.result()


def new_sampler(decoder: Decoder, directory: Path, max_batch_size: int = 64) -> BatchSampler:
    return BatchSampler(decoder, Tokenizer.from_file(str(directory / "tokenizer.json")), max_batch_size=max_batch_size)


def job(
    name: str,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    num_samples: int = 1,
    adapter: LowRankAdapter | None = None,
    share: str = "",
    **fields: Any,
) -> SampleJob:
    """A job; `fields` are further ones of SampleRequest."""
    request = SampleRequest(prompt=np.array(prompt, dtype=np.int64), num_samples=num_samples, params=params, **fields)
    return SampleJob(name, Prompt(request, adapter, id(adapter)), share)


def finish(sampler: BatchSampler, *jobs: SampleJob) -> dict[str, SampleResult]:
    """Submit jobs and step until the sampler is idle; results by name."""
    for each in jobs:
        sampler.submit(each)
    results: dict[str, SampleResult] = {}
    while not sampler.is_idle:
        results |= {done.op_id: done.result() for done in sampler.step()}
    return results


def frozen_adapter(decoder: Decoder, seed: int, rank: int = 4) -> LowRankAdapter:
    return new_run(decoder, seed=seed, rank=rank).adapter.for_sampling(decoder.dtype)


def tokens_of(sequences: list[SampledSequence]) -> list[list[int]]:
    return [sequence.tokens.tolist() for sequence in sequences]
