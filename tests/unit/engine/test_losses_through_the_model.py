"""Every loss through the whole model: the gradient of each factor against autograd through transformers and peft."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from eztinker.checkpoints.peft import peft_parts
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.model.decoder import Decoder
from eztinker.types import Datum
from tests.oracles import draw_tokens, load_decoder
from tests.unit.engine.engine_helpers import TinyModel, new_run

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's use of it

LENGTHS = (9, 14)
Loss = Callable[[list[Tensor]], Tensor]


@pytest.fixture(scope="module")
def base(tiny_model: TinyModel) -> Path:
    return tiny_model("qwen2")


@pytest.fixture(scope="module")
def decoder(base: Path) -> Decoder:
    return load_decoder(base)


@pytest.fixture
def run(decoder: Decoder) -> TrainingState:
    return new_run(decoder, rank=3)


@pytest.fixture
def oracle(run: TrainingState, base: Path, tmp_path: Path) -> Callable[[list[Datum], Loss], dict[str, np.ndarray]]:
    """The gradient of every factor, by its name, when a loss over all data's logprobs is differentiated by torch."""
    parts = peft_parts(run.adapter.named_arrays(), run.adapter.lora, "tiny", head_is_tied=False)
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path), is_trainable=True)
    model.eval()

    def gradients(data: list[Datum], loss: Loss) -> dict[str, np.ndarray]:
        loss([logprobs_of(model, datum) for datum in data]).backward()
        named = {
            name.removeprefix("base_model.model.").replace(".default", ""): parameter.grad
            for name, parameter in model.named_parameters()
        }
        return {name: grad.numpy() for name, grad in named.items() if grad is not None}

    return gradients


def logprobs_of(model: PeftModel, datum: Datum) -> Tensor:
    targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])
    logits = model(input_ids=torch.from_numpy(datum.tokens)[None]).logits[0]
    return logits.log_softmax(-1).gather(1, targets.reshape(len(targets), -1)).reshape(targets.shape)


def data(*, targets_per_position: int | None = None, **inputs: Callable[[np.random.Generator, int], np.ndarray]):
    """Random data; each of `inputs` draws one tensor of a datum."""
    generator = np.random.default_rng(0)
    drawn = []
    for seed, length in enumerate(LENGTHS):
        tokens = np.array(draw_tokens(length + 1, seed))
        targets = tokens[1:]
        if targets_per_position:
            targets = generator.integers(0, 264, (length, targets_per_position))
        tensors = {name: draw(generator, targets.size).astype(np.float32) for name, draw in inputs.items()}
        shaped = {name: tensor.reshape(targets.shape) for name, tensor in tensors.items()}
        drawn.append(Datum(tokens=tokens[:-1], loss_fn_inputs={"target_tokens": targets, **shaped}))
    return drawn


def of_any_sign(generator: np.random.Generator, size: int) -> np.ndarray:
    numbers = generator.normal(size=size)
    numbers[0] = 0.0
    return numbers


def around_the_trainer(generator: np.random.Generator, size: int) -> np.ndarray:
    """Logprobs of another policy: a random model over 264 tokens scores most tokens near this."""
    return generator.normal(-5.8, 0.7, size)


def all_in(generator: np.random.Generator, size: int) -> np.ndarray:
    return np.ones(size)


def assert_same_gradient(run: TrainingState, expected: dict[str, np.ndarray]) -> None:
    ours = run.adapter.named_arrays(run.grads)
    assert ours.keys() == expected.keys()
    assert max(np.abs(gradient).max() for gradient in expected.values()) > 1e-2
    for name, gradient in expected.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-3, atol=1e-4, err_msg=name)


def a_pass(run: TrainingState, batch: list[Datum], loss_fn: str) -> Pass:
    each = Pass(run, batch, loss_fn, {}, False)
    for _ in each.carry_out(max_tokens=2048):
        pass
    return each


def tensor(datum: Datum, name: str) -> Tensor:
    return torch.from_numpy(datum.loss_fn_inputs[name])


