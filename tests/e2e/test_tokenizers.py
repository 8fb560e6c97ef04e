"""Clients without a model hub load tokenizers from the server, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import API_KEY, RunningServer, Serve

PROGRAM = """
import sys, tinker
client = tinker.ServiceClient(base_url=sys.argv[1], api_key=sys.argv[2])
tokenizers = [
    client.create_lora_training_client(base_model="org/tiny", rank=1).result().get_tokenizer(),
    client.create_sampling_client(base_model="org/tiny:fast").result().get_tokenizer(),
    client.create_sampling_client(base_model="meta-llama/Llama-3.2-1B").result().get_tokenizer(),
]
print([tokenizer.decode(tokenizer.encode("A word.")) for tokenizer in tokenizers])
"""


@pytest.fixture(scope="module")
def server(serve: Serve, tiny_model_dir: Path) -> RunningServer:
    names = ("org/tiny", "plain", "meta-llama/Llama-3.2-1B")
    return serve(dict.fromkeys(names, tiny_model_dir), host="127.0.0.1")


@pytest.fixture
def hub(server: RunningServer) -> Iterator[httpx.Client]:
    """Asks as the hub's client does: without a key."""
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.mark.conforms(96)
def test_both_clients_of_the_sdk_load_tokenizers_with_the_server_as_their_hub(server: RunningServer, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url, API_KEY],
        env=environment | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(["A word."] * 3), done.stderr


@pytest.mark.parametrize("name", ["org/tiny", "plain"])
def test_a_tokenizer_file_comes_with_what_the_hub_client_needs(hub: httpx.Client, tiny_model_dir: Path, name: str):
    asked = hub.head(f"/{name}/resolve/main/tokenizer.json")
    got = hub.get(f"/{name}/resolve/0123abcd/tokenizer.json")
    assert asked.status_code == got.status_code == 200
    assert asked.headers["content-length"] == str(len(got.content))
    assert asked.headers["etag"] == got.headers["etag"]
    assert len(got.headers["x-repo-commit"]) == 40
    assert got.content == (tiny_model_dir / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/org/tiny/resolve/main/model.safetensors", "EntryNotFound"),
        ("/org/tiny/resolve/main/merges.txt", "EntryNotFound"),
        ("/org/other/resolve/main/tokenizer.json", "RepoNotFound"),
        ("/api/models/org/tiny/tree/main", "EntryNotFound"),
    ],
)
def test_weights_and_other_models_are_not_to_be_had(hub: httpx.Client, path: str, code: str):
    response = hub.get(path)
    assert (response.status_code, response.headers["x-error-code"]) == (404, code)


@pytest.mark.parametrize("file", ["..%2fconfig.json", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5cconfig.json", "%00"])
def test_no_path_leads_out_of_the_folder(hub: httpx.Client, file: str):
    assert hub.get(f"/org/tiny/resolve/main/{file}").status_code in (400, 404)


def test_a_changed_file_changes_the_commit_that_caches_go_by(hub: httpx.Client, tiny_model_dir: Path):
    before = hub.head("/plain/resolve/main/config.json").headers["x-repo-commit"]
    stat = (tiny_model_dir / "config.json").stat()
    os.utime(tiny_model_dir / "config.json", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    assert hub.head("/plain/resolve/main/config.json").headers["x-repo-commit"] != before
