"""One living engine process and the socket to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence

from eztinker.protocol.frames import HEADER, MAX_FRAME_BYTES, AnyCommand, AnyEvent, Shutdown, decode_event, encode_frame

ENGINE_ARGV = (sys.executable, "-P", "-m", "eztinker.worker", "--fd")
"""-P: no module of the folder where the server was started takes the place of a library's."""
STOP_SECONDS = 5.0
_SECRETS = ("EZTINKER_API_KEY", "TINKER_API_KEY")


class EngineLink:
    """Sends commands to a child process and yields its events until it dies."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def spawn(cls, argv: Sequence[str] = ENGINE_ARGV) -> EngineLink:
        """Start the engine; the number of its socket goes after `argv`.

        It gets a process group of its own, so that Ctrl-C in a terminal reaches only the server, and no keys.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *argv,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name not in _SECRETS},
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: AnyCommand) -> None:
        """Hand the frame over in the order of calls; a dead engine swallows it, and `events` ends."""
        if not self._writer.is_closing():
            self._writer.write(encode_frame(command))

    async def events(self) -> AsyncIterator[AnyEvent]:
        """Every event, until the engine closes its end, dies or speaks nonsense."""
        try:
            while True:
                (num_bytes,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                if num_bytes > MAX_FRAME_BYTES:
                    return
                yield decode_event(await self._reader.readexactly(num_bytes))
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def stop(self) -> None:
        """Ask the engine to exit; kill it if it does not."""
        self.send(Shutdown())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        await self.close()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def close(self) -> int:
        """Make sure that the process is gone, and return its exit code."""
        self.kill()
        self._writer.close()
        return await self._process.wait()
