"""Runs as users know them: one adapter under one id, a name and a note, whichever Tinker models have carried it.

A client that creates a model says in `user_metadata` which run it carries on, or what its new run is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from eztinker.errors import InvalidInput
from eztinker.oplog import checkpoints, models
from eztinker.oplog.models import run_id_of
from eztinker.oplog.rows import Checkpoint, Model
from eztinker.oplog.store import Store
from eztinker.service.accounts.access import owned
from eztinker.service.checkpoints.checkpoints import visible_to
from eztinker.service.clock import Clock
from eztinker.service.validation import check_run_name
from eztinker.types import CheckpointKind, Page, Record

RUN_KEY = "eztinker_run"
NAME_KEY = "eztinker_name"
NOTE_KEY = "eztinker_note"
MAX_NOTE_CHARS = 500


class RunLabel(Record):
    """The name and note that a client gives the run that a new model belongs to."""

    carries_on: str | None
    """An id or the name of the run."""
    name: str | None
    note: str | None


class Run(Record):
    """One adapter and all the models that have carried it."""

    run_id: str
    models: list[Model]
    """Models, the one used last first."""
    last_checkpoint: Checkpoint | None
    """The newest checkpoint from which training can go on."""

    @property
    def first(self) -> Model:
        """The model it began as, which has its name and note."""
        return next((model for model in self.models if run_id_of(model.model_id) == self.run_id), self.models[-1])

    @property
    def num_steps(self) -> int:
        """Steps of the model trained last; one that was only loaded to be sampled from says nothing about the run."""
        trained = next((model for model in self.models if model.last_loss is not None), None)
        return max(model.num_steps for model in self.models) if trained is None else trained.num_steps

    @property
    def last_loss(self) -> float | None:
        return next((model.last_loss for model in self.models if model.last_loss is not None), None)


class RunDirectory:
    """Finds runs by their ids and names, and names them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def page(self, owner: str, page: Page) -> tuple[list[Run], int]:
        """The owner's runs, begun last first, and how many there are."""
        now = self._clock.now()

        def query(db: Connection) -> tuple[list[Run], int]:
            found, total = models.runs_of_owner(db, owner, page)
            return [_run(db, owner, each, now) for each in found], total

        return await self._store.read(query)

    async def one(self, owner: str, reference: str) -> Run:
        """The run that an id or a name means.

        Raises:
            NotFound: the owner has no such run.
        """
        now = self._clock.now()
        return await self._store.read(lambda db: _find(db, owner, reference, now))

    async def label(self, owner: str, reference: str, changes: Mapping[str, str | None]) -> Run:
        """Give a run another `name` or `note`, or take it away with None; what is not in `changes` stays.

        Raises:
            NotFound: the owner has no such run.
            AlreadyExists: another run of the owner has the name.
        """
        check_run_name(changes.get("name"))
        check_note(changes.get("note"))
        now = self._clock.now()

        def change(db: Connection) -> Run:
            first = _find(db, owner, reference, now).first
            name, note = changes.get("name", first.name), changes.get("note", first.note)
            models.set_label(db, first, name=name, note=note)
            return _find(db, owner, first.model_id, now)

        return await self._store.write(change)


def run_label(metadata: Mapping[str, Any] | None) -> RunLabel:
    """Read name, note and the run to carry on from `user_metadata`.

    Raises:
        InvalidInput: a name or note cannot be kept.
    """
    values = {key: (metadata or {}).get(key) for key in (RUN_KEY, NAME_KEY, NOTE_KEY)}
    for key, value in values.items():
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"user_metadata {key} must be text, got {type(value).__name__}", field="user_metadata")
    if values[RUN_KEY] is not None:
        return RunLabel(carries_on=values[RUN_KEY], name=None, note=None)
    return RunLabel(carries_on=None, name=check_run_name(values[NAME_KEY]), note=check_note(values[NOTE_KEY]))


def check_note(note: str | None) -> str | None:
    """`note`, if it is short enough to come back in every listing."""
    if note is not None and len(note) > MAX_NOTE_CHARS:
        raise InvalidInput(f"A run's note may have {MAX_NOTE_CHARS} characters, got {len(note)}", field="note")
    return note


def _find(db: Connection, owner: str, reference: str, now: datetime) -> Run:
    run_id = models.resolve_run(db, reference, [owner])
    found = models.of_run(db, run_id or "")  # asked as well if there is none, so that foreign runs are not told apart
    owned(found[0] if found else None, owner, f"training run {reference!r}")
    return _run(db, owner, found, now)


def _run(db: Connection, owner: str, found: list[Model], now: datetime) -> Run:
    saved = visible_to(owner, checkpoints.of_models(db, [model.model_id for model in found]), now)
    newest = next((row for row in saved if row.kind is CheckpointKind.TRAINING), None)
    return Run(run_id=found[0].run_id or "", models=found, last_checkpoint=newest)
