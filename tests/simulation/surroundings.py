"""What lies around the simulated server in a real process: its log, its random numbers, its times, a directory."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from random import Random
from unittest.mock import patch

from pydantic import SecretStr

from eztinker.keys.server_key import ensure_signing_secret
from eztinker.service import service as service_module
from eztinker.service import validation
from eztinker.service.checkpoints import collector
from eztinker.service.service import CHECKPOINTS_DIRECTORY, SNAPSHOTS_DIRECTORY
from eztinker.settings.server_config import ServerConfig, load_config

HOUSEKEEPING_SECONDS = 20.0
SESSION_TIMEOUT_SECONDS = 60.0
"""Longer than a client may be silent: its longest pause between two tries is 30 s."""


class _Listener(logging.Handler):
    def __init__(self, heard: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard(record)


@contextlib.contextmanager
def surroundings(random_: Random, heard: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """All that is drawn comes from the seed, and the server's log comes to us."""
    server_log = logging.getLogger("eztinker")
    listener = _Listener(heard)
    server_log.addHandler(listener)
    level, propagates = server_log.level, server_log.propagate
    server_log.setLevel(logging.WARNING)
    server_log.propagate = False
    try:
        with (
            patch.object(secrets, "token_hex", lambda size: f"{random_.getrandbits(8 * size):0{2 * size}x}"),
            patch.object(uuid, "uuid4", lambda: uuid.UUID(int=random_.getrandbits(128))),
            patch.object(service_module, "HOUSEKEEPING_SECONDS", HOUSEKEEPING_SECONDS),
            patch.object(service_module, "HOUSEKEEPING_PER_TIMEOUT", 1),
            patch.object(validation, "MIN_TTL_SECONDS", 1),
            patch.object(collector, "REMOVAL_DELAY", timedelta(seconds=5)),
        ):
            yield
    finally:
        server_log.removeHandler(listener)
        server_log.setLevel(level)
        server_log.propagate = propagates


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is logged: what a dead process would still have to say."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def empty_data_dir() -> Path:
    """An empty data directory in memory, the same for every simulation of this process."""
    root = _directory_of_this_process(os.getpid())
    for name in (CHECKPOINTS_DIRECTORY, SNAPSHOTS_DIRECTORY):
        shutil.rmtree(root / name, ignore_errors=True)
    return root


@cache
def _directory_of_this_process(pid: int) -> Path:
    memory = Path("/dev/shm")
    temporary = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True)
    _directories.append(temporary)
    ensure_signing_secret(Path(temporary.name))  # not drawn from the seed, or the first simulation would be another
    return Path(temporary.name)


_directories: list[tempfile.TemporaryDirectory[str]] = []


@cache
def simulated_config(data_dir: Path) -> ServerConfig:
    """What is the same for all simulations of this process."""
    return load_config(
        data_dir=data_dir, api_key=SecretStr("tml-simulated"), session_timeout_seconds=SESSION_TIMEOUT_SECONDS
    )
