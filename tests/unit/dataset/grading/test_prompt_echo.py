"""Numbers that a model repeats from its prompt are never its answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.dataset.arithmetic import ArithmeticDataset
from eztinker.dataset.grading import evaluate_answer
from eztinker.dataset.grading.prompt_echo import without_prompt

QUESTION = "Tom has 5 apples. He buys 7 more, in 12 shops. How many apples does he have?"
PROMPT = f"Question: {QUESTION}\nAnswer:"
FEW_SHOT = f"Question: What is 10 + 2?\nAnswer: 10 + 2 = 12\n\n{PROMPT}"


@pytest.mark.parametrize(
    "echo",
    [
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace(" ", "\n"),
        PROMPT,
        PROMPT * 3,
        FEW_SHOT,
        "Tom has 5 apples. He buys 7 more, in 12",
        "He buys 7 more, in 12 shops.",
        "has 5 apples. He buys 7 more, in 12 shops. How many",
        f"Sure!\n{PROMPT}\n",
        f"{PROMPT}\n\nQuestion: What is 6 + 6?\nAnswer: 12",
    ],
)
def test_an_answer_that_stands_only_in_the_echo_scores_nothing(echo: str) -> None:
    grade = evaluate_answer(echo, "12", QUESTION)
    assert (grade["pred_answer"], grade["score"]) == (None, 0.0)


@pytest.mark.parametrize("echo", ["", PROMPT, FEW_SHOT, f"{QUESTION}\n", f"{QUESTION} "])
def test_an_answer_after_the_echo_counts(echo: str) -> None:
    assert evaluate_answer(f"{echo} 5 + 7 = 12", "12", QUESTION)["is_correct"]
    assert not evaluate_answer(f"{echo} 5 + 7 = 13", "12", QUESTION)["is_correct"]


def test_an_answer_to_an_invented_next_question_does_not_count() -> None:
    response = " 5 + 7 = 13\n\nQuestion: What is 6 + 6?\nAnswer: 12"
    assert evaluate_answer(response, "12", QUESTION)["pred_answer"] == "13"
    assert evaluate_answer(response, "12")["pred_answer"] == "13"


def test_an_unknown_question_at_the_start_is_dropped_up_to_its_answer() -> None:
    assert evaluate_answer("Question: Are there 12?\nAnswer: 72", "72")["is_correct"]
    assert not evaluate_answer("Question: Are there 12?\nAnswer:", "12")["is_correct"]
    assert not evaluate_answer("Question: Are there 12?", "12")["is_correct"]


def test_working_that_uses_the_questions_numbers_stays() -> None:
    response = "Tom starts with 5 apples and gets 7. That is 12 apples."
    assert without_prompt(response, QUESTION).split() == response.split()


@settings(max_examples=50, deadline=None)
@given(index=st.integers(0, 99), kept=st.floats(0.0, 1.0))
def test_a_prompt_echoed_whole_or_cut_off_never_gives_an_answer(index: int, kept: float) -> None:
    dataset = ArithmeticDataset(max_samples=100)
    question, prompt, _ = dataset.get_example_question(index)
    echo = dataset.format_few_shot_prompt(question) + prompt[: int(kept * len(prompt))]
    assert dataset.evaluate_answer(echo, question.split("?")[0], question)["pred_answer"] is None
