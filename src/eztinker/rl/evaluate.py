"""Held-out accuracy with greedy answers, and how sure we can be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eztinker.dataset import MathDataset
from eztinker.rl.problems import Problem
from eztinker.rl.sampling import AdapterSampler, PendingCompletions, SamplingSpec

_Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedAnswer:
    """A held-out problem, the model's answer and its grade."""

    question: str
    ground_truth: str
    completion: str
    is_right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Greedy answers to held-out problems, in the order of the problems."""

    answers: list[GradedAnswer]

    @property
    def num_right(self) -> int:
        return sum(answer.is_right for answer in self.answers)

    @property
    def accuracy(self) -> float:
        return self.num_right / len(self.answers)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.num_right, len(self.answers))


@dataclass(frozen=True, slots=True)
class PendingEvaluation:
    """Held-out problems that the server has been asked, and their completions to come."""

    dataset: MathDataset
    asked: Sequence[Problem]
    completions: Sequence[PendingCompletions]

    def result(self) -> Evaluation:
        """Wait for all answers and grade them."""
        texts = [pending.result()[0].text for pending in self.completions]
        grades = self.dataset.evaluate_answers(
            texts, [problem.ground_truth for problem in self.asked], [problem.question for problem in self.asked]
        )
        return Evaluation(
            answers=[
                GradedAnswer(
                    question=problem.question,
                    ground_truth=problem.ground_truth,
                    completion=text,
                    is_right=bool(grade["is_correct"]),
                )
                for problem, text, grade in zip(self.asked, texts, grades, strict=True)
            ]
        )


def submit_evaluation(
    sampler: AdapterSampler, dataset: MathDataset, asked: Sequence[Problem], max_tokens: int, stop: tuple[str, ...]
) -> PendingEvaluation:
    """Ask every problem once, greedily, without waiting for the answers."""
    spec = SamplingSpec(max_tokens=max_tokens, temperature=0.0, stop=stop)
    return PendingEvaluation(dataset, asked, [sampler.submit(problem.prompt, 1, spec) for problem in asked])


def wilson_interval(num_right: int, num_trials: int) -> tuple[float, float]:
    """95 % score interval of a share; unlike the normal one it stays inside 0..1 and has width at 0 and 1.

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    if num_trials == 0:
        return (0.0, 1.0)
    share = num_right / num_trials
    shrink = 1 + _Z_95**2 / num_trials
    centre = (share + _Z_95**2 / (2 * num_trials)) / shrink
    half = _Z_95 / shrink * math.sqrt(share * (1 - share) / num_trials + _Z_95**2 / (4 * num_trials**2))
    # Exactly 0 and 1 where none or all are right; computed, they would be off by a rounding error.
    low = 0.0 if num_right == 0 else max(0.0, centre - half)
    return (low, 1.0 if num_right == num_trials else min(1.0, centre + half))
