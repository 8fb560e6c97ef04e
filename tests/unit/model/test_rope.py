"""Rotations are those of the formula, and a position's never depend on who asks for it."""

from __future__ import annotations

import pytest
import torch

from eztinker.model.rope import FREQUENCIES, RopeConfig, RotationTable
from eztinker.model_files.rope_config import ROPE_KINDS
from tests.oracles import CPU


@pytest.mark.parametrize("head_dim", [2, 18, 64])
def test_a_position_is_rotated_alike_whatever_it_is_asked_with(head_dim: int):
    positions = torch.tensor([700, 5, 5, 1300, 0])
    whole, some = (RotationTable(RopeConfig(head_dim=head_dim, theta=1e4), torch.float32, CPU) for _ in "ab")
    cos, sin = whole.at(torch.arange(1301))
    for position in positions.tolist():
        own_cos, own_sin = some.at(torch.tensor([position]))
        assert torch.equal(own_cos[0], cos[position])
        assert torch.equal(own_sin[0], sin[position])
    angles = positions.double()[:, None] / 1e4 ** (torch.arange(0, head_dim, 2).double() / head_dim)
    torch.testing.assert_close(cos[positions, : head_dim // 2].double(), angles.cos(), rtol=0, atol=2e-4)
    torch.testing.assert_close(sin[positions, head_dim // 2 :].double(), angles.sin(), rtol=0, atol=2e-4)
    torch.testing.assert_close(-sin[:, : head_dim // 2], sin[:, head_dim // 2 :])


def test_no_positions_take_no_rotations():
    table = RotationTable(RopeConfig(head_dim=8, theta=1e4), torch.bfloat16, CPU)
    cos, sin = table.at(torch.zeros(0, dtype=torch.int64))
    assert cos.shape == sin.shape == (0, 8)
    assert cos.dtype == torch.bfloat16


def test_the_decoder_computes_exactly_the_ropes_that_are_read():
    assert set(FREQUENCIES) == ROPE_KINDS
