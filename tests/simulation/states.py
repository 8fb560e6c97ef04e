"""The state of a training run as a few numbers, each a hash of all that led to it: a lost or doubled operation shows.

Weights, moments and gradient stand for what the real engine holds; the deeds change them as the real operations do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

REFUSED_TOKEN, POISON_TOKEN = 1, 2
"""First token of a pass that the engine refuses; of one that kills it."""


def mixed(*parts: object) -> int:
    """A number below 2**48 that depends on all of `parts`; a float64 holds it exactly."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "big")


@dataclass(frozen=True, slots=True)
class State:
    weights: int
    moments: int = 0
    gradient: int = 0
    step: int = 0

    def encode(self) -> bytes:
        return f"{self.weights} {self.moments} {self.gradient} {self.step}".encode()

    @classmethod
    def decode(cls, raw: bytes) -> State:
        return cls(*map(int, raw.split()))


class Source(NamedTuple):
    """A name under which checkpoints are saved, at some moment."""

    path: str
    newest: int = 0
    """The save under this name that was known to be done then, counted from 0: it is read, or a later one."""


@dataclass(frozen=True, slots=True)
class Create:
    seed: int


@dataclass(frozen=True, slots=True)
class Pass:
    tokens: tuple[int, ...]
    is_forward_only: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    learning_rate: float
    """0 makes an update that is not finite."""


@dataclass(frozen=True, slots=True)
class Load:
    source: Source
    with_optimizer: bool
    may_be_gone: bool = True
    """Whether its client deletes what is loaded, or has given it a lifetime."""


@dataclass(frozen=True, slots=True)
class Save:
    kind: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that the server refuses."""


Deed = Create | Pass | Step | Load | Save | Bad


def created(deed: Create) -> State:
    return State(weights=mixed("create", deed.seed))


def loaded(saved: State, *, with_optimizer: bool) -> State:
    return State(saved.weights, saved.moments, saved.gradient, saved.step) if with_optimizer else State(saved.weights)


def saved(state: State, *, with_gradient: bool) -> State:
    return state if with_gradient else replace(state, gradient=0)


def passed(state: State, deed: Pass) -> tuple[State, int]:
    """The state after, and the loss."""
    loss = mixed("loss", state.weights, deed.tokens)
    if deed.is_forward_only:
        return state, loss
    after = replace(state, gradient=mixed("gradient", state.gradient, state.weights, deed.tokens))
    return after, mixed(loss, after.gradient)


def stepped(state: State, deed: Step) -> tuple[State, int | None]:
    """The state after, and a number for the result; None if the step is refused, which clears the gradient too."""
    if deed.learning_rate == 0:
        return replace(state, gradient=0), None
    inputs = (state.weights, state.moments, state.gradient, deed.learning_rate)
    after = State(mixed("weights", *inputs), mixed("moments", *inputs), 0, state.step + 1)
    return after, mixed("step", after.weights)


def drawn(weights: int, prompt: tuple[int, ...]) -> int:
    """The token that is sampled."""
    return mixed("sample", weights, prompt) % 2**31
