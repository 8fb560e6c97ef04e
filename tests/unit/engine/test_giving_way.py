"""Work that pauses so that others may go between: the same numbers as in one go, to the last bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from eztinker.engine import prefill
from eztinker.engine.prefill import Prompt, PromptReader
from eztinker.engine.scheduler import Scheduler
from eztinker.engine.trainer import Pass, RunState
from eztinker.engine.training_queue import TrainingJob
from eztinker.model.attention import PackedAttention
from eztinker.model.cpu_kernels import cpu_kernels
from eztinker.model.decoder import Decoder
from eztinker.model.lora import HEAD, Adapter
from eztinker.types import Datum, LoraSpec, SampleRequest, SamplingParams
from tests.oracles import CPU, draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import cross_entropy_datum, finish, frozen_adapter, job, new_run, new_sampler

DATA = [cross_entropy_datum(length, seed=length) for length in (30, 7, 50, 20)]
SPECS = [
    LoraSpec(rank=4, seed=0),
    LoraSpec(rank=4, seed=1, train_unembed=False),
    LoraSpec(rank=4, seed=2, train_attn=False, train_mlp=False),
]


class WholePass(Pass):
    """One graph and one backward call for each micro-batch."""

    def _run_micro_batch(self, data: Sequence[Datum]) -> Iterator[None]:
        decoder, adapter = self.run.decoder, self.run.adapter
        tokens = torch.from_numpy(np.concatenate([datum.tokens for datum in data]))
        attention = PackedAttention([len(datum.tokens) for datum in data], CPU)
        hidden = decoder.hidden_states(tokens, attention, [(adapter, None)])
        loss = self._loss(data, hidden, [delta for delta in [adapter.delta(HEAD, None)] if delta is not None])
        loss.backward()
        self.loss += float(loss.detach())
        yield


def adapted_run(decoder: Decoder, spec: LoraSpec) -> RunState:
    adapter = Adapter.new(decoder.config, spec, CPU)
    adapter.flat.add_(0.05 * torch.randn(adapter.flat.numel(), generator=torch.Generator().manual_seed(3)))
    return RunState("tiny", decoder, adapter)


@pytest.mark.parametrize("spec", SPECS, ids=["all", "no head", "head alone"])
@pytest.mark.parametrize(("family", "tie"), [("llama", False), ("qwen2", True)], ids=["untied", "tied"])
def test_a_graph_that_is_cut_between_layers_gives_the_bits_of_a_whole_one(
    tiny_model: Callable[..., Path], family: str, tie: bool, spec: LoraSpec
):
    """A tied head gets gradients from both ends of the decoder; over several micro-batches their order would show."""
    decoder = load_decoder(tiny_model(family, tie=tie))
    cut, whole = (adapted_run(decoder, spec) for _ in range(2))
    ours, theirs = Pass(cut, DATA, "cross_entropy", {}, False), WholePass(whole, DATA, "cross_entropy", {}, False)
    num_pauses = sum(ours.carry_out(60))
    list(theirs.carry_out(60))
    assert num_pauses > 3 * decoder.config.num_layers
    assert ours.loss == theirs.loss
    assert torch.equal(cut.grads, whole.grads)
    assert whole.grads.any()


def test_a_pass_stops_for_another_owners_operation_and_its_own_runs_follow_micro_batch_by_micro_batch(
    tiny_model_dir: Path,
):
    decoder = load_decoder(tiny_model_dir)
    started: list[str] = []
    ticks = itertools.count()  # every look at the clock takes a second, so each turn is one piece
    scheduler = Scheduler(50, on_start=started.append, clock=lambda: float(next(ticks)))

    def submit(name: str, share: str, data: list[Datum]) -> None:
        run = new_run(decoder)
        scheduler.submit(TrainingJob(name, name, lambda: Pass(run, data, "cross_entropy", {}, False), share=share))

    submit("long", "heavy", DATA)
    submit("other", "heavy", DATA)
    assert scheduler.turn() == []
    submit("short", "light", DATA[1:2])
    ended = []
    while not scheduler.is_idle:
        ended += [outcome.op_id for outcome in scheduler.turn()]
    assert ended == ["short", "long", "other"]
    assert started[:4] == ["long", "short", "long", "short"]
    heavy = [name for name in started if name != "short"]
    assert [name for name, _ in itertools.groupby(heavy)] == ["long", "other"] * 3


def test_a_turn_ends_after_the_piece_during_which_something_new_arrived(tiny_model_dir: Path):
    started: list[str] = []
    scheduler = Scheduler(50, on_start=started.append, clock=lambda: 0.0)  # no turn is over by the clock
    run = new_run(load_decoder(tiny_model_dir))
    scheduler.submit(TrainingJob("long", "long", lambda: Pass(run, DATA, "cross_entropy", {}, False)))
    questions = itertools.count(1)
    assert scheduler.turn(lambda: next(questions) == 3) == []
    assert next(questions) == 4
    assert [outcome.op_id for outcome in scheduler.turn()] == ["long"]


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
