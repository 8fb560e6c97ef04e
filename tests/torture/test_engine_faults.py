"""A real engine that is stopped and wakes up after its end, and one whose memory is too short for one tenant."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import tinker
from tinker import types

from tests.servers import API_KEY
from tests.torture.clients import ADAM, BASE_MODEL, supervised
from tests.torture.finished_steps import finished_steps, wait_for_new_steps
from tests.torture.sizes import FULL, SEED, sized
from tests.torture.victims import Keeper, saved_bytes

NUM_STOPS = sized(1, 2, 50)
MAX_STEPS_BEFORE = 5
"""A stop comes after one to so many new steps."""
STALL_SECONDS = 12.0
"""More than an engine needs to start on a busy machine, which is silence too."""
ROOM_BYTES = 80 << 20
"""What the engine may still take; the tiny model's steps need far less, and the large batch far more."""
SHORT = [supervised(random.Random(0)) for _ in range(4)]


def train(service: tinker.ServiceClient, seed: int, num_steps: int = 20) -> tuple[list[float], str]:
    """Losses and the path of the last save."""
    trainer = service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=seed).result()
    losses = [step(trainer) for _ in range(num_steps)]
    return losses, trainer.save_state("final").result().path


def step(trainer: tinker.TrainingClient) -> float:
    trained = trainer.forward_backward(SHORT, "cross_entropy")
    trainer.optim_step(ADAM).result()
    return trained.result().metrics["loss:sum"]


@pytest.mark.timeout(0 if FULL else 300)
def test_an_engine_that_wakes_up_after_another_took_over_changes_nothing(tmp_path: Path, tiny_model_dir: Path):
    generator = random.Random(SEED)
    settings = {"EZTINKER_ENGINE_STALL_SECONDS": str(STALL_SECONDS), "EZTINKER_SNAPSHOT_OPERATIONS": "5"}
    with (
        Keeper(tmp_path / "data", tiny_model_dir, settings).running() as keeper,
        tinker.ServiceClient(base_url=keeper.url, api_key=API_KEY) as service,
    ):
        losses, path = train(service, seed=3)
        expected = losses, saved_bytes(keeper.data_dir, path)
        for _ in range(NUM_STOPS):
            found: list[tuple[list[float], str]] = []
            thread = threading.Thread(target=lambda found=found: found.append(train(service, seed=3)))
            thread.start()
            before = finished_steps(keeper.data_dir)
            for _ in range(generator.randint(1, MAX_STEPS_BEFORE)):
                before = wait_for_new_steps(keeper.data_dir, before, num_runs=1, seconds=60, goes_on=thread.is_alive)
            stopped = keeper.engine_pid()
            os.kill(stopped, signal.SIGSTOP)
            while keeper.engine_pid() == stopped:  # the test's own time limit ends this
                time.sleep(0.1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGCONT)
            thread.join(100)
            ((losses, path),) = found
            assert (losses, saved_bytes(keeper.data_dir, path)) == expected, f"seed {SEED}"
        with closing(sqlite3.connect(keeper.data_dir / "oplog.sqlite3")) as db:
            known = {checkpoint_id for (checkpoint_id,) in db.execute("SELECT checkpoint_id FROM checkpoints")}
        assert {path.name for path in (keeper.data_dir / "checkpoints").iterdir()} == known


def test_a_batch_that_memory_is_too_short_for_fails_with_advice_and_nobody_else_notices(
    tmp_path: Path, tiny_model_dir: Path
):
    generator = random.Random(5)
    tokens = [generator.randrange(256) for _ in range(2000)]
    inputs = {"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)}
    long = types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)  # pyright: ignore
    with (
        Keeper(tmp_path / "data", tiny_model_dir, {"EZTINKER_MAX_TRAIN_TOKENS": "100000"}).running() as keeper,
        tinker.ServiceClient(base_url=keeper.url, api_key=API_KEY) as service,
    ):
        expected, path = train(service, seed=1, num_steps=4)
        expected_bytes = saved_bytes(keeper.data_dir, path)
        victim, neighbour = (
            service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=seed).result() for seed in (1, 2)
        )
        assert [step(victim), step(victim)] == expected[:2]
        engine = keeper.engine_pid()
        _, most = resource.prlimit(engine, resource.RLIMIT_AS)
        resource.prlimit(engine, resource.RLIMIT_AS, (address_space(engine) + ROOM_BYTES, most))
        refused = victim.forward_backward([long] * 20, "cross_entropy")
        beside = [step(neighbour) for _ in range(4)]
        with pytest.raises(tinker.RequestFailedError, match=r"ran out of memory.*Send shorter sequences"):
            refused.result()
        assert [step(victim), step(victim)] == expected[2:]
        assert saved_bytes(keeper.data_dir, victim.save_state("final").result().path) == expected_bytes
        assert beside == train(service, seed=2, num_steps=4)[0]
        assert keeper.engine_pid() == engine


def address_space(pid: int) -> int:
    """Bytes that the process has mapped."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmSize:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
