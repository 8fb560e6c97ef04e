"""AdamW over one flat buffer, step for step what `torch.optim.AdamW` computes.

Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eztinker.errors import NonFiniteUpdate
from eztinker.types import AdamParams


@dataclass(slots=True, eq=False)
class AdamW:
    """Moments and step count of one adapter; the hyperparameters come with every step."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int = 0

    @classmethod
    def for_params(cls, params: Tensor) -> AdamW:
        return cls(torch.zeros_like(params), torch.zeros_like(params))

    def update(self, params: Tensor, grads: Tensor, adam: AdamParams) -> float:
        """Take one step on `params`, in place.

        Returns:
            Global L2 norm of the gradient before clipping.
        Raises:
            NonFiniteUpdate: a gradient or the update is not finite; nothing was changed.
        """
        norm = float(torch.linalg.vector_norm(grads))
        if not math.isfinite(norm):
            raise NonFiniteUpdate(f"The gradient's norm is {norm}; the step was not taken. Check the loss inputs")
        if 0 < adam.grad_clip_norm < norm:
            grads = grads * (adam.grad_clip_norm / norm)
        step = self.step + 1
        exp_avg = torch.lerp(self.exp_avg, grads, 1 - adam.beta1)
        exp_avg_sq = (self.exp_avg_sq * adam.beta2).addcmul_(grads, grads, value=1 - adam.beta2)
        denominator = (exp_avg_sq.sqrt() / math.sqrt(1 - adam.beta2**step)).add_(adam.eps)
        decayed = params * (1 - adam.learning_rate * adam.weight_decay)
        updated = decayed.sub_((exp_avg / denominator).mul_(adam.learning_rate / (1 - adam.beta1**step)))
        if not bool(torch.isfinite(updated).all()):
            raise NonFiniteUpdate(
                f"A step with learning rate {adam.learning_rate} makes weights infinite or NaN; it was not taken. "
                "Lower the learning rate"
            )
        params.copy_(updated)
        self.exp_avg, self.exp_avg_sq, self.step = exp_avg, exp_avg_sq, step
        return norm
