"""Adapters in one tar archive: packed, unpacked, and anything else refused."""

from __future__ import annotations

import gzip
import tarfile
from io import BytesIO

import pytest

from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.checkpoints.peft_archive import unpack
from eztinker.errors import InvalidInput


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, BytesIO(bytes(member.size)))
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, CONFIG
    return member


def sparse_tar(num_bytes: int) -> bytes:
    """One file of that size, all of it a hole."""
    member = tarfile.TarInfo(WEIGHTS)
    member.pax_headers = {"GNU.sparse.map": f"0,0,{num_bytes},0", "GNU.sparse.size": str(num_bytes)}
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(CONFIG))
        tar.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"no tar" * 200,
        tar_of(tarfile.TarInfo(CONFIG)),
        tar_of(tarfile.TarInfo(CONFIG), tarfile.TarInfo(WEIGHTS), tarfile.TarInfo("../escape")),
        tar_of(tarfile.TarInfo(CONFIG), link(WEIGHTS, "/etc/passwd")),
        tar_of(tarfile.TarInfo(CONFIG), tarfile.TarInfo(CONFIG)),
        tar_of(tarfile.TarInfo(CONFIG), special(WEIGHTS, tarfile.CHRTYPE)),
        tar_of(tarfile.TarInfo(CONFIG), special(WEIGHTS, tarfile.LNKTYPE)),
        tar_of(tarfile.TarInfo(CONFIG), tarfile.TarInfo(f"/{WEIGHTS}")),
        gzip.compress(tar_of(tarfile.TarInfo(CONFIG), tarfile.TarInfo(WEIGHTS))),
        tar_of(tarfile.TarInfo(CONFIG), tarfile.TarInfo(WEIGHTS)).replace(b"00000000000\0", b"77777777777\0"),
        tar_of(tarfile.TarInfo(CONFIG), tarfile.TarInfo(WEIGHTS))[:700],
        sparse_tar(10 << 30),
    ],
    ids=[
        "empty",
        "noise",
        "one file",
        "a third file",
        "a link",
        "twice the same",
        "a device",
        "a hard link",
        "an absolute name",
        "packed",
        "false sizes",
        "cut off",
        "ten gigabytes of nothing",
    ],
)
def test_an_archive_of_anything_else_is_refused(archive: bytes):
    with pytest.raises(InvalidInput, match=r"archive|tar file"):
        unpack(archive)
