"""A disk that loses its power: what it may hold afterwards, from the record of what was written and flushed.

What was flushed is there. Of the rest each 512-byte sector of each write, each truncation, and each name that was made
or removed in the directory is there or not, as a seeded generator has it. What a flush that failed was to bring there
never comes: the system takes it for written.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
WRITE, TRUNCATE, SYNC, UNLINK, FAILED_SYNC = 1, 2, 3, 4, 5
_HEADER = struct.Struct("=4q")


@dataclass(frozen=True, slots=True)
class Call:
    what: int
    path: str
    at: int
    """Offset of a write, size after a truncation."""
    data: bytes


def read_record(path: Path) -> Iterator[Call]:
    raw = path.read_bytes()
    place = 0
    while place < len(raw):
        what, path_length, at, size = _HEADER.unpack_from(raw, place)
        place += _HEADER.size
        name = raw[place : place + path_length].decode()
        place += path_length
        yield Call(what, name, at, raw[place : place + size])
        place += size


@dataclass(slots=True)
class _File:
    flushed: bytearray = field(default_factory=bytearray)
    since: list[Call] = field(default_factory=list)
    """Calls that no flush has followed."""


class Disk:
    """Follows a record call by call, and can lose its power between any two."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, _File] = {}
        self._flushed_names: dict[str, _File] = {}

    def apply(self, call: Call) -> None:
        if call.path == self._directory:
            if call.what == SYNC:
                self._flushed_names = dict(self._files)
        elif call.what == UNLINK:
            self._files.pop(call.path, None)
        else:
            file = self._files.setdefault(call.path, _File())
            if call.what == SYNC:
                for each in file.since:
                    _apply(each, file.flushed)
                file.since.clear()
            elif call.what == FAILED_SYNC:
                file.since = [each for each in file.since if each.what == TRUNCATE]
            else:
                file.since.append(call)

    def after_power_loss(self, generator: random.Random) -> dict[str, bytes]:
        """The files by path."""
        chance = generator.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        found = {}
        for path in self._files | self._flushed_names:
            old, new = self._flushed_names.get(path), self._files.get(path)
            file = new if new is old or generator.random() < chance else old
            if file is not None:
                found[path] = _survivor(file, generator, chance)
        return found


def _survivor(file: _File, generator: random.Random, chance: float) -> bytes:
    content = bytearray(file.flushed)
    for call in file.since:
        if call.what == TRUNCATE:
            if generator.random() < chance:
                _apply(call, content)
            continue
        for part in _sectors(call):
            if generator.random() < chance:
                _apply(part, content)
    return bytes(content)


def _sectors(call: Call) -> Iterator[Call]:
    """The parts of a write that reach the disk whole or not at all."""
    start, end = call.at, call.at + len(call.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        yield Call(WRITE, call.path, start, call.data[start - call.at : stop - call.at])
        start = stop


def _apply(call: Call, content: bytearray) -> None:
    if call.what == TRUNCATE:
        del content[call.at :]
        content.extend(bytes(call.at - len(content)))
        return
    content.extend(bytes(max(0, call.at - len(content))))
    content[call.at : call.at + len(call.data)] = call.data
