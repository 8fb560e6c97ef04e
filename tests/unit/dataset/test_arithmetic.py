"""The seeded word problems: right, reproducible, and held out for certain."""

from __future__ import annotations

import operator
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.dataset import ArithmeticDataset
from eztinker.errors import InvalidInput

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
RANGES = {"+": ((2, 20), (2, 20)), "-": ((5, 20), (1, 19)), "*": ((2, 9), (2, 9)), "/": ((4, 54), (2, 6))}


def questions(dataset: ArithmeticDataset) -> list[str]:
    return [each["question"] for each in dataset]


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_answers_are_right_and_use_the_questions_numbers(split: str) -> None:
    for example in ArithmeticDataset(split, 2_000, seed=5):
        first, sign, second, answer = re.fullmatch(r"(\d+) (.) (\d+) = (\d+)", example["ground_truth"]).groups()  # type: ignore[union-attr]
        assert re.findall(r"\d+", example["question"]) == [first, second]
        assert OPERATIONS[sign](int(first), int(second)) == int(answer)
        assert example["extracted_answer"] == answer
        for value, (low, high) in zip((int(first), int(second)), RANGES[sign], strict=True):
            assert low <= value <= high


def test_the_wording_tells_the_operation() -> None:
    words = {
        "buys|adds|evening|more ": "+",
        "gives|took|lost|fewer": "-",
        "boxes|shelves|packs": "*",
        "equally|same|evenly": "/",
    }
    for example in ArithmeticDataset(max_samples=2_000):
        # "packs" outranks "buys": a pack is a product whatever is done with it
        signs = [sign for pattern, sign in words.items() if re.search(pattern, example["question"])]
        assert example["ground_truth"].split()[1] == signs[-1]


def test_all_six_families_are_drawn_about_equally_often() -> None:
    counts = dict.fromkeys(OPERATIONS, 0)
    for example in ArithmeticDataset(max_samples=3_000):
        counts[example["ground_truth"].split()[1]] += 1
    for sign, expected in {"+": 1_000, "-": 1_000, "*": 500, "/": 500}.items():
        assert expected * 0.8 < counts[sign] < expected * 1.2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(), st.integers())
def test_train_and_test_share_no_question_whatever_their_sizes_and_seeds(
    train_size: int, test_size: int, train_seed: int, test_seed: int
) -> None:
    train = questions(ArithmeticDataset("train", train_size, train_seed))
    test = questions(ArithmeticDataset("test", test_size, test_seed))
    assert len(train) == len(set(train)) == train_size
    assert len(test) == len(set(test)) == test_size
    assert not set(train) & set(test)


def test_large_splits_share_no_question_either() -> None:
    train = set(questions(ArithmeticDataset("train", 30_000, seed=1)))
    assert not train & set(questions(ArithmeticDataset("test", 10_000, seed=1)))


def test_few_shot_examples_are_in_no_split() -> None:
    shown = {example["question"] for example in ArithmeticDataset.few_shot_examples}
    assert [example["ground_truth"] for example in ArithmeticDataset.few_shot_examples] == [
        "5 + 7 = 12",
        "9 - 4 = 5",
        "3 * 6 = 18",
    ]
    assert not shown & set(questions(ArithmeticDataset("train", 5_000)) + questions(ArithmeticDataset("test", 5_000)))


def test_a_seed_fixes_the_questions_and_a_larger_set_begins_with_the_smaller() -> None:
    assert questions(ArithmeticDataset(seed=3)) == questions(ArithmeticDataset(seed=3))
    assert questions(ArithmeticDataset(seed=3)) != questions(ArithmeticDataset(seed=4))
    assert (
        questions(ArithmeticDataset(max_samples=50, seed=3))
        == questions(ArithmeticDataset(max_samples=80, seed=3))[:50]
    )


def test_the_interface_is_that_of_gsm8k() -> None:
    dataset = ArithmeticDataset(max_samples=10)
    question, prompt, ground_truth = dataset.get_example_question(4)
    assert (question, ground_truth) == (dataset[4]["question"], dataset[4]["extracted_answer"])
    assert prompt == f"Question: {question}\nAnswer:"
    assert dataset.evaluate_answer(
        model_response=f" {dataset[4]['ground_truth']}", ground_truth_str=ground_truth, question=question
    )["is_correct"]


def test_bad_arguments_are_named_with_their_value() -> None:
    with pytest.raises(InvalidInput, match="'held-out'"):
        ArithmeticDataset("held-out")
    with pytest.raises(InvalidInput, match="-1"):
        ArithmeticDataset(max_samples=-1)
    with pytest.raises(InvalidInput, match="at most 100000 for arithmetic, got 100001"):
        ArithmeticDataset(max_samples=100_001)
