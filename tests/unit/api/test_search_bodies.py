"""Requests that look for sessions, and what they mean."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from eztinker.api.search_bodies import MAX_FILTERS, SearchSessionsBody
from eztinker.errors import InvalidInput
from eztinker.oplog.session_search import StatusFilter
from eztinker.protocol.json_bodies import decode_json
from eztinker.service.sessions.session_search import SessionQuery
from eztinker.service.sessions.sessions import SessionStatus


def body(**fields: Any) -> SearchSessionsBody:
    return decode_json(msgspec.json.encode(fields), SearchSessionsBody)


def test_a_request_that_says_nothing_looks_for_all_sessions():
    assert body().query() == SessionQuery(
        session_id=None,
        display_name=None,
        user_metadata={},
        project_ids=None,
        statuses=None,
        limit=50,
        after=None,
    )
    assert body().owner.includes("anybody")


def test_every_field_narrows_the_search():
    cursor = {"last_created_at": "2026-01-02T03:04:05+00:00", "last_session_id": "s"}
    asked = {"session_id": "s", "display_name": "n", "user_metadata": {"k": "v"}, "project_ids": ["p"], "limit": 3}
    assert body(**asked, cursor=cursor, statuses=[{"type": "active"}]).query() == SessionQuery(
        session_id="s",
        display_name="n",
        user_metadata={"k": "v"},
        project_ids=["p"],
        statuses=[StatusFilter(status=SessionStatus.ACTIVE)],
        limit=3,
        after=(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "s"),
    )


@pytest.mark.parametrize(
    ("status", "filters"),
    [
        ({"type": "active"}, [StatusFilter(status=SessionStatus.ACTIVE)]),
        ({"type": "client_finished"}, [StatusFilter(status=SessionStatus.FINISHED)]),
        (
            {"type": "client_finished", "reasons": ["errored", "success"]},
            [StatusFilter(status=SessionStatus.FINISHED, reasons=("errored", "success"))],
        ),
        ({"type": "cancelled"}, []),
        ({"type": "failed"}, []),
    ],
)
def test_a_status_that_no_session_has_here_finds_none(status: dict[str, Any], filters: list[StatusFilter]):
    """An empty list lets nothing pass, and None everything."""
    assert body(statuses=[status]).query().statuses == filters


@pytest.mark.parametrize(
    ("owner", "is_included"),
    [
        ({"type": "own"}, True),
        ({"type": "accessible"}, True),
        ({"type": "user"}, False),
        ({"type": "user", "owner_urns": ["eve"]}, False),
        ({"type": "user", "owner_urns": ["eve", "ann"]}, True),
    ],
)
def test_the_callers_own_sessions_are_asked_for_or_not(owner: dict[str, Any], is_included: bool):
    assert body(owner=owner).owner.includes("ann") is is_included


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 0},
        {"limit": 201},
        {"display_name": ""},
        {"statuses": []},
        {"statuses": [{"type": "active"}] * (MAX_FILTERS + 1)},
        {"statuses": [{"type": "unknown"}]},
        {"project_ids": ["p"] * (MAX_FILTERS + 1)},
        {"owner": {"type": "user", "owner_urns": []}},
        {"cursor": {"last_created_at": "2026-01-02T03:04:05", "last_session_id": "s"}},
        {"newest": 1},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_refused(fields: dict[str, Any]):
    with pytest.raises(InvalidInput):
        body(**fields)
