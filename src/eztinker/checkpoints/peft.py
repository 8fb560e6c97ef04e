"""Export of an adapter as a PEFT folder, which `peft` and vLLM load unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load

from eztinker.checkpoints.checkpoint_files import Arrays, tensors_part
from eztinker.types import LoraSpec

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

PREFIX = "base_model.model."
HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
UNEMBEDDING = "model.unembed_tokens"
"""The protocol's own name for the head or, if it is tied, for the weight that it shares with the embedding."""


def peft_parts(arrays: Arrays, lora: LoraSpec, base_model: str, *, head_is_tied: bool) -> dict[str, bytes]:
    """The two files of the folder by name, as programs of this protocol expect them.

    If the head is tied to the embedding, an adapter of the head changes both. PEFT then wants the embedding's two
    factors, which are the head's transposed, and ties the head itself; programs that merge adapters of this protocol
    look for the head under the protocol's own name, which PEFT ignores.
    """
    weights = {f"{PREFIX}{name}": array for name, array in arrays.items()}
    if lora.train_unembed and head_is_tied:
        head_a, head_b = (weights.pop(f"{PREFIX}{HEAD}.lora_{factor}.weight") for factor in "AB")
        weights[f"{PREFIX}{UNEMBEDDING}.lora_A.weight"] = head_a
        weights[f"{PREFIX}{UNEMBEDDING}.lora_B.weight"] = head_b
        weights[f"{PREFIX}{EMBEDDING}.lora_embedding_A"] = np.ascontiguousarray(head_b.T)
        weights[f"{PREFIX}{EMBEDDING}.lora_embedding_B"] = np.ascontiguousarray(head_a.T)
    return {WEIGHTS: tensors_part(weights), CONFIG: _config(lora, base_model, head_is_tied)}


def changes_tied_head(parts: Mapping[str, bytes]) -> bool:
    """Whether the adapter changes a head that is tied to the embedding, and so both of them at once."""
    return bool(json.loads(parts[CONFIG]).get("ensure_weight_tying"))


def with_plain_names(parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """Rename the head from the protocol's own name to `lm_head`, as loaders such as vLLM's require."""
    weights = load(parts[WEIGHTS])
    plain = {name.replace(UNEMBEDDING, HEAD): array for name, array in weights.items()}
    return {**parts, WEIGHTS: tensors_part(plain)}


def _config(lora: LoraSpec, base_model: str, head_is_tied: bool) -> bytes:
    targets = []
    if lora.train_attn:
        targets += ["q_proj", "k_proj", "v_proj", "o_proj"]
    if lora.train_mlp:
        targets += ["gate_proj", "up_proj", "down_proj"]
    if lora.train_unembed:
        targets += ["embed_tokens"] if head_is_tied else ["lm_head"]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": targets,
        "ensure_weight_tying": lora.train_unembed and head_is_tied,
    }
    return json.dumps(config, indent=2).encode()
