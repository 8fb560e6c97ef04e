"""The training operations of one share: each run keeps its order, and runs take turns."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from eztinker.engine.trainer import Pass
from eztinker.engine.training_queue import TrainingJob, TrainingQueue
from eztinker.errors import InvalidInput
from tests.oracles import load_decoder
from tests.unit.engine.engine_helpers import cross_entropy_datum, new_run


def plain(name: str, run: str, **fields: object) -> TrainingJob:
    """Work that is done in one piece and results in its own name."""
    return TrainingJob(name, run, lambda: name, **fields)  # pyright: ignore[reportArgumentType]


def new_queue(max_train_tokens: int = 100) -> tuple[TrainingQueue, list[str]]:
    announced: list[str] = []
    return TrainingQueue(max_train_tokens, announced.append), announced


def emptied(queue: TrainingQueue) -> list[TrainingJob]:
    ended: list[TrainingJob] = []
    while not queue.is_empty:
        ended += queue.advance()
    return ended


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_when_each_run_keeps_its_order_and_every_operation_ends_once(seed: int):
    generator = random.Random(seed)
    queue, announced = new_queue()
    submitted: dict[str, list[str]] = {run: [] for run in "abc"}
    ended: list[str] = []
    for number in range(60):
        if generator.random() < 0.5:
            run = generator.choice("abc")
            submitted[run].append(f"{run}{number}")
            queue.submit(plain(f"{run}{number}", run, is_step=generator.random() < 0.4))
        elif not queue.is_empty:
            ended += [job.op_id for job in queue.advance()]
    ended += [job.op_id for job in emptied(queue)]
    assert announced == ended
    for run, names in submitted.items():
        assert [name for name in ended if name[0] == run] == names


def test_runs_take_turns_and_a_step_goes_with_the_pass_before_it():
    queue, _ = new_queue()
    for run, number in itertools.product("ab", range(2)):
        queue.submit(plain(f"pass {run}{number}", run))
        queue.submit(plain(f"step {run}{number}", run, is_step=True))
    assert queue.num_waiting == 8
    turns = []
    while not queue.is_empty:
        turns.append([job.value for job in queue.advance()])
    order = ["a0", "b0", "a1", "b1"]
    assert turns == [[f"pass {each}", f"step {each}"] for each in order]


def test_an_operation_that_raises_ends_in_its_error_and_the_next_goes_on():
    def broken() -> object:
        raise InvalidInput("no")

    queue, _ = new_queue()
    queue.submit(TrainingJob("bad", "run", broken))
    queue.submit(plain("good", "run"))
    first, second = emptied(queue)
    assert (first.op_id, first.value, str(first.error)) == ("bad", None, "no")
    assert (second.op_id, second.value, second.error) == ("good", "good", None)


def test_a_step_that_is_next_is_known_before_it_is_begun():
    queue, _ = new_queue()
    assert not queue.is_at_step
    queue.submit(plain("step", "a", is_step=True))
    queue.submit(plain("pass", "b"))
    assert queue.is_at_step
    queue.advance()
    assert not queue.is_at_step


def test_a_run_with_a_micro_batch_in_hand_goes_first_and_a_long_datum_makes_room(tiny_model_dir: Path):
    """It holds the activations, which no second run may have beside it."""
    run = new_run(load_decoder(tiny_model_dir))
    data = [cross_entropy_datum(30, seed=1), cross_entropy_datum(20, seed=2)]
    queue, announced = new_queue(max_train_tokens=30)
    queue.submit(TrainingJob("long", "a", lambda: Pass(run, data, "cross_entropy", {}, False), longest=50))
    queue.submit(plain("other", "b"))
    assert queue.num_tokens == 50
    while not queue.is_open:
        assert queue.advance() == []
    names_while_open = []
    while queue.is_open:
        queue.advance()
        names_while_open.append(announced[-1])
    assert set(names_while_open) == {"long"}
    assert queue.num_tokens == 30
    assert {job.op_id for job in emptied(queue)} == {"long", "other"}
