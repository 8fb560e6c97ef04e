"""What the clients of a simulation may do beyond the plain: train, save, load, sample from what was saved."""

from __future__ import annotations

from enum import StrEnum
from random import Random


class Habit(StrEnum):
    INFLIGHT = "save for samplers that move on while training does"
    ANNOUNCED = "learn by one poll which samples are over"
    OVERWRITE = "overwrite a checkpoint, and read it meanwhile"
    LIFETIME = "give checkpoints a lifetime"
    COPY = "copy checkpoints, and go on from the copies"


Habits = frozenset[Habit]
PLAIN: Habits = frozenset()


def drawn_habits(seed: int) -> Habits:
    """Not all in every simulation, as with the faults. They are not drawn from what everything else is drawn from: a
    simulation of plain clients stays the same story when a habit is added."""
    draw = Random(f"habits of {seed}")
    return frozenset(habit for habit in Habit if draw.random() < 0.4)
