"""How the server stops: it takes nothing more, lets go of what only waits, and leaves what is not done to the log."""

from __future__ import annotations

import os
import socket
from types import FrameType

import uvicorn

from eztinker.service.service import Service


class DrainingServer(uvicorn.Server):
    """A uvicorn server that releases held polls on the first signal, and ends at once on the second.

    Nothing is lost by ending at once: whatever was acknowledged is in the log, and the next server goes on from there.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service: Service = self.config.app.state.service  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
        service.futures.release_polls()
        await super().shutdown(sockets)
