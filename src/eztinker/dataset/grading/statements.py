"""Finds the numbers of a text, and the last one that is stated as a result.

In "5 + 7 = 12" that is 12; "10-3" has none. An expression may have several numbers and the operators between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eztinker.dataset.grading.claims import claim_about, is_joined
from eztinker.dataset.grading.numbers import NUMBER, parse_number, parse_ratio

UNIT = r"(?:[ ]?[A-Za-z]{2,20})?[ \t]{0,3}"
_OPERATOR = rf"(?:{UNIT}(?:[-+*/×÷]|x(?=[ \t]?[$0-9]))|[ \t]{{0,3}}(?:\*\*|\^))[ \t]{{0,3}}"
EXPRESSION = re.compile(rf"{NUMBER}(?:{_OPERATOR}{NUMBER})*+")
_STARTS_NUMBER = re.compile(r"[-$.0-9]")
VARIABLE = r"[abeijnoqruvwxyz]\b(?!')"
COMPUTES = r"\\(?:pi|sqrt|[cdt]?frac|pm|log|ln|sin|cos|tan|infty|binom|cdots?)(?![A-Za-z])"
_GOES_ON = re.compile(rf"{UNIT}(?:[=+×÷^]|[-*/][ \t]?\(|{COMPUTES})|{VARIABLE}|[hm][0-9]{{2}}|[ ]?-\s*\Z")
_ENDS_IN_OPERATOR = re.compile(r"(?:[+*/×÷^]|[0-9)\]}%] ?-|\\(?!boxed|fbox)[A-Za-z]{1,12}\s?\{?|[_^]\{)\Z")
_SENTENCE_ENDS = (". ", "! ", "? ")


@dataclass(frozen=True, slots=True)
class StatedAnswer:
    """The answer that a response states, in plain spelling."""

    text: str
    is_one_value: bool = True
    """Whether the answer is a single value; a bound, a denial or several values equal no number."""


def last_stated_number(text: str) -> StatedAnswer | None:
    """The last number that is stated, line by line from the end."""
    for line in reversed(text.split("\n")):
        if answer := _stated_in(line):
            return answer
    return None


def _stated_in(text: str) -> StatedAnswer | None:
    """The last number that a line states; another one in the same sentence is preferred to a denial or a bound."""
    numbers = numbers_in(text)
    refused: list[str] = []
    sentence_start = 0
    for place in reversed(range(len(numbers))):
        number, spelled = numbers[place], spelled_number(numbers[place][0])
        if number.start() < sentence_start:
            break
        if not is_stated(text, number) or spelled in refused:
            continue
        claim = claim_about(text, *number.span())
        if claim is None:
            earlier = numbers[place - 1] if place else None
            is_one = earlier is None or not is_joined(text, earlier, number, is_answer=False)
            return StatedAnswer(
                spelled if is_one else text[numbers[place - 1].start() : number.end()], is_one_value=is_one
            )
        if claim == "several":
            return StatedAnswer(spelled, is_one_value=False)
        if not refused:
            sentence_start = max(text.rfind(end, 0, number.start()) for end in _SENTENCE_ENDS) + 1
        refused.append(spelled)
    return StatedAnswer(refused[0], is_one_value=False) if refused else None


def numbers_in(text: str) -> list[re.Match[str]]:
    """Numbers and expressions of several numbers, from left to right."""
    numbers: list[re.Match[str]] = []
    candidate = _STARTS_NUMBER.search(text)
    while candidate:
        number = EXPRESSION.match(text, candidate.start())
        if number:
            numbers.append(number)
        candidate = _STARTS_NUMBER.search(text, number.end() if number else candidate.end())
    return numbers


def is_stated(text: str, expression: re.Match[str]) -> bool:
    """Whether an expression is a single value with no operator or equals sign before or after it."""
    if not _is_value(expression[0]) or _GOES_ON.match(text, expression.end()):
        return False
    before = text[max(0, expression.start() - 20) : expression.start()].rsplit("\n", 1)[-1].rstrip(" $")
    if expression[0].startswith("-"):
        return not before.endswith((")", "]", "}", "%", "|"))
    is_bullet = before in {"-", "*", "+"}
    return is_bullet or not _ENDS_IN_OPERATOR.search(before)


def _is_value(text: str) -> bool:
    return parse_number(text) is not None or parse_ratio(text) is not None


def spelled_number(expression: str) -> str:
    number = parse_number(expression)
    return number.text if number else expression.strip()
