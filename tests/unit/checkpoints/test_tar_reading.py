"""Tar archives that others made: those of real adapters are read; hostile ones are refused after few bytes of them.

How little is read is counted, in bytes and in headers, so that it holds on a slow machine too.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from eztinker.checkpoints import tar_reading
from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.checkpoints.peft_archive import FILES, pack, unpack
from eztinker.checkpoints.tar_reading import BLOCK_BYTES, MAX_EXTENDED_BYTES, MAX_HEADERS, read_members
from eztinker.errors import InvalidInput
from tests.unit.engine.engine_helpers import TinyModel

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft's use of transformers
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
GNU_TAR = shutil.which("tar")
MOST_BYTES = MAX_HEADERS * (BLOCK_BYTES + MAX_EXTENDED_BYTES)
"""Of headers that are looked at, whatever the archive is."""


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """What peft's `save_pretrained` leaves: config, weights and a page about them."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model("qwen2")),
        LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    directory = tmp_path / "my adapter"
    model.save_pretrained(str(directory))
    assert {path.name for path in directory.iterdir()} == {*FILES, "README.md"}
    return directory


def content_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    "arcname", [".", "my adapter", "x" * 120, "runs/" * 30 + "a"], ids=["here", "folder", "long", "deep"]
)
@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_that_python_packs_is_read(folder: Path, form: str, arcname: str):
    buffer = io.BytesIO()
    try:
        with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form]) as tar:
            tar.add(folder, arcname=arcname)
    except ValueError:
        pytest.skip("this format has no such long names")
    assert unpack(buffer.getvalue()) == content_of(folder)


@pytest.mark.skipif(GNU_TAR is None, reason="there is no tar program")
@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "posix"])
@pytest.mark.parametrize("how", ["files", "here", "folder"])
def test_a_folder_that_gnu_tar_packs_is_read(folder: Path, form: str, how: str):
    assert GNU_TAR is not None
    what = {
        "files": ["-C", str(folder), CONFIG, WEIGHTS],
        "here": ["-C", str(folder), "."],
        "folder": ["-C", str(folder.parent), folder.name],
    }[how]
    packed = subprocess.run([GNU_TAR, f"--format={form}", "-cf", "-", *what], capture_output=True, check=True).stdout
    assert unpack(packed) == content_of(folder)


