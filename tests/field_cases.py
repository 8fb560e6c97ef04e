"""For every field that the official SDK can send as JSON or in a query: a request with it, and another value that must
make a difference."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

AT, EARLIER = "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
RECIPIENT = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """How an object of a type is sent, and second values for its fields."""

    endpoint: str
    body: dict[str, Any]
    at: tuple[str | int, ...] = ()
    """Where in the body the object is; it is the body itself if empty."""
    others: dict[str, Any]
    refused: dict[str, Any] = field(default_factory=dict)
    """Values of fields that are refused by the field's name, because there is no such feature here."""

    def with_value(self, name: str, value: Any) -> dict[str, Any]:
        body = copy.deepcopy(self.body)
        holder: Any = body
        for step in self.at:
            holder = holder[step]
        holder[name] = value
        return body


def _tensor(*data: float, dtype: str = "float32") -> dict[str, Any]:
    return {"data": list(data), "dtype": dtype, "shape": [len(data)]}


_DATUM = {
    "model_input": {"chunks": [{"tokens": [10, 11], "type": "encoded_text"}]},
    "loss_fn_inputs": {"target_tokens": _tensor(10, 11, dtype="int64"), "weights": _tensor(1.0, 1.0)},
}
_BATCH = {"data": [_DATUM], "loss_fn": "ppo", "loss_fn_config": {"clip_low_threshold": 0.9}}
_FORWARD_BACKWARD = {"model_id": "m", "seq_id": 1, "forward_backward_input": _BATCH}
_OTHER_BATCH = {**_BATCH, "loss_fn": "cispo"}
_CREATE_MODEL = {
    "session_id": "s",
    "model_seq_id": 0,
    "base_model": "tiny",
    "user_metadata": {"a": "b"},
    "lora_config": {"rank": 4, "seed": 1},
}
_OPTIM_STEP = {"model_id": "m", "seq_id": 1, "adam_params": {"learning_rate": 1e-3}}
_SAMPLE = {
    "sampling_session_id": "s",
    "seq_id": 0,
    "prompt": {"chunks": [{"tokens": [10, 11, 12]}]},
    "sampling_params": {"max_tokens": 2},
    "prompt_logprobs": True,
}
_SEARCH = {"session_id": "s", "limit": 5}
_SAVE = {"model_id": "m", "seq_id": 1, "path": "p"}
_IDENTITY = {"model_id": "m2", "seq_id": 2}
_SPARSE = {
    **_tensor(1.0, 1.0),
    "shape": [2, 2],
    "sparse_crow_indices": [0, 1, 2],
    "sparse_col_indices": [0, 1],
}


def _tensor_in(tensor: dict[str, Any], others: dict[str, Any]) -> Sent:
    inputs = {**_DATUM["loss_fn_inputs"], "advantages": tensor}
    batch = {**_BATCH, "data": [{**_DATUM, "loss_fn_inputs": inputs}]}
    at = ("forward_backward_input", "data", 0, "loss_fn_inputs", "advantages")
    body = {**_FORWARD_BACKWARD, "forward_backward_input": batch}
    return Sent(endpoint="/forward_backward", body=body, at=at, others=others)


