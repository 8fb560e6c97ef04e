"""One bit of one file is wrong: it is found before anything is made of it, and the file and a way out are named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pyrage import x25519  # pyright: ignore[reportAttributeAccessIssue]  # a compiled module without type stubs

from eztinker.base_models.base_model import read_base_model
from eztinker.base_models.catalog import Catalog
from eztinker.checkpoints.checkpoint_files import (
    ADAPTER_PART,
    GRADIENT_PART,
    OPTIMIZER_PART,
    read_manifest,
    read_tensors,
    tensors_part,
    write_checkpoint,
)
from eztinker.checkpoints.encryption import encrypted, parse_recipients
from eztinker.checkpoints.peft_archive import FILES
from eztinker.errors import CheckpointDamaged
from eztinker.oplog import checkpoints
from eztinker.oplog.rows import Checkpoint
from eztinker.service.checkpoints.adapters import packed
from eztinker.service.checkpoints.checkpoints import tinker_path
from eztinker.types import CheckpointKind
from tests.faulty_disk.deeds import LORA, OWNER, RUN, Disk, adapter_parts

NUM_FLIPS = 1000
RECIPIENT = str(x25519.Identity.generate().to_public())


@pytest.fixture(scope="module")
def base_model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama", hidden=16)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Iterator[Disk]:
    with closing(Disk(tmp_path_factory.mktemp("data"), base_model)) as disk:
        asyncio.run(disk.prepare())
        yield disk


def save(disk: Disk, kind: CheckpointKind, name: str, parts: dict[str, bytes]) -> tuple[str, Path]:
    """Path and directory of a checkpoint of the run."""
    row = Checkpoint(
        checkpoint_id=disk.saved.new_id(),
        owner=OWNER,
        model_id=RUN,
        kind=kind,
        name=name,
        size_bytes=1,
        step=1,
        user_metadata=None,
        created_at=datetime.now(UTC),
        expires_at=None,
    )
    directory = disk.saved.directory(row.checkpoint_id)
    write_to(directory, kind, tinker_path(row), parts)
    asyncio.run(disk.store.write(lambda db: checkpoints.add(db, row, overwrite=False)))
    return tinker_path(row), directory


def write_to(directory: Path, kind: CheckpointKind, path: str, parts: dict[str, bytes]) -> None:
    write_checkpoint(directory, parts, tinker_path=path, kind=kind, base_model="tiny", lora=LORA, step=1)


def tensors(*names: str) -> dict[str, bytes]:
    return {name: tensors_part({"a": np.arange(500, dtype=np.float32)}) for name in names}


def with_one_bit_flipped(directory: Path, num_flips: int) -> Iterator[str]:
    """Name of the file that is damaged at the moment: each in its turn, at random places."""
    generator = random.Random(0)
    paths = sorted(directory.iterdir())
    for flip in range(num_flips):
        path = paths[flip % len(paths)]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        yield path.name
        path.write_bytes(whole)


KINDS = {
    "training": (CheckpointKind.TRAINING, lambda base: tensors(ADAPTER_PART, OPTIMIZER_PART)),
    "sampler": (CheckpointKind.SAMPLER, lambda base: tensors(ADAPTER_PART)),
    "export": (CheckpointKind.EXTERNAL, adapter_parts),
    "encrypted": (
        CheckpointKind.EXTERNAL,
        lambda base: encrypted(adapter_parts(base), parse_recipients([RECIPIENT])),
    ),
}


@pytest.mark.parametrize("which", KINDS)
def test_it_is_found_when_a_checkpoint_is_opened_and_the_last_good_one_is_offered(
    disk: Disk, base_model: Path, which: str
):
    kind, make = KINDS[which]
    good, _ = save(disk, kind, f"{which}-good", make(base_model))
    path, directory = save(disk, kind, f"{which}-newer", make(base_model))

    async def open_() -> None:
        await disk.saved.open(OWNER, path, "load")

    asyncio.run(open_())
    for name in with_one_bit_flipped(directory, NUM_FLIPS // len(KINDS)):
        with pytest.raises(CheckpointDamaged) as told:
            asyncio.run(open_())
        assert name in told.value.message
        assert told.value.message.endswith(f"the newest one before it that is whole is {good}")
    asyncio.run(open_())


def test_it_is_found_when_an_exported_file_is_fetched_by_a_link_that_is_older(disk: Disk, base_model: Path):
    path, directory = save(disk, CheckpointKind.EXTERNAL, "linked", adapter_parts(base_model))
    checkpoint, _ = asyncio.run(disk.saved.find(OWNER, path))
    catalog = Catalog([read_base_model("tiny", base_model)])
    packed(directory, catalog)
    for name in with_one_bit_flipped(directory, 60):
        with pytest.raises(CheckpointDamaged, match=name):
            packed(directory, catalog)
        for file in FILES if name not in FILES else [name]:
            with pytest.raises(CheckpointDamaged, match=name):
                asyncio.run(disk.saved.file(checkpoint, file))
    assert [asyncio.run(disk.saved.file(checkpoint, file)).name for file in FILES] == list(FILES)


def test_it_is_found_when_a_run_is_brought_back_from_a_snapshot(tmp_path: Path):
    directory = tmp_path / "snapshot"
    parts = tensors(ADAPTER_PART, OPTIMIZER_PART, GRADIENT_PART)
    write_to(directory, CheckpointKind.TRAINING, "snapshot of run after operation 7", parts)

    def read() -> None:  # as the engine does
        manifest = read_manifest(directory)
        for part in manifest.parts:
            read_tensors(directory, manifest, part)

    read()
    for name in with_one_bit_flipped(directory, NUM_FLIPS // 4):
        with pytest.raises(CheckpointDamaged, match=name):
            read()
    read()
