"""Numbers as people write them: what a response says is read in every spelling, with math-verify and without."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.dataset.grading import evaluate_answer, evaluate_answers, extract_answer
from eztinker.dataset.grading.extract import final_answer

RIGHT = {
    "clock times and ratios": [
        ("#### 3:30", "3:30"),
        ("\\boxed{3:30}", "3:30"),
        ("It is 3:30 pm", "3:30"),
        ("They meet at 04:30", "4:30"),
        ("The ratio is 2 : 3.", "2:3"),
        ("#### 2:3:5", "2:3:5"),
        ("５：３０", "5:30"),
        ("Week 3:210 pages", "210"),
    ],
    "minus signs": [
        ("\\boxed{- 5}", "-5"),
        ("#### －5", "-5"),
        ("#### −5", "-5"),
        ("#### ﹣5", "-5"),
        ("#### ‑5", "-5"),
        ("#### –5", "-5"),
        ("The answer is —5.", "-5"),
        ("so we get the total—5", "5"),
        ("The answer is -(5)", "-5"),
        ("#### (-5)", "-5"),
        ("\\boxed{-\\left(5\\right)}", "-5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("The answer is negative 5.", "-5"),
        ("The answer is minus 5", "-5"),
        ("x = - 5", "-5"),
        ("10 minus 3 is 7", "7"),
        ("\\boxed{−\\frac{1}{2}}", "-1/2"),
        ("-2½", "-2.5"),
        ("- 5 apples", "5"),
        ("#### (5)", "5"),
        ("x = +5", "5"),
    ],
    "groups of digits": [
        ("It costs 1 500 dollars", "1500"),
        ("It costs 1\u00a0500 dollars", "1500"),
        ("It costs 1\u2009500 dollars", "1500"),
        ("1\u202f500\u202f000", "1500000"),
        ("1'500", "1500"),
        ("1’500’000 people", "1500000"),
        ("\\boxed{1\\,500}", "1500"),
        ("\\boxed{1\\ 500}", "1500"),
        ("\\boxed{1~500}", "1500"),
        ("1{,}000{,}000", "1000000"),
        ("1,00,000", "100000"),
        ("12,34,567", "1234567"),
        ("1_000", "1000"),
        ("12 500.75 dollars", "12500.75"),
        ("1.500", "1.5"),
        ("1٬234", "1234"),
    ],
    "characters that are numbers": [
        ("The answer is 2½", "2.5"),
        ("2 ½ hours", "2.5"),
        ("½", "0.5"),
        ("It takes ⅞ cup", "0.875"),
        ("¹⁄₂", "0.5"),
        ("2¹⁄₂", "2.5"),
        ("1⁄2", "0.5"),
        ("2 and a half", "2.5"),
        ("\\boxed{2\\tfrac12}", "2.5"),
        ("٧٢", "72"),
        ("#### ७२", "72"),
        ("７２", "72"),
        ("𝟕𝟐", "72"),
        ("٣٫٥", "3.5"),
        ("⑤", "5"),
        ("5️⃣", "5"),
        ("7\u200b2", "72"),
        ("6.02×10²³", "602000000000000000000000"),
        ("3×10⁻³", "0.003"),
    ],
    "units": [
        ("\\boxed{12\\text{ cm}^2}", "12"),
        ("\\boxed{12\\,\\mathrm{cm}^2}", "12"),
        ("\\boxed{12~\\mathrm{cm}^{2}}", "12"),
        ("\\boxed{12\\text{cm$^2$}}", "12"),
        ("\\boxed{12 cm²}", "12"),
        ("The answer is 12 cm^2.", "12"),
        ("The area is $12\\text{ cm}^2$", "12"),
        ("\\boxed{9.8\\ \\mathrm{m/s^2}}", "9.8"),
        ("\\boxed{90^\\circ}", "90"),
        ("\\boxed{90\\degree}", "90"),
        ("#### 20°C", "20"),
        ("\\boxed{20^{\\circ}\\mathrm{C}}", "20"),
        ("\\boxed{\\$5}", "5"),
        ("\\boxed{{5}}", "5"),
        ("\\boxed{5\\,\\%}", "0.05"),
        ("50 percent", "0.5"),
        ("5 €", "5"),
        ("₹1,00,000", "100000"),
        ("US$5", "5"),
        ("5㎡", "5"),
        ("<answer>72</answer>", "72"),
        ("72<|im_end|>", "72"),
    ],
    "scales": [
        ("The answer is 3 million.", "3000000"),
        ("\\boxed{3\\text{ million}}", "3000000"),
        ("2 dozen", "24"),
        ("3 hundred", "300"),
        ("5 hundred thousand", "500000"),
        ("1.5 billion", "1500000000"),
        ("5 lakh", "500000"),
        ("3 tenths", "0.3"),
        ("$3k", "3000"),
        ("$2m a year", "2000000"),
        ("300 K", "300"),
        ("\\boxed{1.5 \\times 10^{3}}", "1500"),
        ("10^3", "1000"),
        ("3 million", "3 million"),
    ],
    "more than one answer": [
        ("24 or 2 dozen", "24"),
        ("The answer is 0.5, or 50%", "0.5"),
        ("5 or 7", "5 or 7"),
        ("#### 5, 7", "5, 7"),
        ("\\boxed{(3, 4)}", "(3, 4)"),
        ("\\boxed{5}, or rather \\boxed{7}", "7"),
        ("48/2 = 24 and 48+24 = 72", "72"),
        ("On day 3, 5 apples remain", "5"),
        ("After 2 weeks, 5 are left", "5"),
        ("It went from 3 to 5", "5"),
    ],
    "denied": [
        ("It is 72, not 73.", "72"),
        ("The answer is not 5 but 72", "72"),
        ("It is 72 rather than 73", "72"),
        ("He is left with 72, which isn't enough.", "72"),
        ("72 isn't enough", "72"),
        ("2 girls were not able to come", "2"),
    ],
    "bounded": [
        ("about 5", "5"),
        ("≈ 5", "5"),
        ("\\boxed{\\approx 5}", "5"),
        ("That adds up to 5", "5"),
        ("She has 5 left over", "5"),
        ("He has 5 more than Mary", "5"),
        ("It is 72, which is more than 50.", "72"),
        ("=> 5", "5"),
        ("5 min", "5"),
        ("\\boxed{x<5}", "x<5"),
    ],
}

WRONG = {
    "clock times and ratios": [
        ("4:30", "3:30"),
        ("The answer is 3:30.", "3"),
        ("The answer is 3:30.", "30"),
        ("The answer is 3:30.", "330"),
        ("#### 3:30 p.m.", "3:30 am"),
        ("#### 2:3", "3:2"),
        ("#### 2:3", "2/3"),
        ("at 12:30:45", "45"),
        ("5h30", "5"),
    ],
    "minus signs": [
        ("\\boxed{- 5}", "5"),
        ("#### －5", "5"),
        ("#### ﹣5", "5"),
        ("The answer is -(5)", "5"),
        ("The answer is minus 5", "5"),
        ("x = - 5", "5"),
        ("10 minus 3", "3"),
        ("10 minus 3", "-3"),
        ("3–5", "5"),
        ("3–5", "-5"),
        ("5 degrees below zero", "5"),
        ("|−5|", "-5"),
    ],
    "groups of digits": [
        ("It costs 1 500 dollars", "500"),
        ("1’500", "500"),
        ("\\boxed{1~500}", "500"),
        ("1.500", "1500"),
        ("1,23", "123"),
        ("0,500", "500"),
        ("1 50", "150"),
        ("1 2345", "12345"),
        ("12\u202f345,67", "12345"),
        ("In 2020 500 people came", "2020500"),
    ],
    "characters that are numbers": [
        ("The answer is 2½", "2"),
        ("5²", "5"),
        ("The answer is 5²", "5"),
        ("\\boxed{5²}", "5"),
        ("5³", "53"),
        ("½5", "1/25"),
        ("3万", "3"),
        ("H₂O", "2"),
        ("x₅", "5"),
        ("√144", "144"),
        ("\\boxed{√144}", "144"),
        ("0.3̅", "0.3"),
    ],
    "units": [
        ("\\boxed{12x^2}", "12"),
        ("The answer is 12x^2", "12"),
        ("\\boxed{12\\pi}", "12"),
        ("The answer is $12\\pi$", "12"),
        ("The answer is $12\\sqrt{3}$", "12"),
        ("\\boxed{2\\mathrm{e}^2}", "2"),
        ("5'10\"", "5"),
        ("#### 5'10\"", "10"),
    ],
    "scales": [
        ("The answer is 3 million.", "3"),
        ("\\boxed{3\\text{ million}}", "3"),
        ("2 dozen eggs", "2"),
        ("5 thousandths", "5"),
        ("1 million 200 thousand", "200000"),
        ("\\boxed{1.5 \\times 10^{3}}", "1.5"),
        ("half of 72", "72"),
        ("½ of 72", "72"),
        ("2⁵", "25"),
        ("20% of 72", "72"),
    ],
    "more than one answer": [
        ("The answer is 5 and 7", "5"),
        ("The answer is 5 and 7", "7"),
        ("x = 5 or x = 7", "7"),
        ("x = 5, y = 7", "7"),
        ("#### 5, 7", "5"),
        ("5, 6, 7", "7"),
        ("between 5 and 7", "7"),
        ("\\boxed{5\\text{ or }7}", "7"),
        ("$\\boxed{5}$ and $\\boxed{7}$", "7"),
        ("\\boxed{\\{5, 7\\}}", "5"),
        ("x = ±5", "5"),
        ("The answers are 5 and 7. I did 3 checks", "3"),
        ("The answer is 5 hours 30 minutes", "5"),
        ("The answer is 5 feet 7 inches", "5"),
        ("The answer is 5 to 7", "5"),
        ("The answer is 5 out of 7", "5"),
        ("5~7", "7"),
    ],
    "denied": [
        ("The answer is not 72.", "72"),
        ("The answer isn’t 72", "72"),
        ("It cannot be 72", "72"),
        ("The answer is not \\boxed{72}", "72"),
        ("#### not 72", "72"),
        ("\\boxed{x \\ne 72}", "72"),
        ("x ≠ 72", "72"),
        ("72 is not the answer", "72"),
        ("I don't think the answer is 72", "72"),
        ("48+24 = 72, but the answer is not 72", "72"),
        ("neither 5 nor 7", "7"),
        ("anything but 72", "72"),
    ],
    "bounded": [
        ("less than 5", "5"),
        ("The answer is less than 5", "5"),
        ("at least 5", "5"),
        ("#### at least 5", "5"),
        ("The answer is at least 5. I checked 3 times", "3"),
        ("≤ 5", "5"),
        ("x < 5", "5"),
        ("\\boxed{5 < x < 7}", "7"),
        ("\\boxed{\\geq 5}", "5"),
        ("5 or more", "5"),
        ("The answer is 5 or fewer", "5"),
        ("It is up to 5", "5"),
        ("nearly 5", "5"),
        ("3 more than 5", "5"),
        ("3 more than 5", "3"),
    ],
}


def rows(table: dict[str, list[tuple[str, str]]]) -> list[Any]:
    return [
        pytest.param(
            response, truth, id=f"{kind}: {response!r} is not {truth}" if table is WRONG else f"{kind}: {response!r}"
        )
        for kind, cases in table.items()
        for response, truth in cases
    ]


@pytest.mark.parametrize("use_math_verify", [True, False])
@pytest.mark.parametrize(("response", "truth"), rows(RIGHT))
def test_the_value_is_read_in_every_spelling(response: str, truth: str, use_math_verify: bool) -> None:
    grade = evaluate_answer(response, truth, use_math_verify=use_math_verify)
    assert grade["is_correct"], grade


@pytest.mark.parametrize("use_math_verify", [True, False])
@pytest.mark.parametrize(("response", "truth"), rows(WRONG))
def test_no_part_of_what_is_said_counts_as_the_answer(response: str, truth: str, use_math_verify: bool) -> None:
    grade = evaluate_answer(response, truth, use_math_verify=use_math_verify)
    assert (grade["is_correct"], grade["score"]) == (False, 0.0), grade


def test_a_scale_the_question_asks_for_is_a_unit() -> None:
    for question, is_correct in (("How many dozen eggs?", True), ("How many eggs?", False)):
        assert evaluate_answer("She needs 7 dozen.", "7", question)["is_correct"] is is_correct


def test_a_refused_answer_shows_what_was_said() -> None:
    assert evaluate_answer("x = 5 or x = 7", "7")["pred_answer"] == "5 or x = 7"
    assert evaluate_answer("#### at least 5", "5")["pred_answer"] == "at least 5"


def test_every_solution_of_gsm8k_reads_as_the_text_behind_its_mark(gsm8k_dir: Path) -> None:
    lines = [line for split in ("train", "test") for line in (gsm8k_dir / f"{split}.jsonl").open(encoding="utf-8")]
    solutions = [json.loads(line)["answer"] for line in lines]
    assert len(solutions) == 8_792
    for solution in solutions:
        assert extract_answer(solution) == solution.rsplit("####", 1)[1].strip().replace(",", "")


SPACES = ["\u00a0", "\u2007", "\u2009", "\u202f", "\\,", "\\ ", "~\\!", "'", "’", ",", "{,}", " "]
MINUS_SIGNS = ["-", "−", "－", "﹣", "‑", "‒", "–"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1_000, 10**9), st.sampled_from(SPACES), st.sampled_from(MINUS_SIGNS), st.sampled_from("0٠०０𝟎"))
def test_an_integer_is_itself_and_no_neighbour_in_any_script_grouping_and_sign(
    number: int, separator: str, minus: str, zero: str
) -> None:
    digits = f"{number:,}".translate({48 + digit: chr(ord(zero) + digit) for digit in range(10)})
    response = f"\\boxed{{{minus}{digits.replace(',', separator)}}}"
    truths = [str(-number), str(number), str(1 - number)]
    grades = evaluate_answers([response] * 3, truths, use_math_verify=False)
    assert [grade["is_correct"] for grade in grades] == [True, False, False]


HOSTILE = [
    *("5 and ", "5, ", "- ", "-(", "5 or 7 ", "not ", "less than ", "1 500 ", "½", "²", "x = 5 or ", "\\boxed{5} and "),
    *(
        "\\text{",
        "5:",
        "5 : ",
        "5'",
        "{",
        "$5",
        "answer is ",
        "the answer is not 5 ",
        "answer: 5 = ",
        "< ",
        "<a ",
        "<|",
    ),
    *("5 cm^2 ", "hundred ", "5 hundred thousand ", "9", "9.", "9 ", "n't ", "\u0663", "\u200b", "¹⁄", "more than 5 "),
]


def num_calls(response: str) -> int:
    """Calls of Python and C functions that reading a response takes, each match of a pattern among them."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # finalizers of what other tests left would be counted
    sys.setprofile(profile)
    try:
        final_answer(response)
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@pytest.mark.parametrize("piece", HOSTILE)
def test_twice_the_text_takes_at_most_twice_the_work_and_a_megabyte_no_more_than_its_end(piece: str) -> None:
    single, double = (num_calls((piece * 8_000)[:length]) for length in (8_000, 16_000))
    assert double <= 2.2 * single + 200
    end, megabyte = (num_calls((piece * (10**6 // len(piece) + 1))[-length:]) for length in (65_536, 10**6))
    assert megabyte <= end + 10
