"""What clients may get wrong, row by row: status, code and sentence of each refusal, and nothing lost.

Bad heads and paths are in test_raw_http, foreign ids in test_tenants, full queues in test_shares. On a numbered
training operation a mistake fails the promise and not the request, because the official client would hang on a 4xx.
"""

from __future__ import annotations

import gzip
import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard

from eztinker.api.reading import MAX_JSON_BYTES, MAX_TRAINING_BYTES
from eztinker.protocol import wire_pb2
from tests.servers import RunningServer
from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
    new_run,
    new_sampler,
    new_session,
    optim_step,
    outcome,
    post,
    sample_body,
    save,
    send_chunk,
)

DEEP = b'{"user_metadata":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001
JSON_TYPE = {"content-type": "application/json"}


seq_ids = itertools.count(1)
"""Of the module's run, without a gap, for which a chunk would wait."""


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
    """Hold that a promise was made, and failed by the user's mistake."""
    assert response.status_code == 200, response.text
    failure = outcome(http, response.json()["request_id"]).json()
    assert failure["category"] == "user"
    assert sentence in failure["error"]


@pytest.fixture(scope="module")
def module_http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def run(module_http: httpx.Client) -> str:
    return new_run(module_http)


@pytest.fixture(scope="module")
def sampler(module_http: httpx.Client) -> str:
    return new_sampler(module_http)


# Rows 5 and 6: sizes and encodings.


@pytest.mark.parametrize("endpoint", ["/create_session", "/optim_step", "/retrieve_future", "/client/config"])
def test_a_body_over_its_limit_is_left_unread(http: httpx.Client, endpoint: str):
    refused(http.post(endpoint, content=b" " * (MAX_JSON_BYTES + 1)), 413, f"may have {MAX_JSON_BYTES} bytes")

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * (1 << 16)

    refused(http.post(endpoint, content=endless()), 413, f"may have {MAX_JSON_BYTES} bytes")


