"""Copies of checkpoints: each in a run of its own that cannot be trained, its files shared with the original."""

from __future__ import annotations

import asyncio
import uuid

from sqlalchemy import Connection

from eztinker.checkpoints.checkpoint_files import copy_checkpoint, remove_checkpoint
from eztinker.errors import AlreadyExists, InvalidInput
from eztinker.oplog import audit, checkpoints, models, sessions
from eztinker.oplog.rows import Checkpoint, Model, ModelStatus, Session, SessionStatus
from eztinker.oplog.store import Store
from eztinker.service.checkpoints.checkpoints import Checkpoints, checkpoint_event, tinker_path
from eztinker.service.clock import Clock
from eztinker.service.sessions.sessions import Sessions
from eztinker.service.validation import check_seq_id, check_text, expiry
from eztinker.types import Record


class CopyTarget(Record):
    """Destination of a copy: a slot of a session of the caller's, or a project, in a session of its own."""

    session_id: str | None
    model_seq_id: int | None
    project_id: str | None


class CheckpointCopies:
    def __init__(self, store: Store, saved: Checkpoints, sessions_: Sessions, clock: Clock) -> None:
        self._store = store
        self._saved = saved
        self._sessions = sessions_
        self._clock = clock

    async def copy(
        self,
        owner: str,
        path: str,
        target: CopyTarget,
        *,
        ttl_seconds: int | None,
        lender: str | None,
        idempotency_key: str | None,
    ) -> str:
        """Copy a checkpoint into a run of its own, which cannot be trained, and return the path; files are shared.

        A repeat with the same key, or to the same slot, gives the first copy.

        Raises:
            AlreadyExists: the slot is taken by something else.
        """
        expires_at = expiry(ttl_seconds, self._clock.now())
        original, source = await self._saved.open(owner, path, "copy", lender=lender)
        session_id, model_seq_id = await self._slot(owner, target, idempotency_key)
        now = self._clock.now()
        model = Model(
            model_id=f"{session_id}:train:{model_seq_id}",
            owner=owner,
            session_id=session_id,
            status=ModelStatus.ARCHIVE,
            base_model=source.base_model,
            rank=source.rank,
            train_attn=source.train_attn,
            train_mlp=source.train_mlp,
            train_unembed=source.train_unembed,
            user_metadata=None,
            created_at=now,
            last_request_at=now,
        )
        copy = Checkpoint(
            checkpoint_id=self._saved.new_id(),
            owner=owner,
            model_id=model.model_id,
            kind=original.kind,
            name=original.name,
            size_bytes=original.size_bytes,
            step=original.step,
            user_metadata=original.user_metadata,
            created_at=now,
            expires_at=expires_at,
        )
        directory = self._saved.directory(copy.checkpoint_id)
        await asyncio.to_thread(copy_checkpoint, self._saved.directory(original.checkpoint_id), directory)
        try:
            stored = await self._store.write(lambda db: _add_copy(db, model, copy))
        except AlreadyExists:
            await asyncio.to_thread(remove_checkpoint, directory)
            raise
        if stored != copy:
            await asyncio.to_thread(remove_checkpoint, directory)
        return tinker_path(stored)

    async def _slot(self, owner: str, target: CopyTarget, idempotency_key: str | None) -> tuple[str, int]:
        """Choose session and number of the run for a copy."""
        if target.session_id is not None and target.model_seq_id is not None and target.project_id is None:
            await self._sessions.require_active(owner, target.session_id)
            return target.session_id, check_seq_id(target.model_seq_id)
        if target.project_id is None or target.session_id is not None or target.model_seq_id is not None:
            raise InvalidInput("copy_weights takes destination_project_id, or session_id and model_seq_id")
        check_text(target.project_id, field="destination_project_id")
        check_text(idempotency_key, field="X-Idempotency-Key")
        now = self._clock.now()
        session = Session(
            session_id=str(uuid.uuid4()),
            owner=owner,
            idempotency_key=None if idempotency_key is None else f"copy_weights {idempotency_key}",
            status=SessionStatus.FINISHED,
            tags=[],
            user_metadata={},
            sdk_version="",
            project_id=target.project_id,
            end_reason="success",
            created_at=now,
            ended_at=now,
        )
        stored = await self._store.write(lambda db: sessions.add_session(db, session))
        return stored.session_id, 0


def _add_copy(db: Connection, model: Model, copy: Checkpoint) -> Checkpoint:
    """Store the rows of a copy, or find the copy of this name that its run holds already."""
    holder = models.get(db, model.model_id)
    if holder is not None and holder.status is ModelStatus.ARCHIVE:
        assert copy.name is not None  # only named checkpoints have a path to copy from
        if (existing := checkpoints.by_name(db, copy.model_id, copy.kind, copy.name)) is not None:
            return existing
    models.add(db, model)
    checkpoints.add(db, copy, overwrite=False)
    audit.add(db, checkpoint_event("create", copy, by=copy.owner, now=copy.created_at))
    return copy
