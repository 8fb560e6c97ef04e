"""Steps of a reinforcement loop as the log sees them: the requests of the official client, with nothing computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

from eztinker.base_models.base_model import BaseModel
from eztinker.base_models.catalog import Catalog
from eztinker.protocol import wire_pb2
from tests.servers import SCRIPTED_ENGINE_ARGV, serving
from tests.wire import PROTOBUF, optim_step, outcome, post, save, send_chunk

NUM_SAMPLES, NUM_PROMPT_TOKENS, NUM_SAMPLED_TOKENS = 8, 128, 128
NUM_TOKENS = NUM_PROMPT_TOKENS + NUM_SAMPLED_TOKENS
NUMBERS_PER_STEP = 3
"""The save, the pass and the step; a sample has a number of its own."""
_BASE_MODEL = BaseModel(
    name="tiny", directory=Path("/none"), model_type="llama", vocab_size=32000, context_length=512, eos_token_ids=(2,)
)


@contextlib.contextmanager
def serving_steps(data_dir: Path) -> Iterator[httpx.Client]:
    """A server with a scripted engine behind it, and one who speaks to it."""
    with serving(data_dir, Catalog([_BASE_MODEL]), engine_argv=SCRIPTED_ENGINE_ARGV) as server, server.client() as http:
        yield http


def take_step(http: httpx.Client, run: str, step: int) -> str:
    """Save for sampling, sample 8 x 128 tokens, train on them, and step; gives the future of the training pass."""
    first = 1 + step * NUMBERS_PER_STEP
    saved = save(http, "/save_weights_for_sampler", run, first, sampling_session_seq_id=step)
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [step % 1000 + 10] * NUM_PROMPT_TOKENS}]}
    sample = {
        "sampling_session_id": saved["sampling_session_id"],
        "seq_id": 0,
        "prompt": prompt,
        "num_samples": NUM_SAMPLES,
        "sampling_params": {"max_tokens": NUM_SAMPLED_TOKENS},
    }
    sampled = outcome(http, post(http, "/asample", **sample)["request_id"], accept=PROTOBUF)
    sequences = wire_pb2.SampleResponse.FromString(sampled.content).sequences
    assert len(sequences) == NUM_SAMPLES
    trained = train(http, run, step)
    stepped = optim_step(http, run, first + 2, learning_rate=0.1)
    assert outcome(http, trained, accept=PROTOBUF).status_code == 200
    assert outcome(http, stepped).status_code == 200
    return trained


def train(http: httpx.Client, run: str, step: int) -> str:
    """Send the training pass of a step, or send it again; gives its future."""
    return send_chunk(http, _pass(run, 2 + step * NUMBERS_PER_STEP, step))


def _pass(run: str, seq_id: int, step: int) -> bytes:
    """Eight sequences, each one's numbers its own, so that nothing is stored once for two steps."""
    message = wire_pb2.ForwardBackwardRequest(model_id=run, seq_id=seq_id, loss_fn="importance_sampling")
    numbers = np.random.default_rng(step)
    for _ in range(NUM_SAMPLES):
        datum = message.data.add()
        tokens = numbers.integers(3, 32000, NUM_TOKENS)
        datum.model_input.add().encoded_text.tokens = tokens[:-1].astype("<i4").tobytes()
        inputs = {
            "target_tokens": (wire_pb2.INT64, tokens[1:].astype("<i8").tobytes()),
            "logprobs": (wire_pb2.FLOAT32, (-numbers.random(NUM_TOKENS - 1)).astype("<f4").tobytes()),
            "advantages": (wire_pb2.FLOAT32, numbers.normal(size=NUM_TOKENS - 1).astype("<f4").tobytes()),
        }
        for name, (dtype, raw) in inputs.items():
            datum.loss_fn_inputs[name].CopyFrom(wire_pb2.Tensor(dense=raw, dtype=dtype, shape=[NUM_TOKENS - 1]))
    return message.SerializeToString()
