"""Training runs as they are listed: each with the newest checkpoints that the reader may see."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from eztinker.oplog import checkpoints, models
from eztinker.oplog.rows import Checkpoint, Model, ModelStatus
from eztinker.oplog.store import Store
from eztinker.service.accounts.access import owned
from eztinker.service.checkpoints.checkpoints import visible_to
from eztinker.service.clock import Clock
from eztinker.types import CheckpointKind, Page, Record


class RunListing(Record):
    """A run with the newest checkpoints of both kinds."""

    model: Model
    last_checkpoint: Checkpoint | None
    last_sampler_checkpoint: Checkpoint | None

    @property
    def is_corrupted(self) -> bool:
        """Whether the run ended other than on purpose."""
        return self.model.status in (ModelStatus.LOST, ModelStatus.FAILED)


class RunListings:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def one(self, reader: str, model_id: str, *, with_public: bool) -> RunListing:
        """One run of the reader's, by any of its ids or its name.

        With `with_public` also one of another owner's that has a public checkpoint.
        """
        now = self._clock.now()

        def query(db: Connection) -> tuple[Model | None, list[Checkpoint]]:
            found = models.resolve(db, model_id, [reader])
            model_ids = [model.model_id for model in found] or [model_id]  # asked as well if there is none
            saved = checkpoints.of_models(db, model_ids)
            return (found[0] if found else None), visible_to(reader, saved, now)

        model, visible = await self._store.read(query)
        if model is not None and visible and with_public:
            return _listing(reader, model, visible)
        return _listing(reader, owned(model, reader, f"training run {model_id!r}"), visible)

    async def page(
        self, reader: str, page: Page, *, with_public: bool, project_id: str | None
    ) -> tuple[list[RunListing], int]:
        """The reader's runs, newest first, and how many there are; with `with_public` also others' as in `one`."""
        now = self._clock.now()

        def query(db: Connection) -> tuple[list[RunListing], int]:
            rows, total = models.of_owner(db, reader, page, with_public=with_public, project_id=project_id)
            saved = checkpoints.of_models(db, [model.model_id for model in rows])
            visible = visible_to(reader, saved, now)
            return [
                _listing(reader, model, [row for row in visible if row.model_id == model.model_id]) for model in rows
            ], total

        return await self._store.read(query)


def _listing(reader: str, model: Model, visible: list[Checkpoint]) -> RunListing:
    def newest(kind: CheckpointKind) -> Checkpoint | None:
        return next((row for row in visible if row.kind is kind), None)

    return RunListing(
        model=model if model.owner == reader else msgspec.structs.replace(model, user_metadata=None),
        last_checkpoint=newest(CheckpointKind.TRAINING),
        last_sampler_checkpoint=newest(CheckpointKind.SAMPLER),
    )
