"""Digit grouping: 1,234 and 1 234 and 1'234 and 1_234 are 1234, and 12,34,567 is 1234567.

Groups have three digits, or, as in India, two before the last three. Text grouped in any other way stays as it is and
is no number: 1,05 may mean 1.05 or 105. The point is always the decimal point: 1.500 is one and a half.
"""

from __future__ import annotations

import re

_GROUPED = re.compile(
    r"[1-9](?<![\w.,'/][1-9])(?<![0-9][ ][1-9])(?:"
    r"[0-9]{0,2}(?:(?P<mark>[ ,'_])[0-9]{3})(?:(?P=mark)[0-9]{3})*+"
    r"|[0-9]?(?:,[0-9]{2})+,[0-9]{3}"
    r")(?![ ]?/[ ]?[0-9]|[ ,'_]?[0-9])"
)
_GROUP = re.compile(r"[ ,'_][0-9]{3}(?![0-9])")
_MARKS = str.maketrans("", "", " ,'_")


def without_grouping(text: str) -> str:
    """Write each well-grouped number of `text` in plain digits."""
    if not _GROUP.search(text):
        return text
    return _GROUPED.sub(lambda match: match[0].translate(_MARKS), text)
