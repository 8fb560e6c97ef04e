"""Frames between server and engine: each comes out as it went in, and payloads are equal for equal work alone."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from eztinker.errors import QueueFull
from eztinker.protocol import frames
from eztinker.protocol.frames import (
    HEADER,
    AnyCommand,
    AnyEvent,
    Cancel,
    Command,
    Configure,
    CreateModel,
    Event,
    Failed,
    ForwardBackward,
    LoadModel,
    OptimStep,
    Progress,
    Refused,
    Sample,
    SampleDone,
    SaveCheckpoint,
    Shutdown,
    Started,
    TrainingCommand,
    UnloadModel,
    changes_state,
    decode_command,
    decode_event,
    decode_payload,
    encode_frame,
    encode_payload,
)
from eztinker.types import (
    AdamParams,
    CheckpointKind,
    Datum,
    LoraSpec,
    SampledSequence,
    SampleRequest,
    SampleResult,
    SamplingParams,
)

IDS: Any = {"op_id": "op", "model_id": "model"}
DATUM = Datum(
    tokens=np.arange(3, dtype=np.int64),
    loss_fn_inputs={"weights": np.array([[0.5], [-1.0], [np.inf]], np.float32), "target_tokens": np.arange(3)},
)
TRAINING = [
    CreateModel(**IDS, base_model="tiny", lora=LoraSpec(rank=4, seed=2**63)),
    LoadModel(**IDS, directory="/there", with_optimizer=True),
    ForwardBackward(**IDS, data=[DATUM], loss_fn="ppo", loss_fn_config={"a": 0.2}, forward_only=False),
    ForwardBackward(**IDS, data=[], loss_fn="ppo", loss_fn_config={}, forward_only=True),
    OptimStep(**IDS, adam=AdamParams(learning_rate=1e-4)),
    SaveCheckpoint(**IDS, kind=CheckpointKind.SAMPLER, directory="/there", tinker_path="tinker://m/weights/a"),
    UnloadModel(**IDS),
]
SAMPLE = Sample(
    op_id="op",
    base_model="tiny",
    directory=None,
    request=SampleRequest(prompt=np.arange(5, dtype=np.int64), num_samples=2, params=SamplingParams(max_tokens=3)),
)
COMMANDS: list[Command] = [
    Configure(base_models={"tiny": "/models"}),
    *(msgspec.structs.replace(work, share="ann") for work in (*TRAINING, SAMPLE)),
    Cancel(op_id="op"),
    Shutdown(),
]
SEQUENCE = SampledSequence(
    tokens=np.array([1, 2], np.int32), logprobs=np.array([-0.5, -np.inf], np.float32), stop_reason="stop"
)
EVENTS: list[Event] = [
    Refused(message="No such device"),
    Started(op_id="op"),
    SampleDone(op_id="op", result=SampleResult(sequences=[SEQUENCE])),
    Failed.of("op", QueueFull("Too much")),
    Progress(op_id="op", start=2, tokens=[5, 6]),
]


def plain(value: Any) -> Any:
    """A message with arrays as what makes them equal."""
    if isinstance(value, np.ndarray):
        return (value.dtype.name, value.shape, value.tobytes())
    if isinstance(value, msgspec.Struct):
        return type(value), {name: plain(part) for name, part in msgspec.structs.asdict(value).items()}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def name_of(message: Any) -> str:
    return type(getattr(message, "work", message)).__name__


@pytest.mark.parametrize("message", COMMANDS, ids=name_of)
def test_a_command_comes_out_as_it_went_in(message: Command):
    frame = encode_frame(message)
    (size,) = HEADER.unpack(frame[: HEADER.size])
    assert size == len(frame) - HEADER.size
    assert plain(decode_command(memoryview(frame)[HEADER.size :])) == plain(message)


@pytest.mark.parametrize("message", EVENTS, ids=name_of)
def test_an_event_comes_out_as_it_went_in(message: Event):
    assert plain(decode_event(encode_frame(message)[HEADER.size :])) == plain(message)


def test_every_kind_of_work_is_tried_above():
    assert {type(each) for each in TRAINING} == set(get_args(TrainingCommand))
    assert {type(each) for each in COMMANDS} == set(get_args(AnyCommand))


@pytest.mark.parametrize(
    "array", [np.arange(3.0), np.array(["a"]), np.array([None])], ids=["float64", "text", "object"]
)
def test_arrays_of_other_dtypes_do_not_leave(array: np.ndarray):
    with pytest.raises(TypeError, match="carries arrays of"):
        encode_frame(msgspec.structs.replace(TRAINING[3], data=[Datum(tokens=array, loss_fn_inputs={})]))


@pytest.mark.parametrize(
    ("dtype", "shape", "raw"),
    [("float64", [1], bytes(8)), ("object", [1], bytes(8)), ("int64", [2], bytes(8)), ("int64", [1], bytes(7))],
)
def test_arrays_that_do_not_fit_what_they_say_do_not_arrive(dtype: str, shape: list[int], raw: bytes):
    body = encode_frame(TRAINING[2])[HEADER.size :]
    said = msgspec.msgpack.decode(body)
    said["data"][0]["tokens"] = [dtype, shape, raw]
    with pytest.raises((msgspec.ValidationError, ValueError)):
        decode_command(msgspec.msgpack.encode(said))


def test_a_frame_that_is_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 10)
    with pytest.raises(ValueError, match="may hold 10 bytes"):
        encode_frame(Cancel(op_id="a rather long id"))


@pytest.mark.parametrize("body", [b"", b"\xc1", msgspec.msgpack.encode({"type": "Explode"}), encode_frame(Shutdown())])
def test_a_body_that_is_no_command_is_an_error(body: bytes):
    with pytest.raises(msgspec.MsgspecError):
        decode_command(body)


@pytest.mark.parametrize("command", TRAINING, ids=name_of)
def test_equal_work_of_any_operation_and_model_has_one_payload(command: Any):
    other = msgspec.structs.replace(command, op_id="another", model_id="of another")
    payload = encode_payload(command)
    assert encode_payload(other) == payload
    assert plain(decode_payload(payload, op_id="another", model_id="of another")) == plain(other)


def test_other_work_has_another_payload():
    payloads = {encode_payload(command) for command in TRAINING}
    assert len(payloads) == len(TRAINING)


def test_recovery_repeats_what_changes_a_model_and_nothing_else():
    changing = [name_of(command) for command in TRAINING if changes_state(command)]
    assert changing == ["CreateModel", "LoadModel", "ForwardBackward", "OptimStep"]
    assert not changes_state(TRAINING[3])  # a forward pass alone


def test_events_and_commands_are_told_apart():
    with pytest.raises(msgspec.ValidationError):
        decode_event(encode_frame(Shutdown())[HEADER.size :])
    assert {each.__name__ for each in get_args(AnyEvent)} & {each.__name__ for each in get_args(AnyCommand)} == set()
