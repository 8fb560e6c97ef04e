"""Engines that speak the real commands and events, keep a few numbers as weights, and fail in every way engines do."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

from eztinker.checkpoints.checkpoint_files import verify_checkpoint, write_checkpoint
from eztinker.errors import Cancelled, CheckpointDamaged, CheckpointNotFound, NonFiniteUpdate, NotFound
from eztinker.protocol.frames import (
    AnyCommand,
    AnyEvent,
    Cancel,
    CheckpointDone,
    Configure,
    Created,
    CreateModel,
    Failed,
    ForwardBackward,
    ForwardBackwardDone,
    LoadModel,
    OptimStep,
    OptimStepDone,
    Ready,
    Sample,
    SampleDone,
    SaveCheckpoint,
    Shutdown,
    Started,
    TrainingCommand,
    Unloaded,
    UnloadModel,
)
from eztinker.service.execution.engine_link import EngineLink
from eztinker.types import (
    AdapterState,
    CheckpointWritten,
    ForwardBackwardResult,
    LoraSpec,
    OptimStepResult,
    SampledSequence,
    SampleResult,
)
from tests.simulation import states
from tests.simulation.records import Violation
from tests.simulation.states import POISON_TOKEN, REFUSED_TOKEN, Pass, State, Step

STATE_FILE = "state"
Fate = Literal["before", "begun", "done", "answered", "hangs"]
"""When an engine dies over a command: before it begins, with it in hand, when it is done, when it is answered."""
_LORA = LoraSpec(rank=1, seed=0)


@dataclass(frozen=True)
class EngineFaults:
    """How often what goes wrong."""

    death: float = 0.0
    """Engines that die, or hang, over one of their first commands."""
    failed_start: float = 0.0
    most_commands: int = 6


class Engines:
    """Starts one engine after the other."""

    def __init__(self, random: Random, trace: Callable[..., None]) -> None:
        self.random = random
        self.trace = trace
        self.faults = EngineFaults()
        self.num_started = 0
        self.deaths: Counter[tuple[str, str]] = Counter()
        """Engines that died with a command in hand, by its run and its id."""
        self.num_failed_starts = 0
        self.written: dict[str, str] = {}
        """Names of the directories of checkpoints, by operation."""
        self.loaded: dict[str, State] = {}
        """What was read from checkpoints, by operation."""

    async def spawn(self) -> EngineLink:
        self.num_started += 1
        await asyncio.sleep(self.random.uniform(0, 0.3))
        return SimulatedEngine(self, self.num_started)


class SimulatedEngine(EngineLink):
    """One life of an engine, behind the methods of the link to it."""

    def __init__(self, engines: Engines, number: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._engines = engines
        self._random = engines.random
        self._trace = engines.trace
        self._number = number
        self._faults = faults = engines.faults
        self._events: asyncio.Queue[AnyEvent | None] = asyncio.Queue()
        self._is_dead = False
        self._runs: dict[str, State] = {}
        self._queues: defaultdict[str, deque[TrainingCommand]] = defaultdict(deque)
        self._is_busy = False
        self._in_hand: TrainingCommand | None = None
        self._samples: dict[str, Sample] = {}
        dies = self._random.random() < faults.death
        self._num_left = self._random.randint(1, faults.most_commands) if dies else -1
        self._fate: Fate = self._random.choice(("before", "begun", "done", "answered", "hangs"))
        self._starts = self._random.random() >= faults.failed_start
        self._is_hung = False

    @property
    def pid(self) -> int:
        return self._number

    def send(self, command: AnyCommand) -> None:
        if self._is_dead:
            return
        match command:
            case Configure():
                self._after(self._random.uniform(0.1, 3), self._start)
            case Shutdown():
                self._die()
            case Sample():
                self._samples[command.op_id] = command
                self._after(self._random.uniform(0.01, 2), self._end_sample, command.op_id)
            case Cancel():
                if self._samples.pop(command.op_id, None) is not None:
                    self._tell(Failed.of(command.op_id, Cancelled()))
            case _:
                self._queues[command.model_id].append(command)
                self._go_on()

    async def events(self) -> AsyncIterator[AnyEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def stop(self) -> None:
        self._die()

    def kill(self) -> None:
        if not self._is_dead:
            self._trace("engine killed", self._number)
            self._die()

    async def close(self) -> int:
        self._die()
        return -9

    def _after(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        self._loop.call_later(seconds, self._if_alive, call, *args)

    def _if_alive(self, call: Callable[..., None], *args: object) -> None:
        if not self._is_dead and not self._is_hung:
            call(*args)

    def _tell(self, event: AnyEvent) -> None:
        self._events.put_nowait(event)

    def _start(self) -> None:
        if not self._starts:
            self._engines.num_failed_starts += 1
            self._trace("engine does not start", self._number)
            if self._random.random() < 0.2:
                self._is_hung = True
            else:
                self._die()
            return
        self._trace("engine ready", self._number)
        self._tell(Ready(pid=self._number, device="cpu", dtype="float32", num_threads=1))

    def _die(self) -> None:
        if not self._is_dead:
            self._is_dead = True
            if self._in_hand is not None:
                self._engines.deaths[self._in_hand.model_id, self._in_hand.op_id] += 1
            self._events.put_nowait(None)

    def _go_on(self) -> None:
        waiting = [model_id for model_id, queue in self._queues.items() if queue]
        if not waiting or self._is_busy or self._is_hung:
            return
        self._is_busy = True
        command = self._queues[self._random.choice(waiting)].popleft()
        self._num_left -= 1
        self._after(self._random.choice((0, 0, 0.001)), self._begin, command)

    def _meets(self, fate: Fate, command: TrainingCommand) -> bool:
        if self._num_left != 0 or self._fate != fate:
            return False
        self._trace("engine", self._number, "hangs at" if fate == "hangs" else "dies: " + fate, _words(command))
        if fate == "hangs":
            self._is_hung = True
        else:
            if isinstance(command, SaveCheckpoint) and self._random.random() < 0.5:
                directory = Path(command.directory)
                directory.with_name(f".{directory.name}.partial").mkdir(exist_ok=True)
            self._die()
        return True

    def _begin(self, command: TrainingCommand) -> None:
        if self._meets("before", command):
            return
        self._in_hand = command
        self._tell(Started(op_id=command.op_id))
        if not self._meets("hangs", command):
            self._after(self._random.choice((0.001, 0.02, 0.3, 2.0)), self._end, command)

    def _end(self, command: TrainingCommand) -> None:
        if isinstance(command, ForwardBackward) and command.data[0].tokens[0] == POISON_TOKEN:
            self._trace("engine", self._number, "poisoned by", _words(command))
            self._die()
        if self._is_dead or self._meets("begun", command):
            return
        event = self._do(command)
        if self._meets("done", command):
            return
        self._trace("engine", self._number, _words(command), type(event).__name__)
        self._in_hand = None
        self._tell(event)
        if self._meets("answered", command):
            return
        self._is_busy = False
        self._go_on()

    def _do(self, command: TrainingCommand) -> AnyEvent:
        op_id, model_id = command.op_id, command.model_id
        if isinstance(command, CreateModel):
            return self._put(command, states.created(states.Create(command.lora.seed)))
        if isinstance(command, LoadModel):
            try:
                state = _read(Path(command.directory))
                if self._engines.loaded.setdefault(op_id, state) != state:
                    raise Violation(f"{op_id} has loaded {self._engines.loaded[op_id]}, and then {state}")
                return self._put(command, states.loaded(state, with_optimizer=command.with_optimizer))
            except (CheckpointDamaged, CheckpointNotFound) as error:
                return Failed.of(op_id, error)
        if isinstance(command, UnloadModel):
            self._runs.pop(model_id, None)
            return Unloaded(op_id=op_id)
        if model_id not in self._runs:
            return Failed.of(op_id, NotFound(f"No training run {model_id} is loaded"))
        state = self._runs[model_id]
        match command:
            case ForwardBackward():
                tokens = tuple(int(token) for token in command.data[0].tokens)
                if tokens[0] == REFUSED_TOKEN:
                    return Failed(op_id=op_id, category="server", code="out_of_memory", message="no memory")
                self._runs[model_id], loss = states.passed(state, Pass(tokens, command.forward_only))
                result = ForwardBackwardResult(loss_fn_outputs=[], metrics={"loss:sum": float(loss)})
                return ForwardBackwardDone(op_id=op_id, result=result)
            case OptimStep():
                self._runs[model_id], number = states.stepped(state, Step(command.adam.learning_rate))
                if number is None:
                    return Failed(op_id=op_id, category="user", code=NonFiniteUpdate.code, message="refused")
                return OptimStepDone(op_id=op_id, result=OptimStepResult(metrics={"state": float(number)}))
            case SaveCheckpoint():
                return self._save(command, state)

    def _put(self, command: CreateModel | LoadModel, state: State) -> AnyEvent:
        self._runs[command.model_id] = state
        adapter = AdapterState(lora=_LORA, base_model="tiny", step=state.step)
        return Created(op_id=command.op_id, state=adapter)

    def _save(self, command: SaveCheckpoint, state: State) -> AnyEvent:
        shutil.rmtree(command.directory, ignore_errors=True)
        manifest = write_checkpoint(
            Path(command.directory),
            {STATE_FILE: states.saved(state, with_gradient=command.with_gradient).encode()},
            tinker_path=command.tinker_path,
            kind=command.kind,
            base_model="tiny",
            lora=_LORA,
            step=state.step,
        )
        self._engines.written[command.op_id] = Path(command.directory).name
        written = CheckpointWritten(size_bytes=manifest.size_bytes, step=manifest.step)
        return CheckpointDone(op_id=command.op_id, result=written)

    def _end_sample(self, op_id: str) -> None:
        command = self._samples.pop(op_id, None)
        if command is None:
            return
        try:
            weights = 0 if command.directory is None else _read(Path(command.directory)).weights
        except (CheckpointDamaged, CheckpointNotFound) as error:
            self._tell(Failed.of(op_id, error))
            return
        token = states.drawn(weights, tuple(int(each) for each in command.request.prompt))
        sequence = SampledSequence(
            tokens=np.array([token], np.int32), logprobs=np.zeros(1, np.float32), stop_reason="length"
        )
        self._tell(SampleDone(op_id=op_id, result=SampleResult(sequences=[sequence] * command.request.num_samples)))


def _read(directory: Path) -> State:
    verify_checkpoint(directory)
    return State.decode((directory / STATE_FILE).read_bytes())


def _words(command: TrainingCommand) -> str:
    return f"{type(command).__name__} {command.op_id} of {command.model_id}"
