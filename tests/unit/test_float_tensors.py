"""Reading and rounding floating-point tensors as torch does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save

from eztinker.float_tensors import load_float32, to_bfloat16_bits


def test_rounding_to_bfloat16_equals_torch():
    generator = np.random.default_rng(0)
    scales = 10.0 ** generator.uniform(-38, 38, 20_000)
    values = (generator.normal(size=20_000) * scales).astype(np.float32)
    ties = np.array([1.00390625, 1.01171875, -1.00390625, 0.0, -0.0], dtype=np.float32)  # halfway, to even
    values = np.concatenate([values[np.abs(values) < 3e38], ties])
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(to_bfloat16_bits(values), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_is_read_as_torch_reads_it(dtype: torch.dtype):
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    (read,) = load_float32(save({"x": values})).values()
    np.testing.assert_array_equal(read, values.float().numpy())


@pytest.mark.parametrize("raw", [b"", b"no tensors", save({"x": torch.arange(3)})], ids=["empty", "text", "integers"])
def test_what_holds_no_floats_is_refused(raw: bytes):
    with pytest.raises(ValueError, match=r".+"):
        load_float32(raw)
