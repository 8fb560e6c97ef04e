"""The exported folder, loaded by other programs, computes what the adapter computes here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from eztinker.checkpoints.peft import CONFIG, WEIGHTS, changes_tied_head, peft_parts, with_plain_names
from eztinker.engine.trainer import TrainingState
from tests.oracles import draw_tokens, load_decoder, packed_logits
from tests.unit.engine.engine_helpers import TinyModel, new_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's use of transformers
    pytest.mark.filterwarnings("ignore:.*tie:UserWarning"),  # peft advises against merging adapters of tied weights
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),  # those that peft ties itself
]


def write_export(run: TrainingState, directory: Path, *, plain_names: bool = False) -> None:
    is_tied = run.decoder.head_is_tied
    parts = peft_parts(run.adapter.named_arrays(), run.adapter.lora, "tiny", head_is_tied=is_tied)
    for name, content in (with_plain_names(parts) if plain_names else parts).items():
        (directory / name).write_bytes(content)


def assert_same_logits(run: TrainingState, model: torch.nn.Module) -> None:
    """Hold that model and adapter have the same logits, and that the adapter changes something."""
    tokens = draw_tokens(20, seed=1)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens])).logits[0]
    (ours,) = packed_logits(run.decoder, [tokens], [(run.adapter, None)])
    (unadapted,) = packed_logits(run.decoder, [tokens])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert (ours - unadapted).abs().max() > 0.01


ATTENTION_ONLY = {"train_mlp": False, "train_unembed": False}


@pytest.mark.parametrize("targets", [{}, ATTENTION_ONLY], ids=["all", "attention"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_peft_reproduces_the_adapter(tiny_model: TinyModel, tmp_path: Path, tie: bool, targets: dict[str, bool]):
    directory = tiny_model("qwen2", tie=tie)
    decoder = load_decoder(directory)
    run = new_run(decoder, rank=3, **targets)
    write_export(run, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(directory)
    adapted = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert_same_logits(run, adapted)


@pytest.mark.parametrize("targets", [{}, ATTENTION_ONLY], ids=["all", "attention"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_under_plain_names_peft_finds_every_factor_and_computes_the_same(
    tiny_model: TinyModel, tmp_path: Path, tie: bool, targets: dict[str, bool], recwarn: pytest.WarningsRecorder
):
    directory = tiny_model("qwen2", tie=tie)
    run = new_run(load_decoder(directory), rank=3, **targets)
    write_export(run, tmp_path, plain_names=True)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(directory), str(tmp_path)).eval()
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]
    assert_same_logits(run, adapted)


VLLM_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}
"""Last parts of the modules that vLLM expects in adapters of these families."""


def deltas_as_vllm_reads_them(directory: Path) -> dict[str, torch.Tensor]:
    """The change of each weight, from the names by vLLM's rule: a module it does not expect is an error."""
    config = json.loads((directory / CONFIG).read_text())
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, factor in load_file(directory / WEIGHTS).items():
        parts = name.removeprefix("base_model.model.").split(".")
        is_embedding = parts[-1].startswith("lora_embedding_")
        assert is_embedding or (parts[-1] == "weight" and parts[-2] in ("lora_A", "lora_B")), name
        module = parts[: -1 if is_embedding else -2]
        assert module[-1] in VLLM_MODULES, name
        kind = parts[-1][-1] if is_embedding else parts[-2][-1]
        factors.setdefault(".".join(module), {})[kind] = factor.T if is_embedding else factor
    scale = config["lora_alpha"] / config["r"]
    # An embedding looks rows of A up and multiplies them by B; so its change is A^T B^T, (tokens, width).
    return {
        module: scale * (pair["A"] @ pair["B"] if module.endswith("embed_tokens") else pair["B"] @ pair["A"])
        for module, pair in factors.items()
    }


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_vllm_knows_every_module_and_its_factors_make_the_same_numbers(
    tiny_model: TinyModel, tmp_path: Path, tie: bool
):
    directory = tiny_model("qwen2", tie=tie)
    run = new_run(load_decoder(directory), rank=3)
    write_export(run, tmp_path, plain_names=True)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # two layers with an adapter each
    with torch.no_grad():
        for module, delta in deltas_as_vllm_reads_them(tmp_path).items():
            model.get_parameter(f"{module}.weight").add_(delta)
    assert_same_logits(run, model)


def test_the_form_of_the_protocol_is_refused_by_that_rule_where_the_head_is_tied(tiny_model: TinyModel, tmp_path: Path):
    """Why an export for other programs has other names."""
    write_export(new_run(load_decoder(tiny_model("qwen2", tie=True)), rank=3), tmp_path)
    with pytest.raises(AssertionError, match="unembed_tokens"):
        deltas_as_vllm_reads_them(tmp_path)


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("train_unembed", [False, True])
def test_an_adapter_says_whether_it_changes_a_tied_head(tiny_model: TinyModel, tie: bool, train_unembed: bool):
    run = new_run(load_decoder(tiny_model("qwen2", tie=tie)), rank=3, train_unembed=train_unembed)
    parts = peft_parts(run.adapter.named_arrays(), run.adapter.lora, "tiny", head_is_tied=tie)
    assert changes_tied_head(with_plain_names(parts)) is (tie and train_unembed)
