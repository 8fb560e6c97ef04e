"""Redaction of secrets that were sent in the wrong place, so that neither errors nor the log repeat them."""

from __future__ import annotations

import re

HIDDEN = "[hidden]"
_SECRET = re.compile(
    r"""
      AGE-SECRET-KEY-[A-Z0-9-]+                         # of age; the public one begins with age1
    | AGE-PLUGIN-[A-Z0-9-]+                             # what opens one that is kept in hardware
    | -----BEGIN\ [A-Z0-9\ ]{0,40}PRIVATE\ KEY(?s:.*)   # PEM, as of SSH; all that follows is part of it
    | (?<![A-Z0-9])tml-[A-Z0-9_+=.~-]{20,}            # of this protocol; an operator may choose any
    | (?<![A-Z0-9])(?-i:hf_|ghp_)[A-Z0-9]{30,}        # of hubs; names go on with `_` or `-` before that
    | (?<![A-Z0-9])(?-i:sk-(?=[A-Za-z_-]{0,200}[0-9])(?=[a-z0-9_-]{0,200}[A-Z])[A-Za-z0-9_-]{20,})  # of other services
    | (?<![A-Z0-9])eyJ[A-Z0-9_-]{8,}(?:\.[A-Z0-9_-]*){0,2}   # JSON web tokens, whole or cut off
    """,
    re.IGNORECASE | re.VERBOSE,
)


def without_secrets(text: str) -> str:
    """`text` with `[hidden]` in place of everything that looks like a secret key or token, even a truncated one."""
    return _SECRET.sub(HIDDEN, text)
