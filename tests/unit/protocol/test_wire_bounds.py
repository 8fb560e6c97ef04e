"""Fields of a protobuf body are counted as the parser finds them, and before it makes anything of them."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import MalformedBody, TooLarge
from eztinker.protocol import wire_bounds, wire_pb2
from eztinker.protocol.wire_bounds import MAX_FIELDS, check_fields

REQUEST = wire_pb2.ForwardBackwardRequest


def count(body: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """The least bound that lets `body` pass, by halving."""
    low, high = 0, 1 << 20
    while low < high:
        middle = (low + high) // 2
        monkeypatch.setattr(wire_bounds, "MAX_FIELDS", middle)
        try:
            check_fields(body, REQUEST)
            high = middle
        except TooLarge:
            low = middle + 1
    return low


def request() -> wire_pb2.ForwardBackwardRequest:
    message = wire_pb2.ForwardBackwardRequest(model_id="m", seq_id=300, loss_fn="ppo", forward_only=True)
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = bytes(1000)
    datum.loss_fn_inputs["weights"].dense = bytes(1000)
    datum.loss_fn_inputs["weights"].shape[:] = [1, 2]
    message.loss_fn_config["a"] = 0.5
    return message


def test_each_field_counts_once(monkeypatch: pytest.MonkeyPatch):
    """Four of the request; the datum, its chunk, the text, its tokens; the input, its name, the tensor, its bytes, the
    shape and the two bytes in that; the entry of the config, its name and number."""
    assert count(request().SerializeToString(), monkeypatch) == 4 + 4 + 4 + 3 + 3


@pytest.mark.parametrize("number", [0, 1, 1024, 4096])
def test_a_batch_of_the_most_data_passes(number: int):
    message = wire_pb2.ForwardBackwardRequest(model_id="m", seq_id=1)
    for _ in range(number):
        message.data.add().CopyFrom(request().data[0])
    check_fields(message.SerializeToString(), REQUEST)


@pytest.mark.parametrize(
    "field",
    [
        b"\x1a\x00",
        b"\x10\x01",
        b"\xa2\x06\x00",
        b"\x29" + bytes(8),
        b"\x2d" + bytes(4),
        b"\x1a\x02\x0a\x00",
        b"\x1a\x80\x80\x00",
    ],
    ids=["datum", "scalar", "unknown", "fixed64", "fixed32", "a datum of a chunk", "a length in three bytes"],
)
def test_one_more_than_the_most_is_refused(field: bytes):
    num_fields = 2 if field == b"\x1a\x02\x0a\x00" else 1
    check_fields(field * (MAX_FIELDS // num_fields), REQUEST)
    with pytest.raises(TooLarge, match="send the data in parts"):
        check_fields(field * (MAX_FIELDS // num_fields + 1), REQUEST)


def test_numbers_of_a_packed_list_count_too():
    """A shape of 4 MB has four million of them, eight bytes each once they are read."""
    message = wire_pb2.ForwardBackwardRequest()
    message.data.add().loss_fn_inputs["a"].shape.extend([1] * MAX_FIELDS)
    with pytest.raises(TooLarge):
        check_fields(message.SerializeToString(), REQUEST)


def test_groups_are_refused():
    with pytest.raises(MalformedBody, match="groups"):
        check_fields(b"\x0b\x0c", REQUEST)


def test_a_list_that_claims_more_than_the_body_has_is_left_to_the_parser():
    check_fields(b"\x12\x80\x80\x10", REQUEST)


@given(st.binary(max_size=300))
def test_any_bytes_are_counted_in_one_pass_and_then_left_to_the_parser(body: bytes):
    with contextlib.suppress(MalformedBody, DecodeError):
        check_fields(body, REQUEST)
        wire_pb2.ForwardBackwardRequest.FromString(body)


@given(st.integers(0, 200), st.binary(max_size=3))
def test_a_message_that_is_cut_or_broken_ends_the_count(cut: int, noise: bytes):
    raw = request().SerializeToString()
    with contextlib.suppress(MalformedBody):  # for what looks like a group
        check_fields(raw[:cut] + noise + raw[cut + 2 :], REQUEST)
