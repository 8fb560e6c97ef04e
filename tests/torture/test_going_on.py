"""The numbers of a run that is left and taken up again are those of one that went on, to the last bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tinker

from eztinker.base_models.base_model import read_base_model
from eztinker.base_models.catalog import Catalog
from tests.servers import API_KEY, RunningServer, serving, wait_until
from tests.torture.clients import ADAM, BASE_MODEL, supervised, train
from tests.torture.victims import Keeper

# The SDK drops connections without closing them; they are collected before the next test.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

NUM_STEPS_BEFORE, NUM_STEPS_AFTER = 20, 200


def queue_and_collect(trainer: tinker.TrainingClient, seed: int, num_steps: int) -> list[float]:
    """The losses of so many steps, all in flight together."""
    generator = random.Random(seed)
    promises = []
    for _ in range(num_steps):
        promises.append(trainer.forward_backward([supervised(generator) for _ in range(4)], "cross_entropy"))
        trainer.optim_step(ADAM)
    return [promise.result().metrics["loss:sum"] for promise in promises]


def test_two_hundred_losses_after_a_load_in_another_process_and_directory_are_those_of_the_run_that_went_on(
    tmp_path: Path, tiny_model_dir: Path
):
    here, there = tmp_path / "here", tmp_path / "there"
    with Keeper(here, tiny_model_dir, {}).running() as keeper:
        with tinker.ServiceClient(base_url=keeper.url, api_key=API_KEY) as service:
            trainer = service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=3).result()
            before = queue_and_collect(trainer, 0, NUM_STEPS_BEFORE)
            path = trainer.save_state("halfway").result().path
            went_on = queue_and_collect(trainer, 1, NUM_STEPS_AFTER)
    shutil.copytree(here, there)
    shutil.rmtree(here)
    with Keeper(there, tiny_model_dir, {}).running() as keeper:
        with tinker.ServiceClient(base_url=keeper.url, api_key=API_KEY) as service:
            loaded = service.create_training_client_from_state_with_optimizer(path)
            assert queue_and_collect(loaded, 1, NUM_STEPS_AFTER) == went_on
            fresh = service.create_training_client_from_state(path)  # without the optimizer it is another run
            assert queue_and_collect(fresh, 1, 2) != went_on[:2]
    assert sum(went_on[-20:]) < sum(before[:20])


def test_steps_of_a_killed_client_are_kept_when_its_session_times_out_and_another_goes_on_with_the_same_numbers(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    catalog = Catalog([read_base_model(BASE_MODEL, tiny_model_dir)])
    with serving(tmp_path / "data", catalog, session_timeout_seconds=15) as server:
        abandoned = killed_after(5, server)
        with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
            undisturbed = service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=3).result()
            generator = random.Random(0)
            expected = [train(undisturbed, generator) for _ in range(10)]
            assert abandoned["losses"] == expected[:5]

            path = f"tinker://{abandoned['model_id']}/weights/parked"
            rest = service.create_rest_client()
            wait_until(lambda: path in [each.tinker_path for each in listed(rest, abandoned["model_id"])])
            later = service.create_training_client_from_state_with_optimizer(path)
            generator = random.Random(0)
            for _ in range(5 * 8):
                supervised(generator)
            assert [train(later, generator) for _ in range(5)] == expected[5:]


def killed_after(num_steps: int, server: RunningServer) -> dict:
    """What a client had printed when it was killed, its work done but not saved."""
    command = [sys.executable, "-m", "tests.torture.clients", "unsaved", server.url, str(num_steps)]
    environment = os.environ | {"TINKER_API_KEY": API_KEY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        printed = client.stdout.readline()
        client.kill()
    return json.loads(printed)


def listed(rest: tinker.lib.public_interfaces.RestClient, model_id: str) -> list[tinker.types.Checkpoint]:
    return rest.list_checkpoints(model_id).result().checkpoints
