"""The states that runs must have been in, computed from what was asked for and how it ended."""

from __future__ import annotations

from tests.simulation import states
from tests.simulation.log_rows import Row, number_in
from tests.simulation.records import Place, Records, Violation, lane_of
from tests.simulation.states import Bad, Create, Load, Pass, Save, Source, State, Step

DONE = ("done", "expired")
"""How operations stand that did what they were asked for: with their result, or when that has been dropped."""


class Fold:
    """The state of each run after each of its operations, from what was asked and how it ended."""

    def __init__(self, records: Records, rows: dict[str, list[Row]], loaded: dict[str, State]) -> None:
        """Args: loaded: what engines have read from checkpoints, by operation."""
        self._records = records
        self._rows = rows
        self._loaded = loaded
        self._done = {Place(lane, row.seq_id) for lane, each in rows.items() for row in each if row.status in DONE}
        self._after: dict[str, dict[int, State | None]] = {}

    def check(self) -> None:
        for lane in self._rows:
            if not lane.count(":sample:"):
                self._states(lane)

    def after(self, place: Place) -> State | None:
        return self._states(place.lane)[place.seq_id]

    def at(self, source: Source) -> list[State]:
        """What may have been read there: what was saved by the save that was known to be done, or by a later one."""
        if (original := self._records.copies.get(lane_of(source.path))) is not None:
            return self.at(original)
        saves = self._records.saved[source.path][source.newest :]
        known = [self._states(place.lane).get(place.seq_id) for place in saves if place in self._done]
        return [states.saved(state, with_gradient=False) for state in known if state is not None]

    def newest_at(self, path: str) -> State | None:
        """What the last save of this name has left there; None if none was done."""
        done = [place for place in self._records.saved[path] if place in self._done]
        state = self.after(done[-1]) if done else None
        return None if state is None else states.saved(state, with_gradient=False)

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
                loaded = self._loaded[row.op_id]
                if loaded not in self.at(deed.source):
                    raise Violation(f"{place} was made from {loaded}, which was not saved at {deed.source}")
                return states.loaded(loaded, with_optimizer=deed.with_optimizer)
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
