"""Knowledge of a simulation's clients: what they asked for, what was acknowledged, and what they were told."""

from __future__ import annotations

from typing import NamedTuple

from eztinker.service.execution.futures import Done, Failure
from tests.simulation.log_rows import Log
from tests.simulation.states import Deed, Source


class Violation(Exception):
    """Something that must hold does not."""


class Place(NamedTuple):
    """Where an operation stands: its run, and its number there."""

    lane: str
    seq_id: int


class SampleAsked(NamedTuple):
    source: Source
    """What is sampled from."""
    prompt: tuple[int, ...]


class Records:
    def __init__(self, log: Log) -> None:
        self._log = log
        self.asked: dict[Place, Deed] = {}
        self.samples: dict[str, SampleAsked] = {}
        self.futures: dict[Place, str] = {}
        self.outcomes: dict[str, Done | Failure] = {}
        self.saved: dict[str, list[Place]] = {}
        """By tinker:// path, or by what a sampler without one goes by: the saves, in their order."""
        self.copies: dict[str, Source] = {}
        """What was to be copied, by the run of the copy, and by the key of a request that does not name the run."""
        self.copied: set[str] = set()
        """Paths of copies, once their client knows of them."""
        self.may_be_gone: set[str] = set()
        """Paths that were deleted, or whose checkpoints have a lifetime."""
        self.abandoned: set[str] = set()
        """Futures whose client vanished before it knew their outcome."""

    def acknowledged(self, place: Place, op_id: str) -> None:
        if (first := self.futures.setdefault(place, op_id)) != op_id:
            raise Violation(f"{place} was acknowledged as {first}, and then as {op_id}")

    def told(self, op_id: str, outcome: Done | Failure) -> None:
        if self._log.count(f"operations WHERE op_id = '{op_id}' AND status = 'pending'"):
            raise Violation(f"{op_id} was told as {outcome} before the log had it")
        if (first := self.outcomes.setdefault(op_id, outcome)) != outcome:
            raise Violation(f"{op_id} ended in {first}, and then in {outcome}")

    def saving(self, path: str, place: Place) -> Source:
        """Note a save that is about to be asked for; gives what holds its state or that of a later one of this name."""
        saves = self.saved.setdefault(path, [])
        saves.append(place)
        return Source(path, len(saves) - 1)


def lane_of(path: str) -> str:
    """The run that a tinker:// path names; nothing for what is no such path."""
    return path.split("/")[2] if path.startswith("tinker://") else ""
