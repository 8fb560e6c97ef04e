"""Spells numbers, signs and spaces in ASCII, so that each of them is written in one way.

Digits of all scripts become 0 to 9, all minus signs "-", all spaces " ", money signs "$", fractions "1/2", superscripts
"^2", subscripts "_2". Relations become their LaTeX names. Marks without width, such as direction marks, are removed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

UNREADABLE = "\ufffd"
"""Placeholder of a numeric character without plain spelling (such as 万, ten thousand): no number may touch it."""

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_STACKED_FRACTION = re.compile(r"([0-9]?)\^([0-9]+)/_([0-9]+)")  # a superscript, a slash, a subscript
_ROOT = re.compile(r"\\sqrt ?([0-9.]+)")
_EM_DASH_OF_A_NUMBER = re.compile(r"(?<!\w)—(?=\$?[0-9])")
_SPELLINGS = {
    **dict.fromkeys("−﹣－‐‑‒–➖˗", "-"),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("·⋅∙•", "*"),
    **dict.fromkeys("’‘ʼ＇", "'"),
    **dict.fromkeys("°º˚", " degrees "),
    **{"×": "×", "✕": "×", "✖": "×", "÷": "÷", "➗": "÷", "—": "—", "➕": "+", "√": "\\sqrt "},
    **{"≤": "\\le ", "≦": "\\le ", "⩽": "\\le ", "≥": "\\ge ", "≧": "\\ge ", "⩾": "\\ge "},
    **{"≠": "\\ne ", "≈": " about ", "≅": " about ", "±": "\\pm ", "∓": "\\pm ", "π": "\\pi "},
    **{"٪": "%", "﹪": "%", "٫": ".", "٬": ",", "،": ",", "。": ".", "、": ",", "∶": ":", "′": "'", "″": '"'},
}


def plain_characters(text: str) -> str:
    """Spell the numbers, signs and spaces of `text` in ASCII, except for × and ÷. Other letters stay as they are."""
    if text.isascii():
        return text
    text = _EM_DASH_OF_A_NUMBER.sub("-", text)
    text = _NOT_ASCII.sub(_plain_run, text)
    text = _STACKED_FRACTION.sub(lambda match: f"{match[1]}{' ' if match[1] else ''}{match[2]}/{match[3]}", text)
    return _ROOT.sub(r"\\sqrt{\1}", text)


def _plain_run(run: re.Match[str]) -> str:
    before = run.string[run.start() - 1] if run.start() else ""
    after = run.string[run.end() : run.end() + 1]
    pieces: list[str] = []
    raised = ""
    for char in run[0]:
        spelled = _plain_character(char)
        if spelled[:1] in ("^", "_") and len(spelled) == 2:
            spelled, raised = (spelled[1] if spelled[0] == raised else spelled), spelled[0]
        else:
            raised = ""
        if "/" in spelled and len(spelled) > 1 and before.isdigit():
            spelled = " " + spelled  # a mixed number: 2½
        pieces.append(spelled)
        before = spelled[-1:] or before
    if "/" in pieces[-1] and after.isdigit():
        pieces.append(" ")
    return "".join(pieces)


@lru_cache(maxsize=4_096)
def _plain_character(char: str) -> str:
    if char in _SPELLINGS:
        return _SPELLINGS[char]
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category in ("Zs", "Zl", "Zp"):
        return " " if category == "Zs" else "\n"
    if category == "Sc":
        return "$"
    if category == "Cf" or "\ufe00" <= char <= "\ufe0f":  # no width: direction marks, joiners, emoji variants
        return ""
    return _compatible_spelling(char, category)


def _compatible_spelling(char: str, category: str) -> str:
    """The plain text that Unicode says a character is a variant of; UNREADABLE for other numeric characters."""
    compatible = unicodedata.normalize("NFKC", char).replace("⁄", "/").replace("−", "-")
    if unicodedata.decomposition(char).startswith(("<super>", "<sub>")) and compatible in set("0123456789+-"):
        return ("^" if "<super>" in unicodedata.decomposition(char) else "_") + compatible
    if compatible.isascii() and not (category == "No" and len(compatible) > 3 and "/" not in compatible):
        return compatible
    if category == "Mn" or unicodedata.numeric(char, None) is not None:
        return UNREADABLE
    return char
