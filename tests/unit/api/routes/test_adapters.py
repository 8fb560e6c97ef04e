"""Links to adapters as archives, and imports."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.servers import RunningServer
from tests.wire import new_run, save


def test_an_archive_is_a_signed_address_that_is_told_and_not_followed(server: RunningServer, http: httpx.Client):
    run = new_run(http)
    save(http, "/save_weights_for_sampler", run, 1, path="a")
    response = http.get(f"/training_runs/{run}/checkpoints/sampler_weights/a/archive")
    assert response.status_code == 302
    address = urlsplit(response.headers["location"])
    assert f"{address.scheme}://{address.netloc}" == server.url
    expires = parsedate_to_datetime(response.headers["expires"]).timestamp()
    assert parse_qs(address.query)["expires"] == [str(int(expires))]
    forged = response.headers["location"].replace("signature=", "signature=0")
    assert httpx.get(forged).status_code == 404


def test_a_checkpoint_that_is_not_there_has_no_archive(http: httpx.Client):
    assert http.get(f"/training_runs/{new_run(http)}/checkpoints/weights/none/archive").status_code == 404


def test_what_is_no_archive_is_not_imported(http: httpx.Client):
    for body in (b"", b"not a tar file", bytes(10_240)):
        response = http.post("/import_adapter", params={"base_model": "tiny", "name": "n"}, content=body)
        assert response.status_code == 422, response.text
        assert "adapter_config.json" in response.json()["detail"] or "tar" in response.json()["detail"]


def test_an_import_says_what_it_is_for(http: httpx.Client):
    response = http.post("/import_adapter", params={"base_model": "tiny"}, content=b"")
    assert (response.status_code, response.json()["error"]["field"]) == (422, "name")