@pytest.mark.conforms(51, 57)
@pytest.mark.parametrize("num_targets", [None, 3], ids=["(N,)", "(N, K)"])
def test_cross_entropy_with_weights_of_any_sign(run: TrainingState, oracle, num_targets: int | None):
    batch = data(targets_per_position=num_targets, weights=of_any_sign)
    done = a_pass(run, batch, "cross_entropy")

    def expected(logprobs: list[Tensor]) -> Tensor:
        return -sum(
            ((tensor(datum, "weights") * log_p).sum() for datum, log_p in zip(batch, logprobs, strict=True)),
            torch.zeros(()),
        )

    assert_same_gradient(run, oracle(batch, expected))
    assert done.logprobs[0].shape == batch[0].loss_fn_inputs["target_tokens"].shape


def importance_sampling(log_p: Tensor, q: Tensor, a: Tensor) -> Tensor:
    return (log_p - q).exp() * a


def ppo(log_p: Tensor, q: Tensor, a: Tensor) -> Tensor:
    r = (log_p - q).exp()
    return torch.minimum(r * a, r.clamp(0.8, 1.2) * a)


def cispo(log_p: Tensor, q: Tensor, a: Tensor) -> Tensor:
    return (log_p - q).exp().clamp(0.0, 4.0).detach() * log_p * a


def dro(log_p: Tensor, q: Tensor, a: Tensor) -> Tensor:
    return log_p * a - 0.05 / 2 * (log_p - q) ** 2


def gspo(log_p: Tensor, q: Tensor, a: Tensor) -> Tensor:
    r = ((log_p - q).detach().mean() + log_p - log_p.detach()).exp()
    return torch.minimum(r * a, r.clamp(0.8, 1.2) * a)


def stable_reinforce(log_p: Tensor, q: Tensor, a: Tensor) -> Tensor:
    r = (log_p - q).exp().detach()
    return r * ((r >= 0.5) & (r <= 5.0)) * log_p * a


POLICY_LOSSES = [importance_sampling, ppo, cispo, dro, gspo, stable_reinforce]


@pytest.mark.conforms(50, 51)
@pytest.mark.parametrize("terms", POLICY_LOSSES, ids=lambda terms: terms.__name__)
def test_policy_losses_with_their_defaults(
    run: TrainingState, oracle, terms: Callable[[Tensor, Tensor, Tensor], Tensor]
):
    drawn: dict[str, Any] = {"logprobs": around_the_trainer, "advantages": of_any_sign, "weights": of_any_sign}
    if terms is gspo:
        drawn["sequence_ratio_mask"] = all_in
    batch = data(**drawn)
    done = a_pass(run, batch, terms.__name__)

    def expected(logprobs: list[Tensor]) -> Tensor:
        losses = [
            -(tensor(datum, "weights") * terms(log_p, tensor(datum, "logprobs"), tensor(datum, "advantages"))).sum()
            for datum, log_p in zip(batch, logprobs, strict=True)
        ]
        total = torch.stack(losses).sum()
        assert done.loss == pytest.approx(total.item(), rel=1e-4)
        return total

    assert_same_gradient(run, oracle(batch, expected))


@pytest.mark.conforms(60)
def test_a_custom_loss_in_the_clients_two_passes_is_autograd_through_the_model(run: TrainingState, oracle):
    batch = data(weights=all_in)

    def contrast(logprobs: list[Tensor]) -> Tensor:
        """Not a sum over tokens: each token's gradient depends on all of them."""
        first, second = (values.mean() for values in logprobs)
        return -torch.nn.functional.logsigmoid(3 * (first - second)) + logprobs[0].var() * second**2

    forward = Pass(run, batch, "cross_entropy", {}, True)
    for _ in forward.carry_out(max_tokens=2048):
        pass
    leaves = [torch.from_numpy(values).requires_grad_() for values in forward.logprobs]
    contrast(leaves).backward()
    weighted = []
    for datum, leaf in zip(batch, leaves, strict=True):
        assert leaf.grad is not None
        inputs = {"target_tokens": datum.loss_fn_inputs["target_tokens"], "weights": -leaf.grad.numpy()}
        weighted.append(Datum(tokens=datum.tokens, loss_fn_inputs=inputs))
    a_pass(run, weighted, "cross_entropy")
    assert_same_gradient(run, oracle(batch, contrast))
