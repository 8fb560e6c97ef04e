"""Finds the final answer in a response.

An answer is *marked* by `####`, `\\boxed{}` or "the answer is"; the last mark with a value counts. Without a mark it
is the last number that is stated.
"""

from __future__ import annotations

import itertools
import re

from eztinker.dataset.grading.claims import claim_about, is_joined
from eztinker.dataset.grading.spelling import plain
from eztinker.dataset.grading.statements import (
    COMPUTES,
    EXPRESSION,
    UNIT,
    VARIABLE,
    StatedAnswer,
    is_stated,
    last_stated_number,
    numbers_in,
    spelled_number,
)

MAX_RESPONSE_CHARS = 65_536
"""Longest part of a response that is read, from its end: the last answer counts."""
MAX_ANSWER_CHARS = 300

_EQUALS = re.compile(rf"{UNIT}=[ \t]{{0,3}}")
_FORMULA = re.compile(r"[\\{}_^|<>&;]|[0-9] ?[nxyz]\b|[0-9][abeijoqruvw]\b")
"""Signs of a formula, of which a number is a part and not the answer."""
_RELATION = re.compile(r"[<>±]|!=|\\(?:[gl](?:t|eq?|eqslant)|neq?|pm)(?![A-Za-z])")

_MARK = re.compile(
    r"(?P<line>####)"
    r"|\\(?:boxed|fbox)\s?(?P<brace>\{)"
    r"|\banswers?\b[^.\n0-9=\\#]{0,60}?(?:\b(?:is|are|equals|would be|should be)\b(?!\s+not\b)|(?P<colon>:)|=)",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(
    r"[^\w.-]{0,8}(?:(?:about|approx(?:imately)?|around|roughly|exactly|just|only|simply|either|both|between|from"
    r"|[a-z] ?=) ?)?[^\w.\n-]{0,8}"
)
"""Text that may be between "the answer is" and the answer: punctuation, money signs, "about", "x ="."""
_MATH = re.compile(
    r"[\s:*]{0,6}(?:\$(?P<dollars>[^$\n]{1,200}(?<![\s,]))\$(?!\d)|\\[(\[](?P<brackets>[^\n]{1,200}?)\\[)\]])"
)
_BRACE = re.compile(r"[{}]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_WORDS = re.compile(r"[^0-9.!?\n-]{0,40}")
_COMPUTES_ON = re.compile(rf"(?:{VARIABLE}|[ ]?{COMPUTES}|\^)[^$\n,;]{{0,100}}")
"""Text that makes a number before it, after "the answer is", the first part of a formula."""
_JOINED_BOXES = re.compile(r"[\s$]{0,4}(?:,|&|,?\s?(?:and|or))[\s$]{0,4}(?:[a-z]\w?\s?=\s?)?", re.IGNORECASE)
_DOUBT = re.compile(r"(?:(?:n't|\bnot) (?:think|believe|say|true|correct|right|the case)|\bdoubt)\b[^.!?\n]*\Z")


def final_answer(response: str) -> StatedAnswer | None:
    """The response's last answer ("1234", "3/4", "50%", "10-3", "x+1"), or None."""
    text = plain(response[-MAX_RESPONSE_CHARS:])
    return _last_marked_answer(text) or last_stated_number(text)


def expected_answer(ground_truth: str) -> StatedAnswer:
    """The answer at the end of a worked solution, or the whole ground truth if it states no single number."""
    text = plain(ground_truth[-MAX_RESPONSE_CHARS:])
    answer = _last_marked_answer(text) or last_stated_number(text)
    if answer and (answer.is_one_value or _MARK.search(text)):
        return answer
    return StatedAnswer(text.strip(), is_one_value=answer is None)


def _last_marked_answer(text: str) -> StatedAnswer | None:
    marks = list(_MARK.finditer(text))
    for place in reversed(range(len(marks))):
        answer = _marked_answer(text, marks, place)
        if answer:
            return answer
    return None


def _marked_answer(text: str, marks: list[re.Match[str]], place: int) -> StatedAnswer | None:
    mark = marks[place]
    if mark["line"]:
        return _answer_in(text[mark.end() : mark.end() + MAX_ANSWER_CHARS].split("\n", 1)[0])
    if mark["brace"]:
        return _boxed_answer(text, mark, marks[place - 1] if place else None)
    answer = _answer_after_phrase(text, mark)
    is_doubted = _DOUBT.search(text, max(0, mark.start() - 60), mark.start())
    return StatedAnswer(answer.text, is_one_value=False) if answer and is_doubted else answer


def _boxed_answer(text: str, mark: re.Match[str], earlier: re.Match[str] | None) -> StatedAnswer | None:
    content = _braced(text, mark)
    answer = _answer_in(content)
    if answer is None:
        return None
    claim = claim_about(text, mark.start(), mark.end() + len(content) + 1)
    if claim == "denied":
        return None
    if claim or (earlier and earlier["brace"] and _are_two_answers(text, earlier, mark)):
        return StatedAnswer(answer.text, is_one_value=False)
    return answer


def _are_two_answers(text: str, earlier: re.Match[str], mark: re.Match[str]) -> bool:
    """Whether two boxes are side by side with different content."""
    first, second = _braced(text, earlier), _braced(text, mark)
    between = text[earlier.end() + len(first) + 1 : mark.start()]
    return first.strip() != second.strip() and _JOINED_BOXES.fullmatch(between) is not None


def _braced(text: str, mark: re.Match[str]) -> str:
    """Text up to the brace that closes the mark's; empty if none does."""
    content = text[mark.end() : mark.end() + MAX_ANSWER_CHARS]
    depth = 1
    for brace in _BRACE.finditer(content):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return content[: brace.start()]
    return ""


def _answer_in(content: str) -> StatedAnswer | None:
    """The answer in text that is nothing but an answer: its only number without the words around it, or all of it."""
    content = content.strip().strip("$").rstrip(".").strip()
    if in_braces := _BRACES.fullmatch(content):
        content = in_braces[1].strip()
    if not re.search(r"\w", content):
        return None
    numbers = numbers_in(content)
    pairs = itertools.pairwise(numbers)
    if (
        _RELATION.search(content)
        or any(claim_about(content, *number.span()) for number in numbers)
        or any(is_joined(content, *pair, is_answer=True) for pair in pairs)
    ):
        return StatedAnswer(content, is_one_value=False)
    if not _FORMULA.search(content):
        content = content.rsplit("=", 1)[-1].strip()
        numbers = numbers_in(content)
        if len(numbers) == 1 and is_stated(content, numbers[0]):
            return StatedAnswer(spelled_number(numbers[0][0]))
    return StatedAnswer(content)


def _answer_after_phrase(text: str, mark: re.Match[str]) -> StatedAnswer | None:
    if (math := _MATH.match(text, mark.end())) and re.search(r"[\\^]", content := math[1] or math[2]):
        return _answer_in(content)
    lead_in = _LEAD_IN.match(text, mark.end())
    number = EXPRESSION.match(text, lead_in.end() if lead_in else mark.end())
    while number and (equals := _EQUALS.match(text, number.end())):
        number = EXPRESSION.match(text, equals.end())
    if number is None:
        return _bound_after_phrase(text, mark)
    if mark["colon"] and "=" in text[number.end() :].split("\n", 1)[0]:
        return None  # working that happens to follow "StatedAnswer:"
    if formula := _COMPUTES_ON.match(text, number.end()):
        return StatedAnswer(number[0] + formula[0])
    claim = claim_about(text, *number.span())
    following = EXPRESSION.search(text, number.end(), number.end() + MAX_ANSWER_CHARS)
    if following and not claim and is_joined(text, number, following, is_answer=True):
        return StatedAnswer(text[number.start() : following.end()], is_one_value=False)
    if claim == "denied":
        return None
    return StatedAnswer(spelled_number(number[0]), is_one_value=claim is None)


def _bound_after_phrase(text: str, mark: re.Match[str]) -> StatedAnswer | None:
    """The answer in "the answer is at least 5"."""
    words = _WORDS.match(text, mark.end())
    number = EXPRESSION.match(text, words.end()) if words else None
    is_bound = number is not None and claim_about(text, *number.span()) == "bound"
    return StatedAnswer(text[mark.end() : number.end()].strip(), is_one_value=False) if number and is_bound else None
