"""A llama.cpp file small enough to write in a test, laid out as llama.cpp's own converter lays it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from tokenizers import pre_tokenizers

NUM_HEADS, NUM_KV_HEADS, HIDDEN, INTERMEDIATE = 4, 2, 64, 96
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2")]
VOCABULARY = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]


def draw_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a two-layer model under their llama.cpp names, rows in Hugging Face's order, float32."""
    shapes = {"token_embd": (len(VOCABULARY), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.attn_norm": (HIDDEN,),
            f"blk.{layer}.attn_q": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k": (HIDDEN * NUM_KV_HEADS // NUM_HEADS, HIDDEN),
            f"blk.{layer}.attn_v": (HIDDEN * NUM_KV_HEADS // NUM_HEADS, HIDDEN),
            f"blk.{layer}.attn_output": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_norm": (HIDDEN,),
            f"blk.{layer}.ffn_gate": (INTERMEDIATE, HIDDEN),
            f"blk.{layer}.ffn_up": (INTERMEDIATE, HIDDEN),
            f"blk.{layer}.ffn_down": (HIDDEN, INTERMEDIATE),
        }
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_tiny_gguf(
    path: Path, weights: dict[str, np.ndarray], *, q4_1: dict[str, np.ndarray] | None = None, tied: bool = True
) -> None:
    """Write `weights` as float32; tensors named in `q4_1` are replaced by these raw Q4_1 bytes."""
    writer = GGUFWriter(path, "llama")
    _add_shape(writer)
    _add_vocabulary(writer)
    for name, values in weights.items():
        if q4_1 and name in q4_1:
            writer.add_tensor(f"{name}.weight", q4_1[name], raw_dtype=GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(f"{name}.weight", _interleave(values, name.rpartition(".")[2]))
    if not tied:
        writer.add_tensor("output.weight", -weights["token_embd"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: GGUFWriter) -> None:
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_vocabulary(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([TokenType.CONTROL if token in SPECIAL_TOKENS else TokenType.NORMAL for token in VOCABULARY])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def _interleave(values: np.ndarray, kind: str) -> np.ndarray:
    """What llama.cpp's converter does to query and key projections: channel i next to channel i + half a head."""
    num_heads = {"attn_q": NUM_HEADS, "attn_k": NUM_KV_HEADS}.get(kind)
    if num_heads is None:
        return values
    heads = values.reshape(num_heads, -1, values.shape[1])
    half = heads.shape[1] // 2
    order = [row for i in range(half) for row in (i, half + i)]
    return heads[:, order].reshape(values.shape)
