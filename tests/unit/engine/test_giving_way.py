"""Work that pauses so that others may go between: the same numbers as in one go, to the last bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from eztinker.engine.scheduler import Scheduler
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.engine.training_queue import TrainingJob
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.lora import HEAD, Adapter
from eztinker.types import Datum, LoraSpec
from tests.oracles import CPU, load_decoder
from tests.unit.engine.engine_helpers import cross_entropy_datum, new_run

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


def adapted_run(decoder: Decoder, spec: LoraSpec) -> TrainingState:
    adapter = Adapter.new(decoder.config, spec, CPU)
    adapter.flat.add_(0.05 * torch.randn(adapter.flat.numel(), generator=torch.Generator().manual_seed(3)))
    return TrainingState("tiny", decoder, adapter)


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
