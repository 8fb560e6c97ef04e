"""Bodies that cannot be read: too large, packed wrongly, of another type, not JSON, not protobuf."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import zstandard

from eztinker.api.reading import MAX_JSON_BYTES, MAX_UNPACKED_BYTES
from eztinker.protocol import wire_pb2
from tests.refusals import failed, refused
from tests.wire import PROTOBUF, new_run, new_session

DEEP = b'{"user_metadata":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001


# Rows 5 and 6: sizes and encodings.


@pytest.mark.parametrize("endpoint", ["/create_session", "/optim_step", "/retrieve_future", "/client/config"])
def test_a_body_over_its_limit_is_left_unread(http: httpx.Client, endpoint: str):
    refused(http.post(endpoint, content=b" " * (MAX_JSON_BYTES + 1)), 413, f"may have {MAX_JSON_BYTES} bytes")

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * (1 << 16)

    refused(http.post(endpoint, content=endless()), 413, f"may have {MAX_JSON_BYTES} bytes")


@pytest.mark.conforms(9, 10)
@pytest.mark.parametrize(
    ("encoding", "body", "status", "sentence"),
    [
        ("zstd", zstandard.compress(bytes(MAX_UNPACKED_BYTES + 1)), 413, "packed bodies may unpack to 33554432"),
        ("zstd", zstandard.compress(b"x" * 1000)[:-3], 400, "cannot be unpacked"),
        ("zstd", b"\x28\xb5\x2f\xfd" + b"\xff" * 40, 400, "zstd"),
        ("zstd", zstandard.compress(zstandard.compress(bytes(1 << 20))), 400, "not a ForwardBackwardRequest"),
        ("zstd, zstd", b"", 415, "Content-Encoding must be identity or zstd"),
        ("gzip", gzip.compress(bytes(1 << 20)), 415, "Content-Encoding must be identity or zstd"),
    ],
)
def test_packed_bodies_unpack_to_a_bounded_size(
    http: httpx.Client, encoding: str, body: bytes, status: int, sentence: str
):
    headers = {"content-type": PROTOBUF, "content-encoding": encoding}
    refused(http.post("/forward_backward", content=body, headers=headers), status, sentence)


def test_only_training_batches_come_packed(http: httpx.Client):
    packed = http.post("/create_session", content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    refused(packed, 415, "Content-Encoding must be identity, got 'gzip'")


@pytest.mark.conforms(11)
def test_a_body_of_32_mb_is_read(http: httpx.Client):
    message = wire_pb2.ForwardBackwardRequest(model_id=new_run(http), seq_id=1, loss_fn="cross_entropy")
    message.data.add().model_input.add().encoded_text.tokens = bytes(32 << 20)
    response = http.post("/forward_backward", content=message.SerializeToString(), headers={"content-type": PROTOBUF})
    failed(http, response, f"model_input must have 1 to 64 tokens, got {8 << 20}")


# Rows 7 and 8: bytes that are not what they should be.


@pytest.mark.conforms(6, 7)
@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "must be JSON"),
        (b"{", 400, "must be JSON"),
        (b"\xff\xfe{}", 400, "must be JSON"),
        (b'"text"', 400, "must be a JSON object, got str"),
        (DEEP, 400, "must be JSON"),
        (b"[" * 10_000, 400, "must be JSON"),
        (b'{"tags": ["a"], "tags": []}', 400, "names 'tags' more than once"),
        (b'{"user_metadata": {"a": 1, "\\u0061": 2}}', 400, "names 'a' more than once"),
        (b'{"user_metadata": {"a": NaN}}', 400, "must be JSON"),
        (b'{"user_metadata": {"a": -Infinity}}', 400, "must be JSON"),
        (b'{"user_metadata": {"a": 1e400}}', 400, "must be JSON"),
        (b'{"display_name": "\\ud800"}', 400, "must be JSON"),
        (b'{"display_name": 5}', 422, "Expected `str | null`, got `int` - at `$.display_name`"),
        (b'{"tags": "abc"}', 422, "$.tags"),
        (b'{"colour": "red"}', 422, "Unknown fields in the request: colour"),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(http: httpx.Client, body: bytes, status: int, sentence: str):
    before = http.get("/sessions").json()
    refused(http.post("/create_session", content=body), status, sentence)
    assert http.get("/sessions").json() == before


@pytest.mark.parametrize("number", [2**63, 2**64, 2**70, -1, 1.5, True, None, "1"])
def test_a_number_is_an_integer_of_63_bits(http: httpx.Client, number: Any):
    body = {"session_id": new_session(http), "sampling_session_seq_id": number, "base_model": "tiny"}
    refused(http.post("/create_sampling_session", json=body), 422, "seq_id")


@pytest.mark.conforms(12)
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"])
def test_other_types_of_body_are_refused_by_name(http: httpx.Client, media_type: str):
    for endpoint, expected in (("/create_session", "application/json"), ("/forward_backward", PROTOBUF)):
        response = http.post(endpoint, content=b"{}", headers={"content-type": media_type})
        refused(response, 415, f"Content-Type must be {expected}")


def test_garbage_in_protobuf_is_refused(http: httpx.Client):
    for garbage in (b"\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\x08\x01" * 1000, b""):
        response = http.post("/forward_backward", content=garbage, headers={"content-type": PROTOBUF})
        refused(response, 400, "forward_backward" if garbage in (b"", b"\x08\x01" * 1000) else "ForwardBackwardRequest")
