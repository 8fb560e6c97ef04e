"""A bound on the number of fields in a protobuf body, checked before it is parsed into objects.

An empty message takes two bytes on the wire and a hundred in memory, so a small body could fill the machine's memory.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from eztinker.errors import MalformedBody, TooLarge

MAX_FIELDS = 1 << 18
"""Most fields of one body and all messages in it. A batch of 1,024 data with four tensors each has 36,000."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MESSAGE = FieldDescriptor.TYPE_MESSAGE
_NOT_PACKED = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)


def check_fields(body: bytes | bytearray, message: type[Message]) -> None:
    """Require that a body has at most `MAX_FIELDS` fields; a body that is no message is left to the parser.

    Unknown fields count too, and a packed list counts as many fields as it has bytes.

    Raises:
        TooLarge: the body has more fields.
        MalformedBody: it has groups, which no message of ours has and whose size is not known before they end.
    """
    num_fields = 0
    spans: list[tuple[int, int, Any]] = [(0, len(body), message.DESCRIPTOR)]
    while spans:
        at, end, descriptor = spans.pop()
        known = descriptor.fields_by_number
        while at < end:
            tag, at = (body[at], at + 1) if body[at] < 0x80 else _varint(body, at, end)
            kind = tag & 7
            num_fields += 1
            if kind == _LENGTH:
                length, at = (body[at], at + 1) if at < end and body[at] < 0x80 else _varint(body, at, end)
                field = known.get(tag >> 3)
                if field is not None and field.type == _MESSAGE:
                    spans.append((at, min(at + length, end), field.message_type))
                elif field is not None and field.type not in _NOT_PACKED:
                    num_fields += min(length, end - at)
                at += length
            elif kind == _VARINT:
                _, at = _varint(body, at, end)
            elif kind in _FIXED_BYTES:
                at += _FIXED_BYTES[kind]
            else:
                raise MalformedBody("A protobuf body with groups is not accepted")
            if num_fields > MAX_FIELDS:
                raise TooLarge(f"A protobuf body may have {MAX_FIELDS} fields; send the data in parts")


def _varint(body: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    """The varint that starts at `at`, and the offset of its end; 0 and `end` if it is cut off."""
    number = shift = 0
    while at < end:
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            break
    return 0, end
