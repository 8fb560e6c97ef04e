"""What is said about a number besides stating it."""

from __future__ import annotations

import re

import pytest

from eztinker.dataset.grading.claims import claim_about, is_joined

NUMBER = re.compile(r"[0-9]+")


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("The answer is 5", None),
        ("It is about 5", None),
        ("That adds up to 5", None),
        ("He has 5 left over", None),
        ("The answer is not 5", "denied"),
        ("It isn't 5", "denied"),
        ("It is never equal to 5", "denied"),
        ("x != 5", "denied"),
        ("5 is not the correct answer", "denied"),
        ("5 is wrong", "denied"),
        ("less than 5", "bound"),
        ("more than or equal to 5", "bound"),
        ("at most 5", "bound"),
        ("nearly 5", "bound"),
        ("It can cost up to 5", "bound"),
        ("half of 5", "bound"),
        ("x < 5", "bound"),
        ("x \\le 5", "bound"),
        ("5 or more", "bound"),
        ("5 apples or fewer", "bound"),
        ("5 at least", "bound"),
        ("10 \\pm 5", "several"),
    ],
)
def test_words_around_a_number_deny_it_or_make_it_a_bound(text: str, claim: str | None):
    number = list(NUMBER.finditer(text))[-1]
    assert claim_about(text, *number.span()) == claim


def test_words_of_another_line_say_nothing():
    text = "It is not\n5"
    assert claim_about(text, 10, 11) is None


@pytest.mark.parametrize(
    ("text", "alone", "as_answer"),
    [
        ("we have 5 and 7", True, True),
        ("we have 5 apples or 7", True, True),
        ("5, 7", True, True),
        ("we drew 5, 7", False, True),
        ("we went from 5 to 7", False, True),
        ("5 out of 7", True, True),
        ("5 feet 7", True, True),
        ("5 and 5", False, False),
        ("it was 5. Then 7", False, False),
    ],
)
def test_two_numbers_given_together_are_no_answer_unless_they_are_equal(text: str, alone: bool, as_answer: bool):
    first, second = NUMBER.finditer(text)
    assert is_joined(text, first, second, is_answer=False) is alone
    assert is_joined(text, first, second, is_answer=True) is as_answer


def test_numbers_far_apart_are_not_given_together():
    first, second = NUMBER.finditer(f"5{' ' * 100}and 7")
    assert not is_joined(first.string, first, second, is_answer=True)
