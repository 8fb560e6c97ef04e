"""Several owners in one engine: each has its part of the time, whatever the others ask for. Costs are counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from eztinker.engine.sampler import BatchSampler
from eztinker.engine.scheduler import MAX_OPEN, MAX_SHARED_ROWS, Scheduler
from eztinker.engine.training_queue import TrainingJob
from eztinker.model.cpu_kernels import cpu_kernels
from eztinker.model.decoder import Decoder
from eztinker.types import SamplingParams
from tests.oracles import draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import finish, job, new_sampler, tokens_of
from tests.unit.engine.fake_costs import CountedClock, CountedSampler, counted_pass, counted_step

SECONDS = 60.0
"""Of counted time that a rate is taken over."""
LIGHT_PASS, HEAVY_PASS = 0.02, 1.0


@pytest.fixture(scope="module")
def decoder(tiny_model_dir: Path) -> Decoder:
    return load_decoder(tiny_model_dir)


class Engine:
    """A scheduler with owners that ask again as soon as something of theirs has ended."""

    def __init__(self, decoder: Decoder, directory: Path, *, max_batch_size: int = 32) -> None:
        self.clock = CountedClock()
        self.scheduler = Scheduler(2048, clock=self.clock)
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.sampler = CountedSampler(self.clock, decoder, tokenizer, max_batch_size=max_batch_size)
        self.scheduler.add_sampler(self.sampler)
        self.num_done: Counter[str] = Counter()
        self.waits: dict[str, list[float]] = {}
        self._again: dict[str, Callable[[], None]] = {}
        self._asked: dict[str, float] = {}
        self._numbers = itertools.count()

    def keep_training(self, share: str, seconds: float, *, num_runs: int = 1, num_pieces: int = 1) -> None:
        for run in range(num_runs):
            self._keep(lambda name, run=f"{share} {run}": self._train(name, run, share, seconds, num_pieces), share)

    def keep_sampling(self, share: str, num_samples: int, num_tokens: int, *, num_requests: int = 1) -> None:
        params = SamplingParams(max_tokens=num_tokens, seed=1)
        for _ in range(num_requests):
            self._keep(
                lambda name: self.sampler.submit(job(name, [1, 2], params, num_samples=num_samples, share=share)), share
            )

    def run(self, seconds: float) -> None:
        until = self.clock.seconds + seconds
        while self.clock.seconds < until:
            before = self.clock.seconds
            outcomes = self.scheduler.turn()
            assert self.clock.seconds > before, "there was work, and nothing was done"
            for outcome in outcomes:
                assert outcome.error is None
                if (again := self._again.pop(outcome.op_id, None)) is not None:
                    share = outcome.op_id.split("#")[0]
                    self.num_done[share] += 1
                    self.waits.setdefault(share, []).append(self.clock.seconds - self._asked.pop(outcome.op_id))
                    again()

    def _keep(self, submit: Callable[[str], None], share: str) -> None:
        name = f"{share}#{next(self._numbers)}"
        self._again[name] = lambda: self._keep(submit, share)
        self._asked[name] = self.clock.seconds
        submit(name)

    def _train(self, name: str, run: str, share: str, seconds: float, num_pieces: int) -> None:
        one = counted_pass(f"pass of {name}", run, self.clock, [seconds], share=share, num_pieces=num_pieces)
        self.scheduler.submit(one)
        self.scheduler.submit(counted_step(name, run, self.clock, share=share))


def ask(engine: Engine, kind: str, *, is_flood: bool) -> None:
    """Floods are those that were measured: eight runs of long passes, eight requests for eight long samples."""
    match kind, is_flood:
        case "training", False:
            engine.keep_training("light", LIGHT_PASS)
        case "training", True:
            engine.keep_training("heavy", HEAVY_PASS, num_runs=8, num_pieces=60)
        case "sampling", False:
            engine.keep_sampling("light", 1, 20)
        case "sampling", True:
            engine.keep_sampling("heavy", 8, 200, num_requests=8)


@pytest.mark.parametrize("flood", ["training", "sampling"])
@pytest.mark.parametrize("light", ["training", "sampling"])
def test_beside_a_flood_an_owner_keeps_two_fifths_of_its_rate_alone(
    decoder: Decoder, tiny_model_dir: Path, light: str, flood: str
):
    alone, beside = Engine(decoder, tiny_model_dir), Engine(decoder, tiny_model_dir)
    ask(alone, light, is_flood=False)
    alone.run(SECONDS / 3)
    ask(beside, flood, is_flood=True)
    beside.run(SECONDS / 3)
    assert beside.scheduler.status().shares == {"heavy": 1.0}
    ask(beside, light, is_flood=False)
    beside.run(SECONDS)
    assert beside.num_done["light"] >= 3 * 0.4 * alone.num_done["light"]
    assert beside.scheduler.status().shares["heavy"] >= 0.4


def test_of_eight_owners_none_waits_longer_than_three_times_its_part(decoder: Decoder, tiny_model_dir: Path):
    engine = Engine(decoder, tiny_model_dir)
    for number in range(8):
        engine.keep_training(f"owner {number}", 0.1, num_runs=1 + 3 * (number == 0))
    engine.run(SECONDS)
    longest = max(max(waits) for share, waits in engine.waits.items() if share != "owner 0")
    assert longest <= 3 * 8 * 0.101


def test_a_step_that_comes_after_its_pass_does_not_wait_for_the_passes_of_all_others():
    clock = CountedClock()
    scheduler = Scheduler(2048, clock=clock)
    scheduler.submit(counted_pass("pass of light", "light", clock, [LIGHT_PASS], share="light"))
    assert [each.op_id for each in scheduler.turn()] == ["pass of light"]
    for number in range(8):
        share = f"owner {number}"
        scheduler.submit(counted_pass(f"pass of {share}", share, clock, [0.1], share=share))
    scheduler.submit(counted_step("step of light", "light", clock, share="light"))
    assert [each.op_id for each in scheduler.turn()] == ["step of light"]


def test_steps_alone_get_no_more_than_their_owners_part(decoder: Decoder, tiny_model_dir: Path):
    engine = Engine(decoder, tiny_model_dir)
    engine.keep_training("other", LIGHT_PASS)
    clock, scheduler = engine.clock, engine.scheduler
    for number in range(200_000):
        scheduler.submit(counted_step(f"step {number}", "run", clock, share="steps"))
    engine.run(SECONDS)
    assert scheduler.status().shares["other"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["training", "sampling"])
def test_an_owner_alone_has_all_of_the_time_and_the_whole_batch(decoder: Decoder, tiny_model_dir: Path, kind: str):
    engine = Engine(decoder, tiny_model_dir)
    ask(engine, kind, is_flood=True)
    engine.run(SECONDS)
    if kind == "training":
        assert engine.num_done["heavy"] == pytest.approx(SECONDS / (HEAVY_PASS + 0.001), abs=8)
    else:
        assert max(engine.sampler.decoded) == 32
        assert sum(engine.sampler.decoded) >= 0.9 * 32 * len(engine.sampler.decoded)


def test_owners_with_as_many_samples_are_decoded_in_one_step(decoder: Decoder, tiny_model_dir: Path):
    engine = Engine(decoder, tiny_model_dir)
    for number in range(4):
        engine.keep_sampling(f"owner {number}", 2, 50)
    engine.run(SECONDS / 2)
    assert sum(engine.sampler.decoded) >= 0.9 * 8 * len(engine.sampler.decoded)


def test_an_optimizer_step_waits_for_no_more_than_the_piece_in_hand(decoder: Decoder, tiny_model_dir: Path):
    """The first one may meet a step over the whole batch; while its owner is about, steps are kept short."""
    engine = Engine(decoder, tiny_model_dir, max_batch_size=64)
    ask(engine, "training", is_flood=True)
    ask(engine, "sampling", is_flood=True)
    engine.run(10)
    assert max(engine.sampler.decoded) == 64
    waits = []
    for number in range(6):
        step = counted_step(f"step {number}", "other run", engine.clock, share="light")
        came: list[float] = []

        def come(step: TrainingJob = step, came: list[float] = came) -> None:
            came.append(engine.clock.seconds)
            engine.scheduler.submit(step)

        engine.sampler.before_decode = come
        while not any(outcome.op_id == step.op_id for outcome in engine.scheduler.turn()):
            assert not came or engine.clock.seconds - came[0] < 2
        waits.append(engine.clock.seconds - came[0])
    assert max(waits[1:]) <= 0.01 * (8 + MAX_SHARED_ROWS) + 0.01


def test_the_status_tells_how_the_time_was_divided(decoder: Decoder, tiny_model_dir: Path):
    engine = Engine(decoder, tiny_model_dir)
    ask(engine, "training", is_flood=True)
    engine.run(5)
    assert engine.scheduler.status().shares == {"heavy": 1.0}
    engine.keep_training("other", HEAVY_PASS, num_pieces=60)
    engine.run(20)
    shares = engine.scheduler.status().shares
    assert shares == pytest.approx({"heavy": 0.5, "other": 0.5}, abs=0.05)


def test_few_owners_are_in_the_middle_of_a_micro_batch_at_a_time(decoder: Decoder, tiny_model_dir: Path):
    engine = Engine(decoder, tiny_model_dir)
    for number in range(3 * MAX_OPEN):
        engine.keep_training(f"owner {number}", 1.0, num_runs=2, num_pieces=20)
    most_open = 0
    for _ in range(600):
        engine.scheduler.turn()
        most_open = max(most_open, sum(share.training.is_open for share in engine.scheduler._shares.values()))
    assert most_open == MAX_OPEN


@pytest.mark.parametrize("longest", [100, 101, 250, 400, 3000])
def test_a_long_datum_takes_the_room_of_several_micro_batches_and_waits_until_it_is_there(longest: int):
    """With activations of more than four micro-batches it is alone, and owners of short ones do not keep it out."""
    clock = CountedClock()
    scheduler = Scheduler(100, clock=clock)
    num_tokens = {f"owner {number}": 100 for number in range(6)} | {"long": longest}
    num_done: Counter[str] = Counter()

    def submit(share: str) -> None:
        name = f"{share} {num_done[share]}"
        scheduler.submit(counted_pass(name, share, clock, [1.0], share=share, num_pieces=20, longest=num_tokens[share]))

    for share in num_tokens:
        submit(share)
    seen: set[int] = set()
    for _ in range(2000):
        for outcome in scheduler.turn():
            share = outcome.op_id.rsplit(" ", 1)[0]
            num_done[share] += 1
            submit(share)
        seen.add(sum(num_tokens[name] for name, share in scheduler._shares.items() if share.training.is_open))
    assert {tokens for tokens in seen if tokens > 400} == {longest} - set(range(401))
    assert max(seen) >= 300
    assert min(num_done.values()) >= 0.8 * max(num_done.values())


@pytest.mark.skipif(
    cpu_kernels(torch.float32) is None, reason="torch's operators round differently in batches of different sizes"
)
def test_a_flood_that_fills_the_batch_changes_no_bit_of_another_owners_samples(decoder: Decoder, tiny_model_dir: Path):
    params = SamplingParams(max_tokens=30, temperature=0.9, seed=7)
    prompts = {f"light {number}": draw_tokens(3 + number, seed=number) for number in range(4)}
    alone = finish(
        new_sampler(decoder, tiny_model_dir), *(job(*each, params, num_samples=2) for each in prompts.items())
    )
    engine = Engine(decoder, tiny_model_dir, max_batch_size=8)
    ask(engine, "sampling", is_flood=True)
    engine.run(5)
    together = {}
    for name, prompt in prompts.items():
        engine.sampler.submit(job(name, prompt, params, num_samples=2, share="light"))
    while len(together) < len(prompts):
        together |= {each.op_id: each.value for each in engine.scheduler.turn() if each.op_id in prompts}
    for name in prompts:
        assert tokens_of(together[name].sequences) == tokens_of(alone[name].sequences)
        for ours, theirs in zip(together[name].sequences, alone[name].sequences, strict=True):
            assert ours.logprobs.tobytes() == theirs.logprobs.tobytes()
    assert min(engine.sampler.decoded) < 8 <= max(engine.sampler.decoded)


pieces = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4)
operations = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), pieces), min_size=1, max_size=24)


@given(operations, st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_whatever_is_submitted_each_run_keeps_its_order_and_no_turn_is_left_out(
    submitted: list[tuple[str, str, list[float]]], num_pieces: int
):
    clock, begun = CountedClock(), []
    scheduler = Scheduler(2048, on_start=begun.append, clock=clock)
    for number, (share, run, costs) in enumerate(submitted):
        name = f"{share}{run}-{number}"
        scheduler.submit(counted_pass(name, share + run, clock, costs, share=share, num_pieces=num_pieces))
    ended = []
    while not scheduler.is_idle:
        before = clock.seconds
        ended += [outcome.op_id for outcome in scheduler.turn()]
        assert clock.seconds > before
    assert clock.seconds == pytest.approx(sum(sum(costs) for _, _, costs in submitted))
    assert len(ended) == len(submitted)
    for share, run in itertools.product("ab", "xyz"):
        expected = [f"{s}{r}-{n}" for n, (s, r, _) in enumerate(submitted) if (s, r) == (share, run)]
        assert [name for name in ended if name.startswith(share + run)] == expected
        assert list(dict.fromkeys(name for name in begun if name.startswith(share + run))) == expected


@pytest.mark.parametrize("num_requests", [1, 3])
def test_a_sample_that_needs_most_of_the_memory_gets_in_beside_owners_who_always_ask_again(
    decoder: Decoder, tiny_model_dir: Path, num_requests: int
):
    """Whenever one of two owners has no place, the other's sample runs."""
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    sampler = BatchSampler(decoder, tokenizer, max_batch_size=2, kv_cache_bytes=100 * decoder.kv_bytes_per_token)
    names = (f"sample {number}" for number in itertools.count())

    def ask_for(share: str, num_tokens: int) -> None:
        sampler.submit(job(next(names), [1, 2], SamplingParams(max_tokens=num_tokens, seed=1), share=share))

    for share in "ac":
        for _ in range(num_requests):
            ask_for(share, 5)
        for _ in range(2):
            sampler.step()
    ask_for("b", 95)
    num_others = 0
    while "b" not in sampler.num_rows:
        for done in sampler.step():
            num_others += 1
            assert num_others <= 6, "the large sample waits and waits"
            ask_for(done.share, 5)
