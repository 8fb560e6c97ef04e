"""The peers' side of training: transformers and peft in the loop of their documentation, with a float32 adapter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.workload import ADAPTED_PROJECTIONS, LEARNING_RATE, LORA_ALPHA, LORA_RANK, TrainingBatch

_NO_LOSS = -100
"""Label of positions without loss, by transformers' convention."""


class PeftTraining:
    def __init__(self, directory: Path, dtype: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        base: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
        lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=list(ADAPTED_PROJECTIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft uses an old name of transformers
            self._model: Any = get_peft_model(base, lora).train()
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)

    def train_step(self, batch: TrainingBatch) -> float:
        """Run forward, backward and AdamW on a batch; returns the mean loss per token before the step."""
        input_ids = torch.tensor(batch.tokens)
        labels = input_ids.clone()
        labels[:, : batch.num_prompt_tokens] = _NO_LOSS
        loss = self._model(input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()
