"""An engine without a model, for tests of the server alone: speaks the real frames and answers by simple rules.

    forward_backward  logprobs -1, -2, -3 ... and `loss:sum` = number of operations this run has done so far
    optim_step        metrics {"step": ...}; one with a learning rate of 0 is refused, and counts all the same
    sample            the prompt's last token + 1, + 2, ... up to max_tokens, and at most 4 or the prompt's length
    saves             a checkpoint with one file, whose step is that number; a load takes it from there, unless the file
                      `no_memory` is in SCRIPTED_ENGINE_DIRECTORY

A sample whose first prompt token is DIE kills the process once it is read; one whose first token is DIE_ONCE does so
only while the file `died` is not there; STALL is answered when it is cancelled, or sent while `go_on` is there.
The first token of the first datum of a forward_backward works the same way; what its run is sent after a STALL waits
behind it for ever.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from eztinker.checkpoints.checkpoint_files import read_manifest, write_checkpoint
from eztinker.errors import Cancelled, CheckpointDamaged, CheckpointNotFound, NonFiniteUpdate
from eztinker.protocol.frames import (
    HEADER,
    AnyCommand,
    AnyEvent,
    Cancel,
    CheckpointDone,
    Configure,
    Created,
    CreateModel,
    Failed,
    ForwardBackward,
    ForwardBackwardDone,
    LoadModel,
    OptimStep,
    OptimStepDone,
    Ready,
    Sample,
    SampleDone,
    SaveCheckpoint,
    Shutdown,
    Started,
    TrainingCommand,
    Unloaded,
    UnloadModel,
    decode_command,
    encode_frame,
)
from eztinker.types import (
    AdapterState,
    CheckpointWritten,
    ForwardBackwardResult,
    LoraSpec,
    OptimStepResult,
    SampledSequence,
    SampleResult,
)

DIE, DIE_ONCE, STALL = 1, 2, 3

_num_operations: Counter[str] = Counter()
_stalled: set[str] = set()


def answer(command: AnyCommand) -> AnyEvent | None:
    match command:
        case Configure():
            return Ready(pid=os.getpid(), device="cpu", dtype="float32", num_threads=1)
        case CreateModel():
            _num_operations[command.model_id] = 0
            return Created(
                op_id=command.op_id, state=AdapterState(lora=command.lora, base_model=command.base_model, step=0)
            )
        case LoadModel():
            if is_marked("no_memory"):
                return Failed(op_id=command.op_id, category="server", code="out_of_memory", message="no memory")
            try:
                _num_operations[command.model_id] = read_manifest(Path(command.directory)).step
            except (CheckpointDamaged, CheckpointNotFound) as error:
                return Failed(op_id=command.op_id, category="server", code=error.code, message=error.message)
            lora = LoraSpec(rank=1, seed=0)
            step = _num_operations[command.model_id]
            return Created(op_id=command.op_id, state=AdapterState(lora=lora, base_model="tiny", step=step))
        case ForwardBackward():
            return forward_backward(command)
        case OptimStep():
            _num_operations[command.model_id] += 1
            if command.adam.learning_rate == 0:
                return Failed(op_id=command.op_id, category="user", code=NonFiniteUpdate.code, message="refused")
            metrics = {"step": float(_num_operations[command.model_id])}
            return OptimStepDone(op_id=command.op_id, result=OptimStepResult(metrics=metrics))
        case SaveCheckpoint():
            shutil.rmtree(command.directory, ignore_errors=True)
            return save(command)
        case UnloadModel():
            return Unloaded(op_id=command.op_id)
        case Sample():
            return sample(command)
        case Cancel():
            return Failed.of(command.op_id, Cancelled())
    return None


def save(command: SaveCheckpoint) -> AnyEvent:
    manifest = write_checkpoint(
        Path(command.directory),
        {"adapter_config.json": b"{}"},
        tinker_path=command.tinker_path,
        kind=command.kind,
        base_model="tiny",
        lora=LoraSpec(rank=1, seed=0),
        step=_num_operations[command.model_id],
    )
    return CheckpointDone(
        op_id=command.op_id, result=CheckpointWritten(size_bytes=manifest.size_bytes, step=manifest.step)
    )


def forward_backward(command: ForwardBackward) -> AnyEvent | None:
    act_on(int(command.data[0].tokens[0]))
    if command.data[0].tokens[0] == STALL and not is_marked("go_on"):
        _stalled.add(command.model_id)
        return None
    _num_operations[command.model_id] += 1
    outputs = [{"logprobs": -np.arange(1, len(datum.tokens) + 1, dtype=np.float32)} for datum in command.data]
    metrics = {"loss:sum": float(_num_operations[command.model_id])}
    return ForwardBackwardDone(
        op_id=command.op_id, result=ForwardBackwardResult(loss_fn_outputs=outputs, metrics=metrics)
    )


def sample(command: Sample) -> AnyEvent | None:
    prompt = command.request.prompt
    act_on(int(prompt[0]))
    if prompt[0] == STALL and not is_marked("go_on"):
        return None
    num_tokens = min(command.request.params.max_tokens, max(4, len(prompt)))
    sequence = SampledSequence(
        tokens=prompt[-1].astype(np.int32) + np.arange(1, num_tokens + 1, dtype=np.int32),
        logprobs=-np.ones(num_tokens, dtype=np.float32),
        stop_reason="length",
    )
    return SampleDone(op_id=command.op_id, result=SampleResult(sequences=[sequence] * command.request.num_samples))


def act_on(token: int) -> None:
    if token == DIE or (token == DIE_ONCE and not is_marked("died")):
        mark("died")
        os._exit(9)


def mark(name: str) -> None:
    (Path(os.environ["SCRIPTED_ENGINE_DIRECTORY"]) / name).touch()


def is_marked(name: str) -> bool:
    return (Path(os.environ["SCRIPTED_ENGINE_DIRECTORY"]) / name).exists()


def main() -> None:
    stream = socket.socket(fileno=int(sys.argv[-1])).makefile("rwb", buffering=0)
    while header := stream.read(HEADER.size):
        body = b""
        (num_bytes,) = HEADER.unpack(header)
        while len(body) < num_bytes:
            body += stream.read(num_bytes - len(body)) or b""
        command = decode_command(body)
        if isinstance(command, Shutdown):
            return
        if isinstance(command, TrainingCommand):
            if command.model_id in _stalled:
                continue
            stream.write(encode_frame(Started(op_id=command.op_id)))
        if (event := answer(command)) is not None:
            stream.write(encode_frame(event))


if __name__ == "__main__":
    main()
