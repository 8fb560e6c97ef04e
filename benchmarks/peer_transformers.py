"""The peer's side of decode and prefill: transformers, called as in its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class TransformersInference:
    def __init__(self, directory: Path, dtype: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def decode(self, prompts: list[list[int]], num_new_tokens: int) -> int:
        """Continue all prompts greedily; returns the number of tokens drawn."""
        input_ids = torch.tensor(prompts)
        with torch.inference_mode():
            output_ids = self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                min_new_tokens=num_new_tokens,
                max_new_tokens=num_new_tokens,
                do_sample=False,
            )
        return output_ids[:, input_ids.shape[1] :].numel()

    def prefill(self, tokens: list[int]) -> int:
        """Read one prompt, with the head at its last position alone; returns the likeliest next token."""
        with torch.inference_mode():
            output = self._model(torch.tensor([tokens]), use_cache=True, logits_to_keep=1)
        return int(output.logits[0, -1].argmax())
