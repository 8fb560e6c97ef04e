"""A benchmark is worth nothing unless both sides do the same work. No speed is asserted here."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import control_plane, fair_share
from benchmarks.engine import EngineInference, EngineTraining
from benchmarks.measurement import Measurement
from benchmarks.peer_peft import PeftTraining
from benchmarks.peer_transformers import TransformersInference
from benchmarks.process import Answer, Side, median_of, race
from benchmarks.report import COLUMNS, write_csv, write_plot
from benchmarks.roofline import Limits, Machine
from benchmarks.workload import draw_prompts, draw_training_batch
from tests.unit.benchmarks.short_lived_memory import ShortLivedMemory


@pytest.fixture
def model_dir(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama", tie=True)


def test_both_sides_find_the_same_next_token(model_dir: Path):
    (prompt,) = draw_prompts(1, 30, 256)
    sides = [make(model_dir, "float32", 1) for make in (EngineInference, TransformersInference)]
    assert sides[0].prefill(prompt) == sides[1].prefill(prompt)


@pytest.mark.parametrize("make", [EngineInference, TransformersInference])
def test_each_side_draws_every_token_it_is_asked_for(model_dir: Path, make: Callable[..., EngineInference]):
    assert make(model_dir, "float32", 1).decode(draw_prompts(3, 10, 256), 7) == 21


def test_both_sides_see_the_same_loss_and_lower_it(model_dir: Path):
    batch = draw_training_batch(4, 16, 256)
    sides = [make(model_dir, "float32", 1) for make in (EngineTraining, PeftTraining)]
    first, second = ([side.train_step(batch) for side in sides] for _ in range(2))
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert second[0] < first[0]
    assert second[1] < first[1]


def test_the_control_plane_is_measured_with_a_real_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(control_plane, "STEPS_PER_BLOCK", 2)
    monkeypatch.setattr(control_plane, "BLOCKS_PER_ROUND", 1)
    monkeypatch.setenv("EZTINKER_API_KEY", "")  # the measurement sets it
    measured = control_plane.measure(1)
    assert (measured.goal, measured.peer) == ("<= 15 ms", None)
    assert measured.ours > 0


def test_fair_shares_are_measured_with_a_real_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fair_share, "BLOCK_SECONDS", 0.2)
    monkeypatch.setattr(fair_share, "NUM_FLOODS", 2)
    monkeypatch.setenv("EZTINKER_API_KEY", "")  # the measurement sets it
    measured = list(fair_share.measure(1))
    kinds = ("training", "sampling")
    settings = [f"{light} beside {flood}" for light in kinds for flood in kinds]
    assert [each.setting for each in measured] == [*settings, "8 equal owners"]
    assert [each.goal for each in measured] == [">= 0.4x"] * 4 + ["< 3x"]
    assert all(each.ours > 0 and each.peer for each in measured)


def test_the_loss_is_the_mean_over_the_last_quarter(model_dir: Path):
    batch = draw_training_batch(2, 16, 256)
    assert (batch.num_tokens, batch.num_loss_tokens) == (32, 8)
    logits = TransformersInference(model_dir, "float32", 1)._model(torch.tensor(batch.tokens)).logits
    targets = torch.tensor(batch.tokens)[:, 12:]
    expected = torch.nn.functional.cross_entropy(logits[:, 11:15].reshape(8, -1), targets.reshape(8))
    assert EngineTraining(model_dir, "float32", 1).train_step(batch) == pytest.approx(expected.item(), rel=1e-5)


def test_limits_count_weights_read_and_operations_done(model_dir: Path):
    machine = Machine(read_bytes_per_second=1e6, flops={"float32": 1e8})
    limits = Limits.of(model_dir, "float32", machine)
    matrices = {name: p.numel() for name, p in torch_parameters(model_dir).items() if p.ndim == 2}
    body = sum(size for name, size in matrices.items() if "embed" not in name)
    head = 264 * 64
    assert (limits.body_params, limits.head_params) == (body, head)
    assert limits.decode(1) == pytest.approx(1e6 / (4 * (body + head)))  # one token waits for the weights
    assert limits.decode(1000) == pytest.approx(1e8 / (2 * (body + head)))  # a thousand wait for the products
    assert limits.prefill(10) == pytest.approx(10 * 1e8 / (20 * body + 2 * head))
    assert limits.training(0.25) == pytest.approx(1e8 / (4 * body + head))


def torch_parameters(model_dir: Path) -> dict[str, torch.Tensor]:
    return dict(TransformersInference(model_dir, "float32", 1)._model.named_parameters())


def test_each_side_has_a_process_and_a_peak_of_its_own():
    with Side(ShortLivedMemory) as ours, Side(ShortLivedMemory) as peer:
        took, peer_took = race(ours, peer, "take", num_rounds=1)
        rested = ours.call("rest")
    assert len({took.value, peer_took.value, os.getpid()}) == 3
    assert took.peak_bytes > 64e6
    assert rested.peak_bytes < 32e6


def test_a_race_takes_the_median_duration_and_the_value_of_the_last_round():
    answers = (Answer("first", 2.0, 10), Answer("second", 1.0, 20), Answer("third", 3.0, 30))
    assert median_of(answers) == Answer("third", 2.0, 10)


def test_a_failure_in_a_side_comes_back_with_its_cause():
    with Side(ShortLivedMemory) as side, pytest.raises(RuntimeError, match="no attribute 'absent'"):
        side.call("absent")


def measurement(**changes: object) -> Measurement:
    values = {"work": "decode", "setting": "batch 8", "unit": "tok/s", "ours": 300.0, "peer": 100.0}
    return Measurement(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "goal", "is_met"),
    [
        ({"wanted_ratio": 2.5}, ">= 2.5x", True),
        ({"wanted_ratio": 3.5}, ">= 3.5x", False),
        ({"wanted_ratio": 0.5, "less_is_better": True}, "< 0.5x", False),
        ({"wanted_ratio": 0.5, "less_is_better": True, "ours": 40.0}, "< 0.5x", True),
        ({"wanted": 120.0, "peer": None, "unit": "s"}, "<= 120 s", False),
        ({"wanted": 120.0, "peer": None, "unit": "s", "ours": 99.0}, "<= 120 s", True),
        ({}, "", None),
    ],
)
def test_goals_are_met_or_missed(changes: dict[str, object], goal: str, is_met: bool | None):
    each = measurement(**changes)
    assert (each.goal, each.is_met) == (goal, is_met)


def test_the_report_keeps_every_measurement(tmp_path: Path):
    measurements = [measurement(limit=600.0, wanted_ratio=2.5), measurement(work="machine", peer=None)]
    write_csv(measurements, tmp_path / "out.csv")
    write_plot(measurements, tmp_path / "out.png", "title")
    with (tmp_path / "out.csv").open() as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == COLUMNS
    assert (first["ratio"], first["share_of_limit"], first["is_met"]) == ("3", "0.5", "True")
    assert (second["work"], second["peer"]) == ("machine", "")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
