"""Messages between the API process and the engine process: msgpack frames over a local socket.

A frame is a little-endian uint32 length and that many bytes of msgpack. Commands go to the engine, events come
back. All submitted work ends in exactly one outcome with its `op_id`, either its own kind of result or `Failed`,
unless the engine dies. Nothing is pickled; arrays travel as (dtype, shape, raw bytes) and are checked on arrival.
"""

from __future__ import annotations

import struct
from typing import Any, dataclass_transform

import msgspec
import numpy as np

from eztinker.errors import Category, EZTinkerError
from eztinker.types import (
    AdamParams,
    AdapterState,
    CheckpointKind,
    CheckpointWritten,
    Datum,
    EngineStatus,
    ForwardBackwardResult,
    LoraSpec,
    OptimStepResult,
    SampleRequest,
    SampleResult,
)

MAX_FRAME_BYTES = 1 << 30
"""Longest body of a frame; a larger length prefix means that the two sides are out of step."""

HEADER = struct.Struct("<I")

_ARRAY_DTYPES = ("int32", "int64", "float32")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Command(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A message to the engine."""


class Configure(Command):
    """The first frame: what this engine serves and with which resources."""

    base_models: dict[str, str]
    """Directories with config.json, safetensors and tokenizer.json, by served name."""
    dtype: str = "auto"
    """Dtype of the weights: auto, bfloat16 or float32."""
    device: str = "auto"
    num_threads: int | None = None
    max_batch_size: int = 128
    """Most completions decoded together."""
    max_train_tokens: int = 512
    """Most tokens in one training micro-batch."""


class Work(Command, kw_only=True):
    """Work to be done in the turns of one share; shares get equal processor time."""

    share: str = ""
    """Name of the party that the work is charged to; set when it is sent."""


class CreateModel(Work):
    op_id: str
    model_id: str
    base_model: str
    lora: LoraSpec


class LoadModel(Work):
    """Load a checkpoint into `model_id`, which is created if it does not exist.

    An existing model must have the checkpoint's base model and LoRA shape. A saved gradient is loaded too.
    """

    op_id: str
    model_id: str
    directory: str
    with_optimizer: bool


class ForwardBackward(Work):
    op_id: str
    model_id: str
    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float | str]
    forward_only: bool


class OptimStep(Work):
    op_id: str
    model_id: str
    adam: AdamParams


class SaveCheckpoint(Work):
    """Write the model's adapter to `directory`; its manifest is written last.

    Files already there were left by the same command in an engine that died, and are replaced.
    """

    op_id: str
    model_id: str
    kind: CheckpointKind
    directory: str
    tinker_path: str
    """Path of the checkpoint, which the manifest records."""
    with_gradient: bool = False
    """Whether to save the accumulated gradient too, which with adapter and optimizer is the model's whole state."""
    age_recipients: tuple[str, ...] = ()
    """Public keys for which to encrypt the files of an export; empty leaves them plain."""


class UnloadModel(Work):
    op_id: str
    model_id: str


TrainingCommand = CreateModel | LoadModel | ForwardBackward | OptimStep | SaveCheckpoint | UnloadModel
"""Commands that run strictly one after another per `model_id`, in the order of arrival."""


class Sample(Work):
    """Draw completions from a base model or, with `directory`, from the adapter of a sampler checkpoint."""

    op_id: str
    base_model: str
    directory: str | None
    request: SampleRequest
    is_streamed: bool = False
    """Whether to report tokens of the first completion as they are drawn."""


class Cancel(Command):
    """Drop a waiting or running `Sample`, which then ends in `Failed`. Unknown ids are ignored."""

    op_id: str


class Shutdown(Command):
    """Exit 0 without finishing any work."""


AnyCommand = Configure | TrainingCommand | Sample | Cancel | Shutdown


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A message from the engine."""


class Ready(Event):
    """The answer to `Configure`: from now on the engine takes commands."""

    pid: int
    device: str
    dtype: str
    num_threads: int
    kernels: str = ""
    """Instruction set that EZTinker's own kernels use, such as "AVX2", or "none: " and why; empty if not known."""
    is_batch_invariant: bool = False
    """Whether a sequence's tokens and logprobs are the same to the bit whatever its batch neighbours are."""


class Refused(Event):
    """Answer to `Configure` in place of `Ready`: this machine cannot do what a setting asks, and the engine exits."""

    message: str


class Started(Event):
    """A training command begins or goes on; an engine that dies before the next `Started` died in this command."""

    op_id: str


class Created(Event):
    op_id: str
    state: AdapterState


class ForwardBackwardDone(Event):
    op_id: str
    result: ForwardBackwardResult


class OptimStepDone(Event):
    op_id: str
    result: OptimStepResult


class CheckpointDone(Event):
    op_id: str
    result: CheckpointWritten


class Unloaded(Event):
    op_id: str


class SampleDone(Event):
    op_id: str
    result: SampleResult


class Failed(Event):
    op_id: str
    category: Category
    code: str
    message: str

    @classmethod
    def of(cls, op_id: str, error: EZTinkerError) -> Failed:
        return cls(op_id=op_id, category=error.category, code=error.code, message=error.message)


class Progress(Event):
    """Tokens of a streamed sample that were drawn since the last report; the outcome repeats all of them."""

    op_id: str
    start: int
    """Number of tokens reported before."""
    tokens: list[int]


class Status(Event):
    """The engine's status, sent about once a second while there is work."""

    status: EngineStatus


Outcome = Created | ForwardBackwardDone | OptimStepDone | CheckpointDone | Unloaded | SampleDone | Failed
"""The last event of a command: its result or failure."""

AnyEvent = Ready | Refused | Started | Progress | Status | Outcome


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.name not in _ARRAY_DTYPES:
            raise TypeError(f"A frame carries arrays of {_ARRAY_DTYPES}, not {value.dtype.name}")
        return (value.dtype.name, value.shape, np.ascontiguousarray(value).tobytes())
    raise TypeError(f"A frame cannot carry {type(value).__name__}")


def _decode_array(expected: type, value: Any) -> Any:
    if expected is not np.ndarray:
        raise TypeError(f"A frame cannot carry {expected.__name__}")
    dtype, shape, raw = value
    if dtype not in _ARRAY_DTYPES:
        raise ValueError(f"A frame carries arrays of {_ARRAY_DTYPES}, not {dtype!r}")
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def changes_state(command: TrainingCommand) -> bool:
    """Whether `command` changes a model's state, so that recovery must run it again."""
    match command:
        case CreateModel() | LoadModel() | OptimStep():
            return True
        case ForwardBackward():
            return not command.forward_only
        case _:
            return False


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_command_decoder = msgspec.msgpack.Decoder(AnyCommand, dec_hook=_decode_array)
_training_decoder = msgspec.msgpack.Decoder(TrainingCommand, dec_hook=_decode_array)
_event_decoder = msgspec.msgpack.Decoder(AnyEvent, dec_hook=_decode_array)


def encode_frame(message: Command | Event) -> bytes:
    """The frame of a message, length prefix included."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"A frame may hold {MAX_FRAME_BYTES} bytes, this one has {len(body)}")
    return HEADER.pack(len(body)) + body


def decode_command(body: bytes | memoryview) -> AnyCommand:
    """The command in a frame's body (without the length prefix)."""
    return _command_decoder.decode(body)


def decode_event(body: bytes | memoryview) -> AnyEvent:
    """The event in a frame's body (without the length prefix)."""
    return _event_decoder.decode(body)


def encode_payload(command: TrainingCommand) -> bytes:
    """`command` without the ids of operation and model, so that equal work has equal bytes."""
    fields = msgspec.structs.asdict(command) | {"op_id": "", "model_id": ""}
    del fields["share"]  # which is no part of the work, and which payloads have never had
    return _encoder.encode({"type": type(command).__name__, **fields})


def decode_payload(payload: bytes, *, op_id: str, model_id: str) -> TrainingCommand:
    """The command of a stored payload, with these ids."""
    return msgspec.structs.replace(_training_decoder.decode(payload), op_id=op_id, model_id=model_id)
