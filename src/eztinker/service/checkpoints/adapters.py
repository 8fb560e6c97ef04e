"""Adapters on their way to other programs and in from them, as archives of a PEFT folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from sqlalchemy import Connection

from eztinker.base_models.base_model import BaseModel
from eztinker.base_models.catalog import Catalog
from eztinker.base_models.naming import Sameness, sameness
from eztinker.checkpoints.checkpoint_files import (
    ADAPTER_PART,
    read_manifest,
    read_tensors,
    tensors_part,
    verify_part,
    write_checkpoint,
)
from eztinker.checkpoints.peft import CONFIG, peft_parts
from eztinker.checkpoints.peft_archive import FILES, pack, unpack
from eztinker.checkpoints.peft_config import read_peft_config
from eztinker.checkpoints.peft_reading import read_peft
from eztinker.errors import InvalidInput
from eztinker.model_files.folder import read_model_folder
from eztinker.oplog import audit, checkpoints, models
from eztinker.oplog.rows import Checkpoint, Model, ModelStatus
from eztinker.oplog.store import Store
from eztinker.service.checkpoints.checkpoints import Checkpoints, checkpoint_event, tinker_path
from eztinker.service.clock import Clock
from eztinker.service.sessions.sessions import SessionRequest, Sessions
from eztinker.service.validation import TinkerPath, check_name
from eztinker.types import CheckpointKind, LoraSpec, Record

MAX_SHOWN_CHARS = 200


class Imported(Record):
    """An adapter that has become a checkpoint."""

    path: str
    warning: str | None
    """Sentence for the user if the adapter may have been trained on another base model, else None."""


class Adapters:
    def __init__(self, store: Store, catalog: Catalog, sessions: Sessions, saved: Checkpoints, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._sessions = sessions
        self._saved = saved
        self._clock = clock
        self._reading = asyncio.Lock()
        """Lock that lets one adapter be read at a time, because reading takes up to four times its size."""

    async def archive(self, checkpoint: Checkpoint) -> bytes:
        """Pack the adapter of any checkpoint as a PEFT folder.

        Raises:
            InvalidInput: it is an export whose files are encrypted, which only its recipients can open.
            ModelNotServed: its base model, whose shape decides how the folder looks, is not served any more.
        """
        return await asyncio.to_thread(packed, self._saved.directory(checkpoint.checkpoint_id), self._catalog)

    async def import_archive(self, owner: str, archive: bytes | bytearray, *, base_model: str, name: str) -> Imported:
        """Keep the adapter in `archive` as a sampler checkpoint of a run of its own.

        It can be sampled from, and training can go on from it, as from any other.

        Raises:
            InvalidInput, Unsupported: the archive does not hold a plain LoRA of that base model, as far as its shapes
                and its own word for the base model tell.
            DiskFull, DiskBroken: the disk refused it.
        """
        check_name(name)
        return await self.import_folder(owner, lambda: unpack(archive), base_model=base_model, name=name)

    async def import_folder(
        self,
        owner: str,
        read_parts: Callable[[], Mapping[str, bytes]],
        *,
        base_model: str,
        name: str,
        project_id: str | None = None,
        expected: LoraSpec | None = None,
        also: Callable[[Connection, str], None] | None = None,
    ) -> Imported:
        """Like `import_archive`, for a PEFT folder.

        Args:
            read_parts: gives its files by name, on a thread, when it is their turn.
            project_id: where its session belongs.
            expected: the adapter must have this rank, and change no more than this.
            also: rows to store together with the checkpoint, given its path.
        """
        async with self._reading:
            parts = await asyncio.to_thread(read_parts)
            return await self._import(
                owner, parts, base_model=base_model, name=name, project_id=project_id, expected=expected, also=also
            )

    async def _import(
        self,
        owner: str,
        parts: Mapping[str, bytes],
        *,
        base_model: str,
        name: str,
        project_id: str | None,
        expected: LoraSpec | None,
        also: Callable[[Connection, str], None] | None,
    ) -> Imported:
        served = self._catalog.get(base_model)
        arrays, lora, warning = await asyncio.to_thread(_read, parts, served, self._catalog)
        if expected is not None:
            _check_expected(lora, expected)
        request = SessionRequest(
            tags=["import"], user_metadata={}, sdk_version="", project_id=project_id, display_name=None
        )
        session = await self._sessions.create(owner, request, idempotency_key=None)
        await self._sessions.finish(owner, session.session_id, reason="success", detail=None)
        model = self._model(owner, session.session_id, served.name, lora)
        checkpoint = await asyncio.to_thread(self._write, model, name, arrays, lora)

        def store(db: Connection) -> None:
            models.add(db, model)
            checkpoints.add(db, checkpoint, overwrite=False)
            audit.add(db, checkpoint_event("create", checkpoint, by=owner, now=model.created_at))
            if also is not None:
                also(db, tinker_path(checkpoint))

        await self._store.write(store)
        return Imported(path=tinker_path(checkpoint), warning=warning)

    def _write(self, model: Model, name: str, arrays: dict[str, np.ndarray], lora: LoraSpec) -> Checkpoint:
        checkpoint_id = self._saved.new_id()
        manifest = write_checkpoint(
            self._saved.directory(checkpoint_id),
            {ADAPTER_PART: tensors_part(arrays)},
            tinker_path=str(TinkerPath(model_id=model.model_id, kind=CheckpointKind.SAMPLER, name=name)),
            kind=CheckpointKind.SAMPLER,
            base_model=model.base_model,
            lora=lora,
            step=0,
        )
        return Checkpoint(
            checkpoint_id=checkpoint_id,
            owner=model.owner,
            model_id=model.model_id,
            kind=manifest.kind,
            name=name,
            size_bytes=manifest.size_bytes,
            step=manifest.step,
            user_metadata=None,
            created_at=model.created_at,
            expires_at=None,
        )

    def _model(self, owner: str, session_id: str, base_model: str, lora: LoraSpec) -> Model:
        """Make the run that holds the checkpoint, which is never loaded."""
        now = self._clock.now()
        return Model(
            model_id=f"{session_id}:train:0",
            owner=owner,
            session_id=session_id,
            status=ModelStatus.ARCHIVE,
            base_model=base_model,
            rank=lora.rank,
            train_attn=lora.train_attn,
            train_mlp=lora.train_mlp,
            train_unembed=lora.train_unembed,
            user_metadata=None,
            created_at=now,
            last_request_at=now,
        )


def packed(directory: Path, catalog: Catalog) -> bytes:
    """Pack the checkpoint in `directory`; raises what `Adapters.archive` does."""
    manifest = read_manifest(directory)
    if manifest.kind is CheckpointKind.EXTERNAL:
        if not all(name in manifest.parts for name in FILES):
            raise InvalidInput(f"The files of {manifest.tinker_path} are encrypted; download and decrypt them instead")
        return pack({name: verify_part(directory, name).read_bytes() for name in FILES})
    arrays = read_tensors(directory, manifest, ADAPTER_PART)
    base = catalog.get(manifest.base_model)
    folder = read_model_folder(base.directory, base.name)
    return pack(peft_parts(arrays, manifest.lora, manifest.base_model, head_is_tied=folder.head_is_tied))


def _read(
    parts: Mapping[str, bytes], base: BaseModel, catalog: Catalog
) -> tuple[dict[str, np.ndarray], LoraSpec, str | None]:
    warning = _base_model_warning(read_peft_config(parts[CONFIG]).base_model, base, catalog)
    arrays, lora = read_peft(parts, read_model_folder(base.directory, base.name))
    return arrays, lora, warning


def _check_expected(lora: LoraSpec, expected: LoraSpec) -> None:
    """Compare an adapter with the shape that was announced.

    Raises:
        InvalidInput: the adapter is not of the shape that it was announced to have.
    """
    if lora.rank != expected.rank:
        raise InvalidInput(
            f"lora_config says rank {expected.rank}, and the adapter has {lora.rank}; upload it with its own rank",
            field="rank",
        )
    for name in ("train_attn", "train_mlp", "train_unembed"):
        if getattr(lora, name) and not getattr(expected, name):
            raise InvalidInput(
                f"lora_config says that {name} is false, and the adapter changes such weights; upload it with {name}",
                field=name,
            )


def _base_model_warning(named: str | None, base: BaseModel, catalog: Catalog) -> str | None:
    """Warn of an adapter for `base` whose folder says that it was trained on `named`.

    Raises:
        InvalidInput: that is another model. Its adapter may fit by its shapes, and would compute nonsense.
    """
    if named is None:
        return None
    shown = repr(named[:MAX_SHOWN_CHARS])
    match sameness(named, base, catalog):
        case Sameness.SAME:
            return None
        case Sameness.UNKNOWN:
            return (
                f"The adapter was trained on {shown}, and nothing shows whether that is {base.name}; "
                "if it is not, what it computes is worth nothing"
            )
        case Sameness.DIFFERENT:
            raise InvalidInput(
                f"The adapter was trained on {shown}, which is not {base.name}; import it for the "
                f"right base model or, if both are the same, take base_model_name_or_path out of {CONFIG}"
            )
