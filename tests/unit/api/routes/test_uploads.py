"""Uploads of adapters: links for the files, and what an upload needs before it can be finished."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from tests.wire import post


def test_an_upload_has_a_link_for_each_file_that_needs_no_key(http: httpx.Client):
    upload = post(http, "/external_weights_upload_start", base_model="tiny")
    assert set(upload["urls"]) == {CONFIG, WEIGHTS}
    assert datetime.fromisoformat(upload["expires"]) > datetime.now(UTC) + timedelta(minutes=1)
    url = upload["urls"][CONFIG]
    assert httpx.put(url, content=b"{}").json() == {}
    assert httpx.put(url.replace("signature=", "signature=0"), content=b"{}").status_code == 404
    assert httpx.put(url.replace(CONFIG, WEIGHTS), content=b"{}").status_code == 404  # a link is for its own file


def test_an_upload_that_lacks_a_file_names_it(http: httpx.Client):
    upload = post(http, "/external_weights_upload_start", base_model="tiny")
    httpx.put(upload["urls"][CONFIG], content=b"{}")
    answer = http.post("/external_weights_upload_finish", json={"upload_id": upload["upload_id"]})
    assert answer.status_code == 422
    assert f"lacks {WEIGHTS}" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/external_weights_upload_start", {"base_model": "not served"}),
        ("/external_weights_upload_finish", {"upload_id": "upload-unknown"}),
    ],
)
def test_what_is_not_here_is_not_taken(http: httpx.Client, endpoint: str, body: dict[str, str]):
    assert http.post(endpoint, json=body).status_code in (400, 404, 422)
