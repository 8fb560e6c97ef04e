"""Archives of checkpoints that need no server to be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.base_models.catalog import Catalog
from eztinker.checkpoints.checkpoint_files import ADAPTER_PART, tensors_part, write_checkpoint
from eztinker.checkpoints.peft_archive import FILES, unpack
from eztinker.errors import InvalidInput, ModelNotServed
from eztinker.service.checkpoints.adapters import packed
from eztinker.types import CheckpointKind, LoraSpec


def checkpoint(directory: Path, kind: CheckpointKind, parts: dict[str, bytes]) -> Path:
    write_checkpoint(
        directory,
        parts,
        tinker_path=f"tinker://run/{kind}/name",
        kind=kind,
        base_model="gone",
        lora=LoraSpec(rank=1, seed=0),
        step=0,
    )
    return directory


def test_an_export_is_packed_as_it_lies_there_without_its_base_model(tmp_path: Path):
    parts = {name: name.encode() for name in FILES}
    directory = checkpoint(tmp_path / "export", CheckpointKind.EXTERNAL, parts)
    assert unpack(packed(directory, Catalog([]))) == parts


def test_an_encrypted_export_is_for_its_recipients_only(tmp_path: Path):
    directory = checkpoint(tmp_path / "export", CheckpointKind.EXTERNAL, {f"{name}.age": b"x" for name in FILES})
    with pytest.raises(InvalidInput, match="encrypted"):
        packed(directory, Catalog([]))


def test_other_checkpoints_need_their_base_model(tmp_path: Path):

    directory = checkpoint(tmp_path / "saved", CheckpointKind.SAMPLER, {ADAPTER_PART: tensors_part({})})
    with pytest.raises(ModelNotServed, match="'gone' is not served here"):
        packed(directory, Catalog([]))