SENT_AS: dict[str, list[Sent]] = {
    "CreateSessionRequest": [
        Sent(
            endpoint="/create_session",
            body={"tags": ["a"], "sdk_version": "1"},
            others={
                "tags": ["b"],
                "user_metadata": {"a": "b"},
                "sdk_version": "2",
                "project_id": "p",
                "display_name": "n",
            },
        )
    ],
    "SessionHeartbeatRequest": [
        Sent(endpoint="/session_heartbeat", body={"session_id": "s"}, others={"session_id": "s2"})
    ],
    "CreateModelRequest": [
        Sent(
            endpoint="/create_model",
            body=_CREATE_MODEL,
            others={
                "session_id": "s2",
                "model_seq_id": 1,
                "base_model": "other",
                "user_metadata": {"a": "c"},
                "lora_config": {"rank": 8, "seed": 1},
                "optimizer_config": {"type": "dimuon"},
            },
        )
    ],
    "LoraConfig": [
        Sent(
            endpoint="/create_model",
            body=_CREATE_MODEL,
            at=("lora_config",),
            others={"rank": 8, "seed": 2, "train_unembed": False, "train_mlp": False, "train_attn": False},
        )
    ],
    "GetInfoRequest": [Sent(endpoint="/get_info", body={"model_id": "m"}, others={"model_id": "m2"})],
    "UnloadModelRequest": [Sent(endpoint="/unload_model", body={"model_id": "m"}, others={"model_id": "m2"})],
    "ForwardBackwardRequest": [
        Sent(
            endpoint="/forward_backward",
            body=_FORWARD_BACKWARD,
            others={**_IDENTITY, "forward_backward_input": _OTHER_BATCH},
        )
    ],
    "ForwardRequest": [
        Sent(
            endpoint="/forward",
            body={"model_id": "m", "seq_id": 1, "forward_input": _BATCH},
            others={**_IDENTITY, "forward_input": _OTHER_BATCH},
        )
    ],
    "ForwardBackwardInput": [
        Sent(
            endpoint="/forward_backward",
            body=_FORWARD_BACKWARD,
            at=("forward_backward_input",),
            others={"data": [_DATUM, _DATUM], "loss_fn": "cispo", "loss_fn_config": {"clip_low_threshold": 0.8}},
        )
    ],
    "Datum": [
        Sent(
            endpoint="/forward_backward",
            body=_FORWARD_BACKWARD,
            at=("forward_backward_input", "data", 0),
            others={
                "model_input": {"chunks": [{"tokens": [10, 12]}]},
                "loss_fn_inputs": {**_DATUM["loss_fn_inputs"], "weights": _tensor(1.0, 0.5)},
            },
            refused={"model_input_spans": [{}], "loss_fn_input_spans": [{}]},
        )
    ],
    "TensorData": [
        _tensor_in(
            _tensor(1.0, 2.0, 3.0, 4.0), others={"data": [1.0, 2.0, 3.0, 5.0], "shape": [2, 2], "dtype": "int64"}
        ),
        _tensor_in(_SPARSE, others={"sparse_crow_indices": [0, 2, 2], "sparse_col_indices": [1, 0]}),
    ],
    "ModelInput": [
        Sent(
            endpoint="/forward_backward",
            body=_FORWARD_BACKWARD,
            at=("forward_backward_input", "data", 0, "model_input"),
            others={"chunks": [{"tokens": [10]}, {"tokens": [12]}]},
        )
    ],
    "EncodedTextChunk": [
        Sent(
            endpoint="/forward_backward",
            body=_FORWARD_BACKWARD,
            at=("forward_backward_input", "data", 0, "model_input", "chunks", 0),
            others={"tokens": [10, 12], "type": "image"},
        )
    ],
    "OptimStepRequest": [
        Sent(
            endpoint="/optim_step",
            body=_OPTIM_STEP,
            others={**_IDENTITY, "adam_params": {"learning_rate": 1e-2}},
            refused={"optimizer_params": {"type": "dimuon"}},
        )
    ],
    "AdamParams": [
        Sent(
            endpoint="/optim_step",
            body=_OPTIM_STEP,
            at=("adam_params",),
            others={
                "learning_rate": 1e-2,
                "beta1": 0.5,
                "beta2": 0.5,
                "eps": 1e-6,
                "weight_decay": 0.5,
                "grad_clip_norm": 2.0,
            },
        )
    ],
    "SaveWeightsRequest": [
        Sent(
            endpoint="/save_weights",
            body=_SAVE,
            others={
                **_IDENTITY,
                "path": "q",
                "ttl_seconds": 4000,
                "overwrite": True,
                "user_metadata": {"a": "b"},
            },
        )
    ],
    "SaveWeightsForSamplerRequest": [
        Sent(
            endpoint="/save_weights_for_sampler",
            body=_SAVE,
            others={
                **_IDENTITY,
                "path": "q",
                "ttl_seconds": 4000,
                "kind": "inflight",
                "user_metadata": {"a": "b"},
            },
        )
    ],
    "SaveWeightsExternalRequest": [
        Sent(
            endpoint="/save_weights_external",
            body=_SAVE,
            others={
                **_IDENTITY,
                "path": "q",
                "ttl_seconds": 4000,
                "age_encryption_recipients": [RECIPIENT],
            },
        )
    ],
    "LoadWeightsRequest": [
        Sent(
            endpoint="/load_weights",
            body={"session_id": "s", "model_seq_id": 0, "path": "tinker://m/weights/p", "optimizer": True},
            others={
                "session_id": "s2",
                "model_seq_id": 1,
                "path": "tinker://m/weights/q",
                "optimizer": False,
                "base_model": "tiny",
                "user_metadata": {"a": "b"},
                "optimizer_config": {"type": "dimuon"},
            },
            refused={"weights_access_token": "tml-unknown"},
        ),
        Sent(
            endpoint="/load_weights",
            body={"model_id": "m", "seq_id": 1, "path": "tinker://m/weights/p", "optimizer": True},
            others={**_IDENTITY, "path": "tinker://m/weights/q", "optimizer": False},
            refused={
                "base_model": "tiny",
                "user_metadata": {"a": "b"},
                "optimizer_config": {"type": "dimuon"},
                "weights_access_token": "tml-unknown",
            },
        ),
    ],
    "CreateSamplingSessionRequest": [
        Sent(
            endpoint="/create_sampling_session",
            body={"session_id": "s", "sampling_session_seq_id": 0, "base_model": "tiny"},
            others={
                "session_id": "s2",
                "sampling_session_seq_id": 1,
                "base_model": "other",
                "model_path": "tinker://m/sampler_weights/p",
            },
        )
    ],
    "JoinSamplingSessionRequest": [
        Sent(
            endpoint="/join_sampling_session",
            body={"sampling_session_id": "s"},
            others={"sampling_session_id": "s2"},
        )
    ],
    "FuturesRetrieveRequest": [
        Sent(
            endpoint="/retrieve_futures",
            body={"target": {"sampling_session_id": "s"}},
            others={
                "target": {"sampling_session_id": "s2"},
                "prev_cursor": 3,
                "timeout": 1.5,
                "retrieved_request_ids": ["r"],
            },
        )
    ],
    "SamplingSessionFuturesTarget": [
        Sent(
            endpoint="/retrieve_futures",
            body={"target": {"sampling_session_id": "s"}},
            at=("target",),
            others={"sampling_session_id": "s2", "cloned_sampler_id": 4},
            refused={"type": "another"},
        )
    ],
    "SampleRequest": [
        Sent(
            endpoint="/asample",
            body=_SAMPLE,
            others={
                "num_samples": 2,
                "prompt": {"chunks": [{"tokens": [10, 11, 13]}]},
                "sampling_params": {"max_tokens": 3},
                "sampling_session_id": "s2",
                "seq_id": 1,
                "prompt_logprobs": False,
                "topk_prompt_logprobs": 2,
                "topk_sample_logprobs": 2,
                "target_prompt_logprobs": {"data": [1, 2], "dtype": "int64", "shape": [2, 1]},
                "prompt_alt_tokens_k": 2,
                "prompt_logprobs_last_n": 1,
                "record_stability_info": True,
            },
            refused={"base_model": "tiny", "model_path": "tinker://m/sampler_weights/p"},
        )
    ],
    "SamplingParams": [
        Sent(
            endpoint="/asample",
            body=_SAMPLE,
            at=("sampling_params",),
            others={"max_tokens": 3, "seed": 1, "stop": ["x"], "temperature": 0.5, "top_k": 5, "top_p": 0.5},
        )
    ],
    "FutureRetrieveRequest": [
        Sent(
            endpoint="/retrieve_future",
            body={"request_id": "r"},
            others={"request_id": "r2", "allow_metadata_only": True},
        )
    ],
    "CopyWeightsRequest": [
        Sent(
            endpoint="/copy_weights",
            body={"source_path": "tinker://m/weights/p"},
            others={
                "session_id": "s",
                "model_seq_id": 1,
                "destination_project_id": "p",
                "source_path": "tinker://m/weights/q",
                "ttl_seconds": 4000,
            },
            refused={"weights_access_token": "tml-unknown"},
        )
    ],
    "SessionSearchRequest": [
        Sent(
            endpoint="/sessions/search",
            body=_SEARCH,
            others={
                "session_id": "s2",
                "project_ids": ["p"],
                "user_metadata": {"a": "b"},
                "display_name": "n",
                "owner": {"type": "user", "owner_urns": ["someone"]},
                "statuses": [{"type": "active"}],
                "limit": 6,
                "cursor": {"last_created_at": AT, "last_session_id": "s"},
            },
        )
    ],
    "SessionSearchCursor": [
        Sent(
            endpoint="/sessions/search",
            body={**_SEARCH, "cursor": {"last_created_at": AT, "last_session_id": "s"}},
            at=("cursor",),
            others={"last_created_at": EARLIER, "last_session_id": "s2"},
        )
    ],
    "OwnSearchOwner": [
        Sent(
            endpoint="/sessions/search",
            body={**_SEARCH, "owner": {"type": "own"}},
            at=("owner",),
            others={"type": "user"},
        )
    ],
    "AccessibleSearchOwner": [
        Sent(
            endpoint="/sessions/search",
            body={**_SEARCH, "owner": {"type": "accessible"}},
            at=("owner",),
            others={"type": "user"},
        )
    ],
    "UserSearchOwner": [
        Sent(
            endpoint="/sessions/search",
            body={**_SEARCH, "owner": {"type": "user", "owner_urns": ["someone"]}},
            at=("owner",),
            others={"type": "own", "owner_urns": ["local"]},
        )
    ],
} | {
    name: [
        Sent(
            endpoint="/sessions/search",
            body={**_SEARCH, "statuses": [{"type": status}]},
            at=("statuses", 0),
            others=others,
        )
    ]
    for name, status, others in (
        ("ActiveSessionStatusQuery", "active", {"type": "client_finished"}),
        ("CancelledSessionStatusQuery", "cancelled", {"type": "active"}),
        ("FailedSessionStatusQuery", "failed", {"type": "active"}),
        ("ClientFinishedSessionStatusQuery", "client_finished", {"type": "active", "reasons": ["errored"]}),
    )
}
"""By the name of the SDK's type; several where one request cannot show all of its fields."""

QUERIES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "GetBillingUsageRequest": (
        "/billing/usage/events",
        {"starting_on": AT, "ending_before": AT},
        {"starting_on": EARLIER, "ending_before": EARLIER},
    ),
    "GetCurrentCheckpointStorageUsageRequest": ("/billing/usage/checkpoints/current", {}, {"project_id": "p"}),
}
"""Requests whose fields come as query parameters: path, parameters, and second values."""
