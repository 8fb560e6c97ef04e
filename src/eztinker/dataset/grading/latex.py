"""Spells LaTeX for layout as plain text: spaces, words, units, fractions, fonts, brackets."""

from __future__ import annotations

import re

_FONT = (
    r"(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|normal)"
    r"|mbox|hbox|emph|operatorname|underline|boldsymbol)"
)
_POWER = r"\s?\^\s?-?[0-9]{1,2}"
# Each pattern begins with the character it is looked up by, which keeps the search fast.
_REWRITES = [
    (re.compile(r"\{,\}(?<=[0-9]\{,\})(?=[0-9])"), ","),
    (re.compile(r",\\[,!](?=[0-9])"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\(?:[ ,;:]|(?:q?quad|(?:thin|med|thick|en)?space|left|right|displaystyle)(?![A-Za-z]))"), " "),
    (re.compile(r"\\[hv]space\*?\{[^{}\n]{0,20}\}"), " "),
    (re.compile(r"\\(?:dollar|textdollar|pounds|euro|texteuro|cent|textcent)(?![A-Za-z])"), "$"),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\\div(?![A-Za-z])"), "÷"),
    (re.compile(r"\\(?:approx|sim|simeq|cong|doteq)(?![A-Za-z])"), " about "),
    (re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?"), " degrees "),
    (re.compile(r"\\(?:text)?degree(?![A-Za-z])"), " degrees "),
    (re.compile(r"\\(?:rm|bf|it|sf|large|Large|normalsize)(?![A-Za-z])\s?"), ""),
    (re.compile(r"\^\s?\{\s?(-?[0-9]{1,30})\s?\}"), r"^\1"),
]
_FRACTION = re.compile(r"\\[cdt]?frac\s?(?:\{\s?(-?[0-9]{1,30})\s?\}|([0-9]))\s?(?:\{\s?([0-9]{1,30})\s?\}|([0-9]))")
_WORDS = re.compile(rf"\\{_FONT}\s?\{{([^{{}}\n]{{0,200}})\}}({_POWER})?")
_EXPONENT_OF_A_UNIT = re.compile(r"(?<=[A-Za-z])\s?\$?\^-?[0-9]{1,2}\$?")
_VARIABLE = re.compile(r"[abeijnoqruvwxyz]")


def plain_latex(text: str) -> str:
    """Remove layout commands from `text`; commands with a mathematical meaning stay."""
    if "\\" not in text and "{,}" not in text:
        return text
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _FRACTION.sub(_plain_fraction, text.replace("{}", ""))
    return _WORDS.sub(_plain_words, text).replace("~", " ")


def _plain_fraction(match: re.Match[str]) -> str:
    """A fraction as "1/2", with a space before it after a whole number, with which it is a mixed number."""
    before = match.string[max(0, match.start() - 2) : match.start()].rstrip()
    space = " " if before[-1:].isdigit() else ""
    return f"{space}{match[1] or match[2]}/{match[3] or match[4]}"


def _plain_words(match: re.Match[str]) -> str:
    """Plain spelling of words in upright letters: a unit loses its exponent, a lone variable such as e keeps it."""
    words, power = match[1].strip(" ~"), match[2] or ""
    unit = _EXPONENT_OF_A_UNIT.sub("", words)
    if _VARIABLE.fullmatch(unit):
        return words + power
    return f" {unit} " if unit[-1:].isalpha() else f" {words}{power} "
