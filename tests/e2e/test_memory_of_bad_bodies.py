"""Small bodies that would be large ones: what the server's own process holds at most while it refuses them.

Linux keeps the most memory that a process ever had (VmHWM) and can be told to begin anew.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import zstandard

from eztinker.api.reading import MAX_UNPACKED_BYTES
from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.cli.child_server import LOG_FILE
from eztinker.settings.data_dir import RunningServer
from tests.process_memory import forget_peak, memory_kb
from tests.servers import serving_in_child
from tests.wire import PROTOBUF

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MAX_GROWTH_KB = 64 << 10
BOMB_BYTES = 10 << 30
BLOCK_BYTES = 1 << 17
"""The largest that zstd allows."""


def zstd_bomb(declared_bytes: int | None) -> bytes:
    """A frame of ten gigabytes in 320 KB: blocks of one byte, repeated. RFC 8878, section 3.1.1."""
    window = bytes([(17 - 10) << 3])  # 2^17 bytes
    head = b"\0" + window if declared_bytes is None else bytes([3 << 6]) + window + struct.pack("<Q", declared_bytes)
    num_blocks = BOMB_BYTES // BLOCK_BYTES
    rle = 1 << 1
    blocks = [
        (BLOCK_BYTES << 3 | rle | (number == num_blocks - 1)).to_bytes(3, "little") for number in range(num_blocks)
    ]
    return b"\x28\xb5\x2f\xfd" + head + b"".join(block + b"\0" for block in blocks)


def gzip_bomb() -> bytes:
    """Ten gigabytes of zeros, packed twice: the inner file is a hundred times the same member."""
    member = gzip.compress(bytes(BOMB_BYTES // 100), 9)
    return gzip.compress(member * 100)


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def many_tensors() -> bytes:
    """A safetensors file of a hundred thousand empty tensors: 7 MB, and as many objects."""
    header = json.dumps(
        {f"base_model.{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(100_000)}
    ).encode()
    return len(header).to_bytes(8, "little") + header


def huge_shape() -> bytes:
    tensor = {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}
    header = json.dumps({"base_model.model.x": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


LORA = json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}).encode()
BATCH, JSON, IMPORT = "/forward_backward", "/create_session", "/import_adapter?base_model=tiny&name=n"
ZSTD = {"content-type": PROTOBUF, "content-encoding": "zstd"}
CASES = {
    "zstd that says its ten gigabytes": (BATCH, lambda: zstd_bomb(BOMB_BYTES), ZSTD, 413),
    "zstd that says nothing": (BATCH, lambda: zstd_bomb(None), ZSTD, 400),
    "zstd that says a megabyte": (BATCH, lambda: zstd_bomb(1 << 20), ZSTD, 400),
    "zstd that says the most there may be": (BATCH, lambda: zstd_bomb(MAX_UNPACKED_BYTES), ZSTD, 400),
    "zstd as large as there may be": (BATCH, lambda: zstandard.compress(bytes(MAX_UNPACKED_BYTES)), ZSTD, 413),
    "zstd of zstd": (BATCH, lambda: zstandard.compress(zstd_bomb(None)), ZSTD, 400),
    "zstd that breaks off": (BATCH, lambda: zstd_bomb(MAX_UNPACKED_BYTES)[:-2], ZSTD, 400),
    "zstd on a plain route": (JSON, lambda: zstd_bomb(BOMB_BYTES), {"content-encoding": "zstd"}, 415),
    "two encodings": (BATCH, lambda: zstd_bomb(None), ZSTD | {"content-encoding": "zstd, zstd"}, 415),
    "gzip": (BATCH, gzip_bomb, ZSTD | {"content-encoding": "gzip"}, 415),
    "gzip on a plain route": (JSON, gzip_bomb, {"content-encoding": "gzip"}, 415),
    "deflate": (BATCH, lambda: zlib.compress(bytes(1 << 24)), ZSTD | {"content-encoding": "deflate"}, 415),
    "brotli": (BATCH, lambda: b"\x1b" * 1000, ZSTD | {"content-encoding": "br"}, 415),
    "a deep JSON batch": (BATCH, lambda: b'{"a":' * 200_000, {"content-type": "application/json"}, 413),
    "an archive in gzip": (IMPORT, gzip_bomb, {}, 422),
    "an archive in bzip2": (IMPORT, lambda: bz2.compress(tar_of({CONFIG: LORA})), {}, 422),
    "ten thousand members": (IMPORT, lambda: tarfile.TarInfo("x").tobuf() * 10_000, {}, 422),
    "a hundred thousand tensors": (IMPORT, lambda: tar_of({CONFIG: LORA, WEIGHTS: many_tensors()}), {}, 422),
    "a shape of 2^80": (IMPORT, lambda: tar_of({CONFIG: LORA, WEIGHTS: huge_shape()}), {}, 422),
    "a deep config": (IMPORT, lambda: tar_of({CONFIG: b"[" * 1_000_000, WEIGHTS: huge_shape()}), {}, 422),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[RunningServer]:
    data_dir = tmp_path_factory.mktemp("bad_bodies") / "data"
    with serving_in_child(data_dir, {"tiny": tiny_model_dir}) as running:
        yield running
    assert not list(data_dir.rglob("*adapter*"))
    assert "Traceback" not in (data_dir / LOG_FILE).read_text()


@pytest.fixture(scope="module")
def http(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    key = next(tmp_path_factory.getbasetemp().glob("bad_bodies*/data/api_key")).read_text().strip()
    with httpx.Client(base_url=f"{server.url}/api/v1", headers={"x-api-key": key}, timeout=60) as client:
        client.post(BATCH, content=b"\xff", headers={"content-type": PROTOBUF})  # whatever comes with the first one
        client.post(IMPORT, content=tar_of({CONFIG: LORA, WEIGHTS: huge_shape()}))
        yield client


@pytest.mark.parametrize("case", CASES)
def test_a_body_that_would_be_larger_is_refused_in_little_memory(server: RunningServer, http: httpx.Client, case: str):
    endpoint, make, headers, status = CASES[case]
    body = make()
    before = forget_peak(server.pid)
    response = http.post(endpoint, content=body, headers=headers)
    growth = memory_kb(server.pid, "VmHWM") - before
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]
    assert growth < MAX_GROWTH_KB, f"{growth} KB more for a body of {len(body)} bytes"


def test_ten_gigabytes_are_really_in_the_bomb():
    """Else the tests above would show nothing: a reader without a bound unpacks it to the end."""
    reader = zstandard.ZstdDecompressor().stream_reader(zstd_bomb(None))
    assert sum(len(part) for part in iter(lambda: reader.read(1 << 22), b"")) == BOMB_BYTES
