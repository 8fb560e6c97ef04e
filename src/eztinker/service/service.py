"""Everything the API may ask for, wired together: the store, the engine and the services over them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial

from eztinker.base_models.catalog import Catalog
from eztinker.errors import ConfigError
from eztinker.keys.server_key import ensure_signing_secret
from eztinker.oplog import epochs
from eztinker.oplog.store import Store
from eztinker.protocol.frames import Configure
from eztinker.service.accounts.access import Keys
from eztinker.service.accounts.audit_log import AuditLog
from eztinker.service.accounts.fair_share import Room
from eztinker.service.accounts.signed_links import LinkSigner
from eztinker.service.accounts.tokens import Tokens
from eztinker.service.accounts.usage import UsageLedger
from eztinker.service.checkpoints.adapters import Adapters
from eztinker.service.checkpoints.changes import CheckpointChanges
from eztinker.service.checkpoints.checkpoints import Checkpoints
from eztinker.service.checkpoints.collector import CheckpointCollector
from eztinker.service.checkpoints.copies import CheckpointCopies
from eztinker.service.checkpoints.uploads import Uploads
from eztinker.service.clock import Clock
from eztinker.service.execution.engine_link import EngineLink
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.operation import LiveOperations
from eztinker.service.execution.queue_state import QueueState, queue_state
from eztinker.service.execution.recovery import Recovery, recover_log
from eztinker.service.execution.run_feed import RunFeed
from eztinker.service.execution.run_lanes import RunLanes
from eztinker.service.execution.snapshots import Snapshots
from eztinker.service.sampling.completions import Completions
from eztinker.service.sampling.sample_turns import SampleTurns
from eztinker.service.sampling.sampling import Sampling
from eztinker.service.sessions.recorded_samples import RecordedSamples
from eztinker.service.sessions.session_search import SessionSearch
from eztinker.service.sessions.sessions import Sessions
from eztinker.service.sessions.traces import Traces
from eztinker.service.training.parking import Parking
from eztinker.service.training.run_directory import RunDirectory
from eztinker.service.training.run_listings import RunListings
from eztinker.service.training.training import Training
from eztinker.service.training.training_runs import TrainingRuns
from eztinker.settings.server_config import ServerConfig

log = logging.getLogger(__name__)

LOG_FILE = "oplog.sqlite3"
CHECKPOINTS_DIRECTORY = "checkpoints"
SNAPSHOTS_DIRECTORY = "snapshots"
UPLOADS_DIRECTORY = "uploads"
RESULT_RETENTION = timedelta(hours=24)
MAX_HELD_POLLS = 16384
HOUSEKEEPING_SECONDS = 5.0
PARK_SECONDS = 10.0
"""Time for work in hand when the server stops; what is not done by then is done when it runs again."""
HOUSEKEEPING_PER_TIMEOUT = 4
"""Rounds of housekeeping within one session timeout, so that a short timeout is kept about as well as a long one."""


class Service:
    """The server without HTTP. Made once; `running` is its life."""

    def __init__(
        self,
        config: ServerConfig,
        catalog: Catalog,
        *,
        spawn: Callable[[], Awaitable[EngineLink]] = EngineLink.spawn,
        store: Store | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Wire everything together; nothing runs before `running`.

        Args:
            spawn: starts an engine.
            store: the operation log, if not the one in the data directory.
        """
        self.config = config
        self.catalog = catalog
        self.clock = clock or Clock()
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.keys = Keys.of(config)
        secret = ensure_signing_secret(config.data_dir)
        self.tokens = Tokens(secret, self.keys, self.clock)
        self.links = LinkSigner(secret)
        self.polls = Room(MAX_HELD_POLLS, "polls open")
        self._store = store or Store(config.data_dir / LOG_FILE)
        checkpoints_root = config.data_dir / CHECKPOINTS_DIRECTORY
        checkpoints_root.mkdir(mode=0o700, exist_ok=True)
        snapshots_root = config.data_dir / SNAPSHOTS_DIRECTORY
        snapshots_root.mkdir(mode=0o700, exist_ok=True)
        live = LiveOperations()
        self.engine = EngineProcess(
            _configure(config, catalog),
            self._begin_epoch,
            self.clock,
            live,
            stall_seconds=config.engine_stall_seconds,
            spawn=spawn,
        )
        self.futures = Futures(self._store, self.clock, live)
        self._recovery = Recovery(self._store, self.engine, snapshots_root)
        self._snapshots = Snapshots(
            self._store,
            snapshots_root,
            self.clock,
            max_changes=config.snapshot_operations,
            max_seconds=config.snapshot_seconds,
        )
        self.sessions = Sessions(self._store, self.clock, timeout_seconds=config.session_timeout_seconds)
        self.checkpoints = Checkpoints(self._store, checkpoints_root, self.clock)
        self.checkpoint_changes = CheckpointChanges(self._store, self.checkpoints, self.clock)
        self.checkpoint_copies = CheckpointCopies(self._store, self.checkpoints, self.sessions, self.clock)
        self.run_listings = RunListings(self._store, self.clock)
        self.run_directory = RunDirectory(self._store, self.clock)
        self.session_search = SessionSearch(self._store, self.clock)
        self.traces = Traces(self._store)
        self.audit = AuditLog(self._store, self.clock)
        self.usage = UsageLedger(self._store, self.clock)
        self._collector = CheckpointCollector(self._store, checkpoints_root, self.clock)
        self.adapters = Adapters(self._store, catalog, self.sessions, self.checkpoints, self.clock)
        self.uploads = Uploads(self._store, catalog, self.adapters, config.data_dir / UPLOADS_DIRECTORY, self.clock)
        self._lanes = RunLanes(self.futures, self._new_feed, self.clock)
        self.runs = TrainingRuns(
            self._store,
            catalog,
            self.sessions,
            self.futures,
            self._lanes,
            self.checkpoints,
            self.clock,
            max_runs=config.max_runs,
        )
        self._parking = Parking(self._store, self.runs, self._lanes, self.checkpoints, self.clock)
        self._recorded = RecordedSamples(self._store, self.clock, max_bytes=config.max_recorded_bytes)
        self.training = Training(self.runs, self._lanes, self.checkpoints, self._recorded, self.clock)
        turns = SampleTurns(self.futures, live, self.engine, max_batch_size=config.max_batch_size)
        self.completions = Completions(self._store, self.futures, self.clock)
        self.sampling = Sampling(
            self._store, catalog, self.sessions, self.futures, turns, self.engine, self.checkpoints, self.clock
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Go on with what an earlier process left, then serve for the length of the block."""
        for unfinished in await recover_log(self._store, self.clock):
            self._lanes.resume(unfinished)
        await self._collector.collect_leftovers()
        await self.sessions.resume()
        self.engine.start()
        housekeeping = asyncio.create_task(self._keep_house(), name="housekeeping")
        try:
            async with self._lanes.watched():
                yield
        finally:
            housekeeping.cancel()
            await self._lanes.park(seconds=PARK_SECONDS)
            await self.engine.stop()
            await self.futures.stop()
            self._store.close()

    def queue_state(self, owner: str) -> QueueState:
        """Why the owner's requests have no result yet."""
        status = None if self.engine.ready is None else self.engine.status
        return queue_state(owner, self.futures.num_unsettled_of(owner), status)

    async def end_session(self, session_id: str) -> None:
        """Free what a session that is over has left behind."""
        await self._parking.end_runs(session_id)
        await self._collector.end_session(session_id)

    async def _begin_epoch(self) -> int:
        """Start an epoch for a new engine and return its number; answers of the old one are stored first."""
        await self.futures.settled()
        now = self.clock.now()
        return await self._store.write(lambda db: epochs.begin(db, now))

    def _new_feed(self, model_id: str) -> RunFeed:
        return RunFeed(model_id, self.futures, self.engine, self._recovery, self._snapshots)

    async def _keep_house(self) -> None:
        pause_seconds = min(HOUSEKEEPING_SECONDS, self.config.session_timeout_seconds / HOUSEKEEPING_PER_TIMEOUT)
        chores = (
            self._snapshots.sweep,
            self._collector.expire,
            self._collector.remove_directories,
            self._end_silent_sessions,
            self.completions.drop_fetched,
            self.audit.expire,
            self.usage.expire,
            self._recorded.expire,
            self.uploads.expire,
            partial(self.futures.expire_results, RESULT_RETENTION, self.config.max_result_bytes),
        )
        while True:
            await asyncio.sleep(pause_seconds)
            for chore in chores:  # each by itself: with a full log some fail, and the others are to make room
                try:
                    await chore()
                except Exception:
                    log.exception("Housekeeping failed; it is tried again", extra={"event": "housekeeping_failed"})

    async def _end_silent_sessions(self) -> None:
        await self.sessions.expire_silent()
        for session_id in await self.sessions.with_leftovers():
            await self.end_session(session_id)


def check_storage(config: ServerConfig) -> None:
    """Check that the data directory can be used, before anything is started.

    Raises:
        ConfigError: it belongs to another user, or is damaged, or another version of the program has written it.
        LogFull, LogUnwritable: the disk is full or broken.
    """
    directories = (config.data_dir / CHECKPOINTS_DIRECTORY, config.data_dir / SNAPSHOTS_DIRECTORY)
    for path in (*directories, *config.data_dir.glob(f"{LOG_FILE}*")):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(f"{path} cannot be read and written; run as its owner, or name another --data-dir")
    Keys.of(config)
    ensure_signing_secret(config.data_dir)
    Store(config.data_dir / LOG_FILE).close()


def _configure(config: ServerConfig, catalog: Catalog) -> Configure:
    return Configure(
        base_models={model.name: str(model.directory) for model in catalog},
        dtype=config.dtype,
        device=config.device,
        num_threads=config.threads,
        max_batch_size=config.max_batch_size,
        max_train_tokens=config.max_train_tokens,
    )
