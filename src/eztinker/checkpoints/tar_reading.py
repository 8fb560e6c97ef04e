"""A reader for untrusted tar archives, in time and memory proportional to their size.

It reads regular files and directories in the ustar, GNU and pax formats, and refuses everything else by name. It writes
nothing to disk, and reads each header once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from eztinker.errors import InvalidInput

BLOCK_BYTES = 512
MAX_HEADERS = 32
"""Most headers in one archive, including those of pax and of long names."""
MAX_EXTENDED_BYTES = 16 << 10
"""Longest content of a pax header or long name; a few hundred bytes are usual."""
MAX_PADDING_BYTES = 1 << 20
"""Most zeros after the end of the archive: writers fill a record, of 10 kB by default."""

_NAME, _SIZE, _CHECKSUM, _TYPE, _PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), 156, slice(345, 500)
_MAGIC = slice(257, 263)
_USTAR = b"ustar\0"
_OCTAL = re.compile(rb" *([0-7]{0,12})[ \0]*")
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,5}) ")
_PAX_SIZE = re.compile(rb"[0-9]{1,12}")
_REGULAR, _DIRECTORY, _PAX, _GLOBAL_PAX, _LONG_NAME = b"0\0", b"5", b"x", b"g", b"L"
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"K": "a link",
    b"S": "a sparse file",
    b"D": "an incremental backup",
    b"M": "a file in several volumes",
    b"V": "a volume label",
}
_HARMLESS = re.compile(rb"(?:[acm]time|[ug]id|[ug]name|comment|hdrcharset|charset|(?:LIBARCHIVE|SCHILY)\.[!-~]{1,100})")
"""Names of pax records that do not affect a file's content: times, owners, attributes."""


class Source(Protocol):
    """The bytes of an archive: `memoryview` or `bytes`."""

    def __len__(self) -> int: ...
    def __getitem__(self, span: slice, /) -> bytes | memoryview: ...


class Member(NamedTuple):
    name: str
    """Name as written; that of a directory ends with a slash."""
    content: bytes | memoryview
    """Content of the file; a view into the archive if that is a memoryview."""


class _Header(NamedTuple):
    kind: bytes
    name: bytes
    num_bytes: int


def read_members(archive: Source) -> Iterator[Member]:
    """Files and directories of an archive, in its order.

    Raises:
        InvalidInput: the archive is no tar file, is truncated, has too many headers, or holds something else.
    """
    at = num_headers = 0
    extended: dict[bytes, bytes] = {}
    while (header := _header_at(archive, at)) is not None:
        num_headers += 1
        if num_headers > MAX_HEADERS:
            raise InvalidInput(f"An adapter's archive may have {MAX_HEADERS} headers")
        at += BLOCK_BYTES
        if header.kind in (_PAX, _GLOBAL_PAX, _LONG_NAME):
            extended |= _extension(header, _content(archive, at, header.num_bytes, MAX_EXTENDED_BYTES), extended)
            at += _padded(header.num_bytes)
            continue
        num_bytes = int(extended[b"size"]) if b"size" in extended else header.num_bytes
        name = _as_text(extended.get(b"path", header.name))
        if header.kind == _DIRECTORY:
            num_bytes, name = 0, f"{name.rstrip('/')}/"
        elif header.kind not in _REGULAR:
            what = _KINDS.get(header.kind, f"something of type {header.kind!r}")
            raise InvalidInput(f"An adapter's archive holds regular files alone, and {name[:100]!r} in it is {what}")
        yield Member(name, _content(archive, at, num_bytes, len(archive)))
        at += _padded(num_bytes)
        extended.clear()
    if extended:
        raise InvalidInput("An adapter's archive ends with a header that is about no file")


def _header_at(archive: Source, at: int) -> _Header | None:
    """The header at offset `at`; None at the end of the archive."""
    block = bytes(archive[at : at + BLOCK_BYTES])
    if len(block) < BLOCK_BYTES:
        raise _not_a_tar("it is cut off")
    if not any(block):
        rest = bytes(archive[at : at + MAX_PADDING_BYTES + 1])
        if len(rest) > MAX_PADDING_BYTES or any(rest):
            raise _not_a_tar("something follows its end")
        return None
    stated = _octal(block[_CHECKSUM], "checksum")
    if stated != sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" "):
        raise _not_a_tar("a checksum in it is wrong")
    name = block[_NAME].split(b"\0", 1)[0]
    prefix = block[_PREFIX].split(b"\0", 1)[0] if block[_MAGIC] == _USTAR else b""
    kind = block[_TYPE : _TYPE + 1]
    return _Header(kind, prefix + b"/" + name if prefix else name, _size(block[_SIZE]))


def _extension(header: _Header, content: bytes | memoryview, known: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Path or size that an extension header gives for the next file.

    Args:
        known: properties that earlier headers gave for that file, which must not be repeated.
    """
    raw = bytes(content)
    if header.kind == _LONG_NAME:
        said = {b"path": raw.removesuffix(b"\0")}
    else:
        said = _pax_records(raw)
        if header.kind == _GLOBAL_PAX and said:
            raise InvalidInput("An adapter's archive has a pax header for all files that is more than a comment")
    if repeated := said.keys() & known.keys():
        raise InvalidInput(f"An adapter's archive says the {min(repeated).decode()} of a file more than once")
    return said


def _pax_records(raw: bytes) -> dict[bytes, bytes]:
    """Path and size in a pax header, which has lines of `LENGTH NAME=VALUE`."""
    said: dict[bytes, bytes] = {}
    at = 0
    while at < len(raw):
        match = _PAX_LENGTH.match(raw, at)
        end = at + int(match[1]) if match else 0
        if match is None or end > len(raw) or end <= match.end() or raw[end - 1 : end] != b"\n":
            raise InvalidInput("A pax header in an adapter's archive is not a list of LENGTH NAME=VALUE")
        name, separator, value = raw[match.end() : end - 1].partition(b"=")
        if name in (b"path", b"size") and separator:
            if name in said or (name == b"size" and not _PAX_SIZE.fullmatch(value)):
                raise InvalidInput(
                    f"A pax header in an adapter's archive says the {name.decode()} twice or not plainly"
                )
            said[name] = value
        elif not _HARMLESS.fullmatch(name):
            raise InvalidInput(f"A pax header in an adapter's archive says {_as_text(name)[:100]!r}, which is not read")
        at = end
    return said


def _content(archive: Source, at: int, num_bytes: int, max_bytes: int) -> bytes | memoryview:
    """The content after a header."""
    if num_bytes > max_bytes:
        raise _not_a_tar(f"a header in it speaks of {num_bytes} bytes")
    content = archive[at : at + num_bytes]
    if len(content) < num_bytes:
        raise _not_a_tar("it is cut off")
    return content


def _size(field: bytes) -> int:
    """Parse a size: octal digits or, as GNU writes large ones, a big-endian number after a byte of 128."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _octal(field, "size")


def _octal(field: bytes, what: str) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise _not_a_tar(f"a {what} in it is no number")
    return int(match[1] or b"0", 8)


def _padded(num_bytes: int) -> int:
    """Size rounded up to whole blocks."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _as_text(name: bytes) -> str:
    return name.decode(errors="replace")


def _not_a_tar(reason: str) -> InvalidInput:
    return InvalidInput(f"An adapter comes as a plain tar file, which this is not: {reason}")
