"""Values that cannot be granted, each refused with its place, its value and what was expected.

On a numbered training operation a mistake fails the future and not the request, because the official client would hang
on a 4xx.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from eztinker.protocol import wire_pb2
from tests.refusals import failed, refused
from tests.servers import RunningServer
from tests.wire import PROTOBUF, chunk, new_run, new_sampler, new_session, sample_body

seq_ids = itertools.count(1)
"""Of the module's run, without a gap, for which a chunk would wait."""


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


# Rows 10 to 12: tokens, shapes and numbers of a batch, told with their place and allocating nothing.


def batch(run: str, seq_id: int, *, tokens: Any = (10, 11), targets: Any = (10, 11), **inputs: Any) -> dict[str, Any]:
    tensors = {"target_tokens": {"data": list(targets), "dtype": "int64", "shape": [len(targets)]}}
    for name, value in ({"weights": [1.0] * len(tokens)} | inputs).items():
        tensors[name] = value if isinstance(value, dict) else {"data": value, "dtype": "float32", "shape": [len(value)]}
    datum = {"model_input": {"chunks": [{"tokens": list(tokens)}]}, "loss_fn_inputs": tensors}
    return {"model_id": run, "seq_id": seq_id, "forward_backward_input": {"data": [datum], "loss_fn": "cross_entropy"}}


@pytest.mark.conforms(42, 56)
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
def test_a_bad_datum_fails_its_future(http: httpx.Client, run: str, fields: dict[str, Any], sentence: str):
    seq_id = next(seq_ids)
    failed(http, http.post("/forward_backward", json=batch(run, seq_id, **fields)), sentence)


@pytest.mark.conforms(56)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_are_finite(http: httpx.Client, run: str, value: float):
    message = wire_pb2.ForwardBackwardRequest.FromString(chunk(run, next(seq_ids)))
    message.data[0].loss_fn_inputs["weights"].dense = np.float32(value).tobytes()
    response = http.post("/forward_backward", content=message.SerializeToString(), headers={"content-type": PROTOBUF})
    failed(http, response, f"weights has {value} at position 0; numbers must be finite")


# Rows 13 to 18: numbers, lists and names of the other requests.


@pytest.mark.conforms(42)
@pytest.mark.parametrize(
    ("adam", "sentence"),
    [
        ({"learning_rate": -1.0}, "learning_rate must not be negative, got -1.0"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rate": None}, "got `null` - at `$.adam_params.learning_rate`"),  # how the SDK sends NaN
        ({"beta1": 1.0}, "beta1 must be at least 0 and below 1, got 1.0"),
        ({"beta2": 2}, "beta2 must be at least 0 and below 1, got 2.0"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"momentum": 0.9}, "`momentum`"),
    ],
)
def test_a_bad_step_fails_its_future(http: httpx.Client, run: str, adam: dict[str, Any], sentence: str):
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


@pytest.mark.conforms(86)
def test_a_sample_beyond_the_context_is_refused_with_the_numbers(http: httpx.Client, sampler: str):
    body = sample_body(sampler, sampling_params={"max_tokens": 10**9})
    refused(http.post("/asample", json=body), 400, "max_tokens is 1000000000; together they exceed the context of 64")


@pytest.mark.conforms(25)
@pytest.mark.parametrize(
    ("lora", "sentence"),
    [
        ({"rank": 0}, "LoRA rank must be between 1 and 512, got 0"),
        ({"rank": -1}, "got -1"),
        ({"rank": 10**6}, "got 1000000"),
        ({"rank": 4, "seed": 2**63}, "The LoRA seed must be between 0"),
    ],
)
def test_an_impossible_adapter_fails_its_future(http: httpx.Client, lora: dict[str, Any], sentence: str):
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


@pytest.mark.conforms(67)
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


def data_dir(server: RunningServer) -> Path:
    return server.app.state.service.config.data_dir


def files_of(server: RunningServer) -> Iterator[Path]:
    return (path for path in data_dir(server).rglob("*") if "oplog" not in path.name)
