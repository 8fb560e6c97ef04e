"""Our side of the comparison: the engine's sampler, prompt reader and trainer, without the server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.workload import LEARNING_RATE, LORA_ALPHA, LORA_RANK, TrainingBatch
from eztinker.engine.prefill import Prompt, PromptReader
from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sampler import BatchSampler
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.model.decoder import Decoder
from eztinker.model.device import DTYPES, choose_device, set_up_cpu
from eztinker.model.lora import Adapter
from eztinker.types import AdamParams, Datum, LoraSpec, SampleRequest, SamplingParams

MAX_TRAIN_TOKENS = 512
"""Tokens in one micro-batch, as by default in the server."""


class EngineInference:
    """Decode and prefill of the base model, without a prefix cache, since the peer has none."""

    def __init__(self, directory: Path, dtype: str, num_threads: int) -> None:
        set_up_cpu(num_threads)
        decoder = Decoder.load(directory, DTYPES[dtype], choose_device("cpu"))
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._sampler = BatchSampler(decoder, tokenizer, max_batch_size=64, prefix_cache_bytes=0)
        self._reader = PromptReader(decoder, cache_bytes=0, num_drawable=decoder.config.vocab_size)

    def decode(self, prompts: list[list[int]], num_new_tokens: int) -> int:
        """Continue all prompts greedily; returns the number of tokens drawn."""
        for index, tokens in enumerate(prompts):
            self._sampler.submit(SampleJob(str(index), _prompt(tokens, num_new_tokens)))
        num_drawn = 0
        while not self._sampler.is_idle:
            for job in self._sampler.step():
                num_drawn += len(job.result().sequences[0].tokens)
        return num_drawn

    def prefill(self, tokens: list[int]) -> int:
        """Read one prompt; returns the likeliest next token."""
        (read,) = self._reader.read([_prompt(tokens, 1)])
        return int(read.next_logits.argmax())


class EngineTraining:
    """LoRA training of one adapter on all linear layers but the head."""

    def __init__(self, directory: Path, dtype: str, num_threads: int) -> None:
        set_up_cpu(num_threads)
        decoder = Decoder.load(directory, DTYPES[dtype], choose_device("cpu"))
        lora = LoraSpec(rank=LORA_RANK, seed=0, alpha=LORA_ALPHA, train_unembed=False)
        self._run = TrainingState("benchmark", decoder, Adapter.new(decoder.config, lora, decoder.device))

    def train_step(self, batch: TrainingBatch) -> float:
        """Run forward, backward and AdamW on a batch; returns the mean loss per token before the step."""
        data = [_datum(tokens, batch.num_prompt_tokens) for tokens in batch.tokens]
        work = Pass(self._run, data, "cross_entropy", {}, forward_only=False)
        for _ in work.carry_out(MAX_TRAIN_TOKENS):
            pass
        self._run.optim_step(AdamParams(learning_rate=LEARNING_RATE))
        return work.loss / batch.num_loss_tokens


def _prompt(tokens: list[int], num_new_tokens: int) -> Prompt:
    params = SamplingParams(max_tokens=num_new_tokens, temperature=0.0)
    request = SampleRequest(prompt=np.array(tokens, dtype=np.int64), num_samples=1, params=params)
    return Prompt(request, adapter=None, adapter_key=None)


def _datum(tokens: list[int], num_prompt_tokens: int) -> Datum:
    """A datum in which position i predicts token i + 1, with loss on the tokens after the prompt."""
    targets = np.array([*tokens[1:], 0], dtype=np.int64)
    weights = np.zeros(len(tokens), dtype=np.float32)
    weights[num_prompt_tokens - 1 : -1] = 1.0
    return Datum(tokens=np.array(tokens, dtype=np.int64), loss_fn_inputs={"target_tokens": targets, "weights": weights})
