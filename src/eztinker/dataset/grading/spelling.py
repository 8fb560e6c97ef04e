"""Normalises the spelling of a response, so that answers are written in one way."""

from __future__ import annotations

import re

from eztinker.dataset.grading.characters import plain_characters
from eztinker.dataset.grading.grouping import without_grouping
from eztinker.dataset.grading.latex import plain_latex

_CALCULATOR_NOTE = re.compile(r"<<[^<>\n]{0,200}>>")
"""Calculator annotations of GSM8K, as in "48/2 = <<48/2=24>>24"."""
_TAG = re.compile(r"</?[A-Za-z][\w-]{0,20}(?: [^<>\n]{0,80})?/?>|<\|[^|<>\n]{1,40}\|>")
_BOLD = re.compile(r"(?<![0-9])\*\*|\*\*(?![0-9])")  # not a power
_UNIT_POWER = re.compile(
    r"(?<![A-Za-z\\])((?:[kcdm]m|in|inch(?:es)?|ft|feet|foot|yd|yards?|mi|miles?|units?|secs?|seconds?"
    r"|(?:kilo|centi|deci|milli)?met(?:er|re)s?|(?<=[ /])[msh]))[ ]?\^[ ]?-?[1-9]\b"
)
"""Unit of length, area, volume or acceleration with an exponent; "12m^2" may be a variable's square instead."""
_LABEL = re.compile(
    r"\b((?:[Ss]tep|[Dd]ay|[Ww]eek|[Mm]onth|[Yy]ear|[Hh]our|[Pp]art|[Cc]ase|[Rr]ound|[Gg]roup) [0-9]{1,3}):(?=\S)"
)
"""Label with a colon, such as "Week 3:" in "Week 3:210 pages", which is no ratio."""
_AND_A_PART = re.compile(
    r"(?<=[0-9]) and (?:([1-9]/[1-9][0-9]?)\b|(?:an?|one)[ -](half|third|quarter|fourth|fifth)\b|three[ -]quarters\b)"
)
_PARTS = {"half": "1/2", "third": "1/3", "quarter": "1/4", "fourth": "1/4", "fifth": "1/5", None: "3/4"}
_SIGN_WORD = re.compile(r"\b(?:[Nn]egative|[Mm]inus) (?=\$?[.0-9])")
_OPERATOR_WORD = re.compile(r"(?<=[0-9]) (plus|times|multiplied by|divided by) (?=\$?[.0-9])")
_OPERATORS = {"plus": "+", "times": "×", "multiplied by": "×", "divided by": "÷"}
_SPACED_SIGN = re.compile(r"([-+])[ \t]{1,3}(?=\$?[.0-9])")
_OPENS_A_NUMBER = re.compile(r"(?:[=({]|####|\b(?:is|are|be|equals))[ \t]{0,3}\$?\Z")
_PLUS_SIGN = re.compile(r"\+(?=\$?[.0-9])")
_SIGN_BEFORE_BRACKETS = re.compile(r"-[ ]?[({][ ]?(\$?[.0-9][0-9./]{0,40})[ ]?[)}]")
_TIMES = re.compile(r"x(?<=[0-9]x)(?=[0-9])")
_MONEY_SCALE = re.compile(r"(?<=\$)([0-9.]{1,20})([mb])\b(?!\$)")


def plain(text: str) -> str:
    """Spell the numbers of `text` in ASCII, ungrouped and with their signs; remove annotations, tags and layout."""
    text = plain_latex(plain_characters(text))
    if "<" in text:
        text = _TAG.sub(" ", _CALCULATOR_NOTE.sub("", text))
    if "**" in text:
        text = _BOLD.sub("", text)
    if "^" in text:
        text = _UNIT_POWER.sub(r"\1", text)
    if " and " in text:
        text = _AND_A_PART.sub(lambda part: f" {part[1] or _PARTS[part[2]]}", text)
    text = _plain_operators(without_grouping(text))
    if ":" in text:
        text = _LABEL.sub(r"\1: ", text)
    return _MONEY_SCALE.sub(lambda money: money[1] + money[2].upper(), text) if "$" in text else text


def _plain_operators(text: str) -> str:
    """Join signs with their numbers ("= - 5", "-(5)" and "minus 5" become "-5"), and spell operators as signs."""
    if "inus " in text or "egative " in text:
        text = _SIGN_WORD.sub("-", text)
    if " plus " in text or " times " in text or "ed by " in text:
        text = _OPERATOR_WORD.sub(lambda word: f" {_OPERATORS[word[1]]} ", text)
    text = _TIMES.sub("×", text)
    if "- " in text or "+ " in text:
        text = _SPACED_SIGN.sub(lambda sign: sign[1] if _opens_a_number(sign) else sign[0], text)
    if "+" in text:
        text = _PLUS_SIGN.sub(lambda sign: "" if _opens_a_number(sign) else "+", text)
    return _SIGN_BEFORE_BRACKETS.sub(r"-\1", text) if "-" in text else text


def _opens_a_number(sign: re.Match[str]) -> bool:
    """Whether the text before a sign makes it part of the number rather than an operator."""
    return _OPENS_A_NUMBER.search(sign.string[max(0, sign.start() - 12) : sign.start()]) is not None