@pytest.mark.parametrize(
    ("encoding", "body", "status", "sentence"),
    [
        ("zstd", zstandard.compress(bytes(MAX_TRAINING_BYTES + 1)), 413, "at most 134217728 are accepted"),
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


def test_a_body_of_32_mb_is_read(http: httpx.Client, run: str):
    message = wire_pb2.ForwardBackwardRequest(model_id=run, seq_id=next(seq_ids), loss_fn="cross_entropy")
    message.data.add().model_input.add().encoded_text.tokens = bytes(32 << 20)
    response = http.post("/forward_backward", content=message.SerializeToString(), headers={"content-type": PROTOBUF})
    failed(http, response, f"model_input must have 1 to 64 tokens, got {8 << 20}")


# Rows 7 and 8: bytes that are not what they should be.


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


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"])
def test_other_types_of_body_are_refused_by_name(http: httpx.Client, media_type: str):
    for endpoint, expected in (("/create_session", "application/json"), ("/forward_backward", PROTOBUF)):
        response = http.post(endpoint, content=b"{}", headers={"content-type": media_type})
        refused(response, 415, f"Content-Type must be {expected}")


def test_garbage_in_protobuf_is_refused(http: httpx.Client):
    for garbage in (b"\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\x08\x01" * 1000, b""):
        response = http.post("/forward_backward", content=garbage, headers={"content-type": PROTOBUF})
        refused(response, 400, "forward_backward" if garbage in (b"", b"\x08\x01" * 1000) else "ForwardBackwardRequest")


# Rows 10 to 12: tokens, shapes and numbers of a batch, told with their place and allocating nothing.


def batch(run: str, seq_id: int, *, tokens: Any = (10, 11), targets: Any = (10, 11), **inputs: Any) -> dict[str, Any]:
    tensors = {"target_tokens": {"data": list(targets), "dtype": "int64", "shape": [len(targets)]}}
    for name, value in ({"weights": [1.0] * len(tokens)} | inputs).items():
        tensors[name] = value if isinstance(value, dict) else {"data": value, "dtype": "float32", "shape": [len(value)]}
    datum = {"model_input": {"chunks": [{"tokens": list(tokens)}]}, "loss_fn_inputs": tensors}
    return {"model_id": run, "seq_id": seq_id, "forward_backward_input": {"data": [datum], "loss_fn": "cross_entropy"}}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"tokens": (10, -1)}, "token -1 at position 1 is not in the vocabulary"),
        ({"tokens": (10, 264)}, "token 264 at position 1 is not in the vocabulary"),
        ({"tokens": (10, 1.5)}, "Expected `int`, got `float` - at `$.tokens[1]`"),
        ({"tokens": (10, True)}, "Expected `int`, got `bool`"),
        ({"tokens": (10, None)}, "Expected `int`, got `null`"),
        ({"tokens": (10, 2**63)}, "token id does not fit 64 bits"),
        ({"tokens": (), "targets": (), "weights": []}, "model_input must have 1 to 64 tokens, got 0"),
        ({"tokens": (10,) * 65, "targets": (10,) * 65}, "model_input must have 1 to 64 tokens, got 65"),
        ({"targets": (10,)}, "target_tokens must have the shape (2,) or (2, K), got (1,)"),
        ({"weights": [1.0]}, "weights must have the shape of target_tokens (2,), got (1,)"),
        ({"weights": {"data": [1.0], "dtype": "float32", "shape": [2**40, 2**40]}}, "data[0]:"),
        ({"weights": {"data": [1.0, 1.0], "dtype": "float32", "shape": [-2]}}, "data[0]:"),
        ({"weights": {"data": [1.0, 1.0], "dtype": "float64", "shape": [2]}}, "float64"),
        ({"colour": [1.0, 1.0]}, "the loss does not read colour"),
    ],
)
def test_a_bad_datum_fails_its_promise(http: httpx.Client, run: str, fields: dict[str, Any], sentence: str):
    seq_id = next(seq_ids)
    failed(http, http.post("/forward_backward", json=batch(run, seq_id, **fields)), sentence)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_are_finite(http: httpx.Client, run: str, value: float):
    message = wire_pb2.ForwardBackwardRequest.FromString(chunk(run, next(seq_ids)))
    message.data[0].loss_fn_inputs["weights"].dense = np.float32(value).tobytes()
    response = http.post("/forward_backward", content=message.SerializeToString(), headers={"content-type": PROTOBUF})
    failed(http, response, f"weights has {value} at position 0; numbers must be finite")


# Rows 13 to 18: numbers, lists and names of the other requests.


@pytest.mark.parametrize(
    ("adam", "sentence"),
    [
        ({"learning_rate": -1.0}, "learning_rate must not be negative, got -1.0"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"beta1": 1.0}, "beta1 must be at least 0 and below 1, got 1.0"),
        ({"beta2": 2}, "beta2 must be at least 0 and below 1, got 2.0"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"momentum": 0.9}, "`momentum`"),
    ],
)
def test_a_bad_step_fails_its_promise(http: httpx.Client, run: str, adam: dict[str, Any], sentence: str):
    body = {"model_id": run, "seq_id": next(seq_ids), "adam_params": adam}
    failed(http, http.post("/optim_step", json=body), sentence)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"sampling_params": {"max_tokens": 0}}, "max_tokens must be at least 1, got 0"),
        ({"sampling_params": {"max_tokens": 1, "temperature": -1.0}}, "temperature must be 0 or a positive number"),
        ({"sampling_params": {"max_tokens": 1, "top_p": 0}}, "top_p must be above 0 and at most 1"),
        ({"sampling_params": {"max_tokens": 1, "top_p": 2}}, "top_p must be above 0 and at most 1"),
        ({"sampling_params": {"max_tokens": 1, "top_k": -5}}, "top_k must be between 1"),
        ({"sampling_params": {"max_tokens": 1, "seed": 2**80}}, "seed"),
        ({"sampling_params": {"max_tokens": 1, "stop": ["x"] * 10_000}}, "stop may list 64 entries, got 10000"),
        ({"sampling_params": {"max_tokens": 1, "stop": "x" * (1 << 20)}}, "must have 1 to 1024 bytes"),
        ({"sampling_params": {"max_tokens": 1, "heat": 1}}, "`heat`"),
        ({"num_samples": 10**9}, "num_samples must be between 1 and 1024, got 1000000000"),
        ({"num_samples": 0}, "num_samples must be between 1 and 1024, got 0"),
        ({"prompt": {"chunks": []}}, "The prompt must have at least one token"),
        ({"colour": "red"}, "Unknown fields in the request: colour"),
    ],
)
def test_a_bad_sample_is_refused_with_its_limit(
    http: httpx.Client, sampler: str, fields: dict[str, Any], sentence: str
):
    refused(http.post("/asample", json=sample_body(sampler) | fields), 422, sentence)


