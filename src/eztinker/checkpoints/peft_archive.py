"""A PEFT folder as one tar file, without compression: the form in which adapters are downloaded and uploaded."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from itertools import islice

from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.errors import InvalidInput

FILES = (CONFIG, WEIGHTS)


def pack(parts: Mapping[str, bytes]) -> bytes:
    """The tar file with both files of the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in FILES:
            member = tarfile.TarInfo(name)
            member.size = len(parts[name])
            tar.addfile(member, io.BytesIO(parts[name]))
    return buffer.getvalue()


def unpack(archive: bytes) -> dict[str, bytes]:
    """Both files of the folder, by name. Nothing is written anywhere.

    Raises:
        InvalidInput: it is not a plain tar file of exactly these two.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            members = list(islice(tar, len(FILES) + 1))  # and no more, for an archive may list a million
            is_plain = all(member.isreg() and not member.issparse() for member in members)
            if not is_plain or sorted(member.name for member in members) != sorted(FILES):
                raise InvalidInput(f"An adapter's archive holds {' and '.join(FILES)} and nothing else")
            return {member.name: _content(tar, member) for member in members}
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:  # the last two from numbers in headers
        raise InvalidInput(f"An adapter comes as a plain tar file, which this is not: {error}") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # only links and directories have no content
    return file.read()
