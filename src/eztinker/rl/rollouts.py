"""Graded completions, and which of them are trained on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eztinker.dataset import MathDataset
from eztinker.rl.problems import Problem
from eztinker.rl.sampling import Completion


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One completion of one problem and its judgement; a line of the buffer."""

    round: int
    question_id: int
    question: str
    ground_truth: str
    prompt: str
    completion: str
    tokens: list[int]
    """Token ids of the completion, without the stop token."""
    logprobs: list[float]
    """Log-probability of each token as the sampler drew it, in nats."""
    is_finished: bool
    """True if the completion ended by itself rather than at the token limit."""
    reward: float
    """1.0 for a right answer, 0.0 for a wrong one."""
    is_kept: bool = False
    """True if it is trained on."""

    @property
    def is_right(self) -> bool:
        return self.reward == 1.0


def graded(
    dataset: MathDataset, round_number: int, asked: Sequence[Problem], answers: Sequence[Sequence[Completion]]
) -> list[Rollout]:
    """One rollout per completion; `answers[i]` are the completions of `asked[i]`."""
    pairs = [(problem, answer) for problem, group in zip(asked, answers, strict=True) for answer in group]
    grades = dataset.evaluate_answers(
        [answer.text for _, answer in pairs],
        [problem.ground_truth for problem, _ in pairs],
        [problem.question for problem, _ in pairs],
    )
    return [
        Rollout(
            round=round_number,
            question_id=problem.question_id,
            question=problem.question,
            ground_truth=problem.ground_truth,
            prompt=problem.prompt,
            completion=answer.text,
            tokens=answer.tokens,
            logprobs=[round(logprob, 4) for logprob in answer.logprobs],
            is_finished=answer.is_finished,
            reward=1.0 if grade["is_correct"] else 0.0,
        )
        for (problem, answer), grade in zip(pairs, grades, strict=True)
    ]


def keep_right(rollouts: Sequence[Rollout], per_problem: int) -> list[Rollout]:
    """Mark right rollouts to be trained on: finished, no text twice, at most `per_problem` of each problem.

    Unfinished ones are left out even if right: they would teach the model to stop in the middle of a sentence.
    """
    kept_of: Counter[int] = Counter()
    seen: set[tuple[int, str]] = set()
    marked = []
    for rollout in rollouts:
        key = (rollout.question_id, rollout.completion.strip())
        is_kept = (
            rollout.is_right and rollout.is_finished and key not in seen and kept_of[rollout.question_id] < per_problem
        )
        if is_kept:
            seen.add(key)
            kept_of[rollout.question_id] += 1
        marked.append(replace(rollout, is_kept=is_kept))
    return marked


def keep_random(rollouts: Sequence[Rollout], num_kept: int, rng: random.Random) -> list[Rollout]:
    """Mark `num_kept` random rollouts, or all if there are fewer, right or wrong, finished or not: the control."""
    kept = set(rng.sample(range(len(rollouts)), min(num_kept, len(rollouts))))
    return [replace(rollout, is_kept=index in kept) for index, rollout in enumerate(rollouts)]
