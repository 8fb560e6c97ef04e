"""Files that come over the network: on disk whole under their name, or not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from eztinker.checkpoints import incoming
from eztinker.checkpoints.incoming import PIECE_BYTES, RESERVE_BYTES, SKIPPED_BYTES, receive_file
from eztinker.errors import DiskFull, TooLarge


class Client:
    """Sends `parts`, and then fails with `error` if there is one."""

    def __init__(self, parts: Sequence[bytes], error: BaseException | None = None) -> None:
        self.num_sent = 0
        self._parts, self._error = parts, error

    async def stream(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            await asyncio.sleep(0)
            self.num_sent += 1
            yield part
        if self._error is not None:
            raise self._error


def receive(path: Path, client: Client, max_bytes: int = 100 << 20) -> None:
    asyncio.run(receive_file(path, client.stream(), max_bytes=max_bytes))


@pytest.mark.parametrize("part_bytes", [1, 1000, PIECE_BYTES, 3 * PIECE_BYTES + 1])
def test_what_comes_in_any_parts_is_the_file(tmp_path: Path, part_bytes: int):
    content = bytes(range(256)) * (5 if part_bytes == 1 else 13_000)
    parts = [content[start : start + part_bytes] for start in range(0, len(content), part_bytes)]
    path = tmp_path / "folder" / "file"
    receive(path, Client(parts))
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_nothing_at_all_is_an_empty_file(tmp_path: Path):
    receive(tmp_path / "file", Client([]))
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("error", [RuntimeError("gone"), asyncio.CancelledError()], ids=["broken off", "cancelled"])
def test_a_client_that_leaves_leaves_the_file_that_was_there(tmp_path: Path, error: BaseException):
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(type(error)):
        receive(tmp_path / "file", Client([bytes(2 * PIECE_BYTES)], error))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"before"}


def test_one_that_is_whole_takes_the_place_of_the_one_before(tmp_path: Path):
    for content in (b"before", b"after"):
        receive(tmp_path / "file", Client([content]))
    assert (tmp_path / "file").read_bytes() == b"after"


def test_a_byte_too_many_is_refused_and_one_that_never_ends_is_not_read_on(tmp_path: Path):
    receive(tmp_path / "fits", Client([bytes(10)]), max_bytes=10)
    with pytest.raises(TooLarge, match="file may have 10 bytes"):
        receive(tmp_path / "file", Client([bytes(11)]), max_bytes=10)
    endless = Client([bytes(PIECE_BYTES)] * 100)
    with pytest.raises(TooLarge):
        receive(tmp_path / "file", endless, max_bytes=10)
    assert endless.num_sent <= SKIPPED_BYTES // PIECE_BYTES + 2
    assert [each.name for each in tmp_path.iterdir()] == ["fits"]


def test_room_is_kept_for_what_the_server_itself_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(incoming.shutil, "disk_usage", lambda _: SimpleNamespace(free=RESERVE_BYTES + 9))
    receive(tmp_path / "fits", Client([bytes(9)]))
    with pytest.raises(DiskFull, match="must stay free beside it"):
        receive(tmp_path / "file", Client([bytes(10)]))
    assert [each.name for each in tmp_path.iterdir()] == ["fits"]
