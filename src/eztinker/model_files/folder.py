"""A model's folder with matching config and weights: every tensor is there in its shape, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eztinker.errors import DataDamaged, Unsupported
from eztinker.float_tensors import FLOAT_DTYPES, as_float32
from eztinker.model_files.decoder_config import DecoderConfig, read_config
from eztinker.model_files.tensor_files import MAX_SHOWN_CHARS, StoredTensor, stored_tensors

Shape = tuple[int, ...]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_IGNORED_SUFFIX = ".rotary_emb.inv_freq"
"""Suffix of tensors that are ignored: rotary frequencies, which old programs saved and every program recomputes."""
_COMPARED_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class ModelFolder:
    config: DecoderConfig
    tensors: Mapping[str, StoredTensor]
    """Tensors that the config implies, by name, without a tied head, whether it is stored or not."""

    @property
    def head_is_tied(self) -> bool:
        """Whether the head is tied to the embedding."""
        return HEAD not in self.tensors

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor as a float32 array."""
        tensor = self.tensors[name]
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            return as_float32(file.read(tensor.num_bytes), tensor.dtype).reshape(tensor.shape)


def read_model_folder(directory: Path, name: str) -> ModelFolder:
    """Read base model `name` in `directory` from its config and the headers of its weights.

    Raises:
        Unsupported: the decoder does not support the family, a variant or a dtype.
        DataNotFound, DataDamaged: a file is missing or broken, or config and weights do not match.
    """
    config = read_config(directory, name)
    stored = stored_tensors(directory, name)
    expected = dict(_expected(config, with_head=HEAD in stored or not config.tie_word_embeddings))
    for tensor_name, shape in expected.items():
        _check_tensor(tensor_name, stored.get(tensor_name), shape, config, name)
    for tensor_name in sorted(stored.keys() - expected.keys()):
        if not tensor_name.endswith(_IGNORED_SUFFIX):
            raise DataDamaged(
                f"The weights of base model {name!r} hold {tensor_name[:MAX_SHOWN_CHARS]}, which a {config.model_type} "
                f"model of {config.num_layers} layers with this config.json does not have; serve files of one model"
            )
    tensors = {tensor_name: stored[tensor_name] for tensor_name in expected}
    if config.tie_word_embeddings and HEAD in tensors and _are_equal(tensors[EMBEDDING], tensors[HEAD]):
        del tensors[HEAD]
    return ModelFolder(config, tensors)


def _expected(config: DecoderConfig, *, with_head: bool) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every tensor that the config implies."""
    d, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield EMBEDDING, (config.vocab_size, d)
    yield "model.norm.weight", (d,)
    if with_head:
        yield HEAD, (config.vocab_size, d)
    linears = {
        "self_attn.q_proj": (q, d, config.qkv_bias),
        "self_attn.k_proj": (kv, d, config.qkv_bias),
        "self_attn.v_proj": (kv, d, config.qkv_bias),
        "self_attn.o_proj": (d, q, config.output_bias),
        "mlp.gate_proj": (f, d, config.mlp_bias),
        "mlp.up_proj": (f, d, config.mlp_bias),
        "mlp.down_proj": (d, f, config.mlp_bias),
    }
    norms = {"input_layernorm": d, "post_attention_layernorm": d}
    if config.qk_norm:
        norms |= {"self_attn.q_norm": config.head_dim, "self_attn.k_norm": config.head_dim}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}"
        for module, width in norms.items():
            yield f"{prefix}.{module}.weight", (width,)
        for module, (num_outputs, num_inputs, has_bias) in linears.items():
            yield f"{prefix}.{module}.weight", (num_outputs, num_inputs)
            if has_bias:
                yield f"{prefix}.{module}.bias", (num_outputs,)


def _check_tensor(
    tensor_name: str, tensor: StoredTensor | None, shape: Shape, config: DecoderConfig, name: str
) -> None:
    if tensor is None:
        hint = " (tie_word_embeddings is false)" if tensor_name == HEAD else ""
        raise DataDamaged(
            f"The weights of base model {name!r} lack {tensor_name} of shape {shape}, which its config.json "
            f"implies{hint}; fetch the model again, or serve config and weights of one model"
        )
    if tensor.shape != shape:
        raise DataDamaged(
            f"{tensor_name} of base model {name!r} has the shape {tensor.shape[:8]}, but its config.json implies "
            f"{shape} ({_sizes(config)}); serve config and weights of one model"
        )
    if tensor.dtype not in FLOAT_DTYPES:
        raise Unsupported(
            f"{tensor_name} of base model {name!r} is of type {tensor.dtype}; served are {', '.join(FLOAT_DTYPES)}, so "
            "serve a version that is not quantized"
        )


def _sizes(config: DecoderConfig) -> str:
    return (
        f"vocab_size {config.vocab_size}, hidden_size {config.hidden_size}, intermediate_size "
        f"{config.intermediate_size}, {config.num_heads} heads and {config.num_kv_heads} key-value heads of "
        f"{config.head_dim} channels"
    )


def _are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same numbers, read in chunks. If tied weights differ, the config is wrong."""
    num_numbers = one.num_bytes // FLOAT_DTYPES[one.dtype]
    chunk = _COMPARED_BYTES // 8
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        for start in range(0, num_numbers, chunk):
            count = min(chunk, num_numbers - start)
            a, b = (file.read(count * FLOAT_DTYPES[tensor.dtype]) for file, tensor in ((first, one), (second, other)))
            if one.dtype == other.dtype:
                if a != b:
                    return False
            elif not (as_float32(a, one.dtype) == as_float32(b, other.dtype)).all():
                return False
    return True
