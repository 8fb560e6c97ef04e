"""Finds the final answer in a response.

An answer is *marked* by `####`, `\\boxed{}` or "the answer is"; the last mark with a value counts. Without a mark it
is the last number that is stated rather than worked with: in "5 + 7 = 12" that is 12, in "10-3" there is none.
"""

from __future__ import annotations

import re

from eztinker.dataset.grading.numbers import NUMBER, parse_number

MAX_RESPONSE_CHARS = 65_536
"""Of a longer response the end is read: the last answer wins."""
MAX_ANSWER_CHARS = 300

_UNIT = r"(?:[ ]?[A-Za-z]{2,20})?[ \t]{0,3}"
_OPERATOR = rf"{_UNIT}(?:[-+*/×÷^]|\*\*|x(?=[ \t]?[$0-9]))[ \t]{{0,3}}"
_EXPRESSION = re.compile(rf"{NUMBER}(?:{_OPERATOR}{NUMBER})*+")
_GOES_ON = re.compile(rf"{_UNIT}(?:[=+×÷^]|[-*/][ \t]?\()")
_EQUALS = re.compile(rf"{_UNIT}=[ \t]{{0,3}}")
_ENDS_IN_OPERATOR = re.compile(r"(?:[+*/×÷^]|[0-9)\]}%] ?-)\Z")
_HEDGE = re.compile(rf"{_UNIT}[ ,]or[ ]{{1,3}}{NUMBER}")
_FORMULA = re.compile(r"[\\{}_^|<>&;]|[0-9] ?[nxyz]\b")
"""In a formula a number is a part, not the answer."""

_MARK = re.compile(
    r"(?P<line>####)"
    r"|\\(?:boxed|fbox)\s?(?P<brace>\{)"
    r"|\banswer\b[^.\n0-9=\\#]{0,60}?(?:\b(?:is|equals|would be|should be)\b(?!\s+not\b)|(?P<colon>:)|=)",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(r"[^\w.-]{0,8}(?:(?:about|approximately|exactly|just|only|simply|[a-z] ?=) ?)?[^\w.\n-]{0,8}")
"""What may stand between "the answer is" and the answer: punctuation, money signs, "about", "x ="."""

_SPELLINGS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "％": "%", "·": "*", "\u00a0": " ", "\u202f": " "})
_REWRITES = [
    (re.compile(r"<<[^<>\n]{0,200}>>"), ""),  # GSM8K's calculator notes
    (re.compile(r"(?<=[0-9])(?:\{,\}|,?\\[,!])(?=[0-9])"), ","),  # thousands as LaTeX spaces them
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\\div(?![A-Za-z])"), "÷"),
    (re.compile(r"(?<=[0-9])\\[dt]?frac\{([0-9]{1,30})\}\{([0-9]{1,30})\}"), r" \1/\2"),  # a mixed number
    (re.compile(r"\\[dt]?frac\{([0-9]{1,30})\}\{([0-9]{1,30})\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}\n]{0,200})\}"), r" \1 "),
    (re.compile(r"(?<![0-9])\*\*|\*\*(?![0-9])"), ""),  # bold, not a power
]


def final_answer(response: str) -> str | None:
    """The response's last answer in plain spelling ("1234", "3/4", "50%", "10-3", "x+1"), or None."""
    text = _plain(response[-MAX_RESPONSE_CHARS:])
    for mark in reversed(list(_MARK.finditer(text))):
        answer = _marked_answer(text, mark)
        if answer:
            return answer
    return _last_stated_number(text)


def _plain(text: str) -> str:
    text = text.translate(_SPELLINGS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _marked_answer(text: str, mark: re.Match[str]) -> str | None:
    if mark["line"]:
        return _answer_in(text[mark.end() : mark.end() + MAX_ANSWER_CHARS].split("\n", 1)[0])
    if mark["brace"]:
        return _answer_in(_braced(text[mark.end() : mark.end() + MAX_ANSWER_CHARS]))
    return _answer_after_phrase(text, mark)


def _braced(text: str) -> str:
    """The text up to the brace that closes the one before it; nothing where none does."""
    depth = 1
    for position, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[:position]
    return ""


def _answer_in(content: str) -> str | None:
    """The answer in text that is an answer as a whole: its one number, without the words around it, or all of it."""
    content = content.strip().strip("$").rstrip(".").strip()
    if not _FORMULA.search(content):
        content = content.rsplit("=", 1)[-1].strip()
        expressions = list(_EXPRESSION.finditer(content))
        if len(expressions) == 1 and _is_stated(content, expressions[0]):
            return _spelled(expressions[0][0])
    return content if re.search(r"\w", content) else None


def _answer_after_phrase(text: str, mark: re.Match[str]) -> str | None:
    lead_in = _LEAD_IN.match(text, mark.end())
    expression = _EXPRESSION.match(text, lead_in.end() if lead_in else mark.end())
    while expression and (equals := _EQUALS.match(text, expression.end())):
        expression = _EXPRESSION.match(text, equals.end())
    if expression is None or (mark["colon"] and "=" in text[expression.end() :].split("\n", 1)[0]):
        return None  # working that happens to follow "Answer:"
    if hedge := _HEDGE.match(text, expression.end()):
        return text[expression.start() : hedge.end()]  # two answers are none; kept whole, they equal no number
    return _spelled(expression[0])


def _last_stated_number(text: str) -> str | None:
    for expression in reversed(list(_EXPRESSION.finditer(text))):
        if _is_stated(text, expression):
            return _spelled(expression[0])
    return None


def _is_stated(text: str, expression: re.Match[str]) -> bool:
    """Whether it is one number that no operator or equals sign takes further."""
    if parse_number(expression[0]) is None or _GOES_ON.match(text, expression.end()):
        return False
    before = text[max(0, expression.start() - 20) : expression.start()].rsplit("\n", 1)[-1].rstrip(" $")
    if expression[0].startswith("-"):
        return not before.endswith((")", "]", "}", "%"))
    is_bullet = before in {"-", "*", "+"}
    return is_bullet or not _ENDS_IN_OPERATOR.search(before)


def _spelled(expression: str) -> str:
    number = parse_number(expression)
    return number.text if number else expression.strip()
