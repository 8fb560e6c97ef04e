"""The engine's end of the socket: commands arrive on a thread, so that they are read while the engine computes."""

from __future__ import annotations

import logging
import socket
import threading
from queue import Empty, SimpleQueue

from eztinker.protocol.frames import HEADER, MAX_FRAME_BYTES, AnyCommand, Event, decode_command, encode_frame

log = logging.getLogger(__name__)


class LinkClosed(Exception):
    """The API process is gone, and with it the reason to run."""


class Link:
    """Frames in and out of one connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb", buffering=1 << 20)
        self._commands: SimpleQueue[AnyCommand | None] = SimpleQueue()
        self._is_closed = False
        threading.Thread(target=self._read_forever, name="commands", daemon=True).start()

    def send(self, *events: Event) -> None:
        """Send events in one write, so that the other side wakes once for them."""
        try:
            self._connection.sendall(b"".join(encode_frame(event) for event in events))
        except OSError as error:
            raise LinkClosed from error

    @property
    def has_commands(self) -> bool:
        """Whether commands have arrived that `receive` has not given out."""
        return not self._commands.empty()

    def receive(self, *, wait: bool) -> list[AnyCommand]:
        """Every command that has arrived; with `wait`, at least one.

        Raises:
            LinkClosed: the other side has closed the connection and all its commands were given out.
        """
        commands: list[AnyCommand] = []
        while not self._is_closed:
            try:
                command = self._commands.get(block=wait and not commands)
            except Empty:
                break
            if command is None:
                self._is_closed = True
            else:
                commands.append(command)
        if self._is_closed and not commands:
            raise LinkClosed
        return commands

    def _read_forever(self) -> None:
        try:
            while (body := self._read_frame()) is not None:
                self._commands.put(decode_command(body))
        except Exception:
            log.exception("A command cannot be read, so those behind it cannot either; the engine stops")
        finally:
            self._commands.put(None)

    def _read_frame(self) -> bytes | None:
        """The next frame's body, or None where the connection ends, be it in the middle of one."""
        header = self._stream.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        (size,) = HEADER.unpack(header)
        if size > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {size} bytes was announced, at most {MAX_FRAME_BYTES} are allowed")
        body = self._stream.read(size)
        return body if len(body) == size else None