def test_a_weight_of_eight_gigabytes_or_more_has_its_size_in_binary():
    """GNU writes what does not fit eleven octal digits so; here it is a small one."""
    header = bytearray(tarfile.TarInfo(WEIGHTS).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (3).to_bytes(11, "big")
    raw = sealed(header) + b"abc".ljust(BLOCK_BYTES, b"\0") + bytes(2 * BLOCK_BYTES)
    assert [(name, bytes(content)) for name, content in read_members(raw)] == [(WEIGHTS, b"abc")]


def test_a_size_in_a_pax_header_takes_the_place_of_the_other():
    file = tarfile.TarInfo(WEIGHTS)
    raw = pax(b"size=3") + file.tobuf() + b"abc".ljust(BLOCK_BYTES, b"\0") + bytes(2 * BLOCK_BYTES)
    assert [(name, bytes(content)) for name, content in read_members(raw)] == [(WEIGHTS, b"abc")]


def test_what_macos_says_of_each_file_is_passed_over():
    raw = b"".join(
        file_of(name, b"x") for name in ("._adapter_config.json", CONFIG, "._adapter_model.safetensors", WEIGHTS)
    )
    assert unpack(raw + bytes(2 * BLOCK_BYTES)) == {CONFIG: b"x", WEIGHTS: b"x"}


def sealed(header: bytes | bytearray) -> bytes:
    """A header with the checksum that it should have."""
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def file_of(name: str, content: bytes, kind: bytes = b"0") -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = len(content), kind
    return member.tobuf() + content.ljust(-(-len(content) // BLOCK_BYTES) * BLOCK_BYTES, b"\0")


def record(said: bytes) -> bytes:
    """A pax record, whose length counts its own digits."""
    length = len(said) + 3
    while length != len(b"%d %s\n" % (length, said)):
        length = len(b"%d %s\n" % (length, said))
    return b"%d %s\n" % (length, said)


def pax(*said: bytes, kind: bytes = b"x") -> bytes:
    return file_of("pax", b"".join(map(record, said)), kind)


def with_field(span: slice, value: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo(WEIGHTS).tobuf())
    header[span] = value
    return sealed(header)


SIZE = slice(124, 136)
GOOD = pack({CONFIG: b"{}", WEIGHTS: b"w"})
HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "an end alone": lambda: bytes(1024),
    "noise": lambda: b"no tar" * 1000,
    "cut in a header": lambda: GOOD[:700],
    "cut in a file": lambda: GOOD[:513],
    "cut before its end": lambda: GOOD[:2048],
    "junk behind its end": lambda: GOOD + b"x",
    "much behind its end": lambda: GOOD + bytes(2 << 20),
    "a wrong checksum": lambda: GOOD.replace(b"ustar", b"USTAR"),
    "a checksum of words": lambda: GOOD[:148] + b"checksum" + GOOD[156:],
    "thousands of chained pax headers": lambda: pax(b"mtime=1") * 20_000 + GOOD,
    "thousands of chained pax headers of a path each": lambda: pax(b"path=a") * 20_000 + GOOD,
    "thousands of headers for all files": lambda: pax(b"comment=a", kind=b"g") * 20_000 + GOOD,
    "thousands of long names": lambda: file_of("././@LongLink", b"a\0", b"L") * 20_000 + GOOD,
    "a length of 30,000 digits": lambda: file_of("pax", b"1" * 30_000 + b" a=b\n", b"x") + GOOD,
    "a length of 16,000 digits": lambda: file_of("pax", b"1" * 16_000 + b" a=b\n", b"x") + GOOD,
    "digits and no space": lambda: file_of("pax", b"1" * 16_000, b"x") + GOOD,
    "spaces and no digits": lambda: file_of("pax", b" " * 16_000, b"x") + GOOD,
    "a record longer than its header": lambda: file_of("pax", b"99 a=b\n", b"x") + GOOD,
    "a record of no length": lambda: file_of("pax", b"0 a=b\n", b"x") + GOOD,
    "a record without an end": lambda: file_of("pax", b"6 a=bc", b"x") + GOOD,
    "a pax header of a gigabyte": lambda: with_field(SIZE, b"07777777777\0") + bytes(1 << 20),
    "a pax header about nothing": lambda: GOOD[:-8704] + pax(b"path=a") + bytes(1024),
    "a name that is said twice": lambda: pax(b"path=a", b"path=b") + GOOD,
    "a name for all files": lambda: pax(b"path=adapter_config.json", kind=b"g") + GOOD,
    "a size that is negative": lambda: pax(b"size=-1") + GOOD,
    "a size of a million digits": lambda: pax(b"size=" + b"9" * 16_000) + GOOD,
    "a size below 0 in binary": lambda: with_field(SIZE, b"\xff" * 12),
    "a size of 2^88 in binary": lambda: with_field(SIZE, b"\x80" + b"\xff" * 11),
    "a size beyond the archive": lambda: with_field(SIZE, b"00000001000\0"),
    "a size of words": lambda: with_field(SIZE, b"twelve bytes"),
    "a sparse file of pax": lambda: pax(b"GNU.sparse.size=10737418240", b"GNU.sparse.map=0,0,10737418240,0") + GOOD,
    "a sparse file of GNU": lambda: file_of(WEIGHTS, b"", b"S"),
    "a record nobody knows": lambda: pax(b"evil=1") + GOOD,
    "a symbolic link": lambda: file_of(WEIGHTS, b"", b"2"),
    "a hard link": lambda: file_of(WEIGHTS, b"", b"1"),
    "a link with a long name": lambda: file_of("././@LongLink", b"/etc/passwd\0", b"K"),
    "a character device": lambda: file_of(WEIGHTS, b"", b"3"),
    "a block device": lambda: file_of(WEIGHTS, b"", b"4"),
    "a pipe": lambda: file_of(WEIGHTS, b"", b"6"),
    "a volume": lambda: file_of(WEIGHTS, b"", b"M"),
    "a kind nobody knows": lambda: file_of(WEIGHTS, b"", b"\xff"),
    "many members": lambda: file_of("x", b"") * 50_000,
    "many folders": lambda: file_of("x/", b"", b"5") * 50_000,
    "twice the same": lambda: file_of(CONFIG, b"{}") * 2 + GOOD,
    "twice the same in two folders": lambda: file_of(f"a/{CONFIG}", b"{}") + file_of(f"b/{WEIGHTS}", b"") + bytes(1024),
    "one file alone": lambda: file_of(CONFIG, b"{}") + bytes(1024),
    "a third file": lambda: file_of("adapter_model.bin", b"") + GOOD,
    "a name from the root": lambda: file_of(f"/{CONFIG}", b"{}") + file_of(f"/{WEIGHTS}", b"") + bytes(1024),
    "a name from above": lambda: file_of(f"../{CONFIG}", b"{}") + file_of(f"../{WEIGHTS}", b"") + bytes(1024),
    "a name with a NUL in pax": lambda: pax(b"path=adapter_config.json\0x") + GOOD,
    "a name that is no text": lambda: pax(b"path=\xff\xfe") + GOOD,
}


class Counted:
    """An archive that knows how much of it was looked at."""

    def __init__(self, raw: bytes) -> None:
        self._raw = memoryview(raw)
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, span: slice, /) -> memoryview:
        found = self._raw[span]
        self.num_bytes += len(found)
        return found


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_after_few_bytes_of_it(case: str, monkeypatch: pytest.MonkeyPatch):
    raw = HOSTILE[case]()
    views: list[Counted] = []
    headers: list[int] = []
    read, header_at = tar_reading.read_members, tar_reading._header_at

    def counting(archive: Any) -> Any:
        views.append(Counted(archive))
        return read(views[-1])

    def noting(archive: Any, at: int) -> Any:
        headers.append(at)
        return header_at(archive, at)

    monkeypatch.setattr("eztinker.checkpoints.peft_archive.read_members", counting)
    monkeypatch.setattr(tar_reading, "_header_at", noting)
    with pytest.raises(InvalidInput, match=r"archive|tar file") as refusal:
        unpack(raw)
    assert len(refusal.value.message) < 500
    assert len(headers) <= MAX_HEADERS + 1
    assert len(set(headers)) == len(headers)  # none is read twice
    assert views[0].num_bytes <= MOST_BYTES + tar_reading.MAX_PADDING_BYTES + 1


@pytest.mark.parametrize("header", [file_of("x", b""), file_of("x/", b"", b"5"), pax(b"comment=a", kind=b"g")])
def test_of_a_million_members_a_few_are_looked_at(header: bytes):
    class Million(Counted):
        def __len__(self) -> int:
            return 1_000_000 * len(header)

        def __getitem__(self, span: slice, /) -> memoryview:
            start = span.start % len(header)
            return super().__getitem__(slice(start, start + span.stop - span.start))

    archive = Million(header)
    with pytest.raises(InvalidInput, match=f"may have {MAX_HEADERS} headers"):
        list(read_members(archive))
    assert archive.num_bytes <= MOST_BYTES


@pytest.mark.parametrize("num_records", [1, 10, 100, 1000])
def test_each_byte_of_a_pax_header_is_matched_once(num_records: int, monkeypatch: pytest.MonkeyPatch):
    """The reader of Python before 3.11.10 tries all that is left for each record: 30 kB of digits took it 6 seconds."""
    matched = []
    length = tar_reading._PAX_LENGTH

    class Noting:
        def match(self, raw: bytes, at: int) -> Any:
            matched.append(at)
            return length.match(raw, at)

    monkeypatch.setattr(tar_reading, "_PAX_LENGTH", Noting())
    tar_reading._pax_records(record(b"mtime=1") * num_records)
    assert matched == [at * len(record(b"mtime=1")) for at in range(num_records)]


def test_an_archive_of_our_own_is_read_by_python_as_by_us():
    with tarfile.open(fileobj=io.BytesIO(GOOD)) as tar:
        theirs = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert unpack(GOOD) == theirs == {CONFIG: b"{}", WEIGHTS: b"w"}
    assert json.loads(theirs[CONFIG]) == {}
