"""A response in one plain spelling: notes, tags, layout and words for signs are gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.dataset.grading.spelling import plain


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("48/2 = <<48/2=24>>24", "48/2 = 24"),
        ("<b>5</b>", " 5 "),
        ("<|im_end|>5", " 5"),
        ("**72**", "**72**".replace("**", "")),
        ("2**3", "2**3"),
        ("5 cm^2", "5 cm"),
        ("12 and a half", "12 1/2"),
        ("3 and three quarters", "3 3/4"),
        ("2 and 1/2", "2 1/2"),
        ("minus 5", "-5"),
        ("negative $5", "-$5"),
        ("= - 5", "= -5"),
        ("7 - 5", "7 - 5"),
        ("is +5", "is 5"),
        ("-(5)", "-5"),
        ("3 times 4", "3 × 4"),
        ("8 divided by 2", "8 ÷ 2"),
        ("3x4", "3×4"),
        ("1,234,567", "1234567"),
        ("1 234", "1234"),
        ("Week 3:210", "Week 3: 210"),
        ("2:3", "2:3"),
        ("$5m", "$5M"),
        ("5m", "5m"),
    ],
)
def test_each_thing_is_spelled_in_one_way(written: str, spelled: str):
    assert plain(written) == spelled


@given(st.text(max_size=60))
def test_any_text_can_be_spelled(text: str):
    assert isinstance(plain(text), str)


@given(st.integers(-(10**12), 10**12))
def test_an_integer_grouped_by_commas_is_its_digits(value: int):
    assert plain(f"{value:,}") == str(value)
