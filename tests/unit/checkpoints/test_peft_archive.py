"""Adapters in one tar archive: packed, unpacked, and anything else refused."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from io import BytesIO

import pytest

from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.checkpoints.peft_archive import FILES, pack, unpack
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


CONTENT = {CONFIG: b"{}", WEIGHTS: bytes(range(256)) * 5}


def test_what_is_packed_is_unpacked_and_read_by_python_too():
    archive = pack(CONTENT)
    assert unpack(archive) == unpack(bytearray(archive)) == CONTENT
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == list(FILES)
        assert {name: tar.extractfile(name).read() for name in FILES} == CONTENT  # pyright: ignore
    assert pack(CONTENT) == archive


def archive_of(**names: str) -> bytes:
    """Both files under other names, and whatever else is named."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("folder", ["", "./", "adapter/", "a/b/", "./adapter/"])
def test_both_files_may_lie_in_one_folder_beside_what_archivers_add(folder: str):
    names = {f"{folder}{name}": name for name in (*FILES, "README.md", f"._{CONFIG}")}
    assert unpack(archive_of(**names)) == {name: name.encode() for name in FILES}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([CONFIG], f"this one lacks {WEIGHTS}"),
        ([], f"this one lacks {CONFIG} and {WEIGHTS}"),
        ([CONFIG, WEIGHTS, "other"], "nothing else; this one has 'other'"),
        ([f"a/{CONFIG}", f"b/{WEIGHTS}"], "of one folder"),
        ([f"../{CONFIG}", f"../{WEIGHTS}"], "this one has '../"),
        ([f"a/../{CONFIG}", f"a/../{WEIGHTS}"], "this one has 'a/../"),
        ([CONFIG, WEIGHTS, "x" * 90], "this one has 'x"),
    ],
)
def test_anything_but_these_files_once_each_is_refused_by_its_name(names: list[str], sentence: str):
    with pytest.raises(InvalidInput, match=re.escape(sentence)):
        unpack(archive_of(**dict.fromkeys(names, "content")))
