"""What must hold, judged by what clients asked for and were told, and by the log's rows, not by the server's code."""

from __future__ import annotations

from collections import defaultdict

from eztinker.service.execution.engine_process import MAX_DEATHS, MAX_FAILED_STARTS
from eztinker.service.execution.futures import Done, Failure
from tests.simulation import states
from tests.simulation.engine import Engines
from tests.simulation.fold import DONE, Fold
from tests.simulation.kept_files import KeptFiles
from tests.simulation.log_rows import Log, Row, token_in
from tests.simulation.records import Place, Records, Violation
from tests.simulation.states import Bad, Create, Deed, Load, Pass, Step


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
    if row.status in DONE:
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
        case Load(may_be_gone=True):
            return {"checkpoint_not_found"}
    return set()


class AtTheEnd:
    """Checks when all faults are over and everything has had its time."""

    def __init__(self, log: Log, records: Records, engines: Engines, kept: KeptFiles) -> None:
        self._log = log
        self._records = records
        self._engines = engines
        self._kept = kept
        self._rows = log.rows()

    def check(self) -> None:
        self._check_outcomes()
        self._check_failures()
        fold = Fold(self._records, self._rows, self._engines.loaded)
        fold.check()
        self._check_samples(fold)
        self._check_order_of_outcomes()
        self._kept.check(fold)
        self._check_that_ended_sessions_hold_nothing()

    def _check_outcomes(self) -> None:
        """Every future is in the log, with the outcome that its client was told."""
        by_id = {row.op_id: (lane, row) for lane, rows in self._rows.items() for row in rows}
        for place, op_id in self._records.futures.items():
            if op_id not in by_id or Place(by_id[op_id][0], by_id[op_id][1].seq_id) != place:
                raise Violation(f"{place} was acknowledged as {op_id}, which is not in the log")
            if op_id not in self._records.outcomes and op_id not in self._records.abandoned:
                raise Violation(f"{place} was acknowledged, and its client never heard of it")
        for op_id, outcome in self._records.outcomes.items():
            row = by_id[op_id][1]
            if isinstance(outcome, Failure):
                if (row.status, row.error_code) != ("failed", outcome.code):
                    raise Violation(f"{op_id} failed with {outcome.code} for its client, and is {row} in the log")
            elif row.status not in DONE or row.result not in (None, outcome.body):
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
                drawable = [states.drawn(state.weights, asked.prompt) for state in fold.at(asked.source)]
                if token_in(outcome.body) not in drawable:
                    raise Violation(f"sample {op_id} was not drawn from what was saved at {asked.source}")
            elif outcome is not None and outcome.code not in ("cancelled", "engine_lost"):
                raise Violation(f"sample {op_id} was accepted and failed with {outcome.code}")

    def _check_order_of_outcomes(self) -> None:
        """Outcomes of a lane are numbered without gaps, and those of engines are of epochs that have begun."""
        query = (
            "operations o WHERE completion IS NOT NULL AND completion > "
            "(SELECT count(*) FROM operations p WHERE p.lane = o.lane AND p.completion IS NOT NULL)"
        )
        if self._log.count(query):
            raise Violation("places among the outcomes of a lane were left out or given twice")

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
