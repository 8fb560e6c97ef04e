"""What must hold, judged by what clients asked for and were told, and by the log's rows, not by the server's code."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eztinker.protocol import wire_pb2
from eztinker.service.engine_process import MAX_DEATHS, MAX_FAILED_STARTS
from eztinker.service.operations import Done, Failure
from tests.simulation import states
from tests.simulation.engine import STATE_FILE, Engines
from tests.simulation.states import Bad, Create, Deed, Load, Pass, Save, State, Step


class Violation(Exception):
    """Something that must hold does not."""


class Place(NamedTuple):
    """Where an operation stands: its run, and its number there."""

    lane: str
    seq_id: int


class SampleAsked(NamedTuple):
    source: Place | None
    """The save that is sampled from; None for the base model."""
    prompt: tuple[int, ...]


class Row(NamedTuple):
    op_id: str
    seq_id: int
    kind: str
    status: str
    payload: str | None
    epoch: int | None
    media_type: str | None
    result: bytes | None
    error_code: str | None


@dataclass
class Records:
    """What the clients know."""

    def __post_init__(self) -> None:
        self.asked: dict[Place, Deed] = {}
        self.samples: dict[str, SampleAsked] = {}
        self.promises: dict[Place, str] = {}
        self.outcomes: dict[str, Done | Failure] = {}
        self.saved: dict[str, Place] = {}
        """By tinker:// path."""
        self.abandoned: set[str] = set()
        """Promises whose client vanished before it knew their outcome."""

    def promised(self, place: Place, op_id: str) -> None:
        if (first := self.promises.setdefault(place, op_id)) != op_id:
            raise Violation(f"{place} was promised as {first}, and then as {op_id}")

    def told(self, op_id: str, outcome: Done | Failure) -> None:
        if (first := self.outcomes.setdefault(op_id, outcome)) != outcome:
            raise Violation(f"{op_id} ended in {first}, and then in {outcome}")


def number_in(media_type: str, result: bytes) -> int | None:
    """The number that the engine put into a result."""
    if media_type == "application/x-protobuf":
        return int(wire_pb2.ForwardBackwardOutput.FromString(result).metrics["loss:sum"])
    metrics = json.loads(result).get("metrics")
    return None if metrics is None else int(metrics["state"])


def token_in(result: bytes) -> int:
    return int(np.frombuffer(wire_pb2.SampleResponse.FromString(result).sequences[0].tokens, "<i4")[0])


