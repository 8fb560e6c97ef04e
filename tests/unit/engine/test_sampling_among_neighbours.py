"""The same request a thousand times among changing batch neighbours: the same tokens and logprobs, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from eztinker.model.cpu_kernels import cpu_kernels
from eztinker.types import SampledSequence, SamplingParams
from tests.oracles import draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import finish, frozen_adapter, job, new_sampler

NUM_REPEATS = 1000
MAX_BATCH_SIZE = 24
PROMPT = draw_tokens(9, seed=3)
PARAMS = SamplingParams(max_tokens=12, temperature=0.9, seed=5)


@pytest.mark.skipif(
    cpu_kernels(torch.float32) is None, reason="torch's operators round differently in batches of different sizes"
)
def test_batch_neighbours_change_no_bit_of_a_thousand_repeats(tiny_model_dir: Path):
    decoder = load_decoder(tiny_model_dir)
    adapters = [None, frozen_adapter(decoder, seed=1), frozen_adapter(decoder, seed=2, rank=7)]
    alone = finish(new_sampler(decoder, tiny_model_dir), job("x", PROMPT, PARAMS, adapter=adapters[1]))["x"]
    sampler = new_sampler(decoder, tiny_model_dir, max_batch_size=MAX_BATCH_SIZE)
    generator = random.Random(0)
    num_submitted = num_equal = num_others = 0
    batch_sizes: set[int] = set()
    while num_equal < NUM_REPEATS:
        crowd = generator.choice((0, 0.3, 0.9))
        if num_submitted < NUM_REPEATS and generator.random() < 0.8:
            sampler.submit(job(f"x{num_submitted}", PROMPT, PARAMS, adapter=adapters[1]))
            num_submitted += 1
        while generator.random() < crowd and sampler.num_running < MAX_BATCH_SIZE:
            prompt = draw_tokens(generator.randint(1, 30), seed=num_others)
            params = SamplingParams(max_tokens=generator.randint(1, 20), temperature=generator.choice((0.0, 1.0)))
            others = generator.randint(1, 3)
            sampler.submit(
                job(f"o{num_others}", prompt, params, num_samples=others, adapter=generator.choice(adapters))
            )
            num_others += 1
            if generator.random() < 0.5:
                break
        batch_sizes.add(sampler.num_running)
        for done in sampler.step():
            if done.op_id.startswith("x"):
                assert bits(done.result().sequences[0]) == bits(alone.sequences[0]), f"repeat {done.op_id}"
                num_equal += 1
    assert num_others > NUM_REPEATS / 10
    assert len(batch_sizes) > MAX_BATCH_SIZE / 2, "the batch neighbours hardly changed, so little is shown"


def bits(sequence: SampledSequence) -> tuple[list[int], bytes]:
    return sequence.tokens.tolist(), np.asarray(sequence.logprobs).tobytes()
