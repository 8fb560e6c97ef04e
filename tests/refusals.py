"""What every refusal has in common."""

from __future__ import annotations

import httpx

from tests.wire import outcome


def refused(response: httpx.Response, status: int, sentence: str) -> None:
    """Hold the form of every permanent refusal."""
    assert response.status_code == status, response.text
    body = response.json()
    assert sentence in body["detail"]
    assert body["error"]["message"] == body["detail"]
    assert body["error"]["code"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-should-retry"] == "false"


def failed(http: httpx.Client, response: httpx.Response, sentence: str) -> None:
    """Hold that a future was made, and failed by the user's mistake."""
    assert response.status_code == 200, response.text
    failure = outcome(http, response.json()["request_id"]).json()
    assert failure["category"] == "user"
    assert sentence in failure["error"]
