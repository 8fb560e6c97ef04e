"""Receiving files over the network: a file is on disk whole under its name, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from eztinker.checkpoints.disk import disk_error
from eztinker.errors import TooLarge
from eztinker.flushing import flush

RESERVE_BYTES = 1 << 30
"""Bytes that must stay free on the disk: more than for the server's own files, which must go on when uploads cannot."""
PIECE_BYTES = 1 << 20
"""Bytes to gather before they are written on a thread."""
SKIPPED_BYTES = 1 << 20
"""Bytes to read and discard beyond the limit: a client that is still writing may not see an answer."""


async def receive_file(path: Path, stream: AsyncIterator[bytes], *, max_bytes: int) -> None:
    """Write `stream` to the file `path` and flush it; replaces an existing file only once it is complete.

    Raises:
        TooLarge: the stream has more than `max_bytes`.
        DiskFull, DiskBroken: the disk is full or failed.
    """
    partial = _Partial(path)
    num_bytes = 0
    try:
        async for piece in _pieces(stream):
            num_bytes += len(piece)
            if num_bytes > max_bytes + SKIPPED_BYTES:
                break
            if num_bytes <= max_bytes:
                await asyncio.to_thread(partial.append, piece)
        if num_bytes > max_bytes:
            raise TooLarge(f"{path.name} may have {max_bytes} bytes")
        await asyncio.to_thread(partial.complete)
    except OSError as error:
        there = next(each for each in path.parents if each.is_dir())
        raise disk_error(error, there, num_bytes, RESERVE_BYTES) from error
    finally:
        await asyncio.shield(asyncio.to_thread(partial.drop))


class _Partial:
    """An incomplete file, written on threads whose caller may have gone; after `drop` no thread recreates it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._is_dropped = False

    def append(self, piece: bytes) -> None:
        with self._lock:
            if self._is_dropped:
                return
            if self._file is None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = self._partial.open("xb")
            if shutil.disk_usage(self._path.parent).free < len(piece) + RESERVE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file.write(piece)

    def complete(self) -> None:
        with self._lock:
            if self._is_dropped or self._file is None:
                return
            self._file.close()
            flush(self._partial)
            self._partial.rename(self._path)
            flush(self._path.parent)

    def drop(self) -> None:
        """Remove the file unless it is complete; if the disk refuses, it is removed later with its folder."""
        with self._lock, contextlib.suppress(OSError):
            self._is_dropped = True
            if self._file is not None:
                with contextlib.suppress(OSError):  # a failed write of buffered bytes
                    self._file.close()
                self._partial.unlink(missing_ok=True)


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Regroup a stream into larger pieces; an empty stream gives one empty piece."""
    gathered = bytearray()
    async for part in stream:
        gathered += part
        if len(gathered) >= PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)
