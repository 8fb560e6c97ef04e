"""Archives of adapters: a PEFT folder as one tar file without compression, for downloads and uploads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.checkpoints.tar_reading import read_members
from eztinker.errors import InvalidInput

FILES = (CONFIG, WEIGHTS)
MAX_SHOWN_CHARS = 200
_IGNORED = ("", "README.md", "._.", "._README.md", *(f"._{name}" for name in FILES))
"""Names that are ignored: the folder itself, peft's description of the adapter, and macOS's metadata files."""


def pack(parts: Mapping[str, bytes]) -> bytes:
    """Pack both files of a PEFT folder into a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in FILES:
            member = tarfile.TarInfo(name)
            member.size = len(parts[name])
            tar.addfile(member, io.BytesIO(parts[name]))
    return buffer.getvalue()


def unpack(archive: bytes | bytearray) -> dict[str, bytes]:
    """Both files of a PEFT folder in an archive, by name, without writing anything to disk.

    They may be in a subfolder, together with files that `save_pretrained` and archivers add.

    Raises:
        InvalidInput: `archive` is not a plain tar file of these.
    """
    contents: dict[str, bytes | memoryview] = {}
    folders: set[tuple[str, ...]] = set()
    for member in read_members(memoryview(archive)):
        *folder, name = member.name.removeprefix("./").split("/")
        folders.add(tuple(folder))
        is_plain = name in (*FILES, *_IGNORED) and {"", ".", ".."}.isdisjoint(folder)
        if not is_plain or name in contents or len(folders) > 1:
            raise InvalidInput(
                f"An adapter's archive holds {' and '.join(FILES)} of one folder, once each, and nothing else; "
                f"this one has {member.name[:MAX_SHOWN_CHARS]!r}"
            )
        contents[name] = member.content
    if missing := [name for name in FILES if name not in contents]:
        raise InvalidInput(f"An adapter's archive holds {' and '.join(FILES)}; this one lacks {' and '.join(missing)}")
    return {name: bytes(contents[name]) for name in FILES}
