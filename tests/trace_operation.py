"""The way of one forward_backward through the server and the engine: its files, and the records that carry it.

`python -m tests.trace_operation` starts a server and a real engine over a tiny model, takes a first step, then sends a
forward_backward, polls for its result, and prints what the second one met, in order.

- A file is on the way when one of its functions runs between the sending of the request and the arrival of the result,
  in any thread of either process, and is given the operation or something of it, or gives that back: the id, the
  tokens, the result, or a record with one of these. So is a file that defines a record on the way. Files that run
  without seeing anything of it (guards of HTTP, arithmetic on tensors, clocks) are counted apart.
- A record is an instance of one of our classes that are made of fields: msgspec structs, dataclasses, named tuples. It
  is on the way when it holds tokens or result of the operation, or its id together with what is to be done or has
  become of it. A message that has the id alone (a poll, the engine's word that it begins) carries nothing, and a
  function or a queue that holds the operation is no record.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import msgspec
import numpy as np

import eztinker
from eztinker.base_models.base_model import read_base_model
from eztinker.base_models.catalog import Catalog
from eztinker.protocol import wire_pb2
from eztinker.protocol.frames import ForwardBackward
from tests import wire
from tests.servers import serving
from tests.tiny_models import make_tiny_model

SOURCE = Path(eztinker.__file__).parent
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]
"""The data of the operation; nothing else here is made of them."""
ID_ALONE = {"RetrieveFutureBody", "Started"}
DEPTH = 5
"""Fields of fields that are looked into."""
FILES, RAN, RECORDS = "files", "files that run", "records"


class Way(NamedTuple):
    """Files and records that one operation met, each list in the order of the first meeting."""

    files: list[str]
    others: list[str]
    """Files that ran, and saw nothing of it."""
    records: list[str]


class Tracer:
    """Notes what runs in this process from `begin` to `end`."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, int]] = {}
        """When each was met first, in nanoseconds of the machine's clock, which both processes read."""
        self._marks: set[Any] = set()
        """Ids of the operation, and bytes that were made of it."""
        self._calls: set[int] = set()
        """Frames of functions that were given something of it."""
        self._is_on = False
        self._files: dict[CodeType, str | None] = {}

    def install(self) -> None:
        """Watch this thread, and every one that starts from now on."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def begin(self) -> None:
        self.seen = {FILES: {}, RAN: {}, RECORDS: {}}
        self._marks.clear()
        self._is_on = True

    def end(self) -> None:
        self._is_on = False

    def _note(self, frame: FrameType, event: str, value: Any) -> None:
        if not self._is_on or event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in self._files:
            self._files[code] = _file_of(code)
        file = self._files[code]
        if file is None:
            return
        now = time.monotonic_ns()
        self.seen[RAN].setdefault(file, now)
        records: list[type] = []
        if event == "call":
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            is_of_it = self._is_of_it([frame.f_locals.get(name) for name in names], records, DEPTH)
            (self._calls.add if is_of_it else self._calls.discard)(id(frame))
        else:
            is_of_it = self._is_of_it(value, records, DEPTH)
            if id(frame) in self._calls and isinstance(value, bytes):
                self._marks.add(value)
        if is_of_it:
            self.seen[FILES].setdefault(file, now)
        for record in records:
            self.seen[RECORDS].setdefault(record.__qualname__, now)
            home = record.__module__.removeprefix("eztinker.").replace(".", "/")
            self.seen[FILES].setdefault(f"{home}.py", now)

    def _is_of_it(self, value: Any, records: list[type], depth: int) -> bool:
        """Whether a value is of the operation, or holds something that is; notes the records that it is made of."""
        if isinstance(value, np.ndarray):
            return _is_its_array(value)
        if isinstance(value, (str, bytes)):
            return value in self._marks
        if depth == 0:
            return False
        if _is_record(value):
            fields = _fields_of(value)
            is_of_it = self._holds(fields.values(), records, depth)
            if is_of_it:
                self._marks |= {fields[name] for name in ("op_id", "body") if fields.get(name)}
                if type(value).__name__ not in ID_ALONE:
                    records.append(type(value))
            return is_of_it
        if isinstance(value, (list, tuple)):
            return self._holds(value, records, depth)
        return isinstance(value, dict) and self._holds(value.values(), records, depth)

    def _holds(self, values: Iterable[Any], records: list[type], depth: int) -> bool:
        return sum([self._is_of_it(each, records, depth - 1) for each in list(values)]) > 0  # looks into all of them


def trace(model_dir: Path, scratch: Path) -> Way:
    """The way of the second forward_backward of a run, when nothing is read or compiled for the first time."""
    tracer, of_engine = Tracer(), scratch / "engine.json"
    catalog = Catalog([read_base_model("tiny", model_dir)])
    engine_argv = (sys.executable, "-m", "tests.trace_operation", "--engine", str(of_engine), "--fd")
    tracer.install()
    try:
        with serving(scratch / "data", catalog, engine_argv=engine_argv) as server, server.client() as http:
            model_id = wire.new_run(http)
            for seq_id in (1, 2):
                tracer.begin()
                op_id = wire.send_chunk(http, _request(model_id, seq_id))
                loss = wire.loss_of(wire.outcome(http, op_id, accept=wire.PROTOBUF))
                ended = time.monotonic_ns()
                tracer.end()
                assert loss > 0
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return _way(tracer.seen, json.loads(of_engine.read_text(encoding="utf-8")), ended)


def serve_as_engine(output: Path) -> None:
    """Be the engine of the server that is traced; `output` gets what its last forward_backward met."""
    from eztinker.worker import __main__ as worker
    from eztinker.worker import link  # with torch

    tracer, decode = Tracer(), link.decode_command

    def decode_and_begin(body: bytes | memoryview) -> Any:
        if ForwardBackward.__name__.encode() in bytes(body[:64]):
            tracer.begin()
        return decode(body)

    link.decode_command = decode_and_begin
    atexit.register(lambda: output.write_text(json.dumps(tracer.seen), encoding="utf-8"))
    tracer.install()
    sys.argv = [sys.argv[0], *sys.argv[sys.argv.index("--fd") :]]
    worker.main()


def _request(model_id: str, seq_id: int) -> bytes:
    message = wire_pb2.ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn="cross_entropy")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.array(TOKENS, "<i4").tobytes()
    targets, weights = np.array(TOKENS, np.int64), np.ones(len(TOKENS), np.float32)
    for name, dtype, array in (("target_tokens", wire_pb2.INT64, targets), ("weights", wire_pb2.FLOAT32, weights)):
        tensor = wire_pb2.Tensor(dense=array.tobytes(), dtype=dtype, shape=array.shape)
        datum.loss_fn_inputs[name].CopyFrom(tensor)
    return message.SerializeToString()


def _way(of_server: dict[str, dict[str, int]], of_engine: dict[str, dict[str, int]], ended: int) -> Way:
    met = {}
    for kind in (FILES, RAN, RECORDS):
        times = of_engine[kind] | of_server[kind]
        times |= {name: min(times[name], at) for name, at in of_engine[kind].items()}
        met[kind] = sorted((name for name, at in times.items() if at <= ended), key=times.__getitem__)
    return Way(met[FILES], [file for file in met[RAN] if file not in met[FILES]], met[RECORDS])


def _file_of(code: CodeType) -> str | None:
    """Our file with this code, as a path in the package."""
    path = Path(code.co_filename)
    is_ours = path.is_relative_to(SOURCE) and code.co_name != "<module>"
    return str(path.relative_to(SOURCE)) if is_ours else None


def _is_its_array(array: np.ndarray) -> bool:
    """Whether these are the tokens, or the logprobs of as many tokens."""
    if array.shape != (len(TOKENS),):
        return False
    return bool((array < 0).all()) if array.dtype.kind == "f" else array.tolist() == TOKENS


def _is_record(value: Any) -> bool:
    kind = type(value)
    if not kind.__module__.startswith("eztinker."):
        return False
    return isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value) or hasattr(kind, "_fields")


def _fields_of(record: Any) -> dict[str, Any]:
    if isinstance(record, msgspec.Struct):
        return {name: getattr(record, name) for name in record.__struct_fields__}
    if dataclasses.is_dataclass(record):
        return {field.name: getattr(record, field.name, None) for field in dataclasses.fields(record)}
    return record._asdict()


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        way = trace(make_tiny_model(Path(scratch) / "model", "llama"), Path(scratch))
    for title, names in zip(("Files that see it", "Files that run beside", "Records"), way, strict=True):
        print(f"{title}: {len(names)}", *(f"  {name}" for name in names), sep="\n")


if __name__ == "__main__":
    if "--engine" in sys.argv:
        serve_as_engine(Path(sys.argv[sys.argv.index("--engine") + 1]))
    else:
        main()
