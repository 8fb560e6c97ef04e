"""What the cookbook's own `weights` functions make of a checkpoint computes what the sampler computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tinker
import torch
from peft import PeftModel
from tinker import types
from transformers import AutoModelForCausalLM

from tests.oracles import draw_tokens
from tests.servers import API_KEY, RunningServer, serving_models

weights = pytest.importorskip("tinker_cookbook.weights", reason="the cookbook is not installed")

pytestmark = pytest.mark.filterwarnings("default")  # of the versions that the cookbook pins
TOKENS = draw_tokens(16, seed=3)


@pytest.fixture(scope="module")
def directories(tiny_model: Callable[..., Path]) -> dict[str, Path]:
    return {"untied": tiny_model("qwen3"), "tied": tiny_model("qwen3", tie=True)}


@pytest.fixture(scope="module")
def server(directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving_models(tmp_path_factory.mktemp("data"), directories) as running:
        yield running


@pytest.fixture
def adapted(
    server: RunningServer, directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[dict[str, str], torch.Tensor]]]:
    """`adapted(name)`: arguments for the cookbook, of an adapter after two steps, and the sampler's scores."""
    monkeypatch.setenv("TINKER_API_KEY", API_KEY)
    with tinker.ServiceClient(base_url=server.url) as service:

        def train(name: str, *, train_unembed: bool = True) -> tuple[dict[str, str], torch.Tensor]:
            trainer = service.create_lora_training_client(name, rank=4, seed=1, train_unembed=train_unembed).result()
            ones = types.TensorData(data=[1.0] * 15, dtype="float32", shape=[15])
            target_tokens = types.TensorData(data=TOKENS[1:], dtype="int64", shape=[15])
            datum = types.Datum(
                model_input=types.ModelInput.from_ints(TOKENS[:-1]),
                loss_fn_inputs={"target_tokens": target_tokens, "weights": ones},
            )
            for _ in range(2):
                trainer.forward_backward([datum], "cross_entropy")
                trainer.optim_step(types.AdamParams(learning_rate=1e-2)).result()
            path = trainer.save_weights_external("export").result().path
            sampler = trainer.save_weights_and_get_sampling_client().result()
            scores = sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()
            adapter = weights.download(tinker_path=path, output_dir=str(tmp_path / "adapter"), base_url=server.url)
            paths = {"adapter_path": adapter, "output_path": str(tmp_path / "built")}
            return {"base_model": str(directories[name]), **paths}, torch.tensor(scores[1:])

        yield train


@torch.inference_mode()
def scores_of(model: torch.nn.Module) -> torch.Tensor:
    logits = model.eval()(input_ids=torch.tensor([TOKENS])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


@pytest.mark.parametrize("name", ["untied", "tied"])
def test_a_merged_model_scores_as_the_sampler_does(adapted, name: str):
    arguments, expected = adapted(name)
    weights.build_hf_model(**arguments)
    merged = AutoModelForCausalLM.from_pretrained(arguments["output_path"])
    torch.testing.assert_close(scores_of(merged), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "train_unembed"), [("untied", True), ("untied", False), ("tied", False)])
def test_an_adapter_for_serving_scores_as_the_sampler_does(adapted, name: str, train_unembed: bool):
    arguments, expected = adapted(name, train_unembed=train_unembed)
    weights.build_lora_adapter(**arguments)
    base = AutoModelForCausalLM.from_pretrained(arguments["base_model"])
    torch.testing.assert_close(
        scores_of(PeftModel.from_pretrained(base, arguments["output_path"])), expected, rtol=0, atol=1e-4
    )
