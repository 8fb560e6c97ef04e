"""Exact numbers as people write them: values by hand, equality, and a spelling that gives the value back."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.dataset.grading.numbers import (
    NUMBER,
    ExactNumber,
    as_latex,
    is_same_number,
    is_same_ratio,
    parse_number,
    parse_ratio,
)


def number(text: str) -> ExactNumber:
    found = parse_number(text)
    assert found is not None, text
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("-3.50", Fraction(-7, 2)),
        (".5", Fraction(1, 2)),
        ("$1200", 1200),
        ("-$5", -5),
        ("3/4", Fraction(3, 4)),
        ("2 1/2", Fraction(5, 2)),
        ("-2 1/2", Fraction(-5, 2)),
        ("1.5e3", 1500),
        ("3 × 10^8", 300_000_000),
        ("10^-2", Fraction(1, 100)),
        ("-10**3", -1000),
        ("5 million", 5_000_000),
        ("2 dozen", 24),
        ("3 hundred thousand", 300_000),
        ("5k", 5000),
        ("50%", 50),
        ("12.5 percent", Fraction(25, 2)),
        ("3 tenths", Fraction(3, 10)),
    ],
)
def test_a_number_has_the_value_that_is_written(text: str, value: Fraction | int):
    assert number(text).value == value
    assert number(text).is_percent is text.endswith(("%", "percent"))


@pytest.mark.parametrize("text", ["", "five", "1/0", "1,05", "1.2.3", "5 apples", "2:3", "1e999", "9" * 65, "--5"])
def test_anything_else_is_none(text: str):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("50%", "50", True),
        ("50%", "0.5", True),
        ("50%", "1/2", True),
        ("50%", "5", False),
        ("50%", "0.5%", False),
        ("0.30", "3/10", True),
        ("0.333", "1/3", False),
    ],
)
def test_a_percent_may_be_meant_either_way_and_all_else_is_exact(first: str, second: str, is_same: bool):
    assert is_same_number(number(first), number(second)) is is_same
    assert is_same_number(number(second), number(first)) is is_same


@given(st.fractions(max_denominator=999), st.booleans())
def test_the_latex_of_a_number_has_its_value(value: Fraction, is_percent: bool):
    latex = as_latex(ExactNumber(value=value, is_percent=is_percent, text="as written"))
    found = re.fullmatch(r"(-?)(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|([0-9]+))(\\%)?", latex)
    assert found is not None, latex
    size = Fraction(int(found[2]), int(found[3])) if found[2] else Fraction(int(found[4]))
    assert (-size if found[1] else size) == value
    assert bool(found[5]) is is_percent


def test_a_decimal_keeps_its_spelling_in_latex():
    assert as_latex(number("0.50")) == "0.50"
    assert as_latex(number("12.5%")) == "12.5\\%"


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("2:3", "2 : 3", True),
        ("2:3", "4:6", False),
        ("4:30 pm", "4:30", True),
        ("4:30 pm", "4:30 p.m.", True),
        ("4:30 pm", "4:30 am", False),
        ("1:2:3", "1:2", False),
    ],
)
def test_ratios_are_equal_part_by_part(first: str, second: str, is_same: bool):
    ratios = [parse_ratio(text) for text in (first, second)]
    assert ratios[0] is not None
    assert ratios[1] is not None
    assert is_same_ratio(ratios[0], ratios[1]) is is_same


@pytest.mark.parametrize("text", ["", "5", "a:b", "1..2:3", "2:3 apples"])
def test_what_is_no_ratio_is_none(text: str):
    assert parse_ratio(text) is None


def test_a_number_in_running_text_is_taken_whole_or_not_at_all():
    text = "It cost $5 in 1e9999 days, A4 paper, 2 1/2 hours, 3 million people, 7%."
    assert re.findall(NUMBER, text) == ["$5", "2 1/2", "3 million", "7%"]
