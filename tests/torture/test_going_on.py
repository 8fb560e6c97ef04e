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
NUM_STEPS_UNSAVED, NUM_STEPS_LATER = 5, 5


def sdk(url: str) -> tinker.ServiceClient:
    return tinker.ServiceClient(base_url=url, api_key=API_KEY)


def queue_and_collect(trainer: tinker.TrainingClient, seed: int, num_steps: int) -> list[float]:
    """The losses of so many steps, all in flight together."""
    generator = random.Random(seed)
    futures = []
    for _ in range(num_steps):
        futures.append(trainer.forward_backward([supervised(generator) for _ in range(2)], "cross_entropy"))
        trainer.optim_step(ADAM)
    return [future.result().metrics["loss:sum"] for future in futures]


def test_two_hundred_losses_after_a_load_in_another_process_and_directory_are_those_of_the_run_that_went_on(
    tmp_path: Path, tiny_model_dir: Path
):
    here, there = tmp_path / "here", tmp_path / "there"
    with Keeper(here, tiny_model_dir, {}).running() as keeper, sdk(keeper.url) as service:
        trainer = service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=3).result()
        queue_and_collect(trainer, 0, NUM_STEPS_BEFORE)
        path = trainer.save_state("halfway").result().path
        went_on = queue_and_collect(trainer, 1, NUM_STEPS_AFTER)
    shutil.copytree(here, there)
    shutil.rmtree(here)
    with Keeper(there, tiny_model_dir, {}).running() as keeper, sdk(keeper.url) as service:
        loaded = service.create_training_client_from_state_with_optimizer(path).result()
        assert queue_and_collect(loaded, 1, NUM_STEPS_AFTER) == went_on
        without_optimizer = service.create_training_client_from_state(path).result()
        assert queue_and_collect(without_optimizer, 1, 3) != went_on[:3]


def test_steps_of_a_killed_client_are_kept_when_its_session_times_out_and_another_goes_on_with_the_same_numbers(
    tmp_path: Path, tiny_model_dir: Path
):
    catalog = Catalog([read_base_model(BASE_MODEL, tiny_model_dir)])
    with serving(tmp_path / "data", catalog, session_timeout_seconds=15) as server:
        abandoned = killed_after(NUM_STEPS_UNSAVED, server)
        with sdk(server.url) as service:
            undisturbed = service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=3).result()
            generator = random.Random(0)
            expected = [train(undisturbed, generator) for _ in range(NUM_STEPS_UNSAVED + NUM_STEPS_LATER)]
            assert abandoned["losses"] == expected[:NUM_STEPS_UNSAVED]

            path = f"tinker://{abandoned['model_id']}/weights/parked"
            rest = tinker.RestClient(base_url=server.url, api_key=API_KEY)
            wait_until(lambda: path in saved_paths(rest, abandoned["model_id"]))
            later = service.create_training_client_from_state_with_optimizer(path).result()
            generator = random.Random(0)
            for _ in range(NUM_STEPS_UNSAVED * 8):
                supervised(generator)  # what the killed client has trained on
            assert [train(later, generator) for _ in range(NUM_STEPS_LATER)] == expected[NUM_STEPS_UNSAVED:]


def killed_after(num_steps: int, server: RunningServer) -> dict:
    """What a client had printed when it was killed, its work done but not saved."""
    command = [sys.executable, "-m", "tests.torture.clients", "unsaved", server.url, str(num_steps)]
    environment = os.environ | {"TINKER_API_KEY": API_KEY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        printed = client.stdout.readline()
        client.kill()
    return json.loads(printed)


def saved_paths(rest: tinker.RestClient, model_id: str) -> list[str]:
    return [checkpoint.tinker_path for checkpoint in rest.list_checkpoints(model_id).result().checkpoints]
