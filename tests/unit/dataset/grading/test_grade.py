"""Grading: which answer is read from a response, and whether it counts as right."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.dataset.grading import evaluate_answer, evaluate_answers, extract_answer
from eztinker.errors import InvalidInput

RIGHT = [
    # marks
    ("#### 72", "72"),
    ("She sold 24 and 48.\n####72 clips", "72"),
    ("#### $1,234.50", "1234.5"),
    ("Total: #### 36+36", "72"),
    ("\\boxed{72}", "72"),
    ("so \\boxed{72 \\text{ clips}} it is, in 2 months", "72"),
    ("$\\boxed{-\\frac{1}{2}}$", "-0.5"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("\\boxed{1{,}234}", "1234"),
    ("\\boxed{\\sqrt{144}}", "12"),
    ("\\boxed{x = 12}", "12"),
    ("\\boxed{1+x}", "x+1"),
    ("The answer is 72.", "72"),
    ("The answer is 72 because 48 + 24 = 72, over 2 months", "72"),
    ("The answer is 5 + 7 = 12.", "12"),
    ("The final answer is: $\\frac{1}{2}$", "1/2"),
    ("**Answer:** 72 clips", "72"),
    ("The answer is:\n\n72", "72"),
    ("Her answer to the question would be about $18", "18"),
    # the last answer wins
    ("The answer is 5. No, wait: the answer is 72.", "72"),
    ("#### 5\n#### 72", "72"),
    ("\\boxed{5}, or rather \\boxed{72}", "72"),
    ("#### 5\nThe answer is 72", "72"),
    ("The answer is 72. I checked it 3 times.", "72"),
    ("The answer is not 5 but 72", "72"),
    # without a mark
    ("72", "72"),
    (" 5 + 7 = 12", "12"),
    ("3 x 6 = 18", "18"),
    ("10-3=7", "7"),
    ("(3 + 4) * 2 = 14", "14"),
    ("48/2 = <<48/2=24>>24 and 48+24 = <<48+24=72>>72", "72"),
    ("5 apples + 7 apples = 12 apples", "12"),
    ("Answer: Tom had 5 apples + 7 apples = 12 apples", "12"),
    ("- 5 apples", "5"),
    ("He owes -$5.", "-5"),
    ("the balance is −5", "-5"),
    ("It costs $10/hour", "10"),
    ("That makes 1,234,567 people.", "1234567"),
    ("It weighs .5 kg", "0.5"),
    ("2 1/2 hours", "2.5"),
    ("2\\frac{1}{2}", "5/2"),
    ("1.5e3", "1500"),
    # the same number, written otherwise
    ("72.00", "72"),
    ("007", "7"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("0.5", "50%"),
    ("1,234", "1234"),
    ("1234", "#### 1,234"),
    ("12", "5 + 7 = 12"),
]

WRONG = [
    ("", "72"),
    ("I do not know.", "72"),
    ("73", "72"),
    ("The answer is 72. No, the answer is 5.", "72"),
    ("#### 72\n#### 5", "72"),
    # a part of a number or an expression is not the answer
    ("10-3", "-3"),
    ("10-3", "3"),
    ("the answer is 10-3", "-3"),
    ("the answer is 10-3", "3"),
    ("10 -3", "-3"),
    ("covid-19", "-19"),
    ("1.05", "15"),
    ("1.05", "105"),
    ("1.05", "1"),
    ("1,05", "105"),
    ("#### 1,05", "1.05"),
    ("1.2.3", "123"),
    ("1,234", "234"),
    ("72", "2"),
    ("H2O", "2"),
    ("1e5000", "1"),
    ("\\boxed{12x}", "12"),
    ("\\boxed{10^{10}}", "10"),
    ("\\boxed{(3, 4)}", "3"),
    ("9**9**9", "9"),
    # working that was cut off
    ("5 + 7", "7"),
    ("5 + 7 =", "7"),
    ("5 + 7", "12"),
    # several answers at once
    ("the answer is 5 or 7", "5"),
    ("the answer is 5 or 7", "7"),
    ("#### 5 or 7", "7"),
    ("-72", "72"),
    ("1/0", "0"),
    ("0.33333", "1/3"),
]


@pytest.mark.parametrize(("response", "ground_truth"), RIGHT)
def test_a_right_answer_is_found_however_it_is_written(response: str, ground_truth: str) -> None:
    grade = evaluate_answer(response, ground_truth)
    assert (grade["is_correct"], grade["strategy"], grade["confidence"], grade["score"]) == (
        True,
        "math_verify",
        1.0,
        1.5,
    ), grade


@pytest.mark.parametrize(("response", "ground_truth"), WRONG)
def test_a_wrong_answer_scores_nothing(response: str, ground_truth: str) -> None:
    for use_math_verify in (True, False):
        grade = evaluate_answer(response, ground_truth, use_math_verify=use_math_verify)
        assert (grade["is_correct"], grade["confidence"], grade["score"]) == (False, 0.0, 0.0), grade


@pytest.mark.parametrize(("response", "ground_truth"), [("#### 1,234", "1234"), ("3/4", "0.75"), ("50%", "0.5")])
def test_without_math_verify_exact_numbers_decide_and_say_so(response: str, ground_truth: str) -> None:
    grade = evaluate_answer(response, ground_truth, use_math_verify=False)
    assert (grade["is_correct"], grade["strategy"], grade["confidence"], grade["score"]) == (True, "numeric", 0.9, 1.4)


def test_a_grade_tells_what_was_read_and_what_was_expected() -> None:
    grade = evaluate_answer(
        model_response="It is $1,500.", ground_truth_str="5*300 = 1,500\n#### 1,500", question="How?"
    )
    assert (grade["pred_answer"], grade["ground_truth"]) == ("1500", "1500")


WAYS_TO_WRITE = [
    "{}",
    "#### {:,}",
    "\\boxed{{{}}}",
    "The answer is {}.",
    "so we get = {} apples",
    "**{:,}**",
    "${:,}.00",
]


@settings(max_examples=60, deadline=None)
@given(number=st.integers(-(10**12), 10**12), way=st.sampled_from(WAYS_TO_WRITE), use_math_verify=st.booleans())
def test_an_integer_is_right_in_every_spelling_and_its_neighbours_are_wrong(
    number: int, way: str, use_math_verify: bool
) -> None:
    response = way.format(number)
    for truth, expected in ((number, True), (number + 1, False), (number - 1, False), (-number or 1, False)):
        assert evaluate_answer(response, str(truth), use_math_verify=use_math_verify)["is_correct"] is expected


@settings(max_examples=60, deadline=None)
@given(numerator=st.integers(-500, 500), denominator=st.integers(1, 60), use_math_verify=st.booleans())
def test_a_fraction_equals_itself_reduced_and_no_other(numerator: int, denominator: int, use_math_verify: bool) -> None:
    sign, size = ("-" if numerator < 0 else ""), abs(numerator)
    for response in (f"{sign}{size}/{denominator}", f"\\boxed{{{sign}\\frac{{{size}}}{{{denominator}}}}}"):
        for truth, expected in (
            (Fraction(numerator, denominator), True),
            (Fraction(numerator + 1, denominator), False),
        ):
            assert evaluate_answer(response, str(truth), use_math_verify=use_math_verify)["is_correct"] is expected


@settings(max_examples=200, deadline=None)
@given(response=st.text(max_size=200), question=st.text(max_size=60))
def test_any_text_can_be_graded(response: str, question: str) -> None:
    grade = evaluate_answer(response, "72", question, use_math_verify=False)
    assert grade["score"] == (1.4 if grade["is_correct"] else 0.0)


HOSTILE = [
    "#### 9**9**9",
    "#### 9^{9^{9^9}}",
    "#### \\sum_{n=1}^{99999999} \\frac{1}{n}",
    "#### __import__('os').system('sleep 60')",
    "#### (lambda: 9**9**9)()",
    "9" * 1_000_000,
    "\\frac{1}{" * 100_000,
    "\\boxed{" * 150_000,
    "####" * 250_000,
    "5 " + " " * 1_000_000 + "+",
    "answer " * 150_000,
    "1*" * 500_000,
    "Question: 72 Answer:" * 50_000,
    "\ud800 \x00 ####",
]


@pytest.mark.parametrize("response", HOSTILE, ids=lambda response: response[:20])
def test_a_hostile_answer_scores_nothing_within_five_seconds_and_the_next_one_is_graded(response: str) -> None:
    evaluate_answer("72", "72")  # start-up is not part of the limit
    started = time.monotonic()
    assert evaluate_answer(response, "72", "How many?")["score"] == 0.0
    assert time.monotonic() - started < 5.0
    assert evaluate_answer("72", "72")["strategy"] == "math_verify"


def test_a_batch_gets_the_grades_of_its_members_in_order() -> None:
    cases = [*RIGHT, *WRONG, ("#### 9^{9^{9^9}}", "72"), ("\\boxed{\\sqrt{144}}", "12")]
    responses, truths = [response for response, _ in cases], [truth for _, truth in cases]
    one_by_one = [evaluate_answer(*case) for case in cases]
    assert evaluate_answers(responses, truths) == one_by_one


def test_threads_may_grade_at_once() -> None:
    cases = [(f"#### {number}", str(number + number % 2)) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        grades = list(pool.map(lambda case: evaluate_answer(*case), cases))
    assert [grade["is_correct"] for grade in grades] == [number % 2 == 0 for number in range(200)]
    assert {grade["strategy"] for grade in grades} == {"math_verify"}


def test_an_empty_ground_truth_is_refused() -> None:
    with pytest.raises(InvalidInput, match="ground truth is empty"):
        evaluate_answer("72", "  ")


def test_a_batch_of_uneven_lists_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"got \(2, 1, 2\)"):
        evaluate_answers(["1", "2"], ["1"])


def test_the_answer_of_a_worked_solution_is_its_last_line() -> None:
    assert extract_answer("48/2 = <<48/2=24>>24\n48+24 = 72\n#### 1,072") == "1072"