def test_a_sample_beyond_the_context_is_refused_with_the_numbers(http: httpx.Client, sampler: str):
    body = sample_body(sampler, sampling_params={"max_tokens": 10**9})
    refused(http.post("/asample", json=body), 400, "max_tokens is 1000000000; together they exceed the context of 64")


@pytest.mark.parametrize(
    ("lora", "sentence"),
    [
        ({"rank": 0}, "LoRA rank must be between 1 and 512, got 0"),
        ({"rank": -1}, "got -1"),
        ({"rank": 10**6}, "got 1000000"),
        ({"rank": 4, "seed": 2**63}, "The LoRA seed must be between 0"),
    ],
)
def test_an_impossible_adapter_fails_its_promise(http: httpx.Client, lora: dict[str, Any], sentence: str):
    body = {"session_id": new_session(http), "model_seq_id": 0, "base_model": "tiny", "lora_config": lora}
    failed(http, http.post("/create_model", json=body), sentence)


@pytest.mark.parametrize("lora", [{"rank": 4, "seed": 2**80}, {"rank": 4, "train_vision": True}, {"rank": 4.5}])
def test_an_adapter_of_the_wrong_form_is_refused(http: httpx.Client, lora: dict[str, Any]):
    body = {"session_id": new_session(http), "model_seq_id": 0, "base_model": "tiny", "lora_config": lora}
    refused(http.post("/create_model", json=body), 422, "$.lora_config" if "train_vision" not in lora else "vision")


@pytest.mark.parametrize("name", ["https://x.example/m", "/etc/passwd", "../tiny", "org/unknown", ""])
def test_base_models_are_those_of_the_operator(http: httpx.Client, name: str):
    session_id = new_session(http)
    body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": name}
    refused(http.post("/create_sampling_session", json=body), 404, "this server has tiny")


BAD_NAMES = ["../../x", "a/b", "%2f", "a\0b", "a\nb", "\U0001f600", "x" * 129, ".a", ""]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_checkpoint_names_are_plain(server: RunningServer, http: httpx.Client, run: str, name: str):
    files = sorted(files_of(server))
    body = {"model_id": run, "seq_id": next(seq_ids), "path": name}
    failed(http, http.post("/save_weights", json=body), "A checkpoint name has 1 to 128 letters")
    assert sorted(files_of(server)) == files


@pytest.mark.parametrize(
    "path",
    ["tinker://{run}/weights/none/more", "tinker://{run}/other/none", "file:///etc/passwd", "http://x/weights/a"],
)
def test_a_checkpoint_path_leads_nowhere_else(http: httpx.Client, run: str, path: str):
    refused(http.post("/weights_info", json={"tinker_path": path.format(run=run)}), 404, "A checkpoint path is tinker:")


# Rows 23 to 25, 27, 28 and 30: order, promises, texts, downloads.


def test_a_repeated_number_with_another_body_runs_once(http: httpx.Client):
    run = new_run(http)
    promises = {send_chunk(http, chunk(run, 1, token)) for token in (10, 11)}
    assert len(promises) == 1
    assert loss_of(outcome(http, send_chunk(http, chunk(run, 2)), accept=PROTOBUF)) == 2.0


