"""An adapter as a PEFT folder, which `peft` and vLLM load unchanged."""

from __future__ import annotations

import json

import numpy as np

from eztinker.checkpoints.store import Arrays, tensors_part
from eztinker.types import LoraSpec

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

_PREFIX = "base_model.model."


def peft_parts(arrays: Arrays, lora: LoraSpec, base_model: str, *, head_is_tied: bool) -> dict[str, bytes]:
    """The two files of the folder.

    Where the head is tied to the embedding, an adapter of the head changes both, and PEFT wants both named: the head
    as a linear layer, the embedding with its own two factors, which are the head's transposed.
    """
    weights = {f"{_PREFIX}{name}": array for name, array in arrays.items()}
    if lora.train_unembed and head_is_tied:
        embedding = f"{_PREFIX}model.embed_tokens.lora_embedding"
        weights[f"{embedding}_A"] = np.ascontiguousarray(arrays["lm_head.lora_B.weight"].T)
        weights[f"{embedding}_B"] = np.ascontiguousarray(arrays["lm_head.lora_A.weight"].T)
    return {WEIGHTS: tensors_part(weights), CONFIG: _config(lora, base_model, head_is_tied)}


def _config(lora: LoraSpec, base_model: str, head_is_tied: bool) -> bytes:
    targets = []
    if lora.train_attn:
        targets += ["q_proj", "k_proj", "v_proj", "o_proj"]
    if lora.train_mlp:
        targets += ["gate_proj", "up_proj", "down_proj"]
    if lora.train_unembed:
        targets += ["lm_head", "embed_tokens"] if head_is_tied else ["lm_head"]
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
    }
    return json.dumps(config, indent=2).encode()
