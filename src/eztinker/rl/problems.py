"""The word problems of a run: which round asks which, and in what words."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eztinker.dataset import ArithmeticDataset, GSM8KDataset, MathDataset
from eztinker.errors import DataNotFound
from eztinker.rl.config import Recipe
from eztinker.rl.sampling import chat_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HELD_OUT_SEED = 1
"""Fixed for all runs, so that their accuracies are about the same problems."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One problem as the model is asked it."""

    question_id: int
    """Index of the problem in the data set."""
    question: str
    ground_truth: str
    prompt: str


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The training and held-out problems of one run."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    train: MathDataset
    held_out: MathDataset

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> ProblemSet:
        """Load the data set of the recipe.

        Raises:
            DataNotFound: it must be fetched first; the message says how.
        """
        config = recipe.config
        train: MathDataset
        held_out: MathDataset
        if recipe.dataset == "arithmetic":
            train = ArithmeticDataset("train", max_samples=config.rounds * config.max_samples, seed=config.seed)
            held_out = ArithmeticDataset("test", max_samples=recipe.eval_size, seed=_HELD_OUT_SEED)
        else:
            train = GSM8KDataset("train")
            held_out = GSM8KDataset("test", max_samples=recipe.eval_size)
        if not len(train) or not len(held_out):
            raise DataNotFound(f"{recipe.dataset} has {len(train)} training and {len(held_out)} test problems here")
        return cls(recipe, tokenizer, train, held_out)

    def of_round(self, number: int) -> list[Problem]:
        """The problems of round `number`, counted from 1; once all were asked, they come again."""
        size = self.recipe.config.max_samples
        order = list(range(len(self.train)))
        if self.recipe.dataset == "gsm8k":  # arithmetic is drawn at random already, and grows with the rounds
            random.Random(self.recipe.config.seed).shuffle(order)
        places = range((number - 1) * size, number * size)
        return self._asked(self.train, (order[place % len(order)] for place in places))

    def held_out_problems(self) -> list[Problem]:
        return self._asked(self.held_out, range(len(self.held_out)))

    def few_shot_problems(self) -> list[Problem]:
        """The first held-out problems behind worked examples, always as plain text."""
        size = min(self.recipe.config.few_shot_size, len(self.held_out))
        return [self._problem(self.held_out, index, is_few_shot=True) for index in range(size)]

    def _asked(self, dataset: MathDataset, indices: Iterable[int]) -> list[Problem]:
        return [self._problem(dataset, index) for index in indices]

    def _problem(self, dataset: MathDataset, index: int, *, is_few_shot: bool = False) -> Problem:
        question, prompt, ground_truth = dataset.get_example_question(index)
        if is_few_shot:
            prompt = dataset.format_few_shot_prompt(question)
        elif self.recipe.task.prompt_style == "chat" and self.tokenizer.chat_template:
            prompt = chat_prompt(self.tokenizer, question)
        return Problem(question_id=index, question=question, ground_truth=ground_truth, prompt=prompt)
