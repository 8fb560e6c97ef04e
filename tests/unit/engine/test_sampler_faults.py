"""When a step of the sampler breaks, the request at fault fails, and the others finish as if alone."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sampler import BatchSampler
from eztinker.model.decoder import Decoder
from eztinker.types import SamplingParams
from tests.oracles import draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import finish, frozen_adapter, job, new_sampler, tokens_of

WARM = SamplingParams(max_tokens=12, temperature=0.9, seed=5)
PROMPT = draw_tokens(9, seed=3)
BROKEN = [10_000]
"""No embedding has this token, so reading it raises."""


@pytest.fixture(scope="module")
def decoder(tiny_model_dir: Path) -> Decoder:
    return load_decoder(tiny_model_dir)


def broken_delta(key: str, rows: object) -> NoReturn:
    raise RuntimeError(f"The factors of {key} are gone")


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_prompt_that_cannot_be_read_fails_alone(decoder: Decoder, tiny_model_dir: Path, place: int):
    good = [job(f"good-{n}", draw_tokens(5 + n), WARM, num_samples=2) for n in range(6)]
    jobs = [*good[:place], job("bad", BROKEN, WARM), *good[place:]]
    done = run_to_the_end(new_sampler(decoder, tiny_model_dir), jobs)
    assert isinstance(done.pop("bad").error, IndexError)
    assert_as_alone(done, good, decoder, tiny_model_dir)


def test_a_sample_that_breaks_while_it_is_drawn_fails_alone(
    decoder: Decoder, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its adapter cannot be applied any more, which only the next decode step meets."""
    adapter = frozen_adapter(decoder, seed=1)
    sampler = new_sampler(decoder, tiny_model_dir)
    good = [job(f"good-{n}", draw_tokens(5 + n), WARM, num_samples=2) for n in range(5)]
    bad = job("bad", PROMPT, WARM, adapter=adapter)
    for each in (*good[:3], bad):
        sampler.submit(each)
    assert sampler.step() == []
    monkeypatch.setattr(adapter, "delta", broken_delta)
    done = run_to_the_end(sampler, good[3:])  # they come while the fault is being looked for
    assert isinstance(done.pop("bad").error, RuntimeError)
    assert_as_alone(done, good, decoder, tiny_model_dir)


def test_a_request_can_be_cancelled_while_a_fault_is_looked_for(decoder: Decoder, tiny_model_dir: Path):
    sampler = new_sampler(decoder, tiny_model_dir)
    for each in (job("bad", BROKEN, WARM), job("gone", PROMPT, WARM), job("stays", PROMPT, WARM)):
        sampler.submit(each)
    assert sampler.step() == []
    assert sampler.num_waiting == 3
    assert sampler.cancel("gone")
    done = run_to_the_end(sampler, [])
    assert done.keys() == {"bad", "stays"}


def run_to_the_end(sampler: BatchSampler, jobs: list[SampleJob]) -> dict[str, SampleJob]:
    """Submit jobs and step until the sampler is idle; what it gave back, each job once."""
    for each in jobs:
        sampler.submit(each)
    done: dict[str, SampleJob] = {}
    while not sampler.is_idle:
        for over in sampler.step():
            assert over.op_id not in done
            done[over.op_id] = over
    return done


def assert_as_alone(done: dict[str, SampleJob], jobs: list[SampleJob], decoder: Decoder, directory: Path) -> None:
    assert done.keys() == {each.op_id for each in jobs}
    for each in jobs:
        again = SampleJob(each.op_id, each.prompt)
        alone = finish(new_sampler(decoder, directory), again)[each.op_id]
        assert tokens_of(done[each.op_id].result().sequences) == tokens_of(alone.sequences)


def test_a_prompt_that_cannot_be_read_disturbs_no_running_sample(decoder: Decoder, tiny_model_dir: Path):
    """Its owner could keep all others from ever ending: whatever broke, everything under way began anew."""
    sampler = new_sampler(decoder, tiny_model_dir)
    running = job("running", PROMPT, WARM, share="light")
    sampler.submit(running)
    for number in range(WARM.max_tokens - 1):
        sampler.advance("light")
        sampler.submit(job(f"bad-{number}", BROKEN, WARM, share="heavy"))
        (bad,) = sampler.advance("heavy").done
        assert isinstance(bad.error, IndexError)
    assert sampler.advance("light").done == [running]


def test_samples_that_end_with_their_first_token_disturb_nobody_however_few_places_there_are(
    decoder: Decoder, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """They give places back while others of their job wait for one; then nothing is unread, or not yet its turn."""
    restarted: list[str] = []
    monkeypatch.setattr(SampleJob, "restart", lambda self: restarted.append(self.op_id))
    one_token = SamplingParams(max_tokens=1, temperature=0.9, seed=5)
    sampler = new_sampler(decoder, tiny_model_dir, max_batch_size=2)
    running = job("running", PROMPT, WARM, share="light")
    short = [job(f"short-{n}", draw_tokens(5 + n), one_token, num_samples=5, share="heavy") for n in range(2)]
    for each in (running, short[0]):
        sampler.submit(each)
    sampler.advance("light")
    done = run_to_the_end(sampler, short[1:])
    assert not restarted
    assert [each.error for each in done.values()] == [None] * 3
    assert_as_alone(done, [running, *short], decoder, tiny_model_dir)


def test_a_prompt_is_not_read_while_samples_of_one_that_was_read_wait(decoder: Decoder, tiny_model_dir: Path):
    one_token = SamplingParams(max_tokens=1, seed=5)
    sampler = new_sampler(decoder, tiny_model_dir, max_batch_size=2)
    first, second = (job(name, draw_tokens(500, seed=5), one_token, num_samples=5) for name in ("first", "second"))
    sampler.submit(first)
    assert sampler.step() == []
    second.prompt.request.prompt[0] += 1
    sampler.submit(second)
    while not first.is_done:
        assert second.read is None
        sampler.step()
    assert finish(sampler).keys() == {"second"}
