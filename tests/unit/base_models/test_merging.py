"""A merged folder, loaded by transformers alone, computes what base model and adapter compute together here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from eztinker.base_models.merging import MergedDtype, write_merged
from eztinker.errors import DataDamaged
from tests.oracles import draw_tokens, load_decoder, packed_logits, transformers_logits
from tests.unit.engine.engine_helpers import TinyModel, new_run

TOKENS = draw_tokens(20, seed=1)


def merge(base: Path, directory: Path, dtype: MergedDtype = "float32") -> torch.Tensor:
    """Write the merged model; returns the logits that base model and adapter give without it."""
    decoder = load_decoder(base)
    run = new_run(decoder, rank=3)
    write_merged(base, run.adapter.named_arrays(), run.adapter.scale, directory, dtype=dtype)
    (logits,) = packed_logits(decoder, [TOKENS], [(run.adapter, None)])
    return logits


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_transformers_reproduces_the_adapted_model(tiny_model: TinyModel, tmp_path: Path, family: str, tie: bool):
    base = tiny_model(family, tie=tie)
    expected = merge(base, tmp_path)
    torch.testing.assert_close(transformers_logits(tmp_path, TOKENS), expected, rtol=1e-4, atol=1e-4)
    assert (transformers_logits(base, TOKENS) - expected).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(tmp_path).encode("hi") == AutoTokenizer.from_pretrained(base).encode("hi")


def test_bfloat16_halves_the_folder_and_says_so(tiny_model: TinyModel, tmp_path: Path):
    for dtype in ("float32", "bfloat16"):
        (tmp_path / dtype).mkdir()
    base = tiny_model("qwen2")
    merge(base, tmp_path / "float32")
    expected = merge(base, tmp_path / "bfloat16", "bfloat16")
    sizes = [(tmp_path / dtype / "model.safetensors").stat().st_size for dtype in ("bfloat16", "float32")]
    assert sizes[0] < 0.55 * sizes[1]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "bfloat16")
    assert model.dtype == torch.bfloat16
    logits = transformers_logits(tmp_path / "bfloat16", TOKENS)
    assert torch.corrcoef(torch.stack([logits.flatten(), expected.flatten()]))[0, 1] > 0.999


def test_a_model_in_shards_stays_in_shards(tiny_model: TinyModel, tmp_path: Path):
    base, merged = tmp_path / "base", tmp_path / "merged"
    AutoModelForCausalLM.from_pretrained(tiny_model("qwen2")).save_pretrained(base, max_shard_size="100KB")
    merged.mkdir()
    expected = merge(base, merged)
    torch.testing.assert_close(transformers_logits(merged, TOKENS), expected, rtol=1e-4, atol=1e-4)
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1


def test_a_head_that_differs_from_the_embedding_it_is_said_to_share_is_merged_alone(
    tiny_model: TinyModel, tmp_path: Path
):
    """The merged config says that the two are not tied, for programs that would believe the old one."""
    base, merged = Path(shutil.copytree(tiny_model("llama", tie=True), tmp_path / "base")), tmp_path / "merged"
    weights = load_file(base / "model.safetensors")
    head = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights | {"lm_head.weight": head}, base / "model.safetensors", {"format": "pt"})
    merged.mkdir()
    expected = merge(base, merged)
    torch.testing.assert_close(transformers_logits(merged, TOKENS), expected, rtol=1e-4, atol=1e-4)
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False
    embedding = load_file(merged / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(embedding, weights["model.embed_tokens.weight"], rtol=0, atol=0)


def test_a_folder_whose_weights_are_not_those_of_its_config_is_not_merged(tiny_model: TinyModel, tmp_path: Path):
    base, merged = Path(shutil.copytree(tiny_model("llama"), tmp_path / "base")), tmp_path / "merged"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(DataDamaged, match=r"mlp\..*_proj\.weight of base model 'base' has the shape"):
        write_merged(base, {}, 1.0, merged, dtype="float32")
    assert not merged.exists()
