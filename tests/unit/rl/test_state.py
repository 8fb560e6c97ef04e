from pathlib import Path

import pytest

from eztinker.errors import AlreadyExists, DataDamaged
from eztinker.rl import RejectionSFTConfig
from eztinker.rl.config import EMBEDDED_MODEL, Recipe
from eztinker.rl.evaluate import Evaluation, GradedAnswer
from eztinker.rl.rollouts import Rollout
from eztinker.rl.state import STATE_FILE, RunState, load_state, round_report, save_state

RECIPE = Recipe.of(RejectionSFTConfig(), [EMBEDDED_MODEL])


def rollout(question_id: int, reward: float, num_tokens: int, is_kept: bool = False) -> Rollout:
    return Rollout(
        round=3,
        question_id=question_id,
        question="?",
        ground_truth="1",
        prompt="?",
        completion="1",
        tokens=[1] * num_tokens,
        logprobs=[0.0] * num_tokens,
        is_finished=True,
        reward=reward,
        is_kept=is_kept,
    )


def test_a_round_is_summed_up_by_samples_and_by_problems():
    rollouts = [rollout(0, 1.0, 4, is_kept=True), rollout(0, 1.0, 4), rollout(1, 0.0, 10), rollout(1, 0.0, 6)]
    report = round_report(rollouts, [2.0, 1.0], seconds=9.0)
    assert (report.round, report.num_sampled, report.num_right, report.num_kept) == (3, 4, 2, 1)
    assert (report.num_problems, report.num_solved, report.share_right) == (2, 1, 0.5)
    assert (report.mean_tokens, report.mean_loss) == (6.0, 1.5)
    assert round_report(rollouts, [], seconds=9.0).mean_loss is None


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path):
    answer = GradedAnswer(question="1 + 1?", ground_truth="2", completion=" 2", is_right=True)
    state = RunState(
        identity=RECIPE.identity,
        run_id="run_s:train:0",
        checkpoint_path="tinker://s:train:0/weights/round-1",
        rounds=[round_report([rollout(0, 1.0, 4)], [1.5], seconds=2.0)],
        evaluations=[Evaluation(answers=[answer])],
        seconds=2.0,
    )
    save_state(tmp_path, state)
    assert load_state(tmp_path, RECIPE) == state


def test_without_a_state_there_is_nothing_to_go_on_from(tmp_path: Path):
    assert load_state(tmp_path, RECIPE) is None


def test_a_run_with_other_settings_is_not_continued(tmp_path: Path):
    save_state(tmp_path, RunState(identity=RECIPE.identity, run_id="run_x"))
    other = Recipe.of(RejectionSFTConfig(temperature=0.5), [EMBEDDED_MODEL])
    with pytest.raises(AlreadyExists, match=r"holds a run with temperature = 0\.8, this one has 0\.5"):
        load_state(tmp_path, other)


def test_a_damaged_state_is_named_with_a_way_out(tmp_path: Path):
    (tmp_path / STATE_FILE).write_text('{"rounds": 3}', encoding="utf-8")
    with pytest.raises(DataDamaged, match="--fresh"):
        load_state(tmp_path, RECIPE)
