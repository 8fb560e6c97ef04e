"""Grades responses to word problems by their last answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from eztinker.dataset.grading.asked_scale import without_asked_scale
from eztinker.dataset.grading.extract import MAX_ANSWER_CHARS, expected_answer, final_answer
from eztinker.dataset.grading.numbers import (
    ExactNumber,
    as_latex,
    is_same_number,
    is_same_ratio,
    parse_number,
    parse_ratio,
)
from eztinker.dataset.grading.prompt_echo import without_prompt
from eztinker.dataset.grading.statements import StatedAnswer
from eztinker.dataset.grading.verifier import shared_verifier
from eztinker.errors import InvalidInput

Strategy = Literal["math_verify", "numeric"]
CONFIDENCE: dict[Strategy, float] = {"math_verify": 1.0, "numeric": 0.9}
"""Confidence in a verdict of "correct", by strategy."""
CORRECT_BONUS = 0.5


class Grade(TypedDict):
    is_correct: bool
    confidence: float
    """Confidence of a correct answer: 1.0 by math-verify, 0.9 by exact numbers; 0.0 for a wrong one."""
    strategy: Strategy
    """Strategy that decided: "numeric" if math-verify is missing, failed, or had nothing to compare."""
    pred_answer: str | None
    """Answer found in the response; None if there is none."""
    ground_truth: str
    """Expected answer, without its working."""
    score: float
    """Score of the response: `confidence`, plus 0.5 for a correct answer."""


def evaluate_answer(
    model_response: str, ground_truth_str: str, question: str = "", *, use_math_verify: bool = True
) -> Grade:
    """Grade one response. It is safe to call from any thread, and takes at most five seconds, whatever the response.

    Args:
        model_response: the completion; copies of `question` in it are ignored.
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
    """Grade many responses, faster than one by one: math-verify is asked about several at a time."""
    questions = [""] * len(model_responses) if questions is None else questions
    if not len(model_responses) == len(ground_truths) == len(questions):
        counts = (len(model_responses), len(ground_truths), len(questions))
        raise InvalidInput(f"Grading needs one ground truth and one question per response, got {counts} of each")
    expected = [
        _expected(without_asked_scale(truth, question))
        for truth, question in zip(ground_truths, questions, strict=True)
    ]
    answers = [
        final_answer(without_asked_scale(without_prompt(response, question), question))
        for response, question in zip(model_responses, questions, strict=True)
    ]
    verdicts = _math_verify_verdicts(expected, answers) if use_math_verify else [None] * len(answers)
    return [_grade(*each) for each in zip(expected, answers, verdicts, strict=True)]


def extract_answer(ground_truth: str) -> str:
    """The answer at the end of a worked solution, without thousands commas: "... #### 1,234" gives "1234"."""
    return _expected(ground_truth).text


def _expected(ground_truth: str) -> StatedAnswer:
    answer = expected_answer(ground_truth)
    if not answer.text:
        raise InvalidInput("The ground truth is empty; give the expected answer, such as '72' or '... #### 72'")
    return answer


def _math_verify_verdicts(
    expected: Sequence[StatedAnswer], answers: Sequence[StatedAnswer | None]
) -> list[bool | None]:
    """Verdict on each answer; None where math-verify has nothing to compare."""
    pairs = {
        position: (_latex(truth.text), _latex(answer.text))
        for position, (truth, answer) in enumerate(zip(expected, answers, strict=True))
        if answer is not None and _is_for_math_verify(truth, answer)
    }
    verdicts = dict(zip(pairs, shared_verifier().verdicts(list(pairs.values())), strict=True))
    return [verdicts.get(position) for position in range(len(answers))]


def _is_for_math_verify(truth: StatedAnswer, answer: StatedAnswer) -> bool:
    """Whether math-verify may compare the two: both short enough, no ratio, and no bound with a number."""
    if max(len(truth.text), len(answer.text)) > MAX_ANSWER_CHARS:
        return False
    if truth.is_one_value != answer.is_one_value and (_number_in(truth) or _number_in(answer)):
        return False
    return parse_ratio(truth.text) is None and parse_ratio(answer.text) is None


def _number_in(answer: StatedAnswer) -> ExactNumber | None:
    return parse_number(answer.text) if answer.is_one_value else None


def _latex(answer: str) -> str:
    number = parse_number(answer)
    return as_latex(number) if number else answer


def _grade(expected: StatedAnswer, answer: StatedAnswer | None, verdict: bool | None) -> Grade:
    strategy: Strategy = "numeric" if verdict is None else "math_verify"
    is_correct = _is_equal(expected, answer) if verdict is None else verdict
    confidence = CONFIDENCE[strategy] if is_correct else 0.0
    return Grade(
        is_correct=is_correct,
        confidence=confidence,
        strategy=strategy,
        pred_answer=answer.text if answer else None,
        ground_truth=expected.text,
        score=confidence + CORRECT_BONUS if is_correct else 0.0,
    )


def _is_equal(expected: StatedAnswer, answer: StatedAnswer | None) -> bool:
    """Whether two answers are equal as exact numbers, as ratios, or else as words; a bound equals no single value."""
    if answer is None or expected.is_one_value != answer.is_one_value:
        return False
    truth, number = _number_in(expected), _number_in(answer)
    if truth and number:
        return is_same_number(truth, number)
    ratios = parse_ratio(expected.text), parse_ratio(answer.text)
    if ratios[0] and ratios[1]:
        return is_same_ratio(ratios[0], ratios[1])
    return expected.text.casefold().split() == answer.text.casefold().split()
