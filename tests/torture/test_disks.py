"""A real server on a disk that is broken, full or small loses nothing acknowledged, and clients get their numbers."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tinker

from eztinker.service.service import LOG_FILE
from eztinker.settings.client_settings import server_is_up
from tests.faulty_disk.disk import BROKEN, CHANGES, FULL, GROWTH, KILL, FaultyDisk
from tests.servers import API_KEY, wait_until
from tests.torture import sizes
from tests.torture.clients import ADAM, BASE_MODEL, supervised
from tests.torture.victims import Keeper, saved_bytes

NUM_CASES = 10
"""Of each kind of fault; at full size every call is struck."""
NUM_STEPS = 3
SETTINGS = {"EZTINKER_SNAPSHOT_OPERATIONS": "3", "EZTINKER_POLL_HOLD_SECONDS": "2"}
SMALL_DISK_BYTES = 40 << 20


class Loop:
    """A training run of three steps, each saved; a save that the disk refuses is asked for again."""

    def __init__(self, service: tinker.ServiceClient) -> None:
        self._service = service
        self.losses: list[float] = []
        self.refusals: list[str] = []
        self.paths: list[str] = []

    def run(self) -> Loop:
        trainer = self._service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=3).result()
        generator = random.Random(0)
        for step in range(NUM_STEPS):
            trained = trainer.forward_backward([supervised(generator) for _ in range(4)], "cross_entropy")
            trainer.optim_step(ADAM)
            self.losses.append(trained.result().metrics["loss:sum"])
            self.paths.append(self.save(trainer, f"step-{step}"))
        return self

    def save(self, trainer: tinker.TrainingClient, name: str) -> str:
        while True:
            try:
                return trainer.save_state(name).result().path
            except tinker.RequestFailedError as error:
                self.refusals.append(str(error))
                time.sleep(0.05)


@contextlib.contextmanager
def client_of(keeper: Keeper) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=keeper.url, api_key=API_KEY) as service:
        yield service


def outcome(keeper: Keeper, loop: Loop) -> tuple[list[float], list[list[bytes]]]:
    return loop.losses, [saved_bytes(keeper.data_dir, path) for path in loop.paths]


@pytest.mark.timeout(0 if sizes.FULL else 300)
@pytest.mark.parametrize(
    ("action", "classes"), [(KILL, CHANGES), (FULL, GROWTH), (BROKEN, CHANGES)], ids=["killed", "full", "broken"]
)
def test_struck_at_any_call_the_server_and_its_engine_lose_nothing(
    tmp_path: Path, tiny_model_dir: Path, action: int, classes: int
):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    disk = FaultyDisk(data_dir, tmp_path)
    keeper = Keeper(data_dir, tiny_model_dir, SETTINGS | disk.environment)
    with keeper.running(), client_of(keeper) as service:
        disk.count(classes)
        expected = outcome(keeper, Loop(service).run())
        calls = range(1, disk.num_calls + 1)
        num_struck = 0
        for call in calls if sizes.FULL else random.Random(sizes.SEED).sample(calls, NUM_CASES):
            disk.arm(action, classes, at=call)
            loop = Loop(service).run()
            num_struck += disk.has_struck
            disk.count(0)
            assert outcome(keeper, loop) == expected, f"call {call}, seed {sizes.SEED}"
            assert all("save again" in refusal for refusal in loop.refusals)
    assert num_struck > NUM_CASES / 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    options = f"size={SMALL_DISK_BYTES},mode=700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", directory], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a small file system here")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory: Path, *, but: int) -> Path:
    """A file that leaves so many bytes of the disk; it grows if it is there already."""
    filler = directory / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while (room := shutil.disk_usage(directory).free - but) > 0:
            file.write(bytes(min(room, 1 << 16)))
    return filler


def leave_no_room_in_the_log(data_dir: Path) -> None:
    """Cut its write-ahead log to nothing: what that once took stays its own, and has room for many changes."""
    with closing(sqlite3.connect(data_dir / LOG_FILE, timeout=10)) as log:
        is_busy, *_ = log.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not is_busy


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_small_disk_that_fills_up_refuses_saves_first_and_loses_nothing_when_it_is_full(
    small_disk: Path, tmp_path: Path, tiny_model_dir: Path
):
    with Keeper(tmp_path / "large", tiny_model_dir, SETTINGS).running() as keeper, client_of(keeper) as service:
        expected = outcome(keeper, Loop(service).run())

    log = tmp_path / "server.log"  # not on the disk that fills up
    with Keeper(small_disk, tiny_model_dir, SETTINGS, log).running() as keeper, client_of(keeper) as service:
        first = Loop(service).run()
        assert outcome(keeper, first) == expected

        filler = fill(small_disk, but=4 << 20)  # less than what checkpoints leave for the log
        hindered = Loop(service)
        thread = in_background(hindered.run)
        wait_until(lambda: len(hindered.refusals) >= 3)
        assert len(hindered.losses) == 1  # the log had room for it
        told = r"Saving this needs 275\.1 kB, and 8\.4 MB must stay free beside it; the disk has [34]\.\d MB free"
        assert re.search(told, hindered.refusals[0])
        assert server_is_up(keeper.url)
        filler.unlink()
        thread.join(60)
        assert outcome(keeper, hindered) == expected

        leave_no_room_in_the_log(small_disk)
        filler = fill(small_disk, but=0)
        stuck = Loop(service)
        thread = in_background(stuck.run)
        # snapshots that are no longer needed go meanwhile, and what they leave is the log's again
        wait_until(lambda: fill(small_disk, but=0) and "database or disk is full" in keeper.log)
        time.sleep(5)
        assert server_is_up(keeper.url)
        assert stuck.paths == []
        filler.unlink()
        thread.join(120)
        assert outcome(keeper, stuck) == expected
        assert outcome(keeper, first) == expected

        again = service.create_training_client_from_state_with_optimizer(first.paths[0]).result()
        assert saved_bytes(small_disk, again.save_state("again").result().path) == expected[1][0]
    assert keeper.exit_codes == [0]


def test_a_server_does_not_start_on_a_full_disk_and_says_so(small_disk: Path, tiny_model_dir: Path):
    fill(small_disk, but=0)
    command = [sys.executable, "-m", "eztinker", "server", "--port", "0", "--data-dir", small_disk]
    started = subprocess.run([*command, "--base-model", f"tiny={tiny_model_dir}"], capture_output=True, text=True)
    assert started.returncode == 1
    assert "No space left" in started.stderr
    assert "Traceback" not in started.stderr
