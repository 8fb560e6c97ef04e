"""What a request asks about its prompt: every number is the log-softmax of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eztinker.model import head
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.lora import HEAD
from eztinker.types import ABSENT_LOGPROB, PromptTargets, SampleResult, SamplingParams
from tests.oracles import CPU, draw_tokens, load_decoder, transformers_logits
from tests.unit.engine.engine_helpers import finish, job, new_run, new_sampler

PROMPT = draw_tokens(60, seed=6)
PARAMS = SamplingParams(max_tokens=1, temperature=0.5)
"""Scores of the prompt are untempered all the same."""


@pytest.fixture(scope="module")
def decoder(tiny_model_dir: Path) -> Decoder:
    return load_decoder(tiny_model_dir)


@pytest.fixture(scope="module")
def logprobs(tiny_model_dir: Path) -> Tensor:
    """Row i judges position i + 1, by transformers."""
    return torch.log_softmax(transformers_logits(tiny_model_dir, PROMPT)[:-1], dim=-1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are judged 16 at a time, so that this prompt takes several turns."""
    monkeypatch.setattr(head, "CHUNK_LOGITS", 1)


def scored(decoder: Decoder, directory: Path, prompt: list[int] = PROMPT, **fields: Any) -> SampleResult:
    params = fields.pop("params", PARAMS)
    return finish(new_sampler(decoder, directory), job("a", prompt, params, **fields))["a"]


def own_logprobs(logprobs: Tensor) -> np.ndarray:
    return logprobs.gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0].numpy()


def test_prompt_logprobs_and_the_likeliest_tokens(decoder: Decoder, tiny_model_dir: Path, logprobs: Tensor):
    result = scored(decoder, tiny_model_dir, prompt_logprobs=True, topk_prompt_logprobs=3)
    assert result.prompt_logprobs is not None
    assert np.isnan(result.prompt_logprobs[0])
    np.testing.assert_allclose(result.prompt_logprobs[1:], own_logprobs(logprobs), atol=1e-5)
    table = result.topk_prompt_logprobs
    assert table is not None
    assert table.token_ids[0].tolist() == [0, 0, 0]
    assert table.logprobs[0].tolist() == [ABSENT_LOGPROB] * 3
    best = torch.topk(logprobs, 3)
    np.testing.assert_array_equal(table.token_ids[1:], best.indices)
    np.testing.assert_allclose(table.logprobs[1:], best.values, atol=1e-5)


@pytest.mark.conforms(82)
def test_a_table_wider_than_the_vocabulary_ends_in_absent_cells(decoder: Decoder, tiny_model_dir: Path):
    table = scored(decoder, tiny_model_dir, [1, 2], topk_prompt_logprobs=300).topk_prompt_logprobs
    assert table is not None
    assert sorted(table.token_ids[1, :264].tolist()) == list(range(264))
    assert set(table.logprobs[1, 264:].tolist()) == {ABSENT_LOGPROB}


def test_targets_are_scored_cell_by_cell(decoder: Decoder, tiny_model_dir: Path, logprobs: Tensor):
    positions, tokens = np.array([59, 1, 17, 17, 1]), np.array([263, 0, 5, 5, 7])
    result = scored(decoder, tiny_model_dir, target_prompt_logprobs=PromptTargets(positions=positions, tokens=tokens))
    assert result.target_prompt_logprobs is not None
    np.testing.assert_allclose(result.target_prompt_logprobs, logprobs[positions - 1, tokens], atol=1e-5)
    assert result.prompt_logprobs is None


def test_only_what_is_asked_for_is_scored(decoder: Decoder, tiny_model_dir: Path, logprobs: Tensor):
    result = scored(decoder, tiny_model_dir, prompt_logprobs=True, topk_prompt_logprobs=2, first_scored=55)
    assert result.prompt_logprobs is not None
    assert result.topk_prompt_logprobs is not None
    assert np.isnan(result.prompt_logprobs[:55]).all()
    np.testing.assert_allclose(result.prompt_logprobs[55:], own_logprobs(logprobs)[54:], atol=1e-5)
    assert set(result.topk_prompt_logprobs.logprobs[:55].ravel().tolist()) == {ABSENT_LOGPROB}
    assert (result.topk_prompt_logprobs.logprobs[55:] > ABSENT_LOGPROB).all()


