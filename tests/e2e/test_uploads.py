"""An adapter that comes file by file, over raw HTTP as SDK 0.39 is documented to send it, scores as it does in peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import tinker
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tinker import types
from transformers import AutoModelForCausalLM

from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from tests.oracles import draw_tokens
from tests.route_cases import tenant
from tests.servers import API_KEY, RunningServer, Serve

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's use of it
TOKENS = draw_tokens(16, seed=3)
RANK = 3


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen2")


@pytest.fixture(scope="module")
def server(serve: Serve, model: Path) -> RunningServer:
    return serve({"tiny": model}, constants={"eztinker.service.service.HOUSEKEEPING_SECONDS": 0.1})


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What peft saves of an adapter that changes attention and MLP."""
    directory = tmp_path_factory.mktemp("adapter")
    adapted = adapter_on(model)
    adapted.save_pretrained(str(directory))
    return {name: (directory / name).read_bytes() for name in (CONFIG, WEIGHTS)}


@pytest.fixture(scope="module")
def expected(model: Path) -> torch.Tensor:
    with torch.inference_mode():
        logits = adapter_on(model)(input_ids=torch.tensor([TOKENS])).logits[0, :-1]
        return logits.log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


def adapter_on(model: Path) -> PeftModel:
    config = LoraConfig(r=RANK, lora_alpha=7, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    assert isinstance(adapted, PeftModel)
    adapted.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return adapted


def start(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    lora_config = {"rank": RANK, "train_unembed": False}
    body = {"base_model": "tiny", "lora_config": lora_config} | fields
    response = http.post("/external_weights_upload_start", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def put(url: str, content: bytes) -> httpx.Response:
    """As a client sends a file: without a key."""
    return httpx.put(url, content=content)


def finish(http: httpx.Client, upload_id: str) -> httpx.Response:
    return http.post("/external_weights_upload_finish", json={"upload_id": upload_id})


@pytest.mark.conforms(99)
def test_an_uploaded_adapter_scores_as_in_peft_and_is_listed_with_its_base_model(
    server: RunningServer, http: httpx.Client, folder: dict[str, bytes], expected: torch.Tensor
):
    upload = start(http, destination_project_id="theirs")
    assert sorted(upload["urls"]) == sorted(folder)
    for name, content in folder.items():
        assert put(upload["urls"][name], content).json() == {}
    path = finish(http, upload["upload_id"]).json()["tinker_path"]
    assert finish(http, upload["upload_id"]).json() == {"tinker_path": path}
    assert put(upload["urls"][CONFIG], folder[CONFIG]).status_code == 404
    (listed,) = [row for row in http.get("/checkpoints").json()["checkpoints"] if row["tinker_path"] == path]
    assert listed["base_model"] == "tiny"
    run = http.get("/training_runs", params={"project_id": "theirs"}).json()["training_runs"][0]
    assert (run["lora_rank"], run["last_sampler_checkpoint"]["base_model"]) == (RANK, "tiny")
    events = [entry for entry in http.get("/audit").json()["entries"] if entry.get("tinker_path") == path]
    assert [entry["event"] for entry in events] == ["checkpoint_create"]
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
        sampler = service.create_sampling_client(model_path=path).result()
        scores = sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()
        torch.testing.assert_close(torch.tensor(scores[1:]), expected, rtol=0, atol=1e-4)
        trainer = service.create_training_client_from_state(path).result()
        assert trainer.get_info().lora_rank == RANK
    wait_for_no_files(server, upload["upload_id"])


def wait_for_no_files(server: RunningServer, upload_id: str) -> None:
    directory = server.data_dir / "uploads" / upload_id
    for _ in range(1000):
        if not directory.exists():
            return
        httpx.get(f"{server.url}/healthz")
    raise AssertionError("the files are still there")


def test_a_file_may_come_again_and_the_last_one_counts(http: httpx.Client, folder: dict[str, bytes]):
    upload = start(http)
    put(upload["urls"][WEIGHTS], folder[WEIGHTS])
    told = finish(http, upload["upload_id"])
    assert told.status_code == 422
    assert told.json()["detail"] == f"The upload lacks {CONFIG}; PUT it to its URL, then finish again"
    put(upload["urls"][CONFIG], b"{}")
    assert "does not describe a LoRA" in finish(http, upload["upload_id"]).json()["detail"]
    put(upload["urls"][CONFIG], folder[CONFIG])
    assert finish(http, upload["upload_id"]).status_code == 200


@pytest.mark.parametrize(
    ("lora_config", "sentence"),
    [
        ({"rank": RANK + 1}, f"lora_config says rank {RANK + 1}, and the adapter has {RANK}"),
        ({"rank": RANK, "train_mlp": False}, "lora_config says that train_mlp is false, and the adapter changes such"),
    ],
)
def test_an_adapter_that_is_not_what_was_announced_is_refused(
    http: httpx.Client, folder: dict[str, bytes], lora_config: dict[str, Any], sentence: str
):
    upload = start(http, lora_config=lora_config)
    for name, content in folder.items():
        put(upload["urls"][name], content)
    told = finish(http, upload["upload_id"])
    assert (told.status_code, sentence in told.json()["detail"]) == (422, True), told.text
    assert finish(http, upload["upload_id"]).status_code == 422
    for name, content in folder.items():
        config = json.loads(content) | {"r": RANK + 1} if name == CONFIG else None
        put(upload["urls"][name], content if config is None else json.dumps(config).encode())
    assert finish(http, upload["upload_id"]).status_code == 422  # its weights are still of the other rank


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"base_model": "other"}, 404, "'other' is not served here"),
        ({"lora_config": {"rank": 0}}, 422, "LoRA rank must be between 1 and 512, got 0"),
        ({"lora_config": {"rank": 4, "seed": 1}}, 422, "lora_config.seed draws a fresh adapter"),
        ({"name": "x"}, 422, "Unknown fields in the request: name"),
    ],
)
def test_what_cannot_become_a_checkpoint_is_refused_at_once(
    http: httpx.Client, body: dict[str, Any], status: int, sentence: str
):
    told = http.post("/external_weights_upload_start", json={"base_model": "tiny"} | body)
    assert (told.status_code, sentence in told.json()["detail"]) == (status, True), told.text


