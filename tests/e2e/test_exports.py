"""Weights leave the server and come back: exports that peft loads, encrypted ones, copies, and damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import tinker
import torch
from peft import PeftModel
from pyrage import (  # a compiled module without type stubs
    decrypt,  # pyright: ignore[reportAttributeAccessIssue]
    x25519,  # pyright: ignore[reportAttributeAccessIssue]
)
from tinker import types
from transformers import AutoModelForCausalLM

from tests.hub_stub import hub_stub
from tests.servers import API_KEY, RunningServer, Serve, key_of

TOKENS = list(range(10, 26))
DATUM = types.Datum(
    model_input=types.ModelInput.from_ints(TOKENS[:-1]),
    loss_fn_inputs={"target_tokens": TOKENS[1:], "weights": [1.0] * (len(TOKENS) - 1)},  # pyright: ignore
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft's use of transformers


@pytest.fixture(scope="module")
def base_model_dir(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen3")


@pytest.fixture(scope="module")
def server(serve: Serve, base_model_dir: Path) -> RunningServer:
    return serve({"tiny": base_model_dir})


@pytest.fixture
def trainer(service: tinker.ServiceClient) -> tinker.TrainingClient:
    """A run whose adapter has learned enough to be told from none."""
    client = service.create_lora_training_client(base_model="tiny", rank=4, seed=1).result()
    for _ in range(3):
        client.forward_backward([DATUM], "cross_entropy").result()
        client.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    return client


def scores(trainer: tinker.TrainingClient) -> torch.Tensor:
    return torch.tensor(trainer.forward([DATUM], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].data)


def scores_by_peft(base_model_dir: Path, adapter: Path) -> torch.Tensor:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model_dir), str(adapter)).eval()
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([TOKENS])).logits[0].log_softmax(-1)
    return logprobs[:-1].gather(-1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


def download(rest: tinker.RestClient, path: str, directory: Path) -> None:
    for name, url in rest.get_external_weights_urls(path).result().urls.items():
        (directory / name).write_bytes(httpx.get(url).raise_for_status().content)


@pytest.mark.conforms(76)
def test_an_export_is_fetched_without_a_key_and_computes_the_same_in_peft(
    rest: tinker.RestClient, trainer: tinker.TrainingClient, base_model_dir: Path, tmp_path: Path
):
    path = trainer.save_weights_external("out").result().path
    download(rest, path, tmp_path)
    torch.testing.assert_close(scores_by_peft(base_model_dir, tmp_path), scores(trainer), rtol=1e-4, atol=1e-4)
    (row,) = rest.list_checkpoints(trainer.model_id).result().checkpoints
    assert (row.checkpoint_type, row.size_bytes) == (
        "external",
        sum(file.stat().st_size for file in tmp_path.iterdir()),
    )


@pytest.mark.conforms(76)
def test_links_expire_and_open_nothing_else(
    server: RunningServer, rest: tinker.RestClient, trainer: tinker.TrainingClient, monkeypatch: pytest.MonkeyPatch
):
    path = trainer.save_weights_external("out").result().path
    answer = rest.get_external_weights_urls(path).result()
    assert timedelta(minutes=59) < answer.expires - datetime.now(UTC) <= timedelta(hours=1)
    url = answer.urls["adapter_config.json"]
    assert url.startswith(f"{server.url}/api/v1/")
    assert httpx.get(url).status_code == 200
    for forged in (
        url.replace("adapter_config.json", "manifest.json"),
        url.replace("signature=", "signature=0"),
        url.replace("expires=1", "expires=9"),
        url.split("?")[0] + "?" + urlsplit(answer.urls["adapter_model.safetensors"]).query,
    ):
        assert httpx.get(forged).status_code == 404
    monkeypatch.setattr(server.app.state.service.clock, "now", lambda: datetime.now(UTC) + timedelta(minutes=61))
    assert httpx.get(url).status_code == 404
    monkeypatch.undo()
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert httpx.get(url).status_code == 404


def test_an_encrypted_export_is_opened_by_its_recipient_alone(
    server: RunningServer,
    rest: tinker.RestClient,
    trainer: tinker.TrainingClient,
    base_model_dir: Path,
    tmp_path: Path,
):
    identity = x25519.Identity.generate()
    recipients = [str(identity.to_public())]
    path = trainer.save_weights_external("secret", age_encryption_recipients=recipients).result().path
    download(rest, path, tmp_path)
    encrypted_files = {"adapter_config.json.age", "adapter_model.safetensors.age"}
    assert {file.name for file in tmp_path.iterdir()} == encrypted_files
    for file in tmp_path.iterdir():
        file.with_suffix("").write_bytes(decrypt(file.read_bytes(), [identity]))
    torch.testing.assert_close(scores_by_peft(base_model_dir, tmp_path), scores(trainer), rtol=1e-4, atol=1e-4)
    (directory,) = {file.parent for file in server.app.state.service.config.data_dir.rglob("*.age")}
    assert {file.name for file in directory.iterdir()} == {*encrypted_files, "manifest.json"}
    for bad, sentence in ((["age1bad"], "age_encryption_recipients\\[0\\] must be"), (recipients * 11, "At most 10")):
        with pytest.raises(tinker.RequestFailedError, match=sentence):
            trainer.save_weights_external("no", age_encryption_recipients=bad).result()


def test_the_cookbook_downloads_a_training_checkpoint(
    server: RunningServer,
    rest: tinker.RestClient,
    trainer: tinker.TrainingClient,
    base_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    weights = pytest.importorskip("tinker_cookbook.weights", reason="the cookbook is not installed")
    monkeypatch.setenv("TINKER_API_KEY", API_KEY)
    path = trainer.save_state("w").result().path
    before = rest.list_user_checkpoints(limit=1000).result().checkpoints
    directory = Path(weights.download(tinker_path=path, output_dir=str(tmp_path / "out"), base_url=server.url))
    torch.testing.assert_close(scores_by_peft(base_model_dir, directory), scores(trainer), rtol=1e-4, atol=1e-4)
    assert json.loads((directory / "adapter_config.json").read_text())["r"] == 4
    assert rest.list_user_checkpoints(limit=1000).result().checkpoints == before


@pytest.mark.conforms(95)
def test_the_command_line_uploads_a_training_checkpoint_to_a_hub(
    server: RunningServer, trainer: tinker.TrainingClient, base_model_dir: Path, tmp_path: Path
):
    path = trainer.save_state("w").result().path
    with hub_stub() as hub:
        environment = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": API_KEY, "HF_ENDPOINT": hub.url}
        environment |= {"HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path / "hub")}
        subprocess.run(
            [sys.executable, "-m", "tinker.cli", "checkpoint", "push-hf", path, "--repo", "me/adapter"],
            env=os.environ | environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
    files = {name.removeprefix("me/adapter/"): content for name, content in hub.files.items()}
    assert "adapter_config.json" in files
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    torch.testing.assert_close(scores_by_peft(base_model_dir, tmp_path), scores(trainer), rtol=1e-4, atol=1e-4)
    card = files["README.md"].decode()
    assert path in card
    assert "Trained modules: attn=True, mlp=True, unembed=True" in card


@pytest.mark.conforms(74, 77)
def test_published_weights_and_copies_load_under_another_key_as_they_are(
    server: RunningServer, rest: tinker.RestClient, trainer: tinker.TrainingClient
):
    path = trainer.save_state("w").result().path
    rest.publish_checkpoint_from_tinker_path(path).result()
    other_key = key_of(server, "other")
    copy = tinker.RestClient(base_url=server.url, api_key=other_key).copy_weights(path, "mine").result()
    with tinker.ServiceClient(base_url=server.url, api_key=other_key) as theirs:
        for source in (path, copy):
            loaded = theirs.create_training_client_from_state_with_optimizer(source).result()
            assert scores(loaded).equal(scores(trainer))
            assert loaded.get_info().lora_rank == 4


def test_a_damaged_file_is_named_and_the_last_good_checkpoint_offered(
    server: RunningServer, service: tinker.ServiceClient, trainer: tinker.TrainingClient
):
    root = server.app.state.service.config.data_dir / "checkpoints"
    good = trainer.save_state("good").result().path
    before = set(root.iterdir())
    bad = trainer.save_state("bad").result().path
    (directory,) = set(root.iterdir()) - before
    flip_a_bit(directory / "optimizer.safetensors")
    with pytest.raises(tinker.RequestFailedError) as caught:
        service.create_training_client_from_state_with_optimizer(bad).result()
    assert f"optimizer.safetensors of {bad} is damaged" in caught.value.message
    assert f"the newest one before it that is whole is {good}" in caught.value.message
    assert service.create_training_client_from_state(good).result().model_id
    snapshot = trainer.save_weights_for_sampler("snapshot").result().path
    for adapter in root.rglob("adapter.safetensors"):
        flip_a_bit(adapter)
    with pytest.raises(tinker.BadRequestError, match="this run has no older sampler_weights that is whole"):
        service.create_sampling_client(model_path=snapshot).result()


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