def test_scores_of_an_ending_come_from_behind_the_cached_beginning(
    decoder: Decoder, tiny_model_dir: Path, logprobs: Tensor
):
    sampler = new_sampler(decoder, tiny_model_dir)
    context = [PROMPT[:50] + draw_tokens(5, seed=seed) for seed in range(3)]
    finish(sampler, *(job(str(n), prompt, PARAMS) for n, prompt in enumerate(context)))
    targets = PromptTargets(positions=np.array([53]), tokens=np.array([9]))
    asked = job("a", PROMPT, PARAMS, prompt_logprobs=True, first_scored=55, target_prompt_logprobs=targets)
    result = finish(sampler, asked, job("b", PROMPT, PARAMS))["a"]
    assert result.prompt_cache_hit_tokens == 50
    assert result.prompt_logprobs is not None
    np.testing.assert_allclose(result.prompt_logprobs[55:], own_logprobs(logprobs)[54:], atol=1e-5)
    assert result.target_prompt_logprobs is not None
    np.testing.assert_allclose(result.target_prompt_logprobs, [logprobs[52, 9]], atol=1e-5)
    whole = finish(sampler, job("c", PROMPT, PARAMS, prompt_logprobs=True))["c"]
    assert whole.prompt_cache_hit_tokens == 0, "scores of all positions need all hidden states"


def test_an_adapter_is_scored_as_in_training(decoder: Decoder, tiny_model_dir: Path):
    run = new_run(decoder)
    adapted = job("a", PROMPT, PARAMS, prompt_logprobs=True, adapter=run.adapter.for_sampling(decoder.dtype))
    result = finish(new_sampler(decoder, tiny_model_dir), adapted)["a"]
    targets = torch.tensor(PROMPT[1:])[:, None]
    with torch.inference_mode():
        hidden = decoder.hidden_states(torch.tensor(PROMPT[:-1]), PackedAttention([59], CPU), [(run.adapter, None)])
        delta = run.adapter.delta(HEAD, None)
        assert delta is not None
        expected = head.target_logprobs(decoder.head, hidden, targets, [delta])[:, 0]
    assert result.prompt_logprobs is not None
    np.testing.assert_allclose(result.prompt_logprobs[1:], expected, atol=1e-5)


@pytest.mark.conforms(83)
def test_alternatives_are_drawn_at_the_temperature_and_scored_without(
    decoder: Decoder, tiny_model_dir: Path, logprobs: Tensor
):
    params = SamplingParams(max_tokens=1, temperature=0.7, top_k=1, seed=3)  # top_k is of samples alone
    drawn = scored(decoder, tiny_model_dir, params=params, prompt_alt_tokens_k=2000).prompt_alt_tokens
    assert drawn is not None
    assert drawn.tokens.shape == drawn.logprobs.shape == (59, 2000)
    expected_logprobs = logprobs.gather(1, torch.from_numpy(drawn.tokens.astype(np.int64)))
    np.testing.assert_allclose(drawn.logprobs, expected_logprobs, atol=1e-5)
    # The tokenizer knows 259 of the 264 tokens; the rest is never drawn.
    drawable = torch.softmax(logprobs[:, :259] / 0.7, dim=-1).numpy()
    counts = np.stack([np.bincount(row, minlength=264)[:259] for row in drawn.tokens])
    chi_squared = ((counts - 2000 * drawable) ** 2 / (2000 * drawable)).sum(axis=1)
    assert abs(chi_squared.mean() - 258) < 15  # 258 degrees of freedom; the mean of 59 has a deviation of 3
    assert drawn.tokens.max() < 259


def test_a_seed_repeats_the_alternatives_and_samples_keep_theirs(decoder: Decoder, tiny_model_dir: Path):
    params = SamplingParams(max_tokens=8, seed=3)
    first, again = (scored(decoder, tiny_model_dir, params=params, prompt_alt_tokens_k=4) for _ in range(2))
    plain = scored(decoder, tiny_model_dir, params=params)
    assert first.prompt_alt_tokens is not None
    assert again.prompt_alt_tokens is not None
    np.testing.assert_array_equal(first.prompt_alt_tokens.tokens, again.prompt_alt_tokens.tokens)
    np.testing.assert_array_equal(first.sequences[0].tokens, plain.sequences[0].tokens)


def test_without_temperature_every_alternative_is_the_likeliest(
    decoder: Decoder, tiny_model_dir: Path, logprobs: Tensor
):
    params = SamplingParams(max_tokens=1, temperature=0)
    drawn = scored(decoder, tiny_model_dir, params=params, prompt_alt_tokens_k=3).prompt_alt_tokens
    assert drawn is not None
    np.testing.assert_array_equal(drawn.tokens, logprobs[:, :259].argmax(dim=-1, keepdim=True).expand(-1, 3))


def test_a_prompt_of_one_token_has_nothing_to_score(decoder: Decoder, tiny_model_dir: Path):
    result = scored(decoder, tiny_model_dir, [7], prompt_logprobs=True, topk_prompt_logprobs=2, prompt_alt_tokens_k=3)
    assert result.prompt_logprobs is not None
    assert np.isnan(result.prompt_logprobs).tolist() == [True]
    assert result.topk_prompt_logprobs is not None
    assert result.topk_prompt_logprobs.logprobs.tolist() == [[ABSENT_LOGPROB] * 2]
    assert result.prompt_alt_tokens is not None
    assert result.prompt_alt_tokens.tokens.shape == (0, 3)
