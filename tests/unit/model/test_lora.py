"""Adapters compute what peft computes, forward and backward, and what their merged weights compute."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from eztinker.engine.trainer import Pass, TrainingState
from eztinker.model.decoder import Decoder
from eztinker.model.lora import Adapter
from eztinker.types import Datum, LoraSpec
from tests.oracles import CPU, draw_tokens, load_decoder, packed_logits

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft's use of transformers

ATTN = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "everything": ({}, [*ATTN, *MLP, "lm_head"]),
    "attention alone": ({"train_mlp": False, "train_unembed": False}, ATTN),
    "mlp alone": ({"train_attn": False, "train_unembed": False}, MLP),
    "head alone": ({"train_attn": False, "train_mlp": False}, ["lm_head"]),
}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


def trained_adapter(decoder: Decoder, spec: LoraSpec) -> Adapter:
    """An adapter whose B is not zero, as it would be at birth, where it would hide A."""
    adapter = Adapter.new(decoder.config, spec, CPU)
    noise = torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(1))
    adapter.flat.add_(0.05 * noise)
    return adapter


def peft_model(directory: Path, adapter: Adapter, target_modules: list[str]) -> Any:
    """A model of transformers and peft with the adapter's weights."""
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    config = peft.LoraConfig(r=adapter.lora.rank, lora_alpha=int(adapter.lora.alpha), target_modules=target_modules)
    model = peft.get_peft_model(base, config)
    state = {f"base_model.model.{name}": torch.from_numpy(array) for name, array in adapter.named_arrays().items()}
    loaded = peft.set_peft_model_state_dict(model, state)
    assert not loaded.unexpected_keys
    return model


def gradients_of(model: Any) -> dict[str, np.ndarray]:
    """Under the names our adapters use."""
    return {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def datum(tokens: list[int], weights: list[float]) -> Datum:
    inputs = {"target_tokens": np.array(tokens[1:]), "weights": np.array(weights, dtype=np.float32)}
    return Datum(tokens=np.array(tokens[:-1]), loss_fn_inputs=inputs)


def weighted_loss(model: Any, example: Datum) -> Tensor:
    """Sum of weight times negative log-likelihood, the long way."""
    logprobs = model(torch.from_numpy(example.tokens)[None]).logits[0].log_softmax(-1)
    targets = torch.from_numpy(example.loss_fn_inputs["target_tokens"])
    picked = logprobs[torch.arange(len(targets)), targets]
    return -(torch.from_numpy(example.loss_fn_inputs["weights"]) * picked).sum()


@pytest.mark.conforms(27)
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        *((family, "everything") for family in FAMILIES),
        *(("llama", targets) for targets in TARGETS if targets != "everything"),
    ],
)
def test_loss_and_gradients_equal_peft(tiny_model: Callable[..., Path], family: str, targets: str):
    directory = tiny_model(family)
    decoder = load_decoder(directory)
    flags, modules = TARGETS[targets]
    run = TrainingState("tiny", decoder, trained_adapter(decoder, LoraSpec(rank=4, seed=0, **flags)))
    data = [
        datum(draw_tokens(length, seed=length), [(-1.0, 0.0, 0.5, 2.0)[i % 4] for i in range(length - 1)])
        for length in (20, 7, 2, 13)
    ]

    ours = Pass(run, data, "cross_entropy", {}, forward_only=False)
    for _ in ours.carry_out(30):
        pass
    theirs = peft_model(directory, run.adapter, modules)
    loss = torch.stack([weighted_loss(theirs, example) for example in data]).sum()
    loss.backward()

    assert ours.loss == pytest.approx(loss.item(), rel=1e-5, abs=1e-4)
    found, expected = run.adapter.named_arrays(run.grads), gradients_of(theirs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 1e-3, f"{name} has no gradient to compare"
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=2e-5 * np.abs(gradient).max(), err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_peft(tiny_model: Callable[..., Path], family: str):
    directory = tiny_model(family)
    decoder, tokens = load_decoder(directory), draw_tokens(25)
    adapter = trained_adapter(decoder, LoraSpec(rank=3, seed=0))
    (ours,) = packed_logits(decoder, [tokens], [(adapter, None)])
    with torch.inference_mode():
        theirs = peft_model(directory, adapter, TARGETS["everything"][1])(torch.tensor([tokens])).logits[0]
    assert (theirs - packed_logits(decoder, [tokens])[0]).abs().max() > 0.1, "this adapter changes too little"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def merged(directory: Path, adapter: Adapter, into: Path, *, tie: bool) -> Path:
    """A copy of the base model with W + alpha / rank * B A in place of W; a tied head is the embedding."""
    shutil.copytree(directory, into)
    weights = load_file(into / "model.safetensors")
    arrays = adapter.named_arrays()
    for module in {name.rpartition(".lora_")[0] for name in arrays}:
        a, b = (torch.from_numpy(arrays[f"{module}.lora_{factor}.weight"]) for factor in "AB")
        name = "model.embed_tokens.weight" if tie and module == "lm_head" else f"{module}.weight"
        weights[name] = weights[name] + adapter.lora.alpha / adapter.lora.rank * b @ a
    save_file(weights, into / "model.safetensors", {"format": "pt"})
    return into


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_equals_its_merged_weights(tiny_model: Callable[..., Path], tmp_path: Path, family: str, tie: bool):
    directory = tiny_model(family, tie=tie)
    decoder, tokens = load_decoder(directory), draw_tokens(25)
    adapter = trained_adapter(decoder, LoraSpec(rank=3, seed=0))
    (ours,) = packed_logits(decoder, [tokens], [(adapter, None)])
    merged_decoder = load_decoder(merged(directory, adapter, tmp_path / "merged", tie=tie))
    (expected,) = packed_logits(merged_decoder, [tokens])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.conforms(26)
def test_a_fresh_adapter_changes_nothing(tiny_model: Callable[..., Path]):
    decoder, tokens = load_decoder(tiny_model("llama")), draw_tokens(25)
    adapter = Adapter.new(decoder.config, LoraSpec(rank=8, seed=3), CPU)
    assert torch.equal(packed_logits(decoder, [tokens], [(adapter, None)])[0], packed_logits(decoder, [tokens])[0])


@pytest.mark.parametrize("tie", [False, True])
def test_rows_of_several_adapters_in_one_batch_are_as_alone(tiny_model: Callable[..., Path], tie: bool):
    decoder = load_decoder(tiny_model("qwen2", tie=tie))
    specs = [
        LoraSpec(rank=1, seed=0),
        LoraSpec(rank=8, seed=1, train_mlp=False),
        LoraSpec(rank=3, seed=2, train_attn=False, train_unembed=False),
    ]
    adapters = [trained_adapter(decoder, spec) for spec in specs]
    sequences = [draw_tokens(length, seed=length) for length in (9, 30, 4, 12)]
    rows = torch.arange(55)
    spans = [(adapters[0], slice(0, 9)), (adapters[1], rows[9:39]), (adapters[2], rows[39:43])]
    together = packed_logits(decoder, sequences, spans)
    for ours, tokens, adapter in zip(together, sequences, [*adapters, None], strict=True):
        expected = packed_logits(decoder, [tokens], [(adapter, None)] if adapter else [])[0]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
