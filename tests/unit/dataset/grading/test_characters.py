"""Every character that is a number, a sign or a space, spelled as ASCII does."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from eztinker.dataset.grading.characters import UNREADABLE, plain_characters


def test_a_digit_of_any_script_is_the_digit_that_unicode_says_it_is():
    digits = [chr(code) for code in range(128, sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Nd"]
    assert len(digits) > 500
    for digit in digits:
        assert plain_characters(f"{digit}{digit}") == 2 * str(unicodedata.decimal(digit)), f"U+{ord(digit):04X}"


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("−5", "-5"),
        ("﹣5", "-5"),
        ("answer—5", "answer—5"),
        ("is —5", "is -5"),
        ("3 ⁄ 4", "3 / 4"),
        ("2½", "2 1/2"),
        ("½", "1/2"),
        ("¾3", "3/4 3"),
        ("x²³", "x^23"),
        ("10⁻²", "10^-2"),
        ("1³/₄", "1 3/4"),
        ("H₂O", "H_2O"),
        ("€5", "$5"),
        ("5\u00a0000", "5 000"),
        ("5\u2028", "5\n"),
        ("\u200e5\u200f", "5"),
        ("90°", "90 degrees "),
        ("√16", "\\sqrt{16}"),
        ("≤ 5", "\\le  5"),
        ("2×3÷4", "2×3÷4"),
        ("٣٫٥", "3.5"),
        ("Ⅳ", "IV"),
        ("㊿", "50"),
        ("naïve", "naïve"),
    ],
)
def test_each_thing_is_written_in_one_way(written: str, plain: str):
    assert plain_characters(written) == plain


@pytest.mark.parametrize("written", ["万", "5\u20e3\u0301"])
def test_a_number_without_a_plain_spelling_is_marked_as_one_that_cannot_be_read(written: str):
    assert UNREADABLE in plain_characters(written)


def test_ascii_stays_as_it_is():
    text = "".join(map(chr, range(128)))
    assert plain_characters(text) is text
