"""Log-probabilities of targets, beside the log-softmax of all logits at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eztinker.model import head
from eztinker.model.head import chunks_of_positions, target_logprobs
from eztinker.model.linear import FrozenLinear, LowRankDelta

POSITIONS, WIDTH, VOCABULARY, RANK = 40, 16, 50, 3


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("chunk_logits", [1, 20 * VOCABULARY, head.CHUNK_LOGITS], ids=["16 rows", "20 rows", "all"])
@pytest.mark.parametrize("num_targets", [1, 4])
def test_values_and_gradients_are_those_of_the_whole_log_softmax(
    draw: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    chunk_logits: int,
    num_targets: int,
):
    monkeypatch.setattr(head, "CHUNK_LOGITS", chunk_logits)
    weight, hidden = draw(VOCABULARY, WIDTH), draw(POSITIONS, WIDTH).requires_grad_()
    a, b = draw(RANK, WIDTH).requires_grad_(), draw(VOCABULARY, RANK).requires_grad_()
    targets = torch.arange(POSITIONS * num_targets).reshape(POSITIONS, num_targets) % VOCABULARY
    scale = 0.5
    delta = LowRankDelta(a=a, bs=(b,), scale=scale, rows=None)
    upstream = draw(POSITIONS, num_targets)
    upstream[5:9] = 0  # positions that carry no loss are left out of the backward pass

    ours = target_logprobs(FrozenLinear(weight), hidden, targets, [delta])
    our_grads = torch.autograd.grad(ours, [hidden, a, b], upstream)

    inputs = [each.detach().double().requires_grad_() for each in (hidden, a, b)]
    hidden64, a64, b64 = inputs
    logits = hidden64 @ weight.double().T + scale * (hidden64 @ a64.T @ b64.T)
    expected = logits.log_softmax(-1).gather(1, targets)
    expected_grads = torch.autograd.grad(expected, inputs, upstream.double())

    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    for our, their in zip(our_grads, expected_grads, strict=True):
        torch.testing.assert_close(our.double(), their, rtol=1e-4, atol=1e-4)
    assert not our_grads[0][5:9].any()


@pytest.mark.parametrize(("vocab_size", "longest"), [(100, 40_000), (128_256, 31), (10**7, 16)])
def test_chunks_hold_a_bounded_number_of_logits_but_at_least_16_positions(vocab_size: int, longest: int):
    chunks = chunks_of_positions(100_001, vocab_size)
    assert [position for chunk in chunks for position in range(chunk.start, chunk.stop)] == list(range(100_001))
    assert {chunk.stop - chunk.start for chunk in chunks[:-1]} == {longest}


def test_no_positions_have_no_chunks():
    assert chunks_of_positions(0, 100) == []
