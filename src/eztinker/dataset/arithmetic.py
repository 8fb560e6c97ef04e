"""Seeded one-step word problems with small numbers: a task that a model of 135 million parameters learns in minutes.

There are six families (add, take away, boxes times items, share equally, compare more, compare fewer), each worded in
several ways.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from eztinker.dataset.argument_checks import check_max_samples, check_split
from eztinker.dataset.math_dataset import MathDataset, MathExample
from eztinker.errors import InvalidInput

DEFAULT_NUM_SAMPLES = 1_000
MAX_NUM_SAMPLES = 100_000
"""Largest data set, far below the number of different questions, so that drawing new ones stays quick."""

NAMES = (
    "Ada", "Ben", "Carla", "Dev", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas",
    "Kira", "Liam", "Mona", "Nora", "Omar", "Priya", "Quinn", "Rosa", "Sam", "Tara",
)  # fmt: skip
ITEMS = (
    "apples", "books", "buttons", "cards", "coins", "cookies", "marbles", "oranges",
    "pencils", "plums", "ribbons", "shells", "stamps", "stickers", "tickets", "toys",
)  # fmt: skip


class ArithmeticDataset(MathDataset):
    """Distinct questions of one split, determined by the seed.

    The text of a question alone decides its split, so training and test sets share no question, whatever
    their sizes and seeds. They do share families and wordings: a test measures skill at this task, not at mathematics.

    Args:
        split: "train", or "test" for the quarter of all questions that is held out.
        max_samples: number of questions to draw, 1,000 by default.
        seed: seed of the random generator.
        use_math_verify: False grades by exact numbers alone.
    """

    few_shot_examples: ClassVar[tuple[MathExample, ...]] = (
        MathExample(
            question="Mia has 5 pears and picks 7 more. How many pears does Mia have now?",
            ground_truth="5 + 7 = 12",
            extracted_answer="12",
        ),
        MathExample(
            question="Leo has 9 balloons and 4 of them burst. How many balloons does Leo have left?",
            ground_truth="9 - 4 = 5",
            extracted_answer="5",
        ),
        MathExample(
            question="Zoe fills 3 jars with 6 candies each. How many candies does Zoe need?",
            ground_truth="3 * 6 = 18",
            extracted_answer="18",
        ),
    )

    def __init__(
        self, split: str = "train", max_samples: int | None = None, seed: int = 0, use_math_verify: bool = True
    ) -> None:
        check_split(split)
        check_max_samples(max_samples)
        num_samples = DEFAULT_NUM_SAMPLES if max_samples is None else max_samples
        if num_samples > MAX_NUM_SAMPLES:
            raise InvalidInput(
                f"max_samples must be at most {MAX_NUM_SAMPLES} for arithmetic, got {num_samples}", field="max_samples"
            )
        super().__init__(_draw_examples(split, num_samples, random.Random(seed)), use_math_verify=use_math_verify)


def split_of(question: str) -> str:
    """Split of a question, by a hash of its text: one in four is a test question."""
    return "test" if hashlib.sha256(question.encode()).digest()[0] % 4 == 0 else "train"


def _draw_examples(split: str, num_samples: int, rng: random.Random) -> list[MathExample]:
    examples: dict[str, MathExample] = {}
    while len(examples) < num_samples:
        example = _draw_example(rng)
        if split_of(example["question"]) == split:
            examples.setdefault(example["question"], example)
    return list(examples.values())


def _draw_example(rng: random.Random) -> MathExample:
    family = rng.choice(FAMILIES)
    first, second = family.draw_operands(rng)
    name, other = rng.sample(NAMES, 2)
    wording = rng.choice(family.wordings)
    answer = _OPERATIONS[family.operator](first, second)
    return MathExample(
        question=wording.format(a=first, b=second, name=name, other=other, items=rng.choice(ITEMS)),
        ground_truth=f"{first} {family.operator} {second} = {answer}",
        extracted_answer=str(answer),
    )


def _two_terms(rng: random.Random) -> tuple[int, int]:
    return rng.randint(2, 20), rng.randint(2, 20)


def _whole_and_part(rng: random.Random) -> tuple[int, int]:
    whole = rng.randint(5, 20)
    return whole, rng.randint(1, whole - 1)


def _two_factors(rng: random.Random) -> tuple[int, int]:
    return rng.randint(2, 9), rng.randint(2, 9)


def _product_and_divisor(rng: random.Random) -> tuple[int, int]:
    divisor = rng.randint(2, 6)
    return divisor * rng.randint(2, 9), divisor


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of problem: its operation, how its two numbers are drawn, and its wordings."""

    operator: str
    draw_operands: Callable[[random.Random], tuple[int, int]]
    wordings: tuple[str, ...]


FAMILIES = (
    Family(
        "+",
        _two_terms,
        (
            "{name} has {a} {items} and buys {b} more. How many {items} does {name} have now?",
            "{name} finds {a} {items} in the morning and {b} in the evening. How many {items} is that in total?",
            "There are {a} {items} on a table. {name} adds {b} {items}. How many {items} are on the table now?",
        ),
    ),
    Family(
        "-",
        _whole_and_part,
        (
            "{name} has {a} {items} and gives away {b}. How many {items} does {name} have left?",
            "There were {a} {items} in a bag. {name} took out {b}. How many {items} are still in the bag?",
            "{name} had {a} {items} but lost {b} of them. How many {items} remain?",
        ),
    ),
    Family(
        "*",
        _two_factors,
        (
            "{name} has {a} boxes with {b} {items} in each box. How many {items} does {name} have?",
            "{name} fills {a} shelves with {b} {items} each. How many {items} are on the shelves?",
            "{name} buys {a} packs of {b} {items}. How many {items} is that in total?",
        ),
    ),
    Family(
        "/",
        _product_and_divisor,
        (
            "{name} shares {a} {items} equally among {b} friends. How many {items} does each friend get?",
            "{name} puts {a} {items} into {b} bags, the same number in each. How many {items} are in one bag?",
            "{name} splits {a} {items} evenly into {b} piles. How many {items} are in each pile?",
        ),
    ),
    Family(
        "+",
        _two_terms,
        (
            "{name} has {a} {items}. {other} has {b} more {items} than {name}. How many {items} does {other} have?",
            "{name} found {a} {items} and {other} found {b} more than that. How many {items} did {other} find?",
        ),
    ),
    Family(
        "-",
        _whole_and_part,
        (
            "{name} has {a} {items}. {other} has {b} fewer {items} than {name}. How many {items} does {other} have?",
            "{name} found {a} {items} and {other} found {b} fewer than that. How many {items} did {other} find?",
        ),
    ),
)
