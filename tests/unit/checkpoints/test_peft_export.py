"""The exported folder, loaded by peft itself, computes what the adapter computes here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from eztinker.checkpoints.peft import peft_parts
from tests.oracles import draw_tokens, load_decoder, packed_logits
from tests.unit.engine.engine_helpers import TinyModel, new_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's use of transformers
    pytest.mark.filterwarnings("ignore:.*tie:UserWarning"),  # peft advises against merging adapters of tied weights
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),  # those that peft ties itself
]

ATTENTION_ONLY = {"train_mlp": False, "train_unembed": False}


@pytest.mark.parametrize("targets", [{}, ATTENTION_ONLY], ids=["all", "attention"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_peft_reproduces_the_adapter(tiny_model: TinyModel, tmp_path: Path, tie: bool, targets: dict[str, bool]):
    directory = tiny_model("qwen2", tie=tie)
    decoder = load_decoder(directory)
    run = new_run(decoder, rank=3, **targets)
    parts = peft_parts(run.adapter.named_arrays(), run.adapter.lora, "tiny", head_is_tied=decoder.head_is_tied)
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    base = AutoModelForCausalLM.from_pretrained(directory)
    adapted = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    tokens = draw_tokens(20, seed=1)
    with torch.inference_mode():
        expected = adapted(input_ids=torch.tensor([tokens])).logits[0]
    (ours,) = packed_logits(decoder, [tokens], [(run.adapter, None)])
    (unadapted,) = packed_logits(decoder, [tokens])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert (ours - unadapted).abs().max() > 0.01