def test_links_open_the_one_file_they_were_signed_for(server: RunningServer, folder: dict[str, bytes]):
    with tenant(server, "links") as http:
        first, second = start(http)["urls"], start(http)["urls"]
        url = httpx.URL(first[CONFIG])
        forged = [
            url.copy_with(path=httpx.URL(first[WEIGHTS]).path),
            url.copy_with(path=httpx.URL(second[CONFIG]).path),
            url.copy_merge_params({"expires": str(2**33)}),
            url.copy_merge_params({"signature": "0" * 64}),
        ]
        assert [put(str(each), b"{}").status_code for each in forged] == [404] * 4
        with tenant(server, "eve") as eve:
            assert finish(eve, first[CONFIG].split("/")[-2]).status_code == 404


def test_a_file_beyond_its_size_is_refused_and_leaves_nothing(server: RunningServer):
    with tenant(server, "large") as http:
        upload = start(http)
        told = put(upload["urls"][CONFIG], b" " * ((1 << 20) + 1))
    assert (told.status_code, told.json()["detail"]) == (413, f"{CONFIG} may have 1048576 bytes")
    assert list((server.data_dir / "uploads").glob(f"{upload['upload_id']}/*")) == []


def test_an_owner_has_only_so_many_uploads_open(server: RunningServer):
    with tenant(server, "many") as http, tenant(server, "other") as other:
        for _ in range(4):
            start(http)
        told = http.post("/external_weights_upload_start", json={"base_model": "tiny"})
        assert told.status_code == 422
        assert told.json()["detail"].startswith("4 uploads of yours wait for files already")
        start(other)
