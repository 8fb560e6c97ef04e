"""The playground `tinkerscope` over the real server: it finds a run, loads its tokenizer and samples from it.

Runs where the command is installed, or named by EZTINKER_TINKERSCOPE: it brings a cookbook, which pins other releases
than ours, and so stands in an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import tinker

from tests.servers import API_KEY, RunningServer, Serve, wait_until

COMMAND = os.environ.get("EZTINKER_TINKERSCOPE") or shutil.which("tinkerscope")
BASE_MODEL = "org/tiny"

pytestmark = pytest.mark.skipif(
    COMMAND is None, reason="tinkerscope is not installed; name its command in EZTINKER_TINKERSCOPE"
)


@pytest.fixture(scope="module")
def server(serve: Serve, tiny_model: Callable[..., Path]) -> RunningServer:
    return serve({BASE_MODEL: tiny_model("qwen2")})


@pytest.fixture(scope="module")
def sampler_path(server: RunningServer) -> str:
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
        trainer = service.create_lora_training_client(BASE_MODEL, rank=2).result()
        return trainer.save_weights_for_sampler("first").result().path


@pytest.fixture(scope="module")
def playground(
    server: RunningServer, sampler_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str]]]:
    """Its address and the environment of its commands, over the files that a run of the cookbook leaves."""
    home = tmp_path_factory.mktemp("home")
    run = home / "runs" / "first"
    run.mkdir(parents=True)
    config = {"model_name": BASE_MODEL, "dataset_builder": {"common_config": {"renderer_name": "qwen3_instruct"}}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "checkpoints.jsonl").write_text(json.dumps({"name": "000001", "batch": 1, "sampler_path": sampler_path}))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": server.url,
        "TINKER_BASE_URL": server.url,
        "TINKER_API_KEY": API_KEY,
        "TINKERSCOPE_BASE_URL": url,
    }
    assert COMMAND is not None
    with subprocess.Popen([COMMAND, str(run.parent), "--port", str(port)], env=environment) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(url))
            yield url, environment
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/health", timeout=20).status_code == 200
    except httpx.TransportError:
        return False


def test_a_run_is_found_and_can_be_sampled(playground: tuple[str, dict[str, str]]):
    url, environment = playground
    (run,) = httpx.get(f"{url}/api/models", timeout=60).json()
    assert (run["base_model"], run["sampleable"]) == (BASE_MODEL, True)
    assert COMMAND is not None
    done = subprocess.run(
        [COMMAND, "chat", "first", "Hi", "--n", "2", "--max-tokens", "4", "--logprobs", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    samples = [each for each in told if each.get("token_logprobs")]
    assert len(samples) == 2, done.stdout
    assert all(len(sample["token_logprobs"]) <= 4 for sample in samples)


def test_a_path_is_probed_with_the_servers_own_words(playground: tuple[str, dict[str, str]], sampler_path: str):
    url, _ = playground

    def probe(path: str) -> dict[str, object]:
        return httpx.get(f"{url}/api/tinker-models/probe", params={"sampler_path": path}, timeout=60).json()

    assert probe(sampler_path) == {"available": True, "base_model": BASE_MODEL, "error": None}
    assert "this run has first" in str(probe(f"{sampler_path}-gone")["error"])
