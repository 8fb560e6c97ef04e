"""Nothing that the official SDK can send is ignored: every field of its requests makes a difference, or is refused.

The SDK's types are walked by introspection, so a type or field that a newer release adds fails these tests until it is
either honoured or refused. A field is honoured if two requests that differ in it alone ask the service for different
things.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest
import tinker.types
from fastapi.testclient import TestClient
from tinker.proto import tinker_public_pb2

from eztinker.api import bodies
from eztinker.api.routes import futures
from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol import wire_pb2
from eztinker.protocol.json_bodies import decode_json
from eztinker.protocol.model_inputs import ModelInputBody, tokens_from_json
from tests.field_cases import QUERIES, SENT_AS
from tests.protobuf_field_cases import PROTOBUF
from tests.route_cases import CASES, PREFIX
from tests.service_recorder import observe, observe_query, observing

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
}
PROTOBUF_TYPES = {"PromptProvenanceSpan", "SampledProvenanceSpan"}
"""Types that have no JSON form; their fields are among those of the protobuf request."""

UNREAD_FIELDS = {
    "SaveWeightsForSamplerRequest.sampling_session_seq_id": (
        "drawn anew by each retry of the client; the sampling session of an unnamed save is known by the save's number"
    ),
}
REFUSED_CHUNKS = {"image", "dmel"}
"""What a protobuf chunk may hold besides text."""
ON_WIRE = {"OptimStepRequest.optim_params": ("adam_params", "optimizer_params")}
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


def honoured_fields() -> list[tuple[str, str]]:
    """Type and name on the wire of every field that must make a difference."""
    named: dict[tuple[str, str], None] = {}  # two types of the SDK may have one name
    for sent in SENT:
        for name in fields(sent) or {} if sent.__name__ in SENT_AS else {}:
            path = f"{sent.__name__}.{name}"
            is_name_of_request = name == "type" and sent.__name__.endswith("Request")  # and so does its route
            if path not in UNREAD_FIELDS and not is_name_of_request:
                named.update(dict.fromkeys((sent.__name__, on_wire) for on_wire in ON_WIRE.get(path, (name,))))
    return list(named)


HONOURED = honoured_fields()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(futures, "MIN_HOLD_SHARE", 1.0)  # else a poll asks for a random time
        yield observing(tmp_path_factory.mktemp("data"))


def test_every_type_of_the_sdk_has_one_place():
    tables = [set(table) for table in (SENT_AS, QUERIES, NOT_SERVED, REFUSED_KINDS, UNREAD_TYPES, PROTOBUF_TYPES)]
    assert {each.__name__ for each in SENT} == set().union(*tables)
    assert sum(map(len, tables)) == len(set().union(*tables))


@pytest.mark.parametrize(("sent", "name"), HONOURED)
def test_another_value_of_a_field_asks_for_something_else(client: TestClient, sent: str, name: str):
    cases = [case for case in SENT_AS[sent] if name in case.others or name in case.refused]
    assert cases, f"{sent}.{name} can be sent, and no case shows that it makes a difference here"
    for case in cases:
        asked = observe(client, case.endpoint, case.body)
        assert asked.is_granted, asked
        assert observe(client, case.endpoint, case.body) == asked  # so that a difference comes from the field
        if name in case.refused:
            refusal = observe(client, case.endpoint, case.with_value(name, case.refused[name]))
            assert refusal.is_refusal_of(name), refusal
        else:
            other = observe(client, case.endpoint, case.with_value(name, case.others[name]))
            assert other.is_granted, other
            assert other != asked, f"{sent}.{name} makes no difference"


def test_no_case_is_of_a_field_that_is_not_sent():
    shown = {
        (sent, name) for sent, cases in SENT_AS.items() for case in cases for name in {*case.others, *case.refused}
    }
    assert shown <= set(HONOURED)


@pytest.mark.parametrize("name", QUERIES)
def test_another_value_of_a_query_parameter_asks_for_something_else(client: TestClient, name: str):
    (sent,) = (each for each in SENT if each.__name__ == name)
    path, parameters, others = QUERIES[name]
    assert set(fields(sent) or {}) == others.keys()
    asked = observe_query(client, path, parameters)
    for parameter, value in others.items():
        assert observe_query(client, path, parameters | {parameter: value}) != asked, parameter


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


@pytest.mark.parametrize("name", PROTOBUF)
def test_another_value_of_a_protobuf_field_asks_for_something_else(client: TestClient, name: str):
    asked, other = (
        observe(client, "/forward_backward", request.SerializeToString(deterministic=True))
        for request in PROTOBUF[name]
    )
    assert asked.is_granted
    assert other.is_granted
    assert other != asked


def compare(theirs: Any, ours: Any) -> None:
    """Hold that `ours` has each field of `theirs`, by number, type and name, and so down to the last message."""
    for number, field in theirs.fields_by_number.items():
        known = ours.fields_by_number.get(number)
        assert known is not None, f"{theirs.name}.{field.name} is not in wire.proto"
        assert (known.name, known.type, known.is_repeated) == (field.name, field.type, field.is_repeated)
        path = f"{theirs.name}.{field.name}"
        if path in UNREAD_FIELDS or field.name in REFUSED_CHUNKS:
            continue
        if not theirs.GetOptions().map_entry:
            assert path in PROTOBUF, f"{path} can be sent, and no case shows that it makes a difference here"
        if field.message_type is not None:
            compare(field.message_type, known.message_type)
