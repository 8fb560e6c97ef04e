"""Head and body of an answer leave together, and nothing is kept back for longer than a turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from eztinker.api.http_server import JoinedWrites

HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"{}"


class Wire(asyncio.Transport):
    """What reaches the system, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.calls.append(b"".join(list_of_data))

    def close(self) -> None:
        self.calls.append(b"closed")


def written(*turns: list[bytes], then_close: bool = False) -> list[bytes]:
    """The calls that come of these writes, each list in one turn of the loop."""

    async def write() -> list[bytes]:
        wire = Wire()
        transport = JoinedWrites(wire, asyncio.get_running_loop())
        for pieces in turns:
            for piece in pieces:
                transport.write(piece)
            if then_close:
                transport.close()
            await asyncio.sleep(0)
        return wire.calls

    return asyncio.run(write())


def test_a_head_and_its_body_are_one_call():
    assert written([HEAD, BODY]) == [HEAD + BODY]


def test_what_comes_alone_goes_at_the_end_of_the_turn():
    assert written([HEAD], [BODY], [BODY]) == [HEAD, BODY, BODY]


def test_answers_to_pipelined_requests_keep_their_order():
    assert b"".join(written([HEAD, BODY, HEAD], [BODY, HEAD, BODY])) == (HEAD + BODY) * 3


def test_closing_sends_what_is_kept_first():
    assert written([HEAD], then_close=True) == [HEAD, b"closed"]
    assert written([HEAD, BODY], then_close=True) == [HEAD + BODY, b"closed"]
