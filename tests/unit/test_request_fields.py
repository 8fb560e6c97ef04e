"""Nothing that the official SDK can send is ignored: every field of its requests has a place here, or a refusal.

The SDK's types are walked by introspection, so a type or field that a newer release adds fails these tests until it is
either honoured or refused.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
import tinker.types
from tinker.proto import tinker_public_pb2

import eztinker
from eztinker.api import bodies
from eztinker.api.routes import billing
from eztinker.api.search_bodies import SearchCursorBody, SearchOwnerBody, SearchSessionsBody, StatusQueryBody
from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol import wire_pb2
from eztinker.protocol.json_bodies import Body, decode_json
from eztinker.protocol.model_inputs import ModelInputBody, TextChunkBody, tokens_from_json
from eztinker.protocol.sampling_codec import SampleBody, SamplingParamsBody
from eztinker.protocol.tensors import TensorBody
from eztinker.protocol.training_codec import DatumBody, ForwardBackwardBody, TrainingBatchBody
from tests.route_cases import CASES, PREFIX

RECORDS: dict[str, type[Body]] = {
    "CreateSessionRequest": bodies.CreateSessionBody,
    "SessionHeartbeatRequest": bodies.HeartbeatBody,
    "CreateModelRequest": bodies.CreateModelBody,
    "LoraConfig": bodies.LoraConfigBody,
    "GetInfoRequest": bodies.ModelBody,
    "UnloadModelRequest": bodies.ModelBody,
    "ForwardBackwardRequest": ForwardBackwardBody,
    "ForwardRequest": ForwardBackwardBody,
    "ForwardBackwardInput": TrainingBatchBody,
    "Datum": DatumBody,
    "TensorData": TensorBody,
    "ModelInput": ModelInputBody,
    "EncodedTextChunk": TextChunkBody,
    "OptimStepRequest": bodies.OptimStepBody,
    "AdamParams": bodies.AdamBody,
    "SaveWeightsRequest": bodies.SaveWeightsBody,
    "SaveWeightsForSamplerRequest": bodies.SaveForSamplerBody,
    "SaveWeightsExternalRequest": bodies.SaveExternalBody,
    "LoadWeightsRequest": bodies.LoadWeightsBody,
    "CreateSamplingSessionRequest": bodies.CreateSamplingSessionBody,
    "JoinSamplingSessionRequest": bodies.JoinSamplingSessionBody,
    "FuturesRetrieveRequest": bodies.RetrieveFuturesBody,
    "SamplingSessionFuturesTarget": bodies.SamplingClientBody,
    "SampleRequest": SampleBody,
    "SamplingParams": SamplingParamsBody,
    "FutureRetrieveRequest": bodies.RetrieveFutureBody,
    "CopyWeightsRequest": bodies.CopyWeightsBody,
    "SessionSearchRequest": SearchSessionsBody,
    "OwnSearchOwner": SearchOwnerBody,
    "AccessibleSearchOwner": SearchOwnerBody,
    "UserSearchOwner": SearchOwnerBody,
    "ActiveSessionStatusQuery": StatusQueryBody,
    "CancelledSessionStatusQuery": StatusQueryBody,
    "FailedSessionStatusQuery": StatusQueryBody,
    "ClientFinishedSessionStatusQuery": StatusQueryBody,
    "SessionSearchCursor": SearchCursorBody,
}
"""The record that each of the SDK's types is read into."""

QUERIES = {
    "GetBillingUsageRequest": billing.billing_usage,
    "GetCurrentCheckpointStorageUsageRequest": billing.checkpoint_storage,
}
"""Requests whose fields come as query parameters."""

NOT_SERVED = {
    "CreateCustomLossRequest": "/create_custom_loss",
}
"""Requests of features whose client flags are off: the route is not there."""

REFUSED_KINDS = {"ImageChunk", "ImageAssetPointerChunk", "DmelChunk", "DimuonOptimizerConfig", "DimuonParams"}
"""Types that are refused by their `type`, whatever their fields."""

UNREAD_TYPES = {
    "ClientConfigRequest": "what a client says of itself at hello has no effect",
    "TelemetrySendRequest": "telemetry is taken and dropped",
    "AdamOptimizerConfig": "the default, which has a type and no fields",
    "OptimizerConfigBase": "stands for all families; only the type is read, and an unknown one refused",
    "OptimParamsBase": "stands for all families; only the type is read, and an unknown one refused",
    "PromptProvenanceSpan": "says where tokens came from, which changes no number",
    "SampledProvenanceSpan": "says where tokens came from, which changes no number",
}
UNREAD_FIELDS = {
    "type": "names the request, and so does its route",
    "model_input_spans": "as PromptProvenanceSpan",
    "loss_fn_input_spans": "as PromptProvenanceSpan",
}
REFUSED_CHUNKS = {"image", "dmel"}
"""What a protobuf chunk may hold besides text."""
RENAMED = {"optim_params": {"adam_params", "optimizer_params"}}
"""What the SDK calls otherwise on the wire."""


