"""Runs the tests that show conformance and writes docs/conformance.md: `python -m tests.conformance [pytest options]`.

Ends in 1, with the points named, unless every one of them is shown.
"""

from __future__ import annotations

import sys

import pytest

from tests.conformance.checklist import ITEMS, REFUSED
from tests.conformance.marks import MARKER, marked_tests
from tests.conformance.page import PAGE, conformance_page, points_held


class Outcomes:
    """A plugin that keeps what became of each test, of all its cases together."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.not_passed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("[")[0]
        self.ran.add(name)
        if not report.passed:
            self.not_passed.add(name)

    @property
    def passed(self) -> set[str]:
        return self.ran - self.not_passed


def main(options: list[str]) -> int:
    tests = marked_tests()
    files = sorted({name.partition("::")[0] for names in tests.values() for name in names})
    outcomes = Outcomes()
    status = pytest.main(["-m", MARKER, *options, *files], plugins=[outcomes])
    PAGE.write_text(conformance_page(tests, outcomes.passed))
    held = points_held(tests, outcomes.passed)
    missing = [point for point in (*ITEMS, *REFUSED) if point not in held]
    for point in missing:
        failed = [name for name in tests.get(point, ()) if name not in outcomes.passed]
        print(f"NOT SHOWN: {point}: {', '.join(failed) or 'it has no test'}", file=sys.stderr)
    return 1 if missing else int(status)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
