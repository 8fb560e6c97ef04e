"""One engine, two kinds of work: order within a model, turns between models, and neither kind starved."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.engine.scheduler import Job, Scheduler
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.engine.training_queue import TrainingJob
from eztinker.errors import InvalidInput, NonFiniteUpdate
from eztinker.model.decoder import Decoder
from eztinker.types import AdamParams, Datum, ForwardBackwardResult, SamplingParams
from tests.oracles import draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import cross_entropy_datum, job, new_run, new_sampler


@pytest.fixture(scope="module")
def decoder(tiny_model_dir: Path) -> Decoder:
    return load_decoder(tiny_model_dir)


def pass_of(name: str, run: TrainingState, data: list[Datum], model: str) -> TrainingJob:
    return TrainingJob(name, model, lambda: Pass(run, data, "cross_entropy", {}, False))


def step_of(name: str, run: TrainingState, model: str) -> TrainingJob:
    return TrainingJob(name, model, lambda: run.optim_step(AdamParams(learning_rate=1e-2)), is_step=True)


def run_all(scheduler: Scheduler) -> list[Job]:
    outcomes = []
    while not scheduler.is_idle:
        outcomes += scheduler.turn()
    return outcomes


@pytest.mark.conforms(39, 45)
def test_operations_of_one_model_run_in_order_and_models_take_turns(decoder: Decoder):
    runs = {name: new_run(decoder, seed=seed) for seed, name in enumerate("ab")}
    started: list[str] = []
    scheduler = Scheduler(max_train_tokens=2048, on_start=started.append)
    for model, run in runs.items():
        data = [cross_entropy_datum(20, seed=4)]
        scheduler.submit(pass_of(f"{model}1", run, data, model))
        scheduler.submit(step_of(f"{model}2", run, model))
        scheduler.submit(pass_of(f"{model}3", run, data, model))
    outcomes = run_all(scheduler)
    order = [outcome.op_id for outcome in outcomes]
    assert order == started == ["a1", "a2", "b1", "b2", "a3", "b3"]
    losses = {o.op_id: o.value.metrics["loss:sum"] for o in outcomes if isinstance(o.value, ForwardBackwardResult)}
    assert losses["a3"] < losses["a1"]
    assert losses["b3"] < losses["b1"]


def test_a_step_that_waits_behind_a_pass_is_reported_with_it(decoder: Decoder):
    scheduler, run = Scheduler(max_train_tokens=2048), new_run(decoder)
    data = [cross_entropy_datum(20, seed=4)]
    scheduler.submit(pass_of("early", run, data, "m"))
    assert [outcome.op_id for outcome in run_all(scheduler)] == ["early"]
    for operation in (step_of("late", run, "m"), pass_of("pass", run, data, "m"), step_of("step", run, "m")):
        scheduler.submit(operation)
    turns = []
    while not scheduler.is_idle:
        turns.append([outcome.op_id for outcome in scheduler.turn()])
    assert [turn for turn in turns if turn] == [["late"], ["pass", "step"]]


def test_a_request_is_sampled_between_the_micro_batches_of_a_long_pass(decoder: Decoder, tiny_model_dir: Path):
    scheduler = Scheduler(max_train_tokens=32)
    sampler = new_sampler(decoder, tiny_model_dir)
    scheduler.add_sampler(sampler)
    data = [cross_entropy_datum(30, seed) for seed in range(12)]
    scheduler.submit(pass_of("long", new_run(decoder), data, "m"))
    sampler.submit(job("short", draw_tokens(5), SamplingParams(max_tokens=4)))
    assert [outcome.op_id for outcome in run_all(scheduler)] == ["short", "long"]


def test_training_goes_on_while_samples_keep_coming(decoder: Decoder, tiny_model_dir: Path):
    scheduler = Scheduler(max_train_tokens=32)
    sampler = new_sampler(decoder, tiny_model_dir)
    scheduler.add_sampler(sampler)
    scheduler.submit(pass_of("long", new_run(decoder), [cross_entropy_datum(30, seed) for seed in range(4)], "m"))
    finished: list[str] = []
    for turn in range(50):
        sampler.submit(job(f"s{turn}", draw_tokens(5), SamplingParams(max_tokens=2)))
        finished += [outcome.op_id for outcome in scheduler.turn()]
        if "long" in finished:
            return
    pytest.fail("four micro-batches did not get done in fifty turns")


def test_work_that_raises_fails_alone(decoder: Decoder):
    def refuse() -> object:
        raise InvalidInput("no")

    run = new_run(decoder)
    scheduler = Scheduler(max_train_tokens=2048)
    scheduler.submit(TrainingJob("bad", "a", refuse))
    scheduler.submit(pass_of("good", run, [cross_entropy_datum(9, seed=1)], "b"))
    outcomes = {outcome.op_id: outcome for outcome in run_all(scheduler)}
    assert isinstance(outcomes["bad"].error, InvalidInput)
    assert isinstance(outcomes["good"].value, ForwardBackwardResult)


def test_a_pass_that_turns_out_not_finite_reports_why(decoder: Decoder):
    scheduler = Scheduler(max_train_tokens=2048)
    scheduler.submit(pass_of("nan", new_run(decoder), [cross_entropy_datum(9, seed=1, weight=float("nan"))], "a"))
    (outcome,) = run_all(scheduler)
    assert isinstance(outcome.error, NonFiniteUpdate)
