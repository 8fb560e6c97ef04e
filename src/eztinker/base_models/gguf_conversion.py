"""Conversion of a GGUF file of the Llama family to a Hugging Face folder: bfloat16 safetensors, configs, tokenizer.

Transformers can read GGUF too, but gives this family a wrong tokenizer. Weights are dequantised exactly, then rounded
to bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors import TensorSpec, serialize_file

from eztinker.base_models.gguf_tokenizer import write_tokenizer
from eztinker.float_tensors import to_bfloat16_bits

_LAYER_WEIGHTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_WEIGHTS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert_gguf(
    gguf_path: Path, directory: Path, *, on_progress: Callable[[float], None] = lambda share: None
) -> None:
    """Fill `directory`, which exists, with all files that transformers and the decoder need to load the model.

    Args:
        gguf_path: a file of the `llama` architecture.
        on_progress: called with the fraction of the weights that is done, 0 to 1.
    """
    reader = GGUFReader(gguf_path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    config = model_config(metadata, is_tied="output.weight" not in {tensor.name for tensor in reader.tensors})
    _write_weights(reader, config, directory / "model.safetensors", on_progress)
    write_tokenizer(metadata, directory)
    _write_json(directory / "generation_config.json", {name: config[name] for name in ("bos_token_id", "eos_token_id")})
    _write_json(directory / "config.json", config)


def model_config(metadata: dict[str, Any], *, is_tied: bool) -> dict[str, Any]:
    """The `config.json` of a Llama model whose GGUF header is `metadata`."""
    num_heads = metadata["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv", num_heads),
        "hidden_act": "silu",
        "rms_norm_eps": _shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _shortest(metadata.get("llama.rope.freq_base", 10000.0)),
        "max_position_embeddings": metadata["llama.context_length"],
        "tie_word_embeddings": is_tied,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def undo_rotary_interleave(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorder the rows of a query or key projection from llama.cpp's order to Hugging Face's.

    Rotary embedding rotates pairs of channels; llama.cpp stores a pair side by side, Hugging Face half a head apart.

    Args:
        weight: (num_heads * head_dim, hidden_size), rows in llama.cpp's order.
    """
    num_rows, num_columns = weight.shape
    pairs = weight.reshape(num_heads, num_rows // num_heads // 2, 2, num_columns)
    return pairs.swapaxes(1, 2).reshape(num_rows, num_columns)


def _write_weights(
    reader: GGUFReader, config: dict[str, Any], path: Path, on_progress: Callable[[float], None]
) -> None:
    weights = {}
    for share, name, values in _read_weights(reader, config):
        weights[name] = to_bfloat16_bits(values)
        on_progress(share)
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in weights.items()
    }
    serialize_file(specs, path, {"format": "pt"})  # transformers refuses files without this note


def _read_weights(reader: GGUFReader, config: dict[str, Any]) -> Iterator[tuple[float, str, np.ndarray]]:
    """Fraction done so far, Hugging Face name and float32 values of every tensor."""
    rotated_heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    num_bytes = sum(tensor.n_bytes for tensor in reader.tensors)
    bytes_done = 0
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in rotated_heads:
            values = undo_rotary_interleave(values, rotated_heads[kind])
        bytes_done += int(tensor.n_bytes)
        yield bytes_done / num_bytes, _hugging_face_name(tensor.name), values


def _hugging_face_name(name: str) -> str:
    match name.split("."):
        case ["blk", layer, kind, "weight"]:
            return f"model.layers.{layer}.{_LAYER_WEIGHTS[kind]}.weight"
        case [kind, "weight"]:
            return f"{_OUTER_WEIGHTS[kind]}.weight"
    raise ValueError(f"The GGUF tensor {name!r} belongs to no weight of the Llama family")


def _shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
