"""Files that come over the network piece by piece: on disk whole under their name, or not there."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from eztinker.checkpoints.disk import in_words
from eztinker.checkpoints.store import RESERVE_BYTES
from eztinker.errors import TooLarge
from eztinker.flushing import flush

PIECE_BYTES = 1 << 20
"""Gathered before they are written, which is done on a thread."""
SKIPPED_BYTES = 1 << 20
"""Read and dropped beyond the limit: a client that is still writing may not see an answer."""


async def receive_file(path: Path, stream: AsyncIterator[bytes], *, max_bytes: int) -> None:
    """Make what `stream` brings the file `path`, in place of one that is there; flushed, so that it outlives a crash.

    Raises:
        TooLarge: it brings more than `max_bytes`.
        DiskFull, DiskBroken: the disk refused it.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    num_bytes = 0
    try:
        async for piece in _pieces(stream):
            num_bytes += len(piece)
            if num_bytes > max_bytes + SKIPPED_BYTES:
                break
            if num_bytes <= max_bytes:
                await asyncio.to_thread(_append, partial, piece)
        if num_bytes > max_bytes:
            raise TooLarge(f"{path.name} may have {max_bytes} bytes")
        await asyncio.to_thread(_complete, partial, path)
    except OSError as error:
        raise in_words(error, path.parent, num_bytes, RESERVE_BYTES) from error
    finally:
        partial.unlink(missing_ok=True)


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces; one that is empty where there are none."""
    gathered = bytearray()
    async for part in stream:
        gathered += part
        if len(gathered) >= PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _append(partial: Path, piece: bytes) -> None:
    if shutil.disk_usage(partial.parent).free < len(piece) + RESERVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with partial.open("ab") as file:
        file.write(piece)


def _complete(partial: Path, path: Path) -> None:
    flush(partial)
    partial.rename(path)
    flush(path.parent)
