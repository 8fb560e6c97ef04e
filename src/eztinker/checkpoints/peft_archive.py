"""A PEFT folder as one tar file, without compression: the form in which adapters are downloaded and uploaded."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.checkpoints.tar_reading import read_members
from eztinker.errors import InvalidInput

FILES = (CONFIG, WEIGHTS)
MAX_SHOWN_CHARS = 200
_PASSED_OVER = ("", "README.md", "._.", "._README.md", *(f"._{name}" for name in FILES))
"""The folder itself, what peft writes about the adapter, and what macOS says of each file."""


def pack(parts: Mapping[str, bytes]) -> bytes:
    """The tar file with both files of the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in FILES:
            member = tarfile.TarInfo(name)
            member.size = len(parts[name])
            tar.addfile(member, io.BytesIO(parts[name]))
    return buffer.getvalue()


def unpack(archive: bytes | bytearray) -> dict[str, bytes]:
    """Both files of the folder, by name. Nothing is written anywhere.

    They may lie in one folder, and beside them what `save_pretrained` and archivers add.

    Raises:
        InvalidInput: it is not a plain tar file of these.
    """
    contents: dict[str, bytes | memoryview] = {}
    folders: set[tuple[str, ...]] = set()
    for member in read_members(memoryview(archive)):
        *folder, name = member.name.removeprefix("./").split("/")
        folders.add(tuple(folder))
        is_plain = name in (*FILES, *_PASSED_OVER) and {"", ".", ".."}.isdisjoint(folder)
        if not is_plain or name in contents or len(folders) > 1:
            raise InvalidInput(
                f"An adapter's archive holds {' and '.join(FILES)} of one folder, once each, and nothing else; "
                f"this one has {member.name[:MAX_SHOWN_CHARS]!r}"
            )
        contents[name] = member.content
    if missing := [name for name in FILES if name not in contents]:
        raise InvalidInput(f"An adapter's archive holds {' and '.join(FILES)}; this one lacks {' and '.join(missing)}")
    return {name: bytes(contents[name]) for name in FILES}
