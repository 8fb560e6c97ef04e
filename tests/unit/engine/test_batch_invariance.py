"""A result has the same bits alone and among changing batch neighbours, whatever the sizes of the model are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sampler import BatchSampler
from eztinker.model.decoder import Decoder
from eztinker.model.device import is_batch_invariant
from eztinker.model.lora import LowRankAdapter
from eztinker.types import SampleResult, SamplingParams
from tests.oracles import CPU, draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import TinyModel, finish, job, new_run, new_sampler

HEAD_DIMS = [2, 6, 16, 18, 20, 24, 32, 40, 48, 64, 80, 96, 112, 128]
HEADS = [(1, 1), (4, 2), (3, 3), (7, 1), (9, 3), (8, 1)]
"""Query heads, and the key-value heads that they share."""
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "llama": [{}, {"attention_bias": True, "mlp_bias": True}],
    "mistral": [{"sliding_window": 5}],
    "qwen2": [{}, {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}],
    "qwen3": [{}, {"attention_bias": True}],
}
WIDTHS_OF_HEAD = [4, 5, 7, 8, 16]
"""Hidden size over query heads: sizes that registers do not divide, and odd ones."""
INTERMEDIATE_SIZES = [30, 64, 171]
KINDS = [
    SamplingParams(max_tokens=9, temperature=0.0),
    SamplingParams(max_tokens=14, temperature=1.0, seed=1),
    SamplingParams(max_tokens=5, temperature=0.7, top_k=7, seed=2),
    SamplingParams(max_tokens=11, temperature=1.3, top_p=0.8, seed=3),
    SamplingParams(max_tokens=8, temperature=0.9, top_k=40, top_p=0.5, seed=4),
    SamplingParams(max_tokens=6, temperature=1e-20, seed=5),
]
SCORES: list[dict[str, Any]] = [
    {},
    {"prompt_logprobs": True, "topk_prompt_logprobs": 3},
    {"topk_sample_logprobs": 2},
    {"topk_sample_logprobs": 9, "prompt_alt_tokens_k": 2},
    {"prompt_logprobs": True, "first_scored": 3},
]
MAX_BATCH_SIZE = 5


def draw_model(tiny_model: TinyModel, head_dim: int, dtype: torch.dtype) -> tuple[Decoder, Path]:
    """A model whose other sizes are drawn at random, the same ones for a head size every time."""
    generator = random.Random(head_dim)
    num_heads, num_kv_heads = generator.choice(HEADS)
    family = generator.choice(sorted(FAMILIES))
    directory = tiny_model(
        family,
        hidden=num_heads * generator.choice(WIDTHS_OF_HEAD),
        head_dim=head_dim,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        intermediate_size=generator.choice(INTERMEDIATE_SIZES),
        tie=head_dim % 4 == 0,
        vocab=generator.choice([264, 1030]),
        initializer_range=0.2,
        **generator.choice(FAMILIES[family]),
    )
    return load_decoder(directory, dtype), directory


def adapters_of(decoder: Decoder) -> list[LowRankAdapter | None]:
    runs = [
        new_run(decoder, seed=1, rank=4),
        new_run(decoder, seed=2, rank=3, train_mlp=False),
        new_run(decoder, seed=3, rank=1, train_unembed=False, train_attn=False),
    ]
    return [None, *(run.adapter.for_sampling(decoder.dtype) for run in runs)]


def requests(adapters: list[LowRankAdapter | None]) -> list[SampleJob]:
    """One of every kind, its adapter, scores and prompt changing with it; half of the prompts begin alike."""
    beginning = draw_tokens(40)
    jobs = []
    for index, params in enumerate(KINDS * 2):
        own = draw_tokens(1 + 3 * index, seed=index)
        prompt = beginning + own if index % 2 else own
        adapter, scores = adapters[index % len(adapters)], SCORES[index % len(SCORES)]
        if len(prompt) > scores.get("first_scored", 1):
            jobs.append(job(str(index), prompt, params, num_samples=1 + index % 2, adapter=adapter, **scores))
    return jobs


def in_turns(sampler: BatchSampler, jobs: list[SampleJob], seed: int) -> dict[str, SampleResult]:
    """Results of jobs that arrive in some order, some steps apart."""
    generator = random.Random(seed)
    waiting = generator.sample(jobs, len(jobs))
    results: dict[str, SampleResult] = {}
    while waiting or not sampler.is_idle:
        while waiting and generator.random() < 0.5:
            sampler.submit(waiting.pop())
        results |= {done.op_id: done.result() for done in sampler.step()}
    return results


def bits(result: SampleResult) -> bytes:
    """All of it but where its prompt's keys came from."""
    return msgspec.msgpack.encode(
        msgspec.structs.replace(result, prompt_cache_hit_tokens=0), enc_hook=lambda array: array.tobytes()
    )


def results_that_differ(head_dim: int, kernel_dtype: torch.dtype, tiny_model: TinyModel) -> list[str]:
    """Requests, by name and round, whose result among others is not what it is alone."""
    decoder, directory = draw_model(tiny_model, head_dim, kernel_dtype)
    assert decoder.is_batch_invariant
    adapters = adapters_of(decoder)
    alone = {each.op_id: bits(finish(new_sampler(decoder, directory), each)[each.op_id]) for each in requests(adapters)}
    sampler = new_sampler(decoder, directory, max_batch_size=MAX_BATCH_SIZE)
    different = []
    for turn in range(2):  # the second time the prompts' keys come from the prefix cache
        together = {name: bits(each) for name, each in in_turns(sampler, requests(adapters), seed=turn).items()}
        different += [f"{name}, round {turn}" for name, each in alone.items() if together[name] != each]
    return different


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_a_result_has_the_same_bits_alone_and_among_changing_neighbours(
    head_dim: int, kernel_dtype: torch.dtype, tiny_model: TinyModel
):
    assert results_that_differ(head_dim, kernel_dtype, tiny_model) == []


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("head_dim", [6, 24, 80])
def test_so_it_has_with_any_number_of_threads(head_dim: int, kernel_dtype: torch.dtype, tiny_model: TinyModel):
    assert results_that_differ(head_dim, kernel_dtype, tiny_model) == []


def test_without_our_kernels_nothing_is_guaranteed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eztinker.model.device.cpu_kernels", lambda _: None)
    assert not is_batch_invariant(torch.float32, CPU)
