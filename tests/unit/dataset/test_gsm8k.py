"""GSM8K from a local directory: the real data where it is at hand, small files for what can go wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.dataset import GSM8KDataset
from eztinker.errors import DataDamaged, DataNotFound, InvalidInput


def test_the_real_data_has_its_published_sizes(gsm8k_dir: Path) -> None:
    assert len(GSM8KDataset("train", data_dir=gsm8k_dir)) == 7_473
    assert len(GSM8KDataset("test", data_dir=gsm8k_dir)) == 1_319


def test_the_first_training_problem_is_natalias_clips(gsm8k_dir: Path) -> None:
    question, prompt, ground_truth = GSM8KDataset("train", 5, data_dir=gsm8k_dir).get_example_question(0)
    assert question.startswith("Natalia sold clips to 48 of her friends")
    assert prompt == f"Question: {question}\nAnswer:"
    assert ground_truth == "72"


def test_every_gold_answer_is_right_against_itself_and_wrong_against_its_neighbour(gsm8k_dir: Path) -> None:
    dataset = GSM8KDataset("test", data_dir=gsm8k_dir)
    questions, solutions = [each["question"] for each in dataset], [each["ground_truth"] for each in dataset]
    golds = [solution.rsplit("#### ", 1)[1].replace(",", "") for solution in solutions]
    for change, expected in ((0, True), (1, False), (-1, False)):
        truths = [str(int(gold) + change) for gold in golds]
        grades = dataset.evaluate_answers(solutions, truths, questions)
        assert [grade["is_correct"] for grade in grades] == [expected] * 1_319
        assert {grade["strategy"] for grade in grades} == {"math_verify"}


def test_a_solution_without_its_last_line_still_ends_in_its_answer(gsm8k_dir: Path) -> None:
    """Most worked solutions state the answer in their last equation; a reader that takes another number would fail."""
    dataset = GSM8KDataset("test", data_dir=gsm8k_dir)
    unmarked = [each["ground_truth"].rsplit("####", 1)[0] for each in dataset]
    grades = dataset.evaluate_answers(unmarked, [each["extracted_answer"] for each in dataset])
    assert sum(grade["is_correct"] for grade in grades) > 0.9 * len(grades)


def test_no_question_echoed_counts_as_its_answer(gsm8k_dir: Path) -> None:
    dataset = GSM8KDataset("test", data_dir=gsm8k_dir)
    prompts = [dataset.get_example_question(index)[1] for index in range(len(dataset))]
    questions = [each["question"] for each in dataset]
    grades = dataset.evaluate_answers(prompts, [each["extracted_answer"] for each in dataset], questions)
    assert {grade["pred_answer"] for grade in grades} == {None}


def test_items_carry_question_solution_and_answer(small_dir: Path) -> None:
    dataset = GSM8KDataset(data_dir=small_dir)
    assert dataset[2] == {
        "question": "What is 999 + 1?",
        "ground_truth": "999+1 = 1000\n#### 1,000",
        "extracted_answer": "1000",
    }


def test_the_environment_names_the_directory(small_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZTINKER_GSM8K_DIR", str(small_dir))
    assert len(GSM8KDataset()) == 3


@pytest.mark.parametrize(("max_samples", "expected"), [(None, 3), (0, 0), (2, 2), (50, 3)])
def test_max_samples_takes_the_first_ones(small_dir: Path, max_samples: int | None, expected: int) -> None:
    dataset = GSM8KDataset(max_samples=max_samples, data_dir=small_dir)
    assert [each["extracted_answer"] for each in dataset] == ["2", "3", "1000"][:expected]


def test_a_missing_split_says_where_it_was_looked_for_and_how_to_get_it(small_dir: Path) -> None:
    with pytest.raises(DataNotFound, match=r"test\.jsonl.*EZTINKER_GSM8K_DIR.*github\.com.*hub.*ArithmeticDataset"):
        GSM8KDataset("test", data_dir=small_dir)


def test_without_a_directory_or_hub_the_ways_to_get_it_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EZTINKER_GSM8K_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataNotFound, match=r"hub.*EZTINKER_GSM8K_DIR.*pip install 'eztinker\[hub\]'"):
        GSM8KDataset()


@pytest.mark.parametrize("line", ["{", "[]", '{"question": "Why?"}', '{"question": "Why?", "answer": 3}', "null"])
def test_a_bad_line_is_named_with_its_number(small_dir: Path, line: str) -> None:
    with (small_dir / "train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataDamaged, match=r"Line 5 of .*train\.jsonl"):
        GSM8KDataset(data_dir=small_dir)


def test_bad_arguments_are_named_with_their_value(small_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="'dev'"):
        GSM8KDataset("dev", data_dir=small_dir)
    with pytest.raises(InvalidInput, match="-1"):
        GSM8KDataset(max_samples=-1, data_dir=small_dir)
