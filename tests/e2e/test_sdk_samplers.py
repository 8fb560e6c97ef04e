"""What the official SDK's sampling clients draw from, and who may hold them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tinker
from tinker import types

from tests.oracles import draw_tokens
from tests.servers import API_KEY, RunningServer, Serve

TOKENS = draw_tokens(30, seed=4)
PROMPT = types.ModelInput.from_ints(TOKENS)
DATUM = types.Datum(
    model_input=types.ModelInput.from_ints(TOKENS[:-1]),
    loss_fn_inputs={"target_tokens": TOKENS[1:], "weights": [1.0] * 29},  # pyright: ignore
)


@pytest.fixture(scope="module")
def server(serve: Serve, tiny_model_dir: Path) -> RunningServer:
    return serve({"tiny": tiny_model_dir})


@pytest.fixture
def sampler(service: tinker.ServiceClient) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model="tiny").result()


@pytest.mark.conforms(69)
def test_inflight_samplers_move_forward_together_and_a_snapshot_stays(service: tinker.ServiceClient):
    trainer = service.create_lora_training_client(base_model="tiny", rank=4, seed=2).result()

    def step() -> None:
        trainer.forward_backward([DATUM], "cross_entropy")
        trainer.optim_step(types.AdamParams(learning_rate=1e-2)).result()

    def score(client: tinker.SamplingClient) -> list[float | None]:
        return client.compute_logprobs(PROMPT).result()

    step()
    snapshot = trainer.save_weights_and_get_sampling_client().result()
    first = trainer.save_weights_and_get_sampling_client(kind="inflight").result()
    before = score(first)
    assert before == score(snapshot)
    step()
    assert score(first) == before, "only a save moves it"
    second = trainer.save_weights_and_get_sampling_client(kind="inflight").result()
    trained = trainer.forward([DATUM], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].data
    assert score(second)[1:] == pytest.approx(trained, abs=1e-5)
    assert score(first) == score(second) != before
    assert score(snapshot) == before


@pytest.mark.conforms(68, 92)
def test_a_named_checkpoint_is_sampled_and_known_by_its_base_model(
    server: RunningServer, service: tinker.ServiceClient
):
    trainer = service.create_lora_training_client(base_model="tiny", rank=4, seed=2).result()
    path = trainer.save_weights_for_sampler("named").result().path
    client = service.create_sampling_client(model_path=path).result()
    assert client.get_base_model() == "tiny"
    assert client.compute_logprobs(PROMPT).result()[0] is None
    rest = tinker.RestClient(base_url=server.url, api_key=API_KEY)
    known = rest.get_sampler(client._sampling_session_id).result()
    assert (known.base_model, known.model_path) == ("tiny", path)


# --- from other processes ---

OTHER_PROCESS = """
import json, os, pickle, sys
import tinker
prompt = tinker.types.ModelInput.from_ints(json.loads(sys.argv[1]))
copies = [pickle.load(open(sys.argv[2], "rb")), tinker.SamplingClient.from_sampler_handle(sys.argv[3])]
scores = [[copy.compute_logprobs(prompt).result() for _ in range(2)] for copy in copies]
print(json.dumps({"scores": scores, "clones": [copy._cloned_sampler_id for copy in copies]}), flush=True)
os._exit(0)  # the SDK's threads go on, and now and then abort a slower end
"""


@pytest.mark.conforms(22, 91)
def test_copies_of_a_client_sample_in_another_process(
    service: tinker.ServiceClient, sampler: tinker.SamplingClient, tmp_path: Path
):
    pickled = tmp_path / "client.pickle"
    pickled.write_bytes(pickle.dumps(sampler))
    arguments = [json.dumps(TOKENS), str(pickled), sampler.get_sampler_handle()]
    process = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, *arguments],
        env=os.environ | {"TINKER_API_KEY": API_KEY, "TINKER_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answer = json.loads(process.stdout)
    mine = sampler.compute_logprobs(PROMPT).result()
    assert answer["scores"] == [[mine, mine]] * 2
    assert answer["clones"] == [1, 2]
