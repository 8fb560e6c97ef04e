"""Grades responses to word problems: is the last answer the right one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from eztinker.dataset.grading.extract import MAX_ANSWER_CHARS, final_answer
from eztinker.dataset.grading.numbers import as_latex, is_same_number, parse_number
from eztinker.dataset.grading.prompt_echo import without_prompt
from eztinker.dataset.grading.verifier import shared_verifier
from eztinker.errors import InvalidInput

Strategy = Literal["math_verify", "numeric"]
CONFIDENCE: dict[Strategy, float] = {"math_verify": 1.0, "numeric": 0.9}
"""How far a "right" can be trusted, by who said it."""
CORRECT_BONUS = 0.5


class Grade(TypedDict):
    is_correct: bool
    confidence: float
    """1.0 or 0.9 for a right answer, as math-verify or the numbers say; 0.0 for a wrong one."""
    strategy: Strategy
    """Who decided: "numeric" where math-verify is missing, failed, or had nothing to compare."""
    pred_answer: str | None
    """The answer found in the response; None where there is none."""
    ground_truth: str
    """The answer expected, without the working around it."""
    score: float
    """`confidence`, plus 0.5 for a right answer."""


def evaluate_answer(
    model_response: str, ground_truth_str: str, question: str = "", *, use_math_verify: bool = True
) -> Grade:
    """Grade one response. Any thread may call, and no response takes more than five seconds, whatever it holds.

    Args:
        model_response: the completion; copies of `question` in it are not read.
        ground_truth_str: the answer, bare or at the end of its working.
    Raises:
        InvalidInput: the ground truth is empty.
    """
    return evaluate_answers([model_response], [ground_truth_str], [question], use_math_verify=use_math_verify)[0]


def evaluate_answers(
    model_responses: Sequence[str],
    ground_truths: Sequence[str],
    questions: Sequence[str] | None = None,
    *,
    use_math_verify: bool = True,
) -> list[Grade]:
    """`evaluate_answer` for many responses, faster: math-verify is asked about several at a time."""
    questions = [""] * len(model_responses) if questions is None else questions
    if not len(model_responses) == len(ground_truths) == len(questions):
        counts = (len(model_responses), len(ground_truths), len(questions))
        raise InvalidInput(f"Grading needs one ground truth and one question per response, got {counts} of each")
    expected = [extract_answer(ground_truth) for ground_truth in ground_truths]
    answers = [
        final_answer(without_prompt(response, question))
        for response, question in zip(model_responses, questions, strict=True)
    ]
    verdicts = _math_verify_verdicts(expected, answers) if use_math_verify else [None] * len(answers)
    return [_grade(*each) for each in zip(expected, answers, verdicts, strict=True)]


def extract_answer(ground_truth: str) -> str:
    """The answer at the end of a worked solution, thousands commas removed: "... #### 1,234" gives "1234"."""
    answer = final_answer(ground_truth) or ground_truth.strip()
    if not answer:
        raise InvalidInput("The ground truth is empty; give the expected answer, such as '72' or '... #### 72'")
    return answer


def _math_verify_verdicts(expected: Sequence[str], answers: Sequence[str | None]) -> list[bool | None]:
    """One verdict per answer; None where there is no answer, or none of a size that could be right."""
    pairs = {
        position: (_latex(truth), _latex(answer))
        for position, (truth, answer) in enumerate(zip(expected, answers, strict=True))
        if answer is not None and max(len(truth), len(answer)) <= MAX_ANSWER_CHARS
    }
    verdicts = dict(zip(pairs, shared_verifier().verdicts(list(pairs.values())), strict=True))
    return [verdicts.get(position) for position in range(len(answers))]


def _latex(answer: str) -> str:
    number = parse_number(answer)
    return as_latex(number) if number else answer


def _grade(expected: str, answer: str | None, verdict: bool | None) -> Grade:
    strategy: Strategy = "numeric" if verdict is None else "math_verify"
    is_correct = _is_equal_number(expected, answer) if verdict is None else verdict
    confidence = CONFIDENCE[strategy] if is_correct else 0.0
    return Grade(
        is_correct=is_correct,
        confidence=confidence,
        strategy=strategy,
        pred_answer=answer,
        ground_truth=expected,
        score=confidence + CORRECT_BONUS if is_correct else 0.0,
    )


def _is_equal_number(expected: str, answer: str | None) -> bool:
    truth, number = parse_number(expected), parse_number(answer or "")
    return truth is not None and number is not None and is_same_number(truth, number)
