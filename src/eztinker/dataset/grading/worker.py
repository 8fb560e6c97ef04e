"""The worker process in which math-verify runs: `python -m eztinker.dataset.grading.worker`.

It prints `ready`, then answers each line `[ground_truth, answer]` (JSON) with `true` or `false`, or with `null` if
math-verify cannot parse one of them, or not in time. It ends when its input does, so it never outlives its parent.
Memory and processor time are bounded here; an answer stuck in native code is ended by the parent or by the kernel.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from contextlib import suppress
from functools import lru_cache
from types import FrameType
from typing import Any

ADDRESS_SPACE_BYTES = 2 * 1024**3
SOFT_LIMIT_SECONDS = 1.0
"""Time limit for an answer in Python code, after which the process goes on with the next one."""
CPU_LIMIT_SECONDS = 4
"""Processor time for one answer, after which the kernel ends the process."""

_PLAIN_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+")
_NO_LIMIT: Any = None
"""No time limit, for which math-verify takes None, though one of its signatures says int."""


class _AnswerTookTooLong(BaseException):
    """The time limit was reached; not an Exception, because math-verify catches those and would go on."""


def main() -> None:
    _limit_address_space()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; our end is the end of input
    signal.signal(signal.SIGALRM, _stop_answer)
    _is_equal("72", "36+36")  # loads the LaTeX grammar, so that no answer pays for it
    _say("ready")
    for line in sys.stdin:
        ground_truth, answer = json.loads(line)
        _say(json.dumps(_verdict(ground_truth, answer)))


def _verdict(ground_truth: str, answer: str) -> bool | None:
    _limit_cpu()
    try:
        signal.setitimer(signal.ITIMER_REAL, SOFT_LIMIT_SECONDS)
        try:
            return _is_equal(ground_truth, answer)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (_AnswerTookTooLong, Exception):  # whatever a hostile answer raises, it is not a verdict
        return None


@lru_cache(maxsize=16_384)
def _is_equal(ground_truth: str, answer: str) -> bool | None:
    from math_verify import verify

    gold, target = _parsed(ground_truth), _parsed(answer)
    return verify(gold, target, timeout_seconds=_NO_LIMIT) if gold and target else None


def _parsed(latex: str) -> list:
    """Parsed form for `verify`; empty if math-verify finds no mathematics in the text."""
    from math_verify import LatexExtractionConfig, parse
    from sympy import Rational

    if _PLAIN_NUMBER.fullmatch(latex):  # nothing to interpret, and the LaTeX parser would take 0.5 ms
        return [Rational(latex)]
    # Its own time limits are alarms too and would replace ours.
    return parse(f"${latex}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=_NO_LIMIT)


def _stop_answer(signal_number: int, frame: FrameType | None) -> None:
    raise _AnswerTookTooLong


def _limit_address_space() -> None:
    with suppress(ValueError, OSError):  # macOS refuses some limits; the parent's time limit holds there
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))


def _limit_cpu() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime) + 1 + CPU_LIMIT_SECONDS
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard_limit))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
