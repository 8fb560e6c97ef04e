"""One simulation: clients, one server after the other over one disk, engines, and what goes wrong, all from a seed."""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random

from eztinker.base_models.base_model import BaseModel
from eztinker.base_models.catalog import Catalog
from eztinker.service.service import SNAPSHOTS_DIRECTORY, Service
from tests.simulation.clients import Client
from tests.simulation.clock import SimulatedClock
from tests.simulation.disk import Disk, SimulatedStore
from tests.simulation.engine import EngineFaults, Engines
from tests.simulation.event_loop import Life, NothingLeft, VirtualLoop
from tests.simulation.habits import Habits, drawn_habits
from tests.simulation.invariants import AfterCommit, AtTheEnd
from tests.simulation.kept_files import KeptFiles
from tests.simulation.log_rows import Log
from tests.simulation.network import Network
from tests.simulation.records import Records, Violation
from tests.simulation.surroundings import empty_data_dir, quiet, simulated_config, surroundings

SETTLING_SECONDS = 1500.0
"""When faults are over, clients come to their end within this: five minutes of retries, gaps, engines that hang."""
CLEANING_SECONDS = 50.0
"""Then the silent sessions end; and as long after the last work for them, what they held has been given back."""
_BASE_MODEL = BaseModel(
    name="tiny", directory=Path("/none"), model_type="llama", vocab_size=264, context_length=64, eos_token_ids=(256,)
)
_HOLE = (
    "operations early JOIN operations late ON early.lane = late.lane AND early.seq_id < late.seq_id "
    "WHERE early.status = 'pending' AND early.plan IS NOT NULL AND late.status = 'done' AND late.plan IS NOT NULL"
)
_LIVE_RUNS = "models WHERE status = 'active'"
_BUGS = {"operation_broken", "recovery_broken", "outcome_not_stored"}
"""Events of the server's log that only a mistake of ours can bring about."""


class Failed(Exception):
    """A simulation in which something did not hold; the message says how to see it again."""


