"""No body keeps the interpreter to one thread for long: every single call while it is decoded is short.

Other requests are answered by the event loop, which runs between the calls of the thread that decodes. Counted is the
processor's time of each call into compiled code, so that other work on the machine does not count.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest

from eztinker.api.reading import MAX_JSON_TRAINING_BYTES, MAX_TRAINING_BYTES
from eztinker.errors import EZTinkerError
from eztinker.protocol import wire_pb2
from eztinker.protocol.json_bodies import MAX_CONTAINERS, MAX_STRINGS, MAX_VALUES
from eztinker.protocol.sampling_codec import decode_request
from eztinker.protocol.training_codec import decode_json, decode_protobuf
from eztinker.protocol.wire_bounds import MAX_FIELDS

MAX_CALL_SECONDS = 0.25
"""What a GET of another tenant may take; one call is only part of that."""


def batch(tokens: str, data: str = "1.5") -> bytes:
    tensor = f'{{"data":[{data}],"dtype":"float32"}}'
    datum = f'{{"model_input":{{"chunks":[{{"tokens":[{tokens}]}}]}},"loss_fn_inputs":{{"weights":{tensor}}}}}'
    fields = f'"loss_fn":"cross_entropy","data":[{datum}]'
    return f'{{"model_id":"m","seq_id":1,"forward_backward_input":{{{fields}}}}}'.encode()


def sample(tokens: str) -> bytes:
    return (
        f'{{"sampling_session_id":"s","seq_id":0,"sampling_params":{{}},"prompt":{{"chunks":[{{"tokens":[{tokens}]}}]}}}}'
    ).encode()


def text(num_bytes: int) -> bytes:
    message = wire_pb2.ForwardBackwardRequest(model_id="m", seq_id=1)
    message.data.add().model_input.add().encoded_text.tokens = bytes(num_bytes)
    return message.SerializeToString()


def tensors(num_bytes: int) -> bytes:
    message = wire_pb2.ForwardBackwardRequest(model_id="m", seq_id=1)
    for _ in range(8):
        dense = bytes(num_bytes // 8)
        tensor = wire_pb2.Tensor(dense=dense, dtype=wire_pb2.FLOAT32, shape=[len(dense) // 4])
        message.data.add().loss_fn_inputs["weights"].CopyFrom(tensor)
    return message.SerializeToString()


def many_data(number: int) -> bytes:
    return b"\x0a\x01m\x10\x01" + b"\x1a\x00" * number


def numbers(of: str) -> str:
    return ",".join([of] * (MAX_VALUES - 20))


LARGEST: dict[str, tuple[Callable[[bytes], Any], Callable[[], bytes]]] = {
    "tokens in protobuf": (decode_protobuf, lambda: text(MAX_TRAINING_BYTES - 100)),
    "tensors in protobuf": (decode_protobuf, lambda: tensors(MAX_TRAINING_BYTES - 1000)),
    "integers in JSON": (partial(decode_json, forward_only=False), lambda: batch(numbers("12345"))),
    "long numbers in JSON": (partial(decode_json, forward_only=False), lambda: batch("1", numbers("0.12345678901"))),
    "short numbers in JSON": (partial(decode_json, forward_only=False), lambda: batch("1", numbers("1.5"))),
    "a prompt": (decode_request, lambda: sample(numbers("1"))),
    "one string": (decode_request, lambda: b'{"a":"' + b"\\u00e9" * ((MAX_JSON_TRAINING_BYTES - 100) // 6) + b'"}'),
    # of these the parser alone, as the rest is done one by one in Python
    "objects": (orjson.loads, lambda: b'{"a":[' + b",".join([b"{}"] * (MAX_CONTAINERS - 5)) + b"]}"),
    "strings": (orjson.loads, lambda: b'{"a":[' + b",".join([b'"ab"'] * (MAX_STRINGS - 5)) + b"]}"),
    "names": (orjson.loads, lambda: orjson.dumps({str(each): each for each in range(MAX_STRINGS - 5)})),
    "fields in protobuf": (wire_pb2.ForwardBackwardRequest.FromString, lambda: many_data(MAX_FIELDS - 2)),
}


def longest_call(work: Callable[[], Any]) -> tuple[float, str]:
    """Processor seconds of the longest call into compiled code that `work` makes, and its name.

    One that calls Python again does not count: other threads may run meanwhile.
    """
    longest = (0.0, "")
    began: list[float | None] = []

    def note(frame: Any, event: str, function: Any) -> None:
        nonlocal longest
        if event == "c_call":
            began.append(time.thread_time())
        elif event == "call":
            began[:] = [None] * len(began)
        elif event in ("c_return", "c_exception") and began and (start := began.pop()) is not None:
            longest = max(longest, (time.thread_time() - start, str(function)))

    def run() -> None:
        sys.setprofile(note)
        try:
            work()
        except EZTinkerError:
            pass
        finally:
            sys.setprofile(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return longest


@pytest.mark.parametrize("case", LARGEST)
def test_no_call_while_a_body_is_decoded_is_long(case: str):
    decode, make = LARGEST[case]
    body = make()
    # Processor time grows, too, while others use the same caches: one of several tries has to be short.
    tries = (longest_call(lambda: decode(body)) for _ in range(5))
    assert any(seconds < MAX_CALL_SECONDS for seconds, _ in tries)


def test_a_long_call_would_be_seen():
    body = b'{"a":[' + b",".join([b"1.5"] * 10_000_000) + b"]}"
    seconds, name = longest_call(lambda: orjson.loads(body))
    assert seconds > MAX_CALL_SECONDS, name
