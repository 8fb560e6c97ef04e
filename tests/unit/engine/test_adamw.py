"""Our AdamW beside torch's, over steps whose hyperparameters change."""

from __future__ import annotations

import pytest
import torch

from eztinker.engine.adamw import AdamW
from eztinker.errors import NonFiniteUpdate
from eztinker.types import AdamParams


@pytest.mark.conforms(61, 62, 64)
def test_twenty_changing_steps_equal_torch():
    torch.manual_seed(0)
    params = torch.randn(1000)
    theirs = params.clone().requires_grad_()
    ours, optimizer = params.clone(), AdamW.for_params(params)
    reference = torch.optim.AdamW([theirs])
    for step in range(20):
        adam = AdamParams(
            learning_rate=10 ** (-1 - step % 4),
            beta1=0.9 - 0.02 * (step % 3),
            beta2=0.95 + 0.002 * (step % 5),
            eps=1e-12,
            weight_decay=0.1 * (step % 2),
            grad_clip_norm=5.0 * (step % 3),
        )
        grads = torch.randn(1000) * (1 + step)
        norm = optimizer.update(ours, grads, adam)
        assert norm == pytest.approx(grads.double().norm().item(), rel=1e-6)
        group = reference.param_groups[0]
        group.update(
            lr=adam.learning_rate, betas=(adam.beta1, adam.beta2), eps=adam.eps, weight_decay=adam.weight_decay
        )
        theirs.grad = grads.clone()
        if adam.grad_clip_norm:
            torch.nn.utils.clip_grad_norm_([theirs], adam.grad_clip_norm)
        reference.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-7)
    assert optimizer.step == 20


@pytest.mark.parametrize(("grad", "rate"), [(float("nan"), 1e-3), (float("inf"), 1e-3), (1.0, 1e39)])
def test_a_step_that_is_not_finite_is_refused_and_changes_nothing(grad: float, rate: float):
    params = torch.ones(4)
    optimizer = AdamW.for_params(params)
    optimizer.update(params, torch.ones(4), AdamParams())
    before = (params.clone(), optimizer.exp_avg.clone(), optimizer.exp_avg_sq.clone(), optimizer.step)
    with pytest.raises(NonFiniteUpdate):
        optimizer.update(params, torch.tensor([1.0, grad, 1.0, 1.0]), AdamParams(learning_rate=rate))
    after = (params, optimizer.exp_avg, optimizer.exp_avg_sq, optimizer.step)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(before, after, strict=True))
