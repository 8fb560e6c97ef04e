"""Every point has a test, and the committed page names exactly those."""

from __future__ import annotations

import pytest

from tests.conformance.checklist import ITEMS, ITEMS_REFUSED, REFUSED
from tests.conformance.marks import Point, marked_tests
from tests.conformance.page import NOT_SHOWN, PAGE, conformance_page, points_held

TESTS = marked_tests()
ALL = {name for names in TESTS.values() for name in names}


def test_the_checklist_is_numbered_and_says_nothing_twice():
    assert list(ITEMS) == list(range(1, len(ITEMS) + 1))
    assert len(set(ITEMS.values())) == len(ITEMS)
    assert ITEMS.keys() >= ITEMS_REFUSED


@pytest.mark.parametrize("point", [*ITEMS, *REFUSED])
def test_every_point_has_a_test(point: Point):
    assert TESTS.get(point), f"no test carries @pytest.mark.conforms({point!r})"


def test_every_mark_is_of_a_point():
    assert TESTS.keys() <= ITEMS.keys() | REFUSED.keys()


def test_the_committed_page_is_that_of_a_run_in_which_all_passed():
    assert PAGE.read_text() == conformance_page(TESTS, ALL), "run `make conformance`"


def test_a_point_is_shown_only_if_all_its_tests_passed():
    tests: dict[Point, list[str]] = {
        1: ["tests/a.py::test_one", "tests/b.py::test_two"],
        2: ["tests/b.py::test_two"],
        3: [],
    }
    assert points_held(tests, {"tests/b.py::test_two"}) == {2}
    page = conformance_page(tests, {"tests/b.py::test_two"})
    assert f"**1 of {len(ITEMS)} points hold**" in page
    assert page.count(NOT_SHOWN) == len(ITEMS) - 1 + len(REFUSED)
    assert "[one](../tests/a.py)<br>[two](../tests/b.py)" in page
