"""What every set of word problems offers: prompts, worked examples and grading."""

from __future__ import annotations

from pathlib import Path

from eztinker.dataset import ArithmeticDataset, GSM8KDataset, MathDataset


def test_math_verify_can_be_left_out(small_dir: Path) -> None:
    dataset = GSM8KDataset(use_math_verify=False, data_dir=small_dir)
    assert dataset.evaluate_answer("#### 2", "2")["strategy"] == "numeric"


def test_few_shot_examples_are_worked_in_the_form_that_is_graded(small_dir: Path) -> None:
    datasets: list[MathDataset] = [GSM8KDataset(data_dir=small_dir), ArithmeticDataset(max_samples=1)]
    for dataset in datasets:
        prompt = dataset.format_few_shot_prompt("How many?")
        assert prompt.count("Question: ") == prompt.count("\nAnswer:") == 4
        assert prompt.endswith("\n\nQuestion: How many?\nAnswer:")
        for example in dataset.few_shot_examples:
            assert f"Answer: {example['ground_truth']}\n\n" in prompt
            assert dataset.evaluate_answer(example["ground_truth"], example["extracted_answer"])["is_correct"]
