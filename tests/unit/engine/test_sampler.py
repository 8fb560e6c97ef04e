"""The sampler beside transformers and the trainer, alone and among batch neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sampler import BatchSampler
from eztinker.model.cpu_kernels import cpu_kernels
from eztinker.model.decoder import Decoder
from eztinker.types import Datum, SamplingParams
from tests.oracles import assert_same, draw_tokens, load_decoder, transformers_logits
from tests.tiny_models import EOS_TOKEN_ID
from tests.unit.engine.engine_helpers import (
    TinyModel,
    finish,
    frozen_adapter,
    job,
    new_run,
    new_sampler,
    run_pass,
    tokens_of,
)

GREEDY = SamplingParams(max_tokens=12, temperature=0)
WARM = SamplingParams(max_tokens=12, temperature=0.9, seed=5)
PROMPT = draw_tokens(9, seed=3)


@pytest.fixture(scope="module")
def decoder(tiny_model_dir: Path) -> Decoder:
    return load_decoder(tiny_model_dir)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_greedy_completions_are_those_of_transformers(tiny_model: TinyModel, family: str):
    directory = tiny_model(family, vocab=259)  # no padding of the vocabulary, which transformers would draw
    sampler = new_sampler(load_decoder(directory), directory)
    prompts = {f"prompt-{n}": draw_tokens(n, seed=n, vocab_size=259) for n in (1, 5, 17, 40)}
    results = finish(sampler, *(job(name, prompt, GREEDY) for name, prompt in prompts.items()))
    model = AutoModelForCausalLM.from_pretrained(directory)
    for name, prompt in prompts.items():
        expected = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=EOS_TOKEN_ID
        )
        # transformers bans the end-of-sequence token to reach min_new_tokens; ours has no stop token here.
        ours = results[name].sequences[0].tokens.tolist()
        end = ours.index(EOS_TOKEN_ID) if EOS_TOKEN_ID in ours else len(ours)
        assert ours[:end] == expected[0, len(prompt) :].tolist()[:end]


@pytest.mark.conforms(80)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_adapted", [False, True])
def test_sampled_logprobs_are_the_trainers(tiny_model_dir: Path, is_adapted: bool, dtype: torch.dtype):
    if dtype == torch.bfloat16 and cpu_kernels(dtype) is None:
        pytest.skip("torch's own operators round bfloat16 differently for one row and for many")
    decoder = load_decoder(tiny_model_dir, dtype)
    run = new_run(decoder, is_fresh=not is_adapted)
    adapter = run.adapter.for_sampling(decoder.dtype)
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=1)
    results = finish(new_sampler(decoder, tiny_model_dir), job("a", PROMPT, params, num_samples=4, adapter=adapter))
    for sequence in results["a"].sequences:
        whole = np.concatenate([PROMPT, sequence.tokens]).astype(np.int64)
        inputs = {"target_tokens": whole[1:], "weights": np.zeros(len(whole) - 1, dtype=np.float32)}
        (output,) = run_pass(run, [Datum(tokens=whole[:-1], loss_fn_inputs=inputs)], forward_only=True).loss_fn_outputs
        np.testing.assert_allclose(sequence.logprobs, output["logprobs"][len(PROMPT) - 1 :], atol=1e-5)


def test_samples_of_one_request_differ_and_a_seed_repeats_them(decoder: Decoder, tiny_model_dir: Path):
    first = finish(new_sampler(decoder, tiny_model_dir), job("a", PROMPT, WARM, num_samples=6))["a"].sequences
    again = finish(new_sampler(decoder, tiny_model_dir), job("b", PROMPT, WARM, num_samples=6))["b"].sequences
    assert tokens_of(first) == tokens_of(again)
    assert len({tuple(tokens) for tokens in tokens_of(first)}) == 6


def test_without_a_seed_two_requests_differ(decoder: Decoder, tiny_model_dir: Path):
    params = SamplingParams(max_tokens=12)
    results = finish(new_sampler(decoder, tiny_model_dir), job("a", PROMPT, params), job("b", PROMPT, params))
    assert tokens_of(results["a"].sequences) != tokens_of(results["b"].sequences)


def test_batch_neighbours_that_come_and_go_change_no_token(decoder: Decoder, tiny_model_dir: Path):
    alone = finish(new_sampler(decoder, tiny_model_dir), job("x", PROMPT, WARM, num_samples=3))["x"].sequences
    sampler = new_sampler(decoder, tiny_model_dir, max_batch_size=5)
    jobs = [
        job(f"n{n}", draw_tokens(4 + n, seed=n), SamplingParams(max_tokens=2 + 3 * n, seed=n), num_samples=1 + n % 3)
        for n in range(6)
    ]
    done: dict[str, SampleJob] = {}
    sampler.submit(jobs[0])
    for step in range(200):
        if step < len(jobs) - 1:
            sampler.submit(jobs[step + 1])
        if step == 3:
            sampler.submit(job("x", PROMPT, WARM, num_samples=3))
        done |= {each.op_id: each for each in sampler.step()}
        if sampler.is_idle:
            break
    assert done.keys() == {"x", *(each.op_id for each in jobs)}
    among_neighbours = done["x"].result().sequences
    assert tokens_of(among_neighbours) == tokens_of(alone)
    for ours, theirs in zip(among_neighbours, alone, strict=True):
        assert_same(ours.logprobs, theirs.logprobs)


def test_more_samples_than_places_all_come(decoder: Decoder, tiny_model_dir: Path):
    small = finish(new_sampler(decoder, tiny_model_dir, max_batch_size=3), job("a", PROMPT, WARM, num_samples=10))
    large = finish(new_sampler(decoder, tiny_model_dir), job("a", PROMPT, WARM, num_samples=10))
    assert tokens_of(small["a"].sequences) == tokens_of(large["a"].sequences)


def test_a_batch_that_outgrows_its_memory_is_drawn_in_turns(decoder: Decoder, tiny_model_dir: Path):
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    three_samples = 3 * (len(PROMPT) + WARM.max_tokens) * decoder.kv_bytes_per_token
    sampler = BatchSampler(decoder, tokenizer, max_batch_size=64, kv_cache_bytes=three_samples)
    sampler.submit(job("a", PROMPT, WARM, num_samples=8))
    sampler.step()
    assert sampler.num_running == 3
    tight = finish(sampler)["a"].sequences
    ample = finish(new_sampler(decoder, tiny_model_dir), job("a", PROMPT, WARM, num_samples=8))["a"].sequences
    assert tokens_of(tight) == tokens_of(ample)


def test_a_job_whose_last_samples_end_together_is_reported_once(decoder: Decoder, tiny_model_dir: Path):
    sampler = new_sampler(decoder, tiny_model_dir)
    sampler.submit(job("a", PROMPT, SamplingParams(max_tokens=3, seed=1), num_samples=4))
    reported = [done.op_id for _ in range(5) for done in sampler.step()]
    assert reported == ["a"]


def test_adapters_of_mixed_rank_decode_together_as_alone(decoder: Decoder, tiny_model_dir: Path):
    adapters = [None, *(frozen_adapter(decoder, seed, rank) for seed, rank in ((1, 4), (2, 1), (3, 7)))]
    jobs = [job(f"a{n}", PROMPT, GREEDY, num_samples=1 + n % 2, adapter=each) for n, each in enumerate(adapters)]
    together = finish(new_sampler(decoder, tiny_model_dir), *jobs)
    seen = set()
    for n, each in enumerate(adapters):
        alone = finish(new_sampler(decoder, tiny_model_dir), job("x", PROMPT, GREEDY, adapter=each))["x"].sequences[0]
        assert together[f"a{n}"].sequences[0].tokens.tolist() == alone.tokens.tolist()
        assert_same(together[f"a{n}"].sequences[0].logprobs, alone.logprobs)
        seen.add(tuple(alone.tokens.tolist()))
    assert len(seen) == 4


def test_prompts_behind_a_shared_beginning_complete_as_if_read_whole(decoder: Decoder, tiny_model_dir: Path):
    header = draw_tokens(70, seed=8)
    prompts = [header + draw_tokens(n, seed=n) for n in (1, 4, 9)] + [header]
    sampler = new_sampler(decoder, tiny_model_dir)
    together = finish(sampler, *(job(str(n), prompt, GREEDY) for n, prompt in enumerate(prompts)))
    assert together["1"].prompt_cache_hit_tokens == 69
    later = finish(sampler, job("later", prompts[2] + [7], GREEDY))["later"]
    assert later.prompt_cache_hit_tokens == len(prompts[2])
    for n, prompt in enumerate(prompts):
        alone = finish(new_sampler(decoder, tiny_model_dir), job("x", prompt, GREEDY))["x"]
        assert alone.prompt_cache_hit_tokens == 0
        assert tokens_of(together[str(n)].sequences) == tokens_of(alone.sequences)
        assert_same(together[str(n)].sequences[0].logprobs, alone.sequences[0].logprobs)


def test_adapters_do_not_share_what_they_read(decoder: Decoder, tiny_model_dir: Path):
    sampler, prompt = new_sampler(decoder, tiny_model_dir), draw_tokens(40, seed=2)
    adapter = frozen_adapter(decoder, 1)
    finish(sampler, job("base", prompt, GREEDY))
    adapted = finish(sampler, job("adapted", prompt, GREEDY, adapter=adapter))["adapted"]
    alone = finish(new_sampler(decoder, tiny_model_dir), job("x", prompt, GREEDY, adapter=adapter))["x"]
    assert adapted.prompt_cache_hit_tokens == 0
    assert tokens_of(adapted.sequences) == tokens_of(alone.sequences)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_the_likeliest_tokens_beside_each_sampled_one_are_those_of_transformers(
    decoder: Decoder, tiny_model_dir: Path, temperature: float
):
    params = SamplingParams(max_tokens=5, temperature=temperature, top_k=3, seed=2)
    wide = job("wide", PROMPT, params, num_samples=2, topk_sample_logprobs=4)
    narrow = job("narrow", draw_tokens(4), params, topk_sample_logprobs=1)
    results = finish(new_sampler(decoder, tiny_model_dir), wide, narrow, job("none", PROMPT, params))
    assert results["none"].sequences[0].topk_logprobs is None
    assert results["narrow"].sequences[0].topk_logprobs is not None
    assert results["narrow"].sequences[0].topk_logprobs.token_ids.shape == (5, 1)
    for sequence in results["wide"].sequences:
        whole = [*PROMPT, *sequence.tokens.tolist()]
        logits = transformers_logits(tiny_model_dir, whole)[len(PROMPT) - 1 : -1]
        expected = torch.topk(torch.log_softmax(logits / (temperature or 1.0), dim=-1), 4)
        table = sequence.topk_logprobs
        assert table is not None
        np.testing.assert_array_equal(table.token_ids, expected.indices)
        np.testing.assert_allclose(table.logprobs, expected.values, atol=1e-5)
        in_table = table.logprobs[table.token_ids == sequence.tokens[:, None]]  # top_k = 3 draws from the table only
        np.testing.assert_allclose(in_table, sequence.logprobs, atol=1e-5)


def test_a_stop_token_ends_the_completion_and_stays_in_it(decoder: Decoder, tiny_model_dir: Path):
    free = finish(new_sampler(decoder, tiny_model_dir), job("a", PROMPT, GREEDY))["a"].sequences[0]
    assert free.stop_reason == "length"
    stop = int(free.tokens[5])
    first = free.tokens.tolist().index(stop)
    params = SamplingParams(max_tokens=12, temperature=0, stop_token_ids=(stop,))
    stopped = finish(new_sampler(decoder, tiny_model_dir), job("a", PROMPT, params))["a"].sequences[0]
    assert stopped.stop_reason == "stop"
    assert stopped.tokens.tolist() == free.tokens[: first + 1].tolist()
    assert len(stopped.logprobs) == first + 1


def test_cancelling_drops_a_request_and_spares_the_others(decoder: Decoder, tiny_model_dir: Path):
    sampler = new_sampler(decoder, tiny_model_dir)
    for each in (job("gone", draw_tokens(5), WARM, num_samples=4), job("stays", PROMPT, WARM, num_samples=3)):
        sampler.submit(each)
    sampler.step()
    sampler.step()
    assert sampler.cancel("gone")
    assert not sampler.cancel("gone")
    results = finish(sampler)
    alone = finish(new_sampler(decoder, tiny_model_dir), job("stays", PROMPT, WARM, num_samples=3))
    assert results.keys() == {"stays"}
    assert tokens_of(results["stays"].sequences) == tokens_of(alone["stays"].sequences)


def test_prompts_that_share_a_long_beginning_are_not_all_read_ahead(decoder: Decoder, tiny_model_dir: Path):
    """Each that was read keeps keys and values of its whole length, however few of its tokens were new."""
    header = draw_tokens(480, seed=8)
    params = SamplingParams(max_tokens=3, seed=1)
    jobs = [job(f"{n}", [*header, *draw_tokens(5, seed=n)], params, num_samples=2) for n in range(20)]
    sampler = new_sampler(decoder, tiny_model_dir, max_batch_size=2)
    for each in jobs:
        sampler.submit(each)
    most_ahead = 0
    while not sampler.is_idle:
        sampler.step()
        num_ahead = sum(each.read is not None and not each.is_done for each in jobs) - sampler.num_running // 2
        most_ahead = max(most_ahead, num_ahead)
    assert most_ahead in (3, 4)
    assert all(each.is_done for each in jobs)
