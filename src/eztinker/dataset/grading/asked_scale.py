"""Scaling words that a question uses as its unit: to "How many dozen eggs?", "7 dozen" means 7."""

from __future__ import annotations

import re

from eztinker.dataset.grading.numbers import SCALE_WORD

_ASKED = re.compile(rf"\b(?:how many|in) ({SCALE_WORD})s?\b", re.IGNORECASE)


def without_asked_scale(text: str, question: str) -> str:
    """Remove the scaling word that is the unit of `question` from `text`."""
    asked = _ASKED.search(question)
    return re.sub(rf"(?<=[0-9])[ ]?{asked[1]}s?\b", "", text, flags=re.IGNORECASE) if asked else text
