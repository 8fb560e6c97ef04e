"""The state of a run, kept next to its results so that it can go on after a stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from eztinker.errors import AlreadyExists, DataDamaged
from eztinker.rl.buffer import write_atomically
from eztinker.rl.config import Recipe
from eztinker.rl.evaluate import Evaluation
from eztinker.rl.rollouts import Rollout

STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundReport:
    """Figures of one round: what was drawn, what was kept of it, and what training on that gave."""

    round: int
    num_sampled: int
    num_right: int
    num_problems: int
    num_solved: int
    """Problems with at least one right completion."""
    num_kept: int
    mean_tokens: float
    """Mean length of a completion, without the stop token."""
    losses: list[float]
    """Loss of each optimizer step, per trained token in nats; empty where nothing was kept."""
    seconds: float

    @property
    def share_right(self) -> float:
        return self.num_right / self.num_sampled

    @property
    def mean_loss(self) -> float | None:
        return sum(self.losses) / len(self.losses) if self.losses else None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """The state of a run between two rounds."""

    identity: dict[str, Any]
    run_id: str = ""
    """The training run; changes when a run that saved no checkpoint starts anew."""
    checkpoint_path: str | None = None
    """The adapter after the last round in `rounds`; None where none was saved."""
    rounds: list[RoundReport] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    """Held-out answers of the adapter after 0, 1, 2, ... rounds."""
    few_shot: Evaluation | None = None
    """Held-out answers of the untrained model with worked examples in the prompt."""
    seconds: float = 0.0
    """Time spent on `rounds` and `evaluations`."""


def round_report(rollouts: list[Rollout], losses: list[float], seconds: float) -> RoundReport:
    """Sum up one round; there is at least one rollout."""
    return RoundReport(
        round=rollouts[0].round,
        num_sampled=len(rollouts),
        num_right=sum(rollout.is_right for rollout in rollouts),
        num_problems=len({rollout.question_id for rollout in rollouts}),
        num_solved=len({rollout.question_id for rollout in rollouts if rollout.is_right}),
        num_kept=sum(rollout.is_kept for rollout in rollouts),
        mean_tokens=sum(len(rollout.tokens) for rollout in rollouts) / len(rollouts),
        losses=losses,
        seconds=seconds,
    )


def save_state(directory: Path, state: RunState) -> None:
    write_atomically(directory / STATE_FILE, msgspec.json.encode(state).decode())


def load_state(directory: Path, recipe: Recipe) -> RunState | None:
    """The state an earlier run with the same settings left in `directory`; None where there is none.

    Raises:
        AlreadyExists: a run with other settings is there.
        DataDamaged: the file cannot be read.
    """
    path = directory / STATE_FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=RunState)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise DataDamaged(f"{path} cannot be read ({error}); start over with --fresh") from error
    wanted = msgspec.json.decode(msgspec.json.encode(recipe.identity))
    different = sorted(name for name in wanted if state.identity.get(name) != wanted[name])
    if different:
        name = different[0]
        raise AlreadyExists(
            f"{directory} holds a run with {name} = {state.identity.get(name)}, this one has {wanted[name]}; "
            "name another --output-dir, or start over with --fresh"
        )
    return state
