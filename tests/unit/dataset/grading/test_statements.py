"""The last number that a text states rather than works with."""

from __future__ import annotations

import pytest

from eztinker.dataset.grading.statements import StatedAnswer, is_stated, last_stated_number, numbers_in


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("5 + 7 = 12", "12"),
        ("10-3", None),
        ("The total is 12.", "12"),
        ("12 apples and then 3x", "12"),
        ("first 5\nthen 7\n", "7"),
        ("5\nno number here", "5"),
        ("There are 5 = 2", "2"),
        ("- 5", "5"),
        ("nothing", None),
        ("2:3", "2:3"),
        ("5 =", None),
        ("\\frac{5", None),
    ],
)
def test_a_number_that_an_operator_takes_further_is_not_stated(text: str, stated: str | None):
    answer = last_stated_number(text)
    assert (answer.text if answer else None) == stated


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is not 5", StatedAnswer("5", is_one_value=False)),
        ("It is 4, not 5", StatedAnswer("4")),
        ("It was 4. It is not 5", StatedAnswer("5", is_one_value=False)),
        ("at least 5", StatedAnswer("5", is_one_value=False)),
        ("We have 5 and 7", StatedAnswer("5 and 7", is_one_value=False)),
        ("We have 5 and 5", StatedAnswer("5")),
    ],
)
def test_a_denied_number_gives_way_within_its_sentence_and_several_are_no_value(text: str, answer: StatedAnswer):
    assert last_stated_number(text) == answer


def test_numbers_and_their_expressions_are_found_from_left_to_right():
    assert [each[0] for each in numbers_in("a 5, $7 + 2; -3.5% of 1/2")] == ["5", "$7 + 2", "-3.5%", "1/2"]
    assert numbers_in("none at all") == []


@pytest.mark.parametrize(("text", "expected"), [("5", True), ("5 + 2", False), ("5x", False), ("5h30", False)])
def test_an_expression_of_several_numbers_states_none(text: str, expected: bool):
    (found,) = numbers_in(text)[:1]
    assert is_stated(text, found) is expected
