"""Adapters leave the server and come back without any change in what they compute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tinker
import torch
from peft import PeftModel
from tinker import types
from transformers import AutoModelForCausalLM, PreTrainedModel

from eztinker.checkpoints.peft import CONFIG, peft_parts
from eztinker.checkpoints.peft_archive import pack
from eztinker.model_files.folder import read_model_folder
from eztinker.types import LoraSpec
from tests.oracles import draw_tokens
from tests.refusals import refused
from tests.servers import API_KEY, RunningServer, Serve

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's use of transformers
    pytest.mark.filterwarnings("ignore:.*tie:UserWarning"),  # peft advises against merging adapters of tied weights
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),  # those that peft ties itself
]
TOKENS = draw_tokens(16, seed=3)


@pytest.fixture(scope="module")
def directories(tiny_model: Callable[..., Path]) -> dict[str, Path]:
    return {"org/untied": tiny_model("qwen2"), "org/tied": tiny_model("llama", tie=True)}


@pytest.fixture(scope="module")
def server(serve: Serve, directories: dict[str, Path]) -> RunningServer:
    return serve(directories)


@pytest.fixture(scope="module")
def service(server: RunningServer) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as client:
        yield client


@pytest.fixture(scope="module", params=["org/untied", "org/tied"])
def base_model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(service: tinker.ServiceClient, base_model: str) -> str:
    """A sampler checkpoint after two steps on everything an adapter can train."""
    trainer = service.create_lora_training_client(base_model=base_model, rank=4, seed=1).result()
    targets = types.TensorData(data=TOKENS[1:], dtype="int64", shape=[len(TOKENS) - 1])
    weights = types.TensorData(data=[1.0] * (len(TOKENS) - 1), dtype="float32", shape=[len(TOKENS) - 1])
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(TOKENS[:-1]),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )
    for _ in range(2):
        trainer.forward_backward([datum], "cross_entropy")
        trainer.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    return trainer.save_weights_for_sampler("trained").result().path


def scores(
    service: tinker.ServiceClient, *, model_path: str | None = None, base_model: str | None = None
) -> torch.Tensor:
    """What a sampler thinks of the tokens."""
    sampler = service.create_sampling_client(model_path=model_path, base_model=base_model).result()
    return torch.tensor(sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()[1:])


@torch.inference_mode()
def scores_of(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    logits = model.eval()(input_ids=torch.tensor([TOKENS])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


def eztinker(server: RunningServer, *arguments: object) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "eztinker", *map(str, arguments)],
        env=os.environ | {"EZTINKER_BASE_URL": server.url, "EZTINKER_API_KEY": API_KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()


def test_exports_compute_what_the_sampler_computes(
    server: RunningServer,
    service: tinker.ServiceClient,
    base_model: str,
    directories: dict[str, Path],
    checkpoint: str,
    tmp_path: Path,
):
    expected = scores(service, model_path=checkpoint)
    assert (expected - scores(service, base_model=base_model)).abs().max() > 0.1
    for form in ("peft", "merged"):
        assert eztinker(server, "export", form, checkpoint, tmp_path / form) == str(tmp_path / form)
    base = AutoModelForCausalLM.from_pretrained(directories[base_model])
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    torch.testing.assert_close(scores_of(adapted), expected, rtol=0, atol=1e-4)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(scores_of(merged), expected, rtol=0, atol=1e-4)


def test_an_imported_adapter_is_served_and_trained_on(
    server: RunningServer, service: tinker.ServiceClient, base_model: str, checkpoint: str, tmp_path: Path
):
    eztinker(server, "export", "peft", checkpoint, tmp_path / "peft")
    path = eztinker(server, "import", tmp_path / "peft", "again", "--base-model", base_model)
    assert path.endswith("/sampler_weights/again")
    expected = scores(service, model_path=checkpoint)
    torch.testing.assert_close(scores(service, model_path=path), expected, rtol=0, atol=1e-5)
    trainer = service.create_training_client_from_state(path).result()
    resaved = trainer.save_weights_for_sampler("resaved").result().path
    torch.testing.assert_close(scores(service, model_path=resaved), expected, rtol=0, atol=1e-5)
    rest = tinker.RestClient(base_url=server.url, api_key=API_KEY)
    assert rest.get_training_run_by_tinker_path(path).result().lora_rank == 4


def test_what_cannot_be_exported_or_imported_is_told(
    server: RunningServer, base_model: str, checkpoint: str, tmp_path: Path
):
    (tmp_path / "there").mkdir()
    assert "exists already" in eztinker(server, "export", "peft", checkpoint, tmp_path / "there")
    assert "no training run" in eztinker(server, "export", "peft", "tinker://x/weights/y", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "has no adapter_config.json" in eztinker(server, "import", tmp_path / "there", "n", "--base-model", "x")
    eztinker(server, "export", "peft", checkpoint, tmp_path / "peft")
    shutil.copy(tmp_path / "peft" / "adapter_config.json", tmp_path / "peft" / "adapter_model.safetensors")
    assert "header of adapter_model.safetensors may have" in eztinker(
        server, "import", tmp_path / "peft", "n", "--base-model", base_model
    )
    assert "is not served here" in eztinker(server, "import", tmp_path / "peft", "n", "--base-model", "org/other")


@pytest.mark.parametrize(
    ("trained_on", "base_model", "note"),
    [
        (None, "org/tied", None),
        ("", "org/tied", None),
        ("ORG/Tied", "org/tied", None),
        ("/some/where/else", "org/tied", "nothing shows whether that is org/tied"),
        ("mirror/tied", "org/tied", "nothing shows whether that is org/tied"),
    ],
)
def test_an_adapter_of_its_base_model_is_imported_by_whatever_name_that_goes(
    server: RunningServer, tied: dict[str, bytes], trained_on: str | None, base_model: str, note: str | None
):
    answer = import_of(server, tied, trained_on, base_model)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["warning"] is None) == (note is None)
    assert note is None or note in answer.json()["warning"]


@pytest.mark.parametrize("trained_on", ["org/untied", "other/model", ["org/tied"], 5])
def test_an_adapter_of_another_base_model_is_refused(server: RunningServer, tied: dict[str, bytes], trained_on: Any):
    """Row 20: its shapes fit."""
    before = runs_of(server)
    refused(import_of(server, tied, trained_on, "org/tied"), 422, "base_model_name_or_path")
    assert runs_of(server) == before


def test_the_command_passes_the_note_on(server: RunningServer, tied: dict[str, bytes], tmp_path: Path):
    for name, content in (tied | with_base(tied, "/some/where/else")).items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-m", "eztinker", "import", str(tmp_path), "noted", "--base-model", "org/tied"]
    environment = os.environ | {"EZTINKER_BASE_URL": server.url, "EZTINKER_API_KEY": API_KEY}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("/sampler_weights/noted")
    assert done.stderr.startswith("Note: The adapter was trained on '/some/where/else'")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def tied(directories: dict[str, Path]) -> dict[str, bytes]:
    """A PEFT folder that changes nothing in org/tied."""
    modules = {
        name.removesuffix(".weight"): shape
        for name, shape in read_model_folder(directories["org/tied"], "tied").shapes.items()
        if name.endswith("q_proj.weight")
    }
    arrays = {f"{module}.lora_A.weight": np.zeros((2, shape[1]), np.float32) for module, shape in modules.items()}
    arrays |= {f"{module}.lora_B.weight": np.zeros((shape[0], 2), np.float32) for module, shape in modules.items()}
    lora = LoraSpec(rank=2, seed=0, train_mlp=False, train_unembed=False)
    return peft_parts(arrays, lora, "org/tied", head_is_tied=True)


def with_base(parts: dict[str, bytes], name: Any) -> dict[str, bytes]:
    config = json.loads(parts[CONFIG])
    return parts | {CONFIG: json.dumps(config | {"base_model_name_or_path": name}).encode()}


def import_of(server: RunningServer, parts: dict[str, bytes], trained_on: Any, base_model: str) -> httpx.Response:
    archive = pack(with_base(parts, trained_on))
    with server.client() as http:
        return http.post("/import_adapter", params={"base_model": base_model, "name": "n"}, content=archive)


def runs_of(server: RunningServer) -> list[Any]:
    with server.client() as http:
        return http.get("/training_runs").json()["training_runs"]


def test_an_archives_link_opens_nothing_once_it_was_changed(server: RunningServer, checkpoint: str):
    run_id, name = checkpoint.removeprefix("tinker://").split("/", 1)
    with server.client() as http:
        answer = http.get(f"/training_runs/{run_id}/checkpoints/{name}/archive")
    assert answer.status_code == 302
    assert answer.headers["expires"].endswith(" GMT")
    link = httpx.URL(answer.headers["location"])
    assert httpx.get(link).headers["content-type"] == "application/x-tar"
    for change in ({"expires": 2**31}, {"signature": "0" * 64}):
        assert httpx.get(link.copy_merge_params(change)).status_code == 404
