import random

from eztinker.dataset import ArithmeticDataset
from eztinker.rl.problems import Problem
from eztinker.rl.rollouts import Rollout, graded, keep_random, keep_right
from eztinker.rl.sampling import Completion


def rollout(question_id: int, completion: str, *, is_right: bool, is_finished: bool = True) -> Rollout:
    return Rollout(
        round=1,
        question_id=question_id,
        question="?",
        ground_truth="12",
        prompt="Question: ?\nAnswer:",
        completion=completion,
        tokens=[1],
        logprobs=[-1.0],
        is_finished=is_finished,
        reward=float(is_right),
    )


def kept_texts(rollouts: list[Rollout]) -> list[tuple[int, str]]:
    return [(each.question_id, each.completion) for each in rollouts if each.is_kept]


def test_only_right_answers_are_kept():
    drawn = [rollout(0, " 12", is_right=True), rollout(0, " 13", is_right=False), rollout(1, " 14", is_right=False)]
    assert kept_texts(keep_right(drawn, per_problem=2)) == [(0, " 12")]


def test_no_text_is_kept_twice_for_one_problem():
    drawn = [rollout(0, " 12", is_right=True), rollout(0, "12 ", is_right=True), rollout(1, " 12", is_right=True)]
    assert kept_texts(keep_right(drawn, per_problem=2)) == [(0, " 12"), (1, " 12")]


def test_a_problem_gives_at_most_so_many_answers():
    drawn = [rollout(0, f" 12{'.' * dots}", is_right=True) for dots in range(4)]
    assert len(kept_texts(keep_right(drawn, per_problem=2))) == 2


def test_an_answer_that_was_cut_off_is_not_kept():
    drawn = [rollout(0, " 12 because", is_right=True, is_finished=False)]
    assert kept_texts(keep_right(drawn, per_problem=2)) == []


def test_the_control_keeps_so_many_whatever_is_right_or_finished():
    drawn = [rollout(number, " 13", is_right=False, is_finished=number % 2 == 0) for number in range(50)]
    kept = keep_random(drawn, 10, random.Random(0))
    assert sum(each.is_kept for each in kept) == 10
    assert {each.is_finished for each in kept if each.is_kept} == {True, False}
    assert kept == keep_random(drawn, 10, random.Random(0))
    assert kept != keep_random(drawn, 10, random.Random(1))
    assert all(each.is_kept for each in keep_random(drawn, 60, random.Random(0)))


def test_grading_rewards_the_right_completions_of_each_problem():
    def problem(number: int, ground_truth: str) -> Problem:
        return Problem(question_id=number, question=f"Q{number}?", ground_truth=ground_truth, prompt="Answer:")

    def completion(text: str) -> Completion:
        return Completion(text=text, tokens=[5], logprobs=[-0.123456], is_finished=True)

    rollouts = graded(
        ArithmeticDataset("train", max_samples=1),
        2,
        [problem(7, "12"), problem(8, "5")],
        [[completion(" 5 + 7 = 12"), completion(" 5")], [completion(" 5"), completion(" no idea")]],
    )
    assert [(each.question_id, each.reward) for each in rollouts] == [(7, 1.0), (7, 0.0), (8, 1.0), (8, 0.0)]
    assert {(each.round, tuple(each.logprobs), each.is_kept) for each in rollouts} == {(2, (-0.1235,), False)}