def test_a_promise_is_forged_pending_or_expired(server: RunningServer, http: httpx.Client, sampler: str):
    refused(http.post("/retrieve_future", json={"request_id": "op-forged"}), 404, "No such request")
    promise = post(http, "/asample", **sample_body(sampler, seq_id=77))["request_id"]
    outcome(http, promise)
    with sqlite3.connect(data_dir(server) / "oplog.sqlite3") as db:
        db.execute("update operations set status = 'expired', result = null where op_id = ?", [promise])
    refused(http.post("/retrieve_future", json={"request_id": promise}), 410, "is gone")


@pytest.mark.parametrize("text", ["<b>bold</b>", "\x1b[31mred", "a\nb", "=cmd()", "\u202eabc"])
def test_texts_come_back_as_they_were_and_nowhere_as_code(http: httpx.Client, text: str):
    body = {"user_metadata": {text: text}, "display_name": text, "tags": [text]}
    session_id = post(http, "/create_session", **body)["session_id"]
    response = http.get(f"/sessions/{session_id}")
    assert response.headers["content-type"] == "application/json"
    assert (response.json()["display_name"], response.json()["user_metadata"]) == (text, {text: text})


@pytest.mark.parametrize("field", ["display_name", "user_metadata", "tags", "sdk_version", "project_id"])
def test_texts_have_a_bounded_size(http: httpx.Client, field: str):
    long = "x" * 5000
    value = {"user_metadata": {"k": long}, "tags": [long]}.get(field, long)
    refused(http.post("/create_session", json={field: value}), 422, f"{field} may have 4096 bytes")


def test_lists_and_ids_have_a_bounded_length(http: httpx.Client):
    refused(http.post("/create_session", json={"tags": ["x"] * 65}), 422, "length <= 64")
    refused(http.post("/get_info", json={"model_id": "x" * 257}), 422, "length <= 256")


@pytest.mark.parametrize(
    "query",
    [{"limit": -1}, {"limit": 10**9}, {"limit": "x"}, {"offset": -1}, {"offset": 2**70}, {"access_scope": "all"}],
)
def test_pages_are_bounded(http: httpx.Client, query: dict[str, Any]):
    (name,) = query
    response = http.get("/training_runs", params=query)
    refused(response, 422, f"{name}: ")
    assert response.json()["error"]["field"] == name


def test_a_range_of_thousands_of_parts_is_bounded(http: httpx.Client):
    run = new_run(http)
    save(http, "/save_weights_external", run, 1, path="out")
    urls = http.get(f"/training_runs/{run}/checkpoints/external_weights/out/external_weights_urls").json()["urls"]
    parts = ",".join(f"{start}-{start}" for start in range(5000))
    assert httpx.get(urls["adapter_config.json"], headers={"range": f"bytes={parts}"}).status_code in (200, 206, 416)
    too_many = ",".join(f"{start}-{start}" for start in range(10_000))
    assert httpx.get(urls["adapter_config.json"], headers={"range": f"bytes={too_many}"}).status_code == 431


def test_a_step_after_an_unload_fails_and_one_without_gradients_is_made(http: httpx.Client):
    run = new_run(http)
    assert outcome(http, optim_step(http, run, 1)).json()["metrics"] == {"step": 1.0}
    outcome(http, post(http, "/unload_model", model_id=run)["request_id"])
    assert "was unloaded" in outcome(http, optim_step(http, run, 2)).json()["error"]


def test_the_same_credential_fault_has_the_same_answer(server: RunningServer):
    """Row 1: whatever is wrong with a key."""
    wrong = ["", "tml-", "tml-1-x", "tml-999999999-x", "tml-0-x", "Bearer x", "é", "eyJ", "x" * 60_000]
    answers = set()
    for key in wrong:
        response = httpx.get(f"{server.url}/api/v1/sessions", headers={b"x-api-key": key.encode()})
        answers.add((response.status_code, response.text))
    assert len(answers) == 1
    assert json.loads(answers.pop()[1])["error"]["code"] == "unauthorized"


def data_dir(server: RunningServer) -> Path:
    return server.app.state.service.config.data_dir


def files_of(server: RunningServer) -> Iterator[Path]:
    return (path for path in data_dir(server).rglob("*") if "oplog" not in path.name)