class World:
    def __init__(self, seed: int, habits: Habits | None = None) -> None:
        """Args: habits: what the clients do beyond the plain, if it is not to be drawn."""
        self.seed = seed
        self.habits = drawn_habits(seed) if habits is None else habits
        self.random = Random(seed)
        self.trace: list[tuple[object, ...]] = []
        self.loop = VirtualLoop(lambda: self.random.choice((0.0, 0.0, 0.001, 0.02, 0.1)))
        self.clock = SimulatedClock(self.loop)
        self.data_dir = empty_data_dir()
        self.disk = Disk(self.random)
        self.engines = Engines(self.random, self.note)
        self.network = Network(self.loop, self.random)
        self.log = Log(self.disk.raw)
        self.records = Records(self.log)
        self._after_commit = AfterCommit(self.log, self.records)
        self.disk.on_commit = self._committed
        self._server: Life | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._service: Service | None = None
        self._violation: BaseException | None = None
        self._crash_at_commit = 0
        self._crashes_in_holes = False
        self._context = copy_context()

    def note(self, *words: object) -> None:
        self.trace.append((round(self.loop.time(), 4), *words))

    def run(self) -> None:
        """
        Raises:
            Failed: something did not hold.
        """
        self.loop.set_exception_handler(self._handle)
        try:
            with surroundings(self.random, self._heard):
                self.loop.run_until_complete(self._live())
        except NothingLeft:
            raise Failed(f"{self}: everybody waits for somebody else") from None
        except Violation as error:
            raise Failed(f"{self}: {error}") from error
        finally:
            with quiet():
                self.loop.end()

    def __str__(self) -> str:
        plain = "" if self.habits == drawn_habits(self.seed) else " --plain"
        return f"python -m tests.simulation {self.seed}{plain}"

    # --- the story ---

    async def _live(self) -> None:
        main = asyncio.current_task()
        assert main is not None
        self._main = main
        try:
            await self._story()
        except asyncio.CancelledError:
            if self._violation is not None:
                raise self._violation from None
            raise

    async def _story(self) -> None:
        self._draw_faults()
        self._start_server()
        clients = [self._start_client(number) for number in range(self.random.choice((1, 1, 2)))]
        faults = asyncio.create_task(self._make_trouble())
        await faults
        self._end_faults()
        _, late = await asyncio.wait(clients, timeout=SETTLING_SECONDS)
        if late:
            raise Violation("clients wait for ever")
        self.note("clients are done")
        await self._clean_up()
        self._check_room()
        due = self.clock.now() - timedelta(seconds=CLEANING_SECONDS)
        kept = KeptFiles(self.disk, self.log, self.records, self.engines, self.data_dir, due)
        AtTheEnd(self.log, self.records, self.engines, kept).check()
        await self._stop_server()
        await self._started()
        kept.check_leftovers()
        await self._stop_server()
        if self._violation is not None:
            raise self._violation

    async def _clean_up(self) -> None:
        """The silent sessions end, however many engines die over what vanished clients left, and give back all."""
        deadline = self.loop.time() + SETTLING_SECONDS
        await asyncio.sleep(CLEANING_SECONDS)
        while self._is_at_work() and self.loop.time() < deadline:
            await asyncio.sleep(10)
        await asyncio.sleep(CLEANING_SECONDS)

    def _is_at_work(self) -> bool:
        work = ("operations WHERE status = 'pending'", "sessions WHERE status = 'active'", _LIVE_RUNS)
        return any(self.log.count(query) for query in work)

    def _draw_faults(self) -> None:
        """Not every kind in every simulation: many at once hide each other."""
        draw = self.random

        def sometimes(value: float, chance: float = 0.5) -> float:
            return value if draw.random() < chance else 0.0

        self.engines.faults = EngineFaults(
            death=sometimes(draw.choice((0.3, 0.8))),
            failed_start=sometimes(0.3, 0.3),
            most_commands=draw.choice((3, 8, 20)),
        )
        self.network.loss = sometimes(draw.choice((0.03, 0.2)))
        self.network.duplicates = sometimes(0.15)
        self._refusals = sometimes(draw.choice((0.1, 0.5)), 0.4)
        self._num_crashes = draw.choice((0, 0, 1, 2))
        self._num_stops = draw.choice((0, 0, 0, 1))
        self._num_jumps = draw.choice((0, 0, 1, 2))
        self._num_damages = draw.choice((0, 0, 0, 1))
        self._crashes_in_holes = draw.random() < 0.15
        self._may_vanish = draw.random() < 0.3
        self._may_poison = draw.random() < 0.2
        self._config = simulated_config(self.data_dir).model_copy(
            update={
                "snapshot_operations": draw.choice((2, 3, 8)),
                "snapshot_seconds": draw.choice((5.0, 60.0)),
                "engine_stall_seconds": draw.choice((20.0, 40.0)),
            }
        )

    async def _make_trouble(self) -> None:
        length = self.random.choice((3.0, 10.0, 30.0))
        acts = [self._crash] * self._num_crashes + [self._crash_soon] * (2 * self._num_crashes)
        acts += [self._stop_and_start] * self._num_stops + [self._jump] * self._num_jumps
        acts += [self._damage] * self._num_damages
        if self._refusals:
            acts += [self._refuse, self._accept]
        times = sorted(self.random.uniform(0, length) for _ in acts)
        self.random.shuffle(acts)
        for at, act in zip(times, acts, strict=True):
            await asyncio.sleep(max(0, at - self.loop.time()))
            await act()
        await asyncio.sleep(max(0, length - self.loop.time()))

    def _end_faults(self) -> None:
        self.note("faults are over")
        self.engines.faults = EngineFaults()
        self.network.loss = self.network.duplicates = self.disk.refusal_rate = 0.0
        self._crash_at_commit = 0
        self._crashes_in_holes = False

    async def _crash(self) -> None:
        self._end_server("server crashes")

    async def _crash_soon(self) -> None:
        """In the moment in which the log has a change and nobody knows."""
        self._crash_at_commit = self.random.randint(1, 8)

    async def _stop_and_start(self) -> None:
        await self._stop_server()

    async def _jump(self) -> None:
        self.clock.jump(timedelta(hours=self.random.choice((-1, 1))))
        self.note("clock jumps", self.clock.jumped)

    async def _refuse(self) -> None:
        self.disk.refusal_rate = self._refusals
        self.note("disk refuses", self._refusals)

    async def _accept(self) -> None:
        self.disk.refusal_rate = 0.0

    async def _damage(self) -> None:
        """Flip a bit of the newest snapshot of a run that has an older one."""
        query = "SELECT model_id, snapshot_id, count(*), max(seq_id) FROM snapshots GROUP BY model_id ORDER BY model_id"
        twice = [row for row in self.disk.raw.execute(query).fetchall() if row[2] > 1]
        if twice:
            _, snapshot_id, _, _ = self.random.choice(twice)
            path = self.data_dir / SNAPSHOTS_DIRECTORY / snapshot_id / "state"
            path.write_bytes(path.read_bytes()[:-1] + b"!")
            self.note("snapshot damaged", snapshot_id)

    # --- the server ---

    def _start_server(self) -> None:
        if self._server is not None:
            return
        life = self._server = Life()
        self._stopping = self.loop.create_future()
        task = self.loop.create_task(self._serve(life, self._stopping), context=life.context)
        task.add_done_callback(partial(self._server_ended, life))

    async def _serve(self, life: Life, stopping: asyncio.Future[None]) -> None:
        self.note("server starts")
        store = SimulatedStore(self.disk)
        service = Service(self._config, Catalog([_BASE_MODEL]), spawn=self.engines.spawn, store=store, clock=self.clock)
        async with service.running():
            self._service = service
            self.network.connect(service, life)
            await stopping
            self.network.refuse()
            service.futures.release_polls()
            await asyncio.sleep(1)

    async def _started(self) -> None:
        while not self.network.is_connected:
            await asyncio.sleep(1)

    def _server_ended(self, life: Life, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.note("server ends", repr(error))
        self._end_server("server is gone")

    def _end_server(self, why: str) -> None:
        if self._server is None:
            return
        self.note(why)
        self.loop.end_life(self._server)
        self._server = None
        self.network.cut()
        self.loop.call_later(self.random.choice((0.1, 2, 10)), self._start_server, context=self._context)

    async def _stop_server(self) -> None:
        life = self._server
        if life is None or self._stopping is None or self._stopping.done():
            return
        self.note("server is told to stop")
        self._stopping.set_result(None)
        for _ in range(60):
            if self._server is not life:
                return
            await asyncio.sleep(1)
        raise Violation("the server does not stop")

    def _committed(self) -> None:
        if self._crashes_in_holes and self.log.count(_HOLE):
            self._crashes_in_holes = False
            self._end_server("server crashes while a later operation is settled and an earlier one is not")
        if self._crash_at_commit:
            self._crash_at_commit -= 1
            if not self._crash_at_commit:
                self._end_server("server crashes after a commit")
        try:
            self._after_commit()
        except Violation as error:
            self._report(error)

    # --- clients ---

    def _start_client(self, number: int) -> asyncio.Future[None]:
        life = Life()
        done: asyncio.Future[None] = self.loop.create_future()
        client_random = Random(self.random.random())
        vanishes_at = client_random.uniform(0, 30) if self._may_vanish else None

        async def live() -> None:
            owner, habits = f"owner{number}", self.habits
            client = Client(owner, self.network, client_random, self.records, habits, poison=self._may_poison)
            await client.run(num_runs=client_random.choice((1, 1, 2)), says_goodbye=client_random.random() < 0.5)

        task = self.loop.create_task(live(), context=life.context)
        task.add_done_callback(partial(self._client_ended, done))
        if vanishes_at is not None:
            self.loop.call_later(vanishes_at, self._vanish, life, done)
        return done

    def _vanish(self, life: Life, done: asyncio.Future[None]) -> None:
        if not done.done():
            self.note("a client vanishes")
            self.loop.end_life(life)
            self.records.abandoned.update(set(self.records.futures.values()) - set(self.records.outcomes))
            done.set_result(None)

    def _client_ended(self, done: asyncio.Future[None], task: asyncio.Task[None]) -> None:
        if done.done():
            return
        if (error := task.exception()) is not None:
            self._report(error)
        done.set_result(None)

    # --- checks ---

    def _check_room(self) -> None:
        service = self._service
        assert service is not None
        left = {
            "operations without an outcome": [operation.op_id for operation in service.futures._live],
            "places in the queue": service.futures._room._taken,
            "places of polls": service.polls._taken,
            "samples that wait or are in the engine": service.sampling._turns._owners,
            "commands in the engine": service.engine._pending,
        }
        for what, remains in left.items():
            if remains:
                raise Violation(f"{what} are left: {remains}")

    def _report(self, error: BaseException) -> None:
        if self._violation is None:
            self._violation = error
            self.note("VIOLATION", repr(error))
            self._main.cancel()

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self.note("loop", context.get("message"), repr(error))
        if isinstance(error, Violation):
            self._report(error)

    def _heard(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", "")
        reason = record.exc_info[1] if record.exc_info else record.getMessage()
        self.note("log", event, repr(reason))
        if event in _BUGS:
            self._report(Violation(f"{event}: {reason!r}"))