SDK_NAMES: dict[str, Any] = {}
for each_module in pkgutil.walk_packages(tinker.types.__path__, "tinker.types."):
    SDK_NAMES |= vars(importlib.import_module(each_module.name))


def sent_types() -> list[type]:
    """Every request type of the SDK, and every type that is part of one."""
    found: list[type] = []
    waiting = [each for name, each in SDK_NAMES.items() if name.endswith("Request")]
    while waiting:
        each = waiting.pop()
        if inspect.isclass(each) and each not in found and fields(each) is not None:
            found.append(each)
            waiting += each.__subclasses__()
            if each.__name__ in NOT_SERVED or each.__name__ in UNREAD_TYPES:
                continue
            waiting += [part for annotation in (fields(each) or {}).values() for part in parts(annotation)]
    return sorted(found, key=lambda each: (each.__name__, each.__module__))


def fields(each: type) -> dict[str, Any] | None:
    """The annotations of a type's fields; None for a type that has no fields."""
    if issubclass(each, pydantic.BaseModel):
        return {name: field.annotation for name, field in each.model_fields.items()}
    if not dataclasses.is_dataclass(each):
        return None
    hints = typing.get_type_hints(each, localns=SDK_NAMES)
    return {name: hint for name, hint in hints.items() if not name.startswith("_")}


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in typing.get_args(annotation):
        yield from parts(argument)


SENT = sent_types()


def names_read() -> set[str]:
    """Every name that the package reads as an attribute, or has in a table of names."""
    names: set[str] = set()
    package = Path(eztinker.__file__).parent
    for path in (path for part in ("api", "protocol", "service") for path in (package / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(attr=name, ctx=ast.Load()) | ast.Constant(value=str(name)):
                    names.add(name)
    return names


READ = names_read()


def known_fields(record: type[Body]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(record)}


def test_every_type_of_the_sdk_has_one_place():
    tables = [set(table) for table in (RECORDS, QUERIES, NOT_SERVED, REFUSED_KINDS, UNREAD_TYPES)]
    assert {each.__name__ for each in SENT} == set().union(*tables)
    assert sum(map(len, tables)) == len(set().union(*tables))


@pytest.mark.parametrize("sent", [each for each in SENT if each.__name__ in RECORDS], ids=lambda each: each.__name__)
def test_every_field_is_known_and_read(sent: type):
    for name in fields(sent) or {}:
        for on_wire in RENAMED.get(name, {name} - set(UNREAD_FIELDS)):
            assert on_wire in known_fields(RECORDS[sent.__name__])
            assert on_wire in READ, f"{on_wire} is listed but nobody looks at it"


@pytest.mark.parametrize("name", QUERIES)
def test_every_field_of_a_query_is_a_parameter(name: str):
    (sent,) = (each for each in SENT if each.__name__ == name)
    assert set(fields(sent) or {}) <= set(inspect.signature(QUERIES[name]).parameters)


@pytest.mark.parametrize("path", NOT_SERVED.values())
def test_a_feature_whose_flag_is_off_has_no_route(path: str):
    assert ("POST", f"{PREFIX}{path}") not in CASES  # which are all routes there are


@pytest.mark.parametrize("kind", ["image", "image_asset_pointer", "dmel"])
def test_chunks_that_are_not_text_are_refused_by_name(kind: str):
    with pytest.raises(Unsupported, match=f"'{kind}'"):
        tokens_from_json(ModelInputBody(chunks=[{"type": kind}]))


def test_other_optimizers_are_refused_by_name():
    step = bodies.OptimStepBody(model_id="m", seq_id=1, optimizer_params={"type": "dimuon"})
    with pytest.raises(Unsupported, match="'dimuon'"):
        step.adam()


def test_a_field_that_no_type_has_is_refused_by_name():
    with pytest.raises(InvalidInput, match="newest_feature"):
        decode_json(b'{"session_id": "s", "newest_feature": 1}', bodies.HeartbeatBody)


def test_every_field_of_the_protobuf_request_is_in_ours():
    compare(tinker_public_pb2.ForwardBackwardRequest.DESCRIPTOR, wire_pb2.ForwardBackwardRequest.DESCRIPTOR)


def compare(theirs: Any, ours: Any) -> None:
    """Hold that `ours` has each field of `theirs`, by number, type and name, and so down to the last message."""
    for number, field in theirs.fields_by_number.items():
        known = ours.fields_by_number.get(number)
        assert known is not None, f"{theirs.name}.{field.name} is not in wire.proto"
        assert (known.name, known.type, known.is_repeated) == (field.name, field.type, field.is_repeated)
        if field.name in UNREAD_FIELDS or field.name in REFUSED_CHUNKS:
            continue
        if not theirs.GetOptions().map_entry:
            assert field.name in READ, f"{theirs.name}.{field.name} is read by nobody"
        if field.message_type is not None:
            compare(field.message_type, known.message_type)
