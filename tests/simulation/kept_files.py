"""What must hold of the checkpoints that are kept: their rows, their directories and what is in them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from eztinker.checkpoints.checkpoint_files import verify_checkpoint
from eztinker.errors import CheckpointDamaged, CheckpointNotFound
from eztinker.service.training.parking import PARKED
from tests.simulation.disk import Disk
from tests.simulation.engine import STATE_FILE, Engines
from tests.simulation.fold import Fold
from tests.simulation.log_rows import Log
from tests.simulation.records import Records, Violation, lane_of
from tests.simulation.states import State, saved

_LISTED = (
    "SELECT c.checkpoint_id, c.model_id, c.kind, c.name, s.idempotency_key FROM checkpoints c "
    "JOIN models m ON m.model_id = c.model_id JOIN sessions s ON s.session_id = m.session_id "
    "WHERE c.removed_at IS NULL AND c.name IS NOT NULL"
)
_OF_A_COPY = "copy_weights "
"""What the key of a session begins with that was made for a copy."""


class KeptFiles:
    def __init__(self, disk: Disk, log: Log, records: Records, engines: Engines, data_dir: Path, due: datetime) -> None:
        """Args: due: whatever was to go before this time is gone by now."""
        self._disk = disk
        self._log = log
        self._records = records
        self._engines = engines
        self._root = data_dir / "checkpoints"
        self._snapshots = data_dir / "snapshots"
        self._due = due.strftime("%Y-%m-%d %H:%M:%S.%f")

    def check(self, fold: Fold) -> None:
        """Every checkpoint that is listed is whole and holds what was saved; no other directory is left for good.

        A copy stays until the next start when the disk refuses its row: an error of the disk does not prove that there
        is none.
        """
        live = self._ids("removed_at IS NULL")
        known = self._ids("true")
        found = {path.name for path in self._root.iterdir()}
        if missing := live - found:
            raise Violation(f"checkpoints without files: {missing}")
        leftover = {name for name in found - known if "." not in name} - self._failed_saves()
        if leftover & set(self._engines.written.values()) or len(leftover) > self._disk.num_refused:
            raise Violation(f"directories of no checkpoint: {leftover}")
        if overdue := self._ids(f"removed_at < '{self._due}' OR (removed_at IS NULL AND expires_at < '{self._due}')"):
            raise Violation(f"checkpoints stay when their time is over: {overdue}")
        if {path.name for path in self._snapshots.iterdir()} != set(
            self._log.column("SELECT snapshot_id FROM snapshots")
        ):
            raise Violation("the directories of snapshots are not those the log knows")
        self._check_contents(fold)

    def check_leftovers(self) -> None:
        """When a server has started, there is nothing that no row knows."""
        if leftover := {path.name for path in self._root.iterdir()} - self._ids("true"):
            raise Violation(f"directories of no checkpoint outlive a start: {leftover}")

    def _check_contents(self, fold: Fold) -> None:
        listed = set()
        for checkpoint_id, model_id, kind, name, key in self._log.raw.execute(_LISTED):
            path = f"tinker://{model_id}/{kind}/{name}"
            listed.add(path)
            if self._content(checkpoint_id) not in self._expected(fold, path, key):
                raise Violation(f"{path} does not hold the state that was saved")
        saved_paths = {path for path in self._records.saved if lane_of(path) and fold.newest_at(path) is not None}
        if missing := (saved_paths | self._records.copied) - listed - self._records.may_be_gone:
            raise Violation(f"checkpoints are gone that nobody has deleted: {missing}")

    def _expected(self, fold: Fold, path: str, key: str | None) -> list[State | None]:
        model_id, name = lane_of(path), path.rpartition("/")[2]
        original = self._records.copies.get(model_id) or self._records.copies.get((key or "").removeprefix(_OF_A_COPY))
        if original is not None:
            return [*fold.at(original)]
        if path in self._records.saved:
            return [fold.newest_at(path)]
        if not name.startswith(PARKED):
            raise Violation(f"{path} is listed, and nobody asked for it")
        last = fold.last(model_id)
        return [None if last is None else saved(last, with_gradient=False)]

    def _content(self, checkpoint_id: str) -> State:
        directory = self._root / checkpoint_id
        try:
            verify_checkpoint(directory)
        except (CheckpointDamaged, CheckpointNotFound) as error:
            raise Violation(f"the checkpoint {checkpoint_id} is listed and is not whole: {error}") from error
        return State.decode((directory / STATE_FILE).read_bytes())

    def _ids(self, where: str) -> set[str]:
        return set(self._log.column(f"SELECT checkpoint_id FROM checkpoints WHERE {where}"))

    def _failed_saves(self) -> set[str]:
        """Directories of saves that were written and then failed; they go at the next start."""
        failed = self._log.column("SELECT op_id FROM operations WHERE status = 'failed' AND kind LIKE 'save%'")
        return {self._engines.written[op_id] for op_id in failed if op_id in self._engines.written}