class Log:
    """The rows as they are in the database."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

    def rows(self) -> dict[str, list[Row]]:
        """Numbered operations by lane, in order."""
        found: defaultdict[str, list[Row]] = defaultdict(list)
        columns = ", ".join(Row._fields)
        query = f"SELECT lane, {columns} FROM operations WHERE seq_id IS NOT NULL ORDER BY lane, seq_id"
        for lane, *row in self.raw.execute(query):
            found[lane].append(Row(*row))
        return found

    def count(self, query: str) -> int:
        return self.raw.execute(f"SELECT count(*) FROM {query}").fetchone()[0]

    def column(self, query: str) -> list[str]:
        return [row[0] for row in self.raw.execute(query)]


class AfterCommit:
    """Checks that hold after every commit, cheap enough to be made there."""

    def __init__(self, log: Log, records: Records) -> None:
        self._log = log
        self._records = records
        self._snapshots: list[tuple[str, int]] = []

    def __call__(self) -> None:
        query = "SELECT model_id, seq_id FROM snapshots ORDER BY model_id, seq_id DESC"
        snapshots = self._log.raw.execute(query).fetchall()
        if snapshots == self._snapshots:
            return
        self._snapshots = snapshots
        covered = "operations o JOIN snapshots s ON o.lane = s.model_id AND o.seq_id <= s.seq_id"
        if self._log.count(f"{covered} WHERE o.status = 'pending'"):
            raise Violation("a snapshot covers an operation without an outcome")
        kept: defaultdict[str, list[int]] = defaultdict(list)
        for model_id, seq_id in snapshots:
            kept[model_id].append(seq_id)
        for lane, rows in self._log.rows().items():
            if lane in kept:
                self._check_payloads(lane, rows, kept[lane])

    def _check_payloads(self, lane: str, rows: list[Row], kept: list[int]) -> None:
        """Should the newest snapshot turn out damaged, the one before it and what is behind it bring the run back."""
        needed_after = kept[1] if len(kept) > 1 else -1
        for row in rows:
            is_needed = row.seq_id > needed_after and _has_effect(row, self._records.asked.get(Place(lane, row.seq_id)))
            if is_needed and row.payload is None:
                raise Violation(f"operation {row.seq_id} of {lane} cannot be replayed: its payload is gone")


def _has_effect(row: Row, deed: Deed | None) -> bool:
    """Whether a settled operation has changed its run."""
    if row.status in ("done", "expired"):
        return isinstance(deed, (Create, Load, Step)) or (isinstance(deed, Pass) and not deed.is_forward_only)
    return row.status == "failed" and row.error_code == "nonfinite_update"


def _own_reasons(deed: Deed) -> set[str]:
    """Why an operation may fail whatever else happens."""
    match deed:
        case Bad():
            return {"invalid_input"}
        case Step(learning_rate=0):
            return {"nonfinite_update"}
        case Pass(tokens=(states.REFUSED_TOKEN, *_)):
            return {"out_of_memory"}
        case Load():
            return {"checkpoint_not_found"}  # its client deletes some
    return set()


class Fold:
    """The state of each run after each of its operations, from what was asked and how it ended."""

    def __init__(self, records: Records, rows: dict[str, list[Row]]) -> None:
        self._records = records
        self._rows = rows
        self._after: dict[str, dict[int, State | None]] = {}

    def check(self) -> None:
        for lane in self._rows:
            if not lane.count(":sample:"):
                self._states(lane)

    def after(self, place: Place) -> State | None:
        return self._states(place.lane)[place.seq_id]

    def last(self, lane: str) -> State | None:
        return next(reversed(self._states(lane).values()))

    def _states(self, lane: str) -> dict[int, State | None]:
        if lane not in self._after:
            self._after[lane] = states_after = {}
            state: State | None = None
            for row in self._rows[lane]:
                state = states_after[row.seq_id] = self._next(lane, row, state)
        return self._after[lane]

    def _next(self, lane: str, row: Row, state: State | None) -> State | None:
        place = Place(lane, row.seq_id)
        deed = self._records.asked.get(place)
        if deed is None:
            raise Violation(f"{place} is in the log, and nobody asked for it")
        if row.status == "pending":
            raise Violation(f"{place} never ended")
        if row.status == "failed":
            if row.error_code != "nonfinite_update":
                return state
            assert state is not None
            return states.stepped(state, Step(0))[0]
        match deed:
            case Create():
                return states.created(deed)
            case Load():
                source = self.after(self._records.saved[deed.path])
                assert source is not None
                return states.loaded(states.saved(source, with_gradient=False), with_optimizer=deed.with_optimizer)
            case Save():
                return state
            case Bad():
                raise Violation(f"{place} should have been refused")
        if state is None:
            raise Violation(f"{place} was done in a run that never began")
        state, number = states.passed(state, deed) if isinstance(deed, Pass) else states.stepped(state, deed)
        if row.result is not None and number_in(row.media_type or "", row.result) != number:
            raise Violation(f"{place} was done in another state than that after all operations before it")
        return state


class AtTheEnd:
    """Checks when all faults are over and everything has had its time."""

    def __init__(self, log: Log, records: Records, engines: Engines, data_dir: Path) -> None:
        self._log = log
        self._records = records
        self._engines = engines
        self._data_dir = data_dir
        self._rows = log.rows()

    def check(self) -> None:
        self._check_outcomes()
        self._check_failures()
        fold = Fold(self._records, self._rows)
        fold.check()
        self._check_samples(fold)
        self._check_order_of_outcomes()
        self._check_files(fold)
        self._check_that_ended_sessions_hold_nothing()

    def _check_outcomes(self) -> None:
        """What clients were told is what the log has, and every promise is in it."""
        by_id = {row.op_id: (lane, row) for lane, rows in self._rows.items() for row in rows}
        for place, op_id in self._records.promises.items():
            if op_id not in by_id or Place(by_id[op_id][0], by_id[op_id][1].seq_id) != place:
                raise Violation(f"{place} was promised as {op_id}, which is not in the log")
            if op_id not in self._records.outcomes and op_id not in self._records.abandoned:
                raise Violation(f"{place} was promised, and its client never heard of it")
        for op_id, outcome in self._records.outcomes.items():
            row = by_id[op_id][1]
            if isinstance(outcome, Failure):
                if (row.status, row.error_code) != ("failed", outcome.code):
                    raise Violation(f"{op_id} failed with {outcome.code} for its client, and is {row} in the log")
            elif row.status not in ("done", "expired") or row.result not in (None, outcome.body):
                raise Violation(f"{op_id} was done for its client, and is {row} in the log")

    def _check_failures(self) -> None:
        """Nothing fails without a reason that the simulation has given it."""
        ended = set(self._log.column("SELECT model_id FROM models WHERE status != 'active'"))
        may_be_lost = {
            model_id for (model_id, _), num_deaths in self._engines.deaths.items() if num_deaths >= MAX_DEATHS
        }
        for lane, rows in self._rows.items():
            for row in rows:
                if row.status != "failed" or row.kind == "sample":
                    continue
                deed = self._records.asked[Place(lane, row.seq_id)]
                reasons = _own_reasons(deed) | {"sequence_gap"}
                if lane in ended:
                    reasons.add("not_found")
                if lane in may_be_lost or self._engines.num_failed_starts >= MAX_FAILED_STARTS:
                    reasons.add("engine_lost")
                if row.error_code not in reasons:
                    raise Violation(f"operation {row.seq_id} of {lane}, {deed}, failed with {row.error_code}")

    def _check_samples(self, fold: Fold) -> None:
        for op_id, asked in self._records.samples.items():
            outcome = self._records.outcomes.get(op_id)
            if isinstance(outcome, Done):
                state = None if asked.source is None else fold.after(asked.source)
                weights = 0 if state is None else state.weights
                if token_in(outcome.body) != states.drawn(weights, asked.prompt):
                    raise Violation(f"sample {op_id} was not drawn from what was saved at {asked.source}")

    def _check_order_of_outcomes(self) -> None:
        """Outcomes of a lane are numbered without gaps, and those of engines are of epochs that have begun."""
        query = (
            "operations o WHERE completion IS NOT NULL AND completion > "
            "(SELECT count(*) FROM operations p WHERE p.lane = o.lane AND p.completion IS NOT NULL)"
        )
        if self._log.count(query):
            raise Violation("places among the outcomes of a lane were left out or given twice")

    def _check_files(self, fold: Fold) -> None:
        """Every checkpoint that is listed is whole and holds what was saved; no other directory is left for good."""
        root = self._data_dir / "checkpoints"
        live = set(self._log.column("SELECT checkpoint_id FROM checkpoints WHERE removed_at IS NULL"))
        known = set(self._log.column("SELECT checkpoint_id FROM checkpoints"))
        found = {path.name for path in root.iterdir()}
        if missing := live - found:
            raise Violation(f"checkpoints without files: {missing}")
        if leftover := {name for name in found - known if "." not in name} - self._failed_saves():
            raise Violation(f"directories of no checkpoint: {leftover}")
        query = (
            "SELECT checkpoint_id, model_id, kind, name FROM checkpoints WHERE removed_at IS NULL AND name IS NOT NULL"
        )
        for checkpoint_id, model_id, kind, name in self._log.raw.execute(query):
            place = self._records.saved.get(f"tinker://{model_id}/{kind}/{name}")
            state = fold.last(model_id) if place is None else fold.after(place)  # the server saves when a run is over
            assert state is not None
            content = (root / checkpoint_id / STATE_FILE).read_bytes()
            if State.decode(content) != states.saved(state, with_gradient=False):
                raise Violation(f"{name} of {model_id} does not hold the state that was saved")
        snapshots = set(self._log.column("SELECT snapshot_id FROM snapshots"))
        if {path.name for path in (self._data_dir / "snapshots").iterdir()} != snapshots:
            raise Violation("the directories of snapshots are not those the log knows")

    def _failed_saves(self) -> set[str]:
        """Directories of saves that were written and then failed; they go at the next start."""
        failed = self._log.column("SELECT op_id FROM operations WHERE status = 'failed' AND kind LIKE 'save%'")
        return {self._engines.written[op_id] for op_id in failed if op_id in self._engines.written}

    def _check_that_ended_sessions_hold_nothing(self) -> None:
        of_ended = "JOIN sessions s ON s.session_id = m.session_id WHERE s.status != 'active'"
        for what, query in {
            "a session is never ended though its client is gone": "sessions WHERE status = 'active'",
            "a run lives on though its session is over": f"models m {of_ended} AND m.status = 'active'",
            "snapshots are kept of a run that is over": (
                "snapshots n JOIN models m ON m.model_id = n.model_id WHERE m.status != 'active'"
            ),
            "payloads are kept of runs that are over": (
                "operations o JOIN models m ON m.model_id = o.lane WHERE o.payload IS NOT NULL AND m.status != 'active'"
            ),
            "payloads are kept that no operation needs": (
                "payloads WHERE digest NOT IN (SELECT payload FROM operations WHERE payload IS NOT NULL)"
            ),
            "an unnamed checkpoint outlives its session": (
                "checkpoints c JOIN models m ON m.model_id = c.model_id "
                f"{of_ended} AND c.name IS NULL AND c.removed_at IS NULL"
            ),
        }.items():
            if self._log.count(query):
                raise Violation(what)
