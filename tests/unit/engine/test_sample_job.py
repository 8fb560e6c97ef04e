"""A sampling request and its samples while they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from eztinker.types import SamplingParams, TopkLogprobs
from tests.tiny_models import EOS_TOKEN_ID
from tests.unit.engine.engine_helpers import job


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))


def uniforms(tokenizer: Tokenizer, *, seed: int | None, num_samples: int = 3) -> list[float]:
    """The first number that each sample of a request is drawn with."""
    params = SamplingParams(max_tokens=4, seed=seed)
    return [float(row.rng.random()) for row in job("x", [1, 2], params, num_samples=num_samples).rows(tokenizer)]


def test_a_seed_gives_each_sample_numbers_of_its_own_every_time(tokenizer: Tokenizer):
    first = uniforms(tokenizer, seed=7)
    assert len(set(first)) == 3
    assert uniforms(tokenizer, seed=7) == first
    assert uniforms(tokenizer, seed=7, num_samples=5)[:3] == first
    assert uniforms(tokenizer, seed=8) != first
    assert uniforms(tokenizer, seed=-1) == uniforms(tokenizer, seed=2**64 - 1)


def test_without_a_seed_no_two_requests_are_drawn_alike(tokenizer: Tokenizer):
    assert uniforms(tokenizer, seed=None) != uniforms(tokenizer, seed=None)


def test_a_sample_ends_by_its_stop_rule_and_keeps_what_it_took(tokenizer: Tokenizer):
    one = job("x", [1, 2], SamplingParams(max_tokens=3, stop_token_ids=(EOS_TOKEN_ID,)), num_samples=2)
    first, second = one.rows(tokenizer)
    assert first.take(5, -0.5) is None
    reason = first.take(EOS_TOKEN_ID, -0.25)
    assert reason == "stop"
    first.finish(reason)
    assert not one.is_done
    assert [second.take(token, -1.0) for token in (5, 6, 7)] == [None, None, "length"]
    second.finish("length")
    assert one.is_done
    assert one.max_length == 2 + 3
    assert one.sequences[0].tokens.tolist() == [5, EOS_TOKEN_ID]
    assert one.sequences[0].logprobs.tolist() == [-0.5, -0.25]
    assert one.sequences[0].topk_logprobs is None
    assert one.sequences[1].tokens.dtype == np.int32


def test_the_table_of_the_likeliest_has_a_row_for_each_token(tokenizer: Tokenizer):
    (row,) = job("x", [1], SamplingParams(max_tokens=2)).rows(tokenizer)
    for token in (5, 6):
        row.take(token, -1.0)
        ids, logprobs = np.array([[token, 0]], np.int32), np.array([[-1.0, -2.0]], np.float32)
        row.topk.append(TopkLogprobs(token_ids=ids, logprobs=logprobs))
    row.finish("length")
    table = row.job.sequences[0].topk_logprobs
    assert table is not None
    assert table.token_ids.tolist() == [[5, 0], [6, 0]]
    assert table.logprobs.shape == (2, 2)


def test_a_request_that_is_begun_anew_has_nothing_drawn(tokenizer: Tokenizer):
    one = job("x", [1], SamplingParams(max_tokens=1))
    (row,) = one.rows(tokenizer)
    row.take(5, -1.0)
    row.finish("length")
    assert one.is_done
    one.restart()
    assert not one.is_done
    assert one.sequences == {}
