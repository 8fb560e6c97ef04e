from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from eztinker.base_models.gguf_conversion import convert_gguf
from tests.unit.base_models.tiny_gguf import HIDDEN, draw_weights, write_tiny_gguf


def converted(tmp_path: Path, **options) -> tuple[dict[str, np.ndarray], Path]:
    weights = draw_weights()
    write_tiny_gguf(tmp_path / "tiny.gguf", weights, **options)
    directory = tmp_path / "model"
    directory.mkdir()
    convert_gguf(tmp_path / "tiny.gguf", directory)
    return weights, directory


def test_every_weight_arrives_under_its_hugging_face_name_in_bfloat16_and_in_hugging_face_row_order(tmp_path):
    weights, directory = converted(tmp_path)
    found = load_file(directory / "model.safetensors")
    names = {
        "token_embd": "model.embed_tokens",
        "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
        "blk.1.attn_k": "model.layers.1.self_attn.k_proj",
        "blk.1.attn_v": "model.layers.1.self_attn.v_proj",
        "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
        "blk.1.ffn_norm": "model.layers.1.post_attention_layernorm",
    }
    for gguf_name, name in names.items():
        assert torch.equal(found[f"{name}.weight"], torch.from_numpy(weights[gguf_name]).bfloat16()), name


def test_transformers_finds_exactly_the_weights_its_model_has(tmp_path):
    _, directory = converted(tmp_path)
    expected = set(LlamaForCausalLM(LlamaConfig.from_pretrained(directory)).state_dict())
    assert set(load_file(directory / "model.safetensors")) == expected - {"lm_head.weight"}  # tied


def test_q4_1_blocks_are_dequantised_as_scale_times_nibble_plus_minimum(tmp_path):
    # One row of attn_v has two blocks of 32: float16 scale, float16 minimum, then 16 bytes whose low nibbles are the
    # first 16 values and whose high nibbles are the last 16.
    generator = np.random.default_rng(1)
    blocks = [(0.5, -3.0, generator.integers(0, 256, 16)), (0.125, 1.25, generator.integers(0, 256, 16))]
    row = b"".join(struct.pack("<ee16B", scale, minimum, *packed) for scale, minimum, packed in blocks)
    expected = []
    for scale, minimum, packed in blocks:
        expected += [scale * (int(byte) % 16) + minimum for byte in packed]
        expected += [scale * (int(byte) // 16) + minimum for byte in packed]
    raw = np.frombuffer(row * (HIDDEN // 2), dtype=np.uint8).reshape(HIDDEN // 2, len(row))

    _, directory = converted(tmp_path, q4_1={"blk.0.attn_v": raw})

    found = load_file(directory / "model.safetensors")["model.layers.0.self_attn.v_proj.weight"]
    assert found[3].tolist() == expected  # these sums are exact in bfloat16


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_is_kept_and_a_missing_one_is_tied(tmp_path, tied):
    weights, directory = converted(tmp_path, tied=tied)
    model = LlamaForCausalLM.from_pretrained(directory)
    sign = 1 if tied else -1
    expected = torch.from_numpy(sign * weights["token_embd"]).bfloat16()
    assert torch.equal(model.lm_head.weight, expected)


def test_config_says_what_the_header_said(tmp_path):
    _, directory = converted(tmp_path)
    config = LlamaConfig.from_pretrained(directory)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 100000.0}
    assert (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings) == (4, 2, 512)
    assert json.loads((directory / "config.json").read_text())["rms_norm_eps"] == 1e-5
    assert json.loads((directory / "generation_config.json").read_text()) == {"bos_token_id": 1, "eos_token_id": 2}


def test_progress_rises_to_one(tmp_path):
    write_tiny_gguf(tmp_path / "tiny.gguf", draw_weights())
    (tmp_path / "model").mkdir()
    shares: list[float] = []
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model", on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


TEXTS = [
    "The capital of France is",
    "  two  spaces\n\n\tand tabs \r\n",
    "12345 + 67.89 = 12412.89",
    "naïve café, 東京, Привет, 🎉👩‍👩‍👧‍👦",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "don't I'll we've ... a ,b ;c",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back_and_nothing_is_put_in_front(tmp_path, text):
    _, directory = converted(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    token_ids = tokenizer(text).input_ids
    assert tokenizer.decode(token_ids) == text
    assert token_ids == tokenizer(text, add_special_tokens=False).input_ids


def test_tokens_merge_by_rank_and_digits_never(tmp_path):
    _, directory = converted(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.tokenize(" the 12") == ["Ġthe", "Ġ", "1", "2"]
    assert tokenizer.tokenize("a<|im_end|>") == ["a", "<|im_end|>"]


def test_special_tokens_and_chat_template_survive_loading(tmp_path):
    _, directory = converted(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.decode([5, 1, 2], skip_special_tokens=True) == tokenizer.decode([5])
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"
