"""In float32 the official SDK gets the numbers of transformers, and sampler and trainer agree on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tinker
import torch
from tinker import types

from tests.oracles import draw_tokens, transformers_logits
from tests.servers import API_KEY, Serve

BATCH = [draw_tokens(length, seed=length) for length in (40, 3, 17, 2, 25)]
PROMPT = draw_tokens(6)
NUM_SAMPLES, MAX_TOKENS = 4, 24
MAX_GAP = 1e-5


@pytest.fixture(scope="module")
def model_dir(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen2", tie=True)


@pytest.fixture(scope="module")
def service(serve: Serve, model_dir: Path) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=serve({"tiny": model_dir}).url, api_key=API_KEY) as client:
        yield client


@pytest.fixture(scope="module")
def expected(model_dir: Path) -> list[np.ndarray]:
    """Each token's logprob after those before it, by transformers; float64 (N - 1,) for each sequence."""
    logprobs = [transformers_logits(model_dir, tokens).double().log_softmax(-1)[:-1] for tokens in BATCH]
    return [
        rows.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].numpy()
        for rows, tokens in zip(logprobs, BATCH, strict=True)
    ]


def datum(tokens: list[int], **inputs: np.ndarray) -> types.Datum:
    """Every token is predicted from those before it; `inputs` have a number for each but the first."""
    tensors = {"target_tokens": np.array(tokens[1:])} | inputs
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={name: types.TensorData.from_numpy(array) for name, array in tensors.items()},  # pyright: ignore
    )


def weighted(tokens: list[int]) -> types.Datum:
    return datum(tokens, weights=np.ones(len(tokens) - 1, np.float32))


def test_a_fresh_adapter_scores_as_transformers_does(service: tinker.ServiceClient, expected: list[np.ndarray]):
    trainer = service.create_lora_training_client(base_model="tiny", rank=4).result()
    result = trainer.forward([weighted(tokens) for tokens in BATCH], "cross_entropy").result()
    for output, logprobs in zip(result.loss_fn_outputs, expected, strict=True):
        np.testing.assert_allclose(output["logprobs"].data, logprobs, rtol=0, atol=1e-5)
    nll = -sum(logprobs.sum() for logprobs in expected)
    assert result.metrics["loss:sum"] == pytest.approx(nll, rel=5e-7)  # six digits


def test_the_base_model_scores_prompts_as_transformers_does(service: tinker.ServiceClient, expected: list[np.ndarray]):
    sampler = service.create_sampling_client(base_model="tiny").result()
    for tokens, logprobs in zip(BATCH, expected, strict=True):
        first, *others = sampler.compute_logprobs(types.ModelInput.from_ints(tokens)).result()
        assert first is None
        np.testing.assert_allclose(np.array(others, float), logprobs, rtol=0, atol=1e-5)


def test_sampler_and_trainer_differ_by_rounding_at_first_and_after_twenty_updates(service: tinker.ServiceClient):
    trainer = service.create_lora_training_client(base_model="tiny", rank=8, seed=1).result()
    score_own_samples(trainer)
    before = trainer.forward([weighted(BATCH[0])], "cross_entropy").result().metrics["loss:sum"]
    for _ in range(20):
        trainer.forward_backward([weighted(tokens) for tokens in BATCH], "cross_entropy").result()
        trainer.optim_step(types.AdamParams(learning_rate=5e-3)).result()
    after = trainer.forward([weighted(BATCH[0])], "cross_entropy").result().metrics["loss:sum"]
    assert after < before - 10
    score_own_samples(trainer)


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo", "cispo", "dro"])
def test_a_batch_far_from_its_sampler_tells_how_far(
    service: tinker.ServiceClient, expected: list[np.ndarray], loss_fn: types.LossFnType
):
    """By transformers' logprobs and the definitions alone: gap |l - q|, k1 q - l, k3 r - 1 - log r, r = exp(l - q)."""
    generator = np.random.default_rng(5)
    sampled = [(ours + generator.normal(0, 0.5, len(ours))).astype(np.float32) for ours in expected]
    advantages = [generator.integers(-1, 2, len(ours)).astype(np.float32) for ours in expected]
    data = [datum(tokens, logprobs=q, advantages=a) for tokens, q, a in zip(BATCH, sampled, advantages, strict=True)]
    trainer = service.create_lora_training_client(base_model="tiny", rank=4).result()
    metrics = trainer.forward(data, loss_fn).result().metrics
    log_ratios = (ours - q for ours, q in zip(expected, sampled, strict=True))
    log_ratio = np.concatenate([each[a != 0] for each, a in zip(log_ratios, advantages, strict=True)])
    by_hand = {
        "sampler_trainer_gap:max": np.abs(log_ratio).max(),
        "sampler_trainer_gap:mean": np.abs(log_ratio).mean(),
        "sampler_trainer_kl_k1:mean": -log_ratio.mean(),
        "sampler_trainer_kl_k3:mean": (np.exp(log_ratio) - 1 - log_ratio).mean(),
    }
    assert by_hand["sampler_trainer_gap:max"] > 1
    for name, value in by_hand.items():
        assert metrics[name] == pytest.approx(value, abs=1e-5), name
    clipped = {"clipped_fraction:mean"} if loss_fn in ("ppo", "cispo") else set()
    assert metrics.keys() == {"loss:sum", *by_hand, *clipped}


def score_own_samples(trainer: tinker.TrainingClient) -> None:
    """Let the trainer score what its own weights drew, and hold the gap by its metric and by hand."""
    params = types.SamplingParams(max_tokens=MAX_TOKENS, temperature=1.0, seed=3)
    sampler = trainer.save_weights_and_get_sampling_client().result()
    response = sampler.sample(types.ModelInput.from_ints(PROMPT), NUM_SAMPLES, params).result()
    data, drawn = [], []
    for sequence in response.sequences:
        logprobs = np.array(sequence.logprobs, np.float32)
        is_drawn = np.arange(len(PROMPT) + len(logprobs) - 1) >= len(PROMPT) - 1
        reported = np.zeros(len(is_drawn), np.float32)
        reported[is_drawn] = logprobs
        tokens = [*PROMPT, *sequence.tokens]
        data.append(datum(tokens, logprobs=reported, advantages=is_drawn.astype(np.float32)))
        drawn.append((is_drawn, logprobs))
    result = trainer.forward(data, "importance_sampling").result()
    gaps = [
        np.abs(np.array(output["logprobs"].data)[is_drawn] - logprobs)
        for output, (is_drawn, logprobs) in zip(result.loss_fn_outputs, drawn, strict=True)
    ]
    assert sum(len(gap) for gap in gaps) > NUM_SAMPLES
    by_hand = np.concatenate(gaps)
    assert by_hand.max() <= MAX_GAP
    assert result.metrics["sampler_trainer_gap:max"] == pytest.approx(by_hand.max(), abs=1e-7)
    assert result.metrics["sampler_trainer_gap:mean"] == pytest.approx(by_hand.mean(), abs=1e-7)
