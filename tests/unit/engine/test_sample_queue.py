"""The samples of one share before they have a place: prompts are read together, in their order, and fail alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from eztinker.engine import prefill, sample_queue
from eztinker.engine.prefill import PromptReader
from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sample_queue import SampleQueue
from eztinker.types import SamplingParams
from tests.oracles import draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import job

PARAMS = SamplingParams(max_tokens=3)


@pytest.fixture
def queue(tiny_model_dir: Path) -> SampleQueue:
    decoder = load_decoder(tiny_model_dir)
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    return SampleQueue(PromptReader(decoder, 1 << 24, num_drawable=264), tokenizer)


def new_job(name: str, num_tokens: int = 4, num_samples: int = 1) -> SampleJob:
    return job(name, draw_tokens(num_tokens, seed=len(name)), PARAMS, num_samples=num_samples)


def taken(queue: SampleQueue) -> list[tuple[str, int]]:
    """All samples that need nothing but a place."""
    rows = []
    while queue.has_samples:
        row = queue.take()
        rows.append((row.job.op_id, row.index))
    return rows


def test_short_prompts_are_read_in_one_pass_and_their_samples_come_in_order(queue: SampleQueue):
    for each in (new_job("a", num_samples=2), new_job("b"), new_job("c")):
        queue.add(each)
    assert (queue.num_jobs, queue.has_samples, queue.next_length) == (3, False, 4 + 3)
    assert queue.read() == []
    assert queue.unread == []
    assert queue.num_jobs == 3
    assert taken(queue) == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    assert not queue
    assert queue.next_length is None


def test_prompts_that_do_not_fit_a_pass_together_wait_for_the_next(queue: SampleQueue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sample_queue, "MAX_PASS_TOKENS", 10)
    for name in "abc":
        queue.add(new_job(name))
    queue.read()
    assert taken(queue) == [("a", 0), ("b", 0)]
    assert [each.op_id for each in queue.unread] == ["c"]


def test_a_prompt_longer_than_a_pass_is_read_in_several(queue: SampleQueue, monkeypatch: pytest.MonkeyPatch):
    for module in (sample_queue, prefill):
        monkeypatch.setattr(module, "MAX_PASS_TOKENS", 10)
    queue.add(new_job("long", num_tokens=25))
    queue.add(new_job("short"))
    num_passes = 0
    while not queue.has_samples:
        assert queue.next_length == 25 + 3
        queue.read()
        num_passes += 1
    assert num_passes == 3
    assert taken(queue) == [("long", 0)]
    queue.read()
    assert taken(queue) == [("short", 0)]


def test_a_prompt_that_cannot_be_read_is_found_and_the_others_are_read(queue: SampleQueue):
    broken = job("broken", [10_000], PARAMS)
    for each in (new_job("before"), broken, new_job("behind")):
        queue.add(each)
    failed: list[SampleJob] = []
    read: list[tuple[str, int]] = []
    for _ in range(6):
        if queue.unread:
            failed += queue.read()
            read += taken(queue)
    assert failed == [broken]
    assert isinstance(broken.error, Exception)
    assert read == [("before", 0), ("behind", 0)]


@pytest.mark.parametrize("is_read", [False, True])
def test_what_is_given_up_leaves_nothing_and_the_rest_in_its_order(queue: SampleQueue, is_read: bool):
    for each in (new_job("a"), new_job("gone", num_samples=3), new_job("c")):
        queue.add(each)
    if is_read:
        queue.read()
    queue.remove("gone")
    if not is_read:
        queue.read()
    assert taken(queue) == [("a", 0), ("c", 0)]


def test_a_prompt_is_given_up_between_its_passes(queue: SampleQueue, monkeypatch: pytest.MonkeyPatch):
    for module in (sample_queue, prefill):
        monkeypatch.setattr(module, "MAX_PASS_TOKENS", 10)
    queue.add(new_job("long", num_tokens=25))
    queue.read()
    assert queue.num_jobs == 1
    queue.remove("long")
    assert not queue
