"""A server with the scripted engine, and the official SDK's clients of it with two owners' keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tinker

from tests.servers import API_KEY, RunningServer, key_of, replaced, scripted_marks_in, serving_scripted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("server")
    with (
        scripted_marks_in(directory),
        replaced({"eztinker.service.service.HOUSEKEEPING_SECONDS": 0.1}),
        serving_scripted(directory, poll_hold_seconds=0.5) as running,
    ):
        yield running


@pytest.fixture
def other(server: RunningServer) -> tinker.RestClient:
    """A client with the key of somebody else."""
    return tinker.RestClient(base_url=server.url, api_key=key_of(server, "other"))


@pytest.fixture
def admin(server: RunningServer) -> tinker.AdminClient:
    return tinker.AdminClient(base_url=server.url, api_key=API_KEY)


@pytest.fixture
def service(server: RunningServer) -> Iterator[tinker.ServiceClient]:
    metadata = {"purpose": "test"}
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY, user_metadata=metadata) as client:
        yield client


@pytest.fixture
def trainer(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return service.create_lora_training_client(base_model="tiny", rank=4, seed=1).result()
