"""Exact numbers in plain spelling, with signs, money, fractions, powers of ten, percents and scales.

A ratio or a clock time, such as 2:3 or 4:30, is one value of several numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from eztinker.dataset.grading.characters import UNREADABLE

# Possessive quantifiers keep the scan linear: a number is taken whole or not at all, so "1e9999" is never read as 1.
_EDGE = rf"(?<![A-Za-z0-9_{UNREADABLE}])"
_STARTS = rf"{_EDGE}(?<![0-9][:'])(?<![0-9] : )"
_ENDS = rf"(?![eE_:']?[0-9]| : [0-9]|{UNREADABLE})"
_DIGITS = rf"{_STARTS}\.?[0-9]+(?:[.,][0-9]+)*+(?:[eE][+-]?[0-9]{{1,2}})?+{_ENDS}"
_FRACTION = rf"(?<![A-Za-z0-9_.,{UNREADABLE}])[0-9]+ ?/ ?[0-9]+(?![0-9.,]*[0-9])"
_MIXED = rf"(?<![A-Za-z0-9_.,{UNREADABLE}])[0-9]+ {_FRACTION}"
_RATIO = (
    rf"(?<![A-Za-z0-9_.,:{UNREADABLE}])[0-9]+(?:\.[0-9]+)?(?:(?: : |:)[0-9]+(?:\.[0-9]+)?)++(?!:?[0-9])"
    r"(?: ?[AaPp]\.?[Mm]\b\.?)?"
)
_SIGN = r"(?:(?<![A-Za-z0-9_])-(?=\$?[.0-9]))?(?:\$[- ]?)?"
_SCALES = {
    **dict.fromkeys(("dozen",), 12),
    **dict.fromkeys(("hundred",), 100),
    **dict.fromkeys(("thousand", "k"), 10**3),
    **dict.fromkeys(("lakh",), 10**5),
    **dict.fromkeys(("million", "m", "mn"), 10**6),
    **dict.fromkeys(("crore",), 10**7),
    **dict.fromkeys(("billion", "b", "bn"), 10**9),
    **dict.fromkeys(("trillion",), 10**12),
    **dict.fromkeys(("tenth",), Fraction(1, 10)),
    **dict.fromkeys(("hundredth",), Fraction(1, 100)),
    **dict.fromkeys(("thousandth",), Fraction(1, 1000)),
}
SCALE_WORD = "(?i:" + "|".join(sorted((word for word in _SCALES if len(word) > 2), key=len, reverse=True)) + ")"
"""Pattern of a word that multiplies the number before it."""
_SCALE = rf"(?:(?:[ -]?{SCALE_WORD}s?\b)+|[kKMB]\b|[mb]n\b)"
_PERCENT = r"(?: ?%| ?(?i:percent|per cent)\b)"
NUMBER = rf"{_SIGN}(?:(?:{_MIXED}|{_FRACTION}|{_DIGITS}){_SCALE}?{_PERCENT}?|{_RATIO})"
"""Pattern of one number in running text, with sign, scale and percent."""

_WRITTEN = re.compile(
    r"(?P<sign>-)?"
    r"(?:(?:(?P<whole>[0-9]+) )?(?P<numerator>[0-9]+) ?/ ?(?P<denominator>[0-9]+)"
    r"|(?P<decimal>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?)"
    r"(?: ?[×*x] ?10 ?(?:\^|\*\*) ?(?P<power>-?[0-9]{1,2}))?)"
    rf"(?P<scale>{_SCALE})?(?P<percent>{_PERCENT})?"
)
_POWER_OF_TEN = re.compile(r"(-?)10 ?(?:\^|\*\*) ?(-?[0-9]{1,2})")
_SCALE_WORDS = re.compile(rf"{SCALE_WORD}|[kmb]n?", re.IGNORECASE)
_PLAIN = re.compile(r"-?[0-9]*\.?[0-9]+ ?%?")
_RATIO_PARTS = re.compile(r"(?P<parts>[0-9.]+(?: ?: ?[0-9.]+)+)(?: ?(?P<half>[ap])\.?m\.?)?", re.IGNORECASE)
_MAX_CHARS = 64
"""Longest number to parse; a longer one is no answer to a word problem, and arithmetic on it is slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactNumber:
    value: Fraction
    """Value as written: 50 for "50%", 3000000 for "3 million"."""
    is_percent: bool
    text: str
    """Text as written, without money signs, and with scales and powers of ten multiplied out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Several numbers that are one value: "2:3", or the time "4:30"."""

    parts: tuple[Fraction, ...]
    half_of_day: str
    """Half of the day of a time: "a" for am, "p" for pm, empty if it is not given."""


@lru_cache(maxsize=4_096)
def parse_number(text: str) -> ExactNumber | None:
    """Exact value of one written number; None if the text is anything else, such as "1,05" or "1/0"."""
    text = text.replace("$", "").strip()
    if len(text) > _MAX_CHARS:
        return None
    if power := _POWER_OF_TEN.fullmatch(text):
        text = f"{power[1]}1e{power[2]}"
    match = _WRITTEN.fullmatch(text)
    value = _value(match) if match else None
    if match is None or value is None:
        return None
    value = -value if match["sign"] else value
    is_percent = match["percent"] is not None
    is_as_written = not (match["scale"] or match["power"])
    return ExactNumber(
        value=value,
        is_percent=is_percent,
        text=re.sub(r" ?(?i:percent|per cent)$", "%", text) if is_as_written else f"{value}{'%' if is_percent else ''}",
    )


def _value(match: re.Match[str]) -> Fraction | None:
    if match["denominator"]:
        if int(match["denominator"]) == 0:
            return None
        value = int(match["whole"] or 0) + Fraction(int(match["numerator"]), int(match["denominator"]))
    else:
        value = Fraction(match["decimal"]) * Fraction(10) ** int(match["power"] or 0)
    for word in _SCALE_WORDS.findall(match["scale"] or ""):
        value *= _SCALES[word.lower()]
    return value


def parse_ratio(text: str) -> Ratio | None:
    """Parts of a ratio or clock time; None if the text is anything else."""
    match = _RATIO_PARTS.fullmatch(text.strip()) if len(text) <= _MAX_CHARS else None
    if match is None:
        return None
    try:
        parts = tuple(Fraction(part.strip()) for part in match["parts"].split(":"))
    except ValueError:
        return None
    return Ratio(parts=parts, half_of_day=(match["half"] or "").lower())


def is_same_number(first: ExactNumber, second: ExactNumber) -> bool:
    """Whether two numbers are exactly equal; a percent also equals a plain number if both say 50, or 50% and 0.5."""
    if first.value == second.value:
        return True
    if first.is_percent == second.is_percent:
        return False
    percent, plain = (first, second) if first.is_percent else (second, first)
    return percent.value / 100 == plain.value


def is_same_ratio(first: Ratio, second: Ratio) -> bool:
    """Whether two ratios are equal part by part; am and pm differ only if both are given."""
    halves = {first.half_of_day, second.half_of_day} - {""}
    return first.parts == second.parts and len(halves) < 2


def as_latex(number: ExactNumber) -> str:
    """The number in LaTeX that every reader parses alike: a plain decimal, else an improper fraction."""
    numerator, denominator = number.value.numerator, number.value.denominator
    if denominator == 1:
        latex = str(numerator)
    elif _PLAIN.fullmatch(number.text):
        latex = number.text.rstrip("% ")
    else:
        latex = f"{'-' if numerator < 0 else ''}\\frac{{{abs(numerator)}}}{{{denominator}}}"
    return latex + ("\\%" if number.is_percent else "")
