"""Odd model folders compute what transformers computes from them, or are refused by name before they are served.

Set EZTINKER_FULL_SIZE=1 for 400 drawn configurations.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from eztinker.base_models.base_model import read_base_model
from eztinker.errors import UserError
from eztinker.model import device
from eztinker.model.attention import PackedAttention
from eztinker.model.decoder import Decoder
from eztinker.model.weights import WeightFiles
from eztinker.model_files.decoder_config import parse_config
from eztinker.model_files.folder import read_model_folder
from tests.odd_configs import FAMILIES, SPOILT, Config, drawn_config
from tests.oracles import CPU, draw_tokens, load_decoder, packed_logits
from tests.tiny_models import draw_weights

NUM_DRAWN = 400 if os.environ.get("EZTINKER_FULL_SIZE") else 64
TOKENS = draw_tokens(41, seed=7)


@pytest.fixture(params=["own kernels", "torch alone"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that the decoder computes with."""
    if request.param == "torch alone":
        monkeypatch.setattr(device, "cpu_kernels", lambda _: None)


@pytest.fixture(scope="module")
def tokenizer_files(tiny_model_dir: Path) -> list[Path]:
    return [tiny_model_dir / name for name in ("tokenizer.json", "tokenizer_config.json")]


@pytest.fixture
def folder_of(tokenizer_files: list[Path], tmp_path: Path) -> Callable[[Config], Path]:
    """`folder_of(config)`: a folder with that config.json, and random weights as transformers names and shapes them."""

    def make(config: Config) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        for file in tokenizer_files:
            shutil.copy(file, folder)
        (folder / "config.json").write_text(json.dumps(config))
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
        draw_weights(model, std=0.1, seed=0)
        weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        if config.get("tie_word_embeddings"):
            del weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


@torch.inference_mode()
def transformers_logits(folder: Path) -> Tensor:
    """What transformers computes from a folder that it finds nothing odd about."""
    model, notes = cast(
        "tuple[Any, dict[str, Any]]",
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True),
    )
    assert not any(notes.values()), notes
    return model(torch.tensor([TOKENS])).logits[0]


@torch.inference_mode()
def decoded_logits(decoder: Decoder) -> Tensor:
    """Logits after the last token, which alone goes through the KV cache."""
    attention = PackedAttention([len(TOKENS) - 1], CPU, keep_keys=True)
    decoder.hidden_states(torch.tensor(TOKENS[:-1]), attention)
    cache = decoder.new_cache()
    cache.add_row(attention.block(0))
    return decoder.logits(decoder.next_hidden_states(torch.tensor(TOKENS[-1:]), cache))[0]


def assert_computes_as_transformers(folder: Path) -> None:
    expected = transformers_logits(folder)
    assert expected.std() > 0.05, "logits this flat would prove nothing"
    served = read_base_model("odd", folder)
    decoder = load_decoder(served.directory)
    (ours,) = packed_logits(decoder, [TOKENS])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(decoded_logits(decoder), expected[-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", range(NUM_DRAWN))
def test_what_is_served_computes_as_transformers_does(
    folder_of: Callable[[Config], Path], operators: None, number: int
):
    assert_computes_as_transformers(folder_of(drawn_config(number)))


@pytest.mark.parametrize(("family", "case"), [(family, case) for case in SPOILT for family in SPOILT[case].families])
def test_what_is_not_served_is_refused_at_start_by_name(
    tiny_model: Callable[..., Path], tmp_path: Path, family: str, case: str
):
    spoilt = SPOILT[case]
    folder = Path(shutil.copytree(tiny_model(family, hidden=32), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | spoilt.changes
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in spoilt.dropped}))
    with pytest.raises(UserError, match=spoilt.sentence) as caught:
        read_base_model("odd", folder)
    assert "'odd'" in caught.value.message
    assert len(caught.value.message) < 1000


def test_a_family_says_by_default_what_transformers_says():
    """A config that names nothing but its family."""
    for family in FAMILIES:
        theirs, ours = AutoConfig.for_model(family), parse_config({"model_type": family}, "x")
        assert ours.num_layers == theirs.num_hidden_layers
        for field in ("vocab_size", "hidden_size", "intermediate_size", "rms_norm_eps", "tie_word_embeddings"):
            assert getattr(ours, field) == getattr(theirs, field), field
        assert (ours.num_heads, ours.num_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
        head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
        assert (ours.head_dim, ours.context_length) == (head_dim, theirs.max_position_embeddings)
        window = theirs.sliding_window if family == "mistral" else None
        assert set(ours.sliding_windows) == {window}
        assert ours.rope.theta == theirs.rope_parameters["rope_theta"]


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


HEADS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "the embedding again": (lambda embedding: embedding.clone(), True),
    "another head": (lambda embedding: embedding.flip(0), False),
    "a head that differs in one number": (lambda embedding: embedding.index_fill(1, torch.tensor([31]), 0.5), False),
    "the embedding again in other numbers": (lambda embedding: embedding.double(), True),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_head_stored_beside_the_embedding_it_is_tied_to_is_kept_where_it_differs(
    tiny_model: Callable[..., Path], tmp_path: Path, operators: None, head: str
):
    make, is_tied = HEADS[head]
    folder = Path(shutil.copytree(tiny_model("llama", hidden=32, tie=True), tmp_path / "model"))
    change_weights(
        folder, lambda weights: weights.update({"lm_head.weight": make(weights["model.embed_tokens.weight"])})
    )
    assert load_decoder(folder).head_is_tied is is_tied
    assert_computes_as_transformers(folder)


def test_weights_that_change_while_they_are_loaded_are_told(tiny_model: Callable[..., Path], tmp_path: Path):
    folder = Path(shutil.copytree(tiny_model("llama", hidden=32), tmp_path / "model"))
    weights = WeightFiles(read_model_folder(folder, "x").tensors, torch.float32, CPU)
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(UserError, match=r"model\.norm\.weight in model\.safetensors has changed its shape"):
        weights.get("model.norm.weight")
