"""Exact numbers as people write them: signs, thousands commas, money, percents, fractions, mixed numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Possessive quantifiers keep the scan linear: a number is taken whole or not at all, so "1e9999" is never read as 1.
_DIGITS = r"(?<![A-Za-z0-9_])\.?[0-9]+(?:[.,][0-9]+)*+(?:[eE][+-]?[0-9]{1,2})?+(?![eE_]?[0-9])"
_FRACTION = r"(?<![A-Za-z0-9_.,])[0-9]+ ?/ ?[0-9]+(?![0-9.,]*[0-9])"
_MIXED = rf"(?<![A-Za-z0-9_.,])[0-9]+ {_FRACTION}"
_SIGN = r"(?:(?<![A-Za-z0-9_])-(?=[$£€]?[.0-9]))?(?:[$£€][- ]?)?"
NUMBER = rf"{_SIGN}(?:{_MIXED}|{_FRACTION}|{_DIGITS})(?: ?%)?"
"""One number in running text, sign and percent included."""

_WRITTEN = re.compile(
    r"(?P<sign>-)?"
    r"(?:(?:(?P<whole>[0-9]+) )?(?P<numerator>[0-9]+) ?/ ?(?P<denominator>[0-9]+)"
    r"|(?P<decimal>(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?))"
    r"(?P<percent> ?%)?"
)
_MAX_CHARS = 64
"""Longer digit strings are no answer to a word problem, and big-integer arithmetic on them is slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactNumber:
    value: Fraction
    """As written: 50 for "50%"."""
    is_percent: bool
    text: str
    """As written, without money signs and thousands commas."""


def parse_number(text: str) -> ExactNumber | None:
    """The exact value of one written number; None where the text is anything else, "1,05" and "1/0" included."""
    text = re.sub(r"[$£€]", "", text).strip()
    match = _WRITTEN.fullmatch(text) if len(text) <= _MAX_CHARS else None
    value = _value(match) if match else None
    if match is None or value is None:
        return None
    return ExactNumber(
        value=-value if match["sign"] else value,
        is_percent=match["percent"] is not None,
        text=text.replace(",", ""),
    )


def _value(match: re.Match[str]) -> Fraction | None:
    if match["denominator"]:
        if int(match["denominator"]) == 0:
            return None
        return int(match["whole"] or 0) + Fraction(int(match["numerator"]), int(match["denominator"]))
    if not re.search(r"[0-9]", match["decimal"]):
        return None
    try:
        return Fraction(match["decimal"].replace(",", ""))
    except ValueError:  # an exponent without digits before it
        return None


def is_same_number(first: ExactNumber, second: ExactNumber) -> bool:
    """Exact equality. Against a plain number a percent may be meant either way: "50%" is 50 and 0.5."""
    if first.value == second.value:
        return True
    if first.is_percent == second.is_percent:
        return False
    percent, plain = (first, second) if first.is_percent else (second, first)
    return percent.value / 100 == plain.value


def as_latex(number: ExactNumber) -> str:
    """The number in a form every LaTeX reader takes alike: a plain decimal, else an improper fraction."""
    numerator, denominator = number.value.numerator, number.value.denominator
    if denominator == 1:
        latex = str(numerator)
    elif "/" in number.text or "e" in number.text.lower():
        latex = f"{'-' if numerator < 0 else ''}\\frac{{{abs(numerator)}}}{{{denominator}}}"
    else:
        latex = number.text.rstrip("% ")
    return latex + ("\\%" if number.is_percent else "")
