"""Detects words around a number that deny it, make it a bound, or make it one of several numbers.

"About 5" is 5: it is the answer, rounded. "Nearly 5" and "less than 5" are bounds, and so is "5 or more". A range, a
quantity in two units ("5 feet 7 inches") and "5 out of 7" are several numbers. Numbers that are equal are one answer.
"""

from __future__ import annotations

import re
from typing import Literal

from eztinker.dataset.grading.numbers import is_same_number, parse_number, parse_ratio

Claim = Literal["denied", "bound", "several"]

_WINDOW_CHARS = 60
"""Characters to look at before and after a number, in lower case."""


def _any_of(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


_UNIT = r"(?:[ ]?(?!(?:which|that|who|and|or|but|because|since|so|as|if|to|is|are|at)\b)[A-Za-z%]{1,20}\b){0,2}"
_OPENING = r"(?:[ \t$*:=({\[\"']|\\(?:boxed|fbox)|\\[(\[]|\b[a-z] ?=){0,8}"
"""Characters that may be between a word about a number and the number."""
_CLOSING = r"[ \t$)}\]]{0,4}"
_COMPARED = r"(?:more|less|fewer|greater|larger|smaller|higher|lower|bigger|better|longer|shorter|older|younger)"
_RELATION = r"(?:[<>]=?|\\[gl](?:t|eq?|eqslant)(?![a-z]))"
_UNEQUAL = r"!=|\\neq?(?![a-z])"

_FILLER = _any_of(
    "be|been|equals?|to|exactly|quite|just|only|simply|really|actually|have|get|give|cost",
    r"the|an?|answer|number|value",
)
_DENIED_BEFORE = _any_of(
    rf"(?:\b(?:not|never|cannot|nor|neither)|n't)\b(?:[ ]{{1,3}}{_FILLER}){{0,4}}",
    _UNEQUAL,
    r"\b(?:rather than|instead of|other than|different from|no longer|(?:any|every|no)thing but)",
)
_BOUND_BEFORE = _any_of(
    rf"\b{_COMPARED} than(?: or equal to)?",
    r"\bat (?:least|most)|\b(?:min|max)imum(?: of)?|\b(?:nearly|almost)|\bexceed(?:s|ed|ing)?|\bjust (?:short|shy) of",
    r"(?<!left )(?<!carry )\b(?:over|under|above|below|beyond)",
    r"(?<![a-z] )(?<!\w)up to",  # "adds up to 5" states a sum
    r"\b(?:is|be|are|of|can|cost|costs|spend|for|have|has|holds?) up to",
    r"\b(?:half(?: of)?(?: an?)?|twice|double|triple|thrice|(?:third|quarter|fifth|tenth|half|percent)s? of)",
    r"(?:%|[0-9]/[0-9]{1,3}) ?of\b",
    rf"(?<![-=<>|]){_RELATION}",
)
_BEFORE = re.compile(rf"(?:(?P<denied>{_DENIED_BEFORE})|(?P<bound>{_BOUND_BEFORE})){_OPENING}\Z")

_PREDICATE = _any_of(
    "be|quite|yet|the|an?|our|my|it",
    "right|correct|final|valid|actual|true|possible",
    "answer|solution|result|value|number|total",
)
_DENIED_AFTER = (
    r"\b(?:is|was|are|were|would be|seems|can|could|should)"
    rf"(?:(?:n't| ?not)(?: {_PREDICATE}\b)+| (?:wrong|incorrect|false|too)\b)"
)
_BOUND_AFTER = _any_of(
    r"\b(?:or|and) (?:more|less|fewer|greater|higher|lower|above|below|over|under|up|better|so)\b",
    r"\bat (?:least|most)\b|\b(?:maximum|max|minimum)\b|\bbelow zero\b|\bof [0-9]",
    rf"\b{_COMPARED} than{_OPENING}-?[.0-9]",
    rf"(?:{_RELATION}|{_UNEQUAL})(?!\|)",
)
_AFTER = re.compile(rf"{_UNIT}{_CLOSING}(?:(?P<denied>{_DENIED_AFTER})|(?P<bound>{_BOUND_AFTER}))")

_BETWEEN = r"[ \t$({\[]{0,4}(?:either )?(?:[A-Za-z](?:_?[0-9])? ?= ?)?[ \t$({\[]{0,4}"
_AND = re.compile(rf"{_UNIT}{_CLOSING}(?:,? ?(?:and/or|and|or|nor|&|\\&)|\\pm|\+/-){_BETWEEN}", re.IGNORECASE)
_LIST = re.compile(rf"{_CLOSING}[,;]{_BETWEEN}")
_SPAN = re.compile(
    rf"{_UNIT}[ ](?:to|through|by|out of|versus|vs\.?){_BETWEEN}|[ ]?(?:~|\.\.\.?|…)[ ]?|[ ]", re.IGNORECASE
)
_MEASURE = (
    r"(?:h|hrs?|hours?|mins?|minutes?|s|secs?|seconds?|days?|weeks?|months?|years?|ft|feet|foot|inch(?:es)?|yards?"
    r"|miles?|k?m|cm|mm|meters?|metres?|lbs?|pounds?|oz|ounces?|k?g|grams?|dollars?|cents?)"
)
_NEXT_MEASURE = re.compile(rf"[ ]?{_MEASURE}\b[.,]?[ ]?(?:and )?\$?|['\"][ ]?", re.IGNORECASE)
_STATED_ALONE = re.compile(r"(?:^|[=:({\[\n]|[0-9][,;]|\b(?:is|are|be|either|both))[ \t$({\[]{0,4}\Z", re.IGNORECASE)
_PLUS_MINUS = re.compile(r"(?:\\pm|\+/-)[ $({]{0,4}\Z")
_MAX_GAP_CHARS = 60


def claim_about(text: str, start: int, end: int) -> Claim | None:
    """The claim of the words around a number, at `start` to `end`; None if they simply state it."""
    before = text[max(0, start - _WINDOW_CHARS) : start].rsplit("\n", 1)[-1].lower()
    if before and (words := _BEFORE.search(before)):
        return "denied" if words["denied"] else "bound"
    after = text[end : end + _WINDOW_CHARS].lower()
    if after and (words := _AFTER.match(after)):
        return "denied" if words["denied"] else "bound"
    return "several" if _PLUS_MINUS.search(before) else None


def is_joined(text: str, first: re.Match[str], second: re.Match[str], *, is_answer: bool) -> bool:
    """Whether two neighbouring numbers are given together, so that neither is the answer; False for equal ones.

    Args:
        is_answer: whether the first is known to be given as the answer; in running text, a comma or "to" between two
            numbers does not join them.
    """
    gap = text[first.end() : second.start()]
    if len(gap) > _MAX_GAP_CHARS:
        return False
    if _NEXT_MEASURE.fullmatch(gap):
        return "," not in gap or _NEXT_MEASURE.match(text, second.end()) is not None
    patterns = [_AND]
    if is_answer or _STATED_ALONE.search(text[max(0, first.start() - 12) : first.start()]):
        patterns += [_LIST, _SPAN]
    if not any(pattern.fullmatch(gap) for pattern in patterns):
        return False
    values = [parse_number(number[0]) for number in (first, second)]
    if values[0] is None or values[1] is None:
        return all(parse_number(number[0]) or parse_ratio(number[0]) for number in (first, second))
    return not is_same_number(values[0], values[1])
