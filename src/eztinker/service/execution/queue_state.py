"""Reasons why a result is not there yet, in the words that the official client shows to its user."""

from __future__ import annotations

from enum import StrEnum

from eztinker.types import EngineStatus, Record


class Queue(StrEnum):
    """States of a queue that the client tells apart."""

    ACTIVE = "active"
    """The work is being done, or is next."""
    OVER_SHARE = "paused_rate_limit"
    """The work waits because its owner has had an equal part of the engine's time."""
    NO_ENGINE = "paused_capacity"
    """Nobody's work is being done."""


NEARLY = 0.9
"""Part of an equal share that counts as the whole, as shares are only about equal."""


class QueueState(Record):
    """State of an owner's queue, with a reason in words if it waits."""

    queue: Queue
    reason: str | None = None


def queue_state(owner: str, num_unsettled: int, status: EngineStatus | None) -> QueueState:
    """The state of an owner's requests that have no result.

    Args:
        num_unsettled: how many they are.
        status: what the engine does; None while there is none.
    """
    if status is None:
        return QueueState(queue=Queue.NO_ENGINE, reason="the engine is starting")
    num_owners = len(status.shares)
    part = status.shares.get(owner, 0.0)
    if num_owners < 2 or part * num_owners < NEARLY:
        return QueueState(queue=Queue.ACTIVE)
    reason = (
        f"this key has had {part:.0%} of the engine's time lately, and {num_owners} keys share it equally; "
        f"{num_unsettled} of its requests are waiting or running"
    )
    return QueueState(queue=Queue.OVER_SHARE, reason=reason)
