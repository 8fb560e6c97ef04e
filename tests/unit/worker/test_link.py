"""The engine's end of the socket: every whole command comes out, and a connection that breaks ends in one way."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from eztinker.protocol.frames import HEADER, MAX_FRAME_BYTES, Cancel, Failed, Shutdown, Started, encode_frame
from eztinker.worker.link import Link, LinkClosed


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_commands_come_in_order_however_the_bytes_are_cut(sockets: tuple[socket.socket, socket.socket]):
    ours, theirs = sockets
    link = Link(theirs)
    raw = b"".join(encode_frame(Cancel(op_id=str(n))) for n in range(5))
    received = []
    for start in range(0, len(raw), 7):
        ours.sendall(raw[start : start + 7])
    while len(received) < 5:
        received += link.receive(wait=True)
    assert [command.op_id for command in received] == ["0", "1", "2", "3", "4"]
    assert link.receive(wait=False) == []


@pytest.mark.parametrize(
    "ending",
    [b"", b"\x01", HEADER.pack(100) + b"too short", HEADER.pack(MAX_FRAME_BYTES + 1), HEADER.pack(3) + b"\xc1\xc1\xc1"],
    ids=["at a border", "in a header", "in a body", "a giant frame", "no message"],
)
def test_a_connection_that_breaks_is_closed_once_its_whole_commands_were_given_out(
    sockets: tuple[socket.socket, socket.socket], ending: bytes
):
    ours, theirs = sockets
    link = Link(theirs)
    ours.sendall(encode_frame(Shutdown()) + ending)
    ours.shutdown(socket.SHUT_WR)
    assert link.receive(wait=True) == [Shutdown()]
    with pytest.raises(LinkClosed):
        link.receive(wait=True)


def test_events_that_are_sent_together_arrive_in_order(sockets: tuple[socket.socket, socket.socket]):
    ours, theirs = sockets
    events = [Started(op_id=op_id) for op_id in "ab"]
    Link(theirs).send(*events)
    assert ours.recv(1 << 16) == b"".join(encode_frame(event) for event in events)


def test_sending_to_nobody_is_a_closed_link(sockets: tuple[socket.socket, socket.socket]):
    ours, theirs = sockets
    link = Link(theirs)
    ours.close()
    with pytest.raises(LinkClosed):
        link.send(Failed(op_id="x", category="server", code="internal", message="gone"))
