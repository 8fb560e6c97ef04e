"""Reading prompts, in one pass or in several between which others may go: the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eztinker.engine import prefill
from eztinker.engine.prefill import Prompt, PromptReader
from eztinker.model.cpu_kernels import cpu_kernels
from eztinker.types import SampleRequest, SamplingParams
from tests.oracles import draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import finish, frozen_adapter, job, new_sampler


@pytest.mark.skipif(cpu_kernels(torch.float32) is None, reason="torch's operators round by the shape of a pass")
@pytest.mark.parametrize("num_cached", [0, 70])
@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_prompt_that_is_read_in_several_passes_gives_the_bits_of_one(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, num_cached: int, is_adapted: bool
):
    decoder = load_decoder(tiny_model_dir)
    adapter = frozen_adapter(decoder, seed=1) if is_adapted else None
    tokens = np.array(draw_tokens(150, seed=4))

    def prompt(tokens: np.ndarray, *, is_scored: bool) -> Prompt:
        params = SamplingParams(max_tokens=1, seed=5)
        fields = {"topk_prompt_logprobs": 3, "prompt_logprobs": True, "prompt_alt_tokens_k": 2} if is_scored else {}
        return Prompt(SampleRequest(prompt=tokens, num_samples=1, params=params, **fields), adapter, "key")

    for is_scored in (False, True):
        reader, other = (PromptReader(decoder, 1 << 24, num_drawable=264) for _ in range(2))
        if num_cached:
            for each in (reader, other):
                each.read([prompt(tokens[:num_cached], is_scored=False)])
        (whole,) = reader.read([prompt(tokens, is_scored=is_scored)])
        monkeypatch.setattr(prefill, "MAX_PASS_TOKENS", 32)
        *pauses, read = other.read_in_passes(prompt(tokens, is_scored=is_scored))
        assert pauses == [None] * (2 if num_cached and not is_scored else 4)
        assert read is not None
        assert torch.equal(read.next_logits, whole.next_logits)
        assert torch.equal(read.block.keys_NSKD, whole.block.keys_NSKD)
        assert torch.equal(read.block.values_NSKD, whole.block.values_NSKD)
        assert read.num_cached_tokens == whole.num_cached_tokens == (0 if is_scored else num_cached)
        if is_scored:
            ours, theirs = read.scores, whole.scores
            assert ours.prompt_logprobs is not None
            assert theirs.prompt_logprobs is not None
            assert ours.prompt_logprobs.tobytes() == theirs.prompt_logprobs.tobytes()
            for name in ("topk_prompt_logprobs", "prompt_alt_tokens"):
                assert getattr(ours, name).logprobs.tobytes() == getattr(theirs, name).logprobs.tobytes()
        monkeypatch.undo()


def test_a_short_prompt_of_another_owner_is_read_between_the_passes_of_a_long_one(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prefill, "MAX_PASS_TOKENS", 32)
    monkeypatch.setattr("eztinker.engine.sample_queue.MAX_PASS_TOKENS", 32)
    sampler = new_sampler(load_decoder(tiny_model_dir), tiny_model_dir)
    params = SamplingParams(max_tokens=1)
    sampler.submit(job("long", draw_tokens(300), params, share="heavy"))
    assert sampler.advance("heavy").done == []
    sampler.submit(job("short", [1, 2], params, share="light"))
    assert [done.op_id for done in sampler.advance("light").done] == ["short"]
    assert sampler.num_waiting == 1
    assert finish(sampler).keys() == {"long"}


def test_a_prompt_that_is_given_up_between_its_passes_is_gone(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prefill, "MAX_PASS_TOKENS", 32)
    monkeypatch.setattr("eztinker.engine.sample_queue.MAX_PASS_TOKENS", 32)
    sampler = new_sampler(load_decoder(tiny_model_dir), tiny_model_dir)
    for name in ("gone", "stays"):
        sampler.submit(job(name, draw_tokens(100), SamplingParams(max_tokens=2)))
    sampler.step()
    assert sampler.cancel("gone")
    assert finish(sampler).keys() == {"stays"}
